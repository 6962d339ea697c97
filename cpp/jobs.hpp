// Disk jobs on their way from libtorrent to Rust and back.
//
// libtorrent calls the disk interface on its single network thread, and expects each handler to run
// there, once. A job owns the handler; Rust owns the job and completes it from any thread.
// Completing a job moves its completion into the queue of DiskState, which posts one drain to the
// io_context for all completions gathered so far. Handlers therefore run in the order of completion
// (a piece's write acks must run before the handler of its clear_piece). A job dropped unfinished
// completes with operation_aborted. Each job holds a work guard, so the network thread outlives
// every handler. A peer that waits for memory is no job: it holds no guard, and may be dropped.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <libtorrent/disk_interface.hpp>
#include <libtorrent/disk_observer.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/io_context.hpp>
#include "rust/cxx.h"

namespace bae {

namespace lt = libtorrent;
struct ReadBuf; // Rust
enum class DiskError : std::uint8_t;

// What a job completes with. run() is called on the network thread, once.
struct completion {
    explicit completion(lt::io_context& ios) : guard(boost::asio::make_work_guard(ios)) {}
    virtual ~completion() = default;
    virtual void run() = 0;

    lt::storage_error error;

  private:
    boost::asio::executor_work_guard<lt::io_context::executor_type> guard;
};

// State shared by the disk object and all jobs in flight.
class DiskState : public std::enable_shared_from_this<DiskState> {
  public:
    explicit DiskState(lt::io_context& ios) : m_ios(ios) {}

    // Any thread. The caller's job keeps the io_context alive.
    void push(std::unique_ptr<completion> done);
    // Any thread, at any time: wakes a waiting peer. Does nothing after close().
    void wake(std::weak_ptr<lt::disk_observer> peer);
    // The joining thread, after the last handler ran.
    void close();

    lt::io_context& ios() { return m_ios; }

  private:
    // Under the mutex.
    void post_drain();
    // Network thread.
    void drain();

    lt::io_context& m_ios;
    std::mutex m_mutex;
    std::vector<std::unique_ptr<completion>> m_done;
    std::vector<std::weak_ptr<lt::disk_observer>> m_woken;
    bool m_posted = false;
    bool m_closed = false;
};

// A peer that was told to wait for memory. Rust keeps it, and wakes it once or drops it. It keeps
// neither the peer nor the session alive.
class WaitingPeer {
  public:
    WaitingPeer(std::shared_ptr<DiskState> state, std::shared_ptr<lt::disk_observer> const& peer)
        : m_state(std::move(state)), m_peer(peer),
          m_id(reinterpret_cast<std::uintptr_t>(peer.get())) {}

    // Differs from that of every other waiting peer.
    std::size_t id() const { return m_id; }
    void wake() const { m_state->wake(m_peer); }

  private:
    std::shared_ptr<DiskState> m_state;
    std::weak_ptr<lt::disk_observer> m_peer;
    std::size_t m_id;
};

// One job. It holds its completion until the completion is pushed.
template <typename Completion> class job {
  public:
    job(std::shared_ptr<DiskState> state, std::unique_ptr<Completion> c)
        : m_state(std::move(state)), m_completion(std::move(c)) {}
    job(job const&) = delete;
    job& operator=(job const&) = delete;
    ~job();

    void fail(DiskError code);

  protected:
    Completion* pending() { return m_completion.get(); }
    void finish() {
        if (m_completion)
            m_state->push(std::move(m_completion));
    }

  private:
    std::shared_ptr<DiskState> m_state;
    std::unique_ptr<Completion> m_completion;
};

struct read_completion final : completion {
    using completion::completion;
    void run() override { handler(std::move(buffer), error); }
    std::function<void(lt::disk_buffer_holder, lt::storage_error const&)> handler;
    lt::disk_buffer_holder buffer;
    int length = 0;
};

struct write_completion final : completion {
    using completion::completion;
    void run() override { handler(error); }
    std::function<void(lt::storage_error const&)> handler;
};

struct hash_completion final : completion {
    using completion::completion;
    void run() override;
    // The span `v2` points into a vector that this handler owns: the handler is never copied, and
    // never dropped early.
    std::function<void(lt::piece_index_t, lt::sha1_hash const&, lt::storage_error const&)> handler;
    lt::span<lt::sha256_hash> v2;
    lt::piece_index_t piece{0};
    lt::sha1_hash v1_digest;
    std::vector<lt::sha256_hash> v2_digests;
};

struct check_completion final : completion {
    using completion::completion;
    void run() override {
        handler(error ? lt::status_t::fatal_disk_error : lt::status_t::no_error, error);
    }
    std::function<void(lt::status_t, lt::storage_error const&)> handler;
};

// For clear_piece, stop_torrent, and calls answered at once: the handler has no result.
struct fence_completion final : completion {
    using completion::completion;
    void run() override {
        if (handler)
            handler();
    }
    std::function<void()> handler;
};

class ReadJob final : public job<read_completion> {
  public:
    using job::job;
    void complete(rust::Box<ReadBuf> bytes);
};

class WriteJob final : public job<write_completion> {
  public:
    using job::job;
    void complete() { finish(); }
};

class HashJob final : public job<hash_completion> {
  public:
    using job::job;
    // `v1`: 20 bytes or none; `v2`: 32 bytes per block.
    void complete(rust::Slice<std::uint8_t const> v1, rust::Slice<std::uint8_t const> v2);
};

class CheckJob final : public job<check_completion> {
  public:
    using job::job;
    void complete() { finish(); }
};

class FenceJob final : public job<fence_completion> {
  public:
    using job::job;
    void complete() { finish(); }
};

} // namespace bae
