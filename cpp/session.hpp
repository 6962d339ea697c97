// libtorrent's session as a few calls with plain structs. Decides nothing: settings, priorities and
// peers come from Rust.
//
// Threads: everything here is called from Rust's session thread, but the destructor, which may wait
// for libtorrent's network thread and therefore runs on a thread of its own.
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

// Blocks that may be under way, the peers that share them, and those that ever came. Set from any
// thread, shared on the network thread.
struct request_budget {
    std::atomic<std::uint32_t> blocks{512};
    std::atomic<std::uint32_t> peers{0};
    std::atomic<std::uint64_t> came{0};
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
    void connect_peer(std::uint64_t torrent, rust::Str endpoint) const;
    // One priority (0 to 7) for all the pieces named.
    void prioritize(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
                    std::uint8_t priority) const;
    // The pieces named come first, in this order: each is due `step` milliseconds after the one
    // before. Requests for others are cancelled when nothing was due before.
    void hurry(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
               std::int32_t step) const;
    // The pieces named are due no longer. Those that are missing then have libtorrent's lowest
    // priority.
    void relax(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces) const;
    // Has the blocks of a piece that no peer brought written and the piece hashed. The bytes are
    // with the engine, which takes its own instead of those of this write: libtorrent is shown
    // zeros. Waits for the network thread.
    void add_piece(std::uint64_t torrent, std::uint32_t piece) const;
    // How many peers have each piece; empty for a seed. Waits for the network thread.
    rust::Vec<std::uint32_t> availability(std::uint64_t torrent) const;
    // Blocks under way with all peers together, from now on.
    void set_requests(std::uint32_t blocks) const { m_requests->blocks = blocks; }
    void apply(rust::Vec<Setting> const& settings);
    // Asks for a status of each torrent that changed; they come with pop_alerts.
    void post_updates() { m_session.post_torrent_updates(); }
    // The torrent as a .torrent file with all v2 piece layers known by now.
    rust::Vec<std::uint8_t> torrent_file(std::uint64_t torrent) const;
    void pop_alerts(rust::Vec<AlertInfo>& alerts, rust::Vec<TorrentStatus>& statuses);

  private:
    lt::torrent_handle const& handle(std::uint64_t torrent) const;

    // Order matters: the session goes first and takes the disk object with it, which refers to the
    // engine.
    rust::Box<DiskEngine> m_engine;
    std::shared_ptr<request_budget> m_requests;
    std::unordered_map<std::uint64_t, lt::torrent_handle> m_torrents;
    lt::session m_session;
};

std::unique_ptr<Session> new_session(rust::Vec<Setting> const& settings,
                                     rust::Box<DiskEngine> engine, bool smart_ban);

// The version of the headers this was compiled with, and of the library it runs with.
std::uint32_t header_version();
rust::String library_version();
rust::String header_version_text();

} // namespace bae
