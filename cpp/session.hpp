// libtorrent's session as a few calls with plain structs. Settings, priorities and peers come from
// Rust. Only the limits of a single peer are decided here (session.cpp).
//
// Threads: Rust calls everything here under one mutex, from any of its threads. The destructor may
// wait for libtorrent's network thread. It runs on a separate thread.
#pragma once

#include <memory>
#include <unordered_map>
#include <atomic>

#include <libtorrent/session.hpp>
#include <libtorrent/torrent_handle.hpp>
#include "bae/cpp/jobs.hpp"

namespace bae {

struct DiskEngine; // Rust, as are the structs below
struct Setting;
struct AddTorrent;
struct AlertInfo;
struct TorrentStatus;

// Blocks that may be in flight, the number of peers that share them, and the number of peers that
// ever connected. Set from any thread, shared out on the network thread.
struct request_budget {
    std::atomic<std::uint32_t> blocks{512};
    std::atomic<std::uint32_t> peers{0};
    std::atomic<std::uint64_t> connections{0};
};

class Session {
  public:
    Session(rust::Vec<Setting> const& settings, rust::Box<DiskEngine> engine, bool smart_ban);
    ~Session();
    Session(Session const&) = delete;
    Session& operator=(Session const&) = delete;

    void add(AddTorrent const& torrent);
    void remove(std::uint64_t torrent);
    void pause(std::uint64_t torrent) const;
    void resume(std::uint64_t torrent) const;
    // Limits of one torrent in bytes per second; 0 is no limit.
    void set_limits(std::uint64_t torrent, std::int32_t download, std::int32_t upload) const;
    void set_sequential(std::uint64_t torrent, bool sequential) const;
    void connect_peer(std::uint64_t torrent, rust::Str endpoint) const;
    // Sets one priority (0 to 7) for the given pieces.
    void prioritize(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
                    std::uint8_t priority) const;
    // Sets deadlines: the given pieces come first, in this order, each due `step` milliseconds
    // after the one before. Requests for other pieces are cancelled when no piece had a deadline
    // before.
    void set_deadlines(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
                       std::int32_t step) const;
    // Removes the deadlines of the given pieces. Missing ones then have libtorrent's lowest
    // priority.
    void clear_deadlines(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces) const;
    // Makes libtorrent write the blocks of a piece that no peer sent, and hash the piece. The
    // engine has the bytes, and uses them instead of those of this write: libtorrent is given
    // zeros. Waits for the network thread.
    void add_piece(std::uint64_t torrent, std::uint32_t piece) const;
    // How many peers have each piece; empty for a seed. Waits for the network thread.
    rust::Vec<std::uint32_t> availability(std::uint64_t torrent) const;
    // Sets the number of blocks in flight with all peers together, from now on.
    void set_requests(std::uint32_t blocks) const { m_requests->blocks = blocks; }
    void apply(rust::Vec<Setting> const& settings);
    // Requests a status of each torrent that changed; pop_alerts returns them.
    void post_updates() { m_session.post_torrent_updates(); }
    // The torrent as a .torrent file, with all v2 piece layers known so far.
    rust::Vec<std::uint8_t> torrent_file(std::uint64_t torrent) const;
    void pop_alerts(rust::Vec<AlertInfo>& alerts, rust::Vec<TorrentStatus>& statuses);

  private:
    lt::torrent_handle const& handle(std::uint64_t torrent) const;

    // Order matters: the session is destroyed first. It destroys the disk object, which refers to
    // the engine.
    rust::Box<DiskEngine> m_engine;
    std::shared_ptr<request_budget> m_requests;
    std::unordered_map<std::uint64_t, lt::torrent_handle> m_torrents;
    lt::session m_session;
};

std::unique_ptr<Session> new_session(rust::Vec<Setting> const& settings,
                                     rust::Box<DiskEngine> engine, bool smart_ban);

// The version of the headers at compile time, and of the library at run time.
std::uint32_t header_version();
rust::String library_version();
rust::String header_version_text();

} // namespace bae
