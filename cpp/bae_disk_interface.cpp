#include "bae/cpp/bae_disk_interface.hpp"
#include "bae/cpp/convert.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/performance_counters.hpp>
#include <libtorrent/peer_request.hpp>

namespace bae {

namespace {

class BaeDisk final : public lt::disk_interface {
  public:
    BaeDisk(lt::io_context& ios, DiskEngine const& engine)
        : m_state(std::make_shared<DiskState>(ios)), m_engine(engine) {}

    // No handler is left: each one kept the network thread running until it was called.
    ~BaeDisk() override { m_state->close(); }

    lt::storage_holder new_torrent(lt::storage_params const& params,
                                   std::shared_ptr<void> const&) override {
        // The save path is our own name for the torrent; nothing is saved there.
        std::uint32_t const index = m_engine.open_storage(rust::Str(params.path));
        return {lt::storage_index_t{index}, *this};
    }

    void remove_torrent(lt::storage_index_t storage) override {
        m_engine.close_storage(index(storage));
    }

    void async_read(lt::storage_index_t storage, lt::peer_request const& r,
                    std::function<void(lt::disk_buffer_holder, lt::storage_error const&)> handler,
                    lt::disk_job_flags_t) override {
        auto c = std::make_unique<read_completion>(m_state->ios());
        c->handler = std::move(handler);
        c->length = r.length;
        m_engine.read(index(storage), from_piece(r.piece), r.start, r.length,
                      std::make_unique<ReadJob>(m_state, std::move(c)));
    }

    bool async_write(lt::storage_index_t storage, lt::peer_request const& r, char const* buf,
                     std::shared_ptr<lt::disk_observer> observer,
                     std::function<void(lt::storage_error const&)> handler,
                     lt::disk_job_flags_t) override {
        auto c = std::make_unique<write_completion>(m_state->ios());
        c->handler = std::move(handler);
        // `buf` lies in the peer's receive buffer: Rust copies it before the call returns.
        rust::Slice<std::uint8_t const> const data(reinterpret_cast<std::uint8_t const*>(buf),
                                                   static_cast<std::size_t>(r.length));
        bool const exceeded = m_engine.write(index(storage), from_piece(r.piece), r.start, data,
                                             std::make_unique<WriteJob>(m_state, std::move(c)));
        // Rust decides again while it registers the peer: memory may have become free since.
        return exceeded && observer &&
               m_engine.wait_for_memory(std::make_unique<WaitingPeer>(m_state, observer));
    }

    void async_hash(
        lt::storage_index_t storage, lt::piece_index_t p, lt::span<lt::sha256_hash> v2,
        lt::disk_job_flags_t flags,
        std::function<void(lt::piece_index_t, lt::sha1_hash const&, lt::storage_error const&)>
            handler) override {
        auto c = std::make_unique<hash_completion>(m_state->ios());
        c->handler = std::move(handler);
        c->v2 = v2;
        c->piece = p;
        m_engine.hash(index(storage), from_piece(p), bool(flags & lt::disk_interface::v1_hash),
                      !v2.empty(), std::make_unique<HashJob>(m_state, std::move(c)));
    }

    // libtorrent 2.0 never calls it: block hashes of v2 torrents come through async_hash.
    void async_hash2(
        lt::storage_index_t, lt::piece_index_t p, int, lt::disk_job_flags_t,
        std::function<void(lt::piece_index_t, lt::sha256_hash const&, lt::storage_error const&)>
            handler) override {
        lt::storage_error e;
        e.ec = boost::system::errc::make_error_code(boost::system::errc::not_supported);
        complete_now([h = std::move(handler), p, e] { h(p, {}, e); });
    }

    void async_move_storage(
        lt::storage_index_t, std::string path, lt::move_flags_t,
        std::function<void(lt::status_t, std::string const&, lt::storage_error const&)> handler)
        override {
        complete_now(
            [h = std::move(handler), p = std::move(path)] { h(lt::status_t::no_error, p, {}); });
    }

    void async_release_files(lt::storage_index_t, std::function<void()> handler) override {
        complete_now(std::move(handler));
    }

    void async_check_files(
        lt::storage_index_t storage, lt::add_torrent_params const*,
        lt::aux::vector<std::string, lt::file_index_t>,
        std::function<void(lt::status_t, lt::storage_error const&)> handler) override {
        auto c = std::make_unique<check_completion>(m_state->ios());
        c->handler = std::move(handler);
        m_engine.check_files(index(storage), std::make_unique<CheckJob>(m_state, std::move(c)));
    }

    void async_stop_torrent(lt::storage_index_t storage, std::function<void()> handler) override {
        m_engine.stop_torrent(index(storage), fence(std::move(handler)));
    }

    void async_rename_file(
        lt::storage_index_t, lt::file_index_t file, std::string name,
        std::function<void(std::string const&, lt::file_index_t, lt::storage_error const&)> handler)
        override {
        complete_now([h = std::move(handler), n = std::move(name), file] { h(n, file, {}); });
    }

    // `rm` deletes objects through the catalog; the session never deletes them.
    void async_delete_files(lt::storage_index_t, lt::remove_flags_t,
                            std::function<void(lt::storage_error const&)> handler) override {
        complete_now([h = std::move(handler)] { h({}); });
    }

    // Returns the priorities unchanged: an error here would stop the torrent.
    void async_set_file_priority(
        lt::storage_index_t, lt::aux::vector<lt::download_priority_t, lt::file_index_t> prio,
        std::function<void(lt::storage_error const&,
                           lt::aux::vector<lt::download_priority_t, lt::file_index_t>)>
            handler) override {
        complete_now([h = std::move(handler), p = std::move(prio)] { h({}, p); });
    }

    void async_clear_piece(lt::storage_index_t storage, lt::piece_index_t p,
                           std::function<void(lt::piece_index_t)> handler) override {
        m_engine.clear_piece(index(storage), from_piece(p),
                             fence([h = std::move(handler), p] { h(p); }));
    }

    void update_stats_counters(lt::counters& c) const override {
        c.set_value(lt::counters::disk_blocks_in_use, m_engine.blocks_in_use());
    }

    std::vector<lt::open_file_state> get_status(lt::storage_index_t) const override { return {}; }

    // Called twice (by the network thread, then by the joining thread); idempotent.
    void abort(bool) override { m_engine.abort(); }

    // Each job goes to Rust at once; nothing is batched here.
    void submit_jobs() override {}
    void settings_updated() override {}

  private:
    static std::uint32_t index(lt::storage_index_t i) { return static_cast<std::uint32_t>(i); }

    std::unique_ptr<FenceJob> fence(std::function<void()> handler) {
        auto c = std::make_unique<fence_completion>(m_state->ios());
        c->handler = std::move(handler);
        return std::make_unique<FenceJob>(m_state, std::move(c));
    }

    // For calls without work. The handler runs on the network thread, in order, after this call.
    void complete_now(std::function<void()> handler) { fence(std::move(handler))->complete(); }

    std::shared_ptr<DiskState> m_state;
    DiskEngine const& m_engine;
};

} // namespace

std::unique_ptr<lt::disk_interface> make_disk(lt::io_context& ios, DiskEngine const& engine) {
    return std::make_unique<BaeDisk>(ios, engine);
}

} // namespace bae
