// libtorrent's session as a few calls with plain structs. Every setting, number and flag comes from
// Rust.
//
// Threads: libtorrent's session is thread-safe, so any thread may call anything at any time. The
// session must not end during a call (session/native.rs). The destructor may wait for libtorrent's
// network thread, so it runs on a separate thread.
#pragma once

#include <memory>
#include <mutex>

#include <libtorrent/session.hpp>
#include "bae/cpp/torrent.hpp"

namespace bae {

struct DiskEngine; // Rust, as are the structs below
struct SessionConfig;
struct Setting;
struct AddTorrent;
struct AlertInfo;
struct TorrentStatus;

class Session {
  public:
    Session(SessionConfig const& config, rust::Box<DiskEngine> engine);
    ~Session();
    Session(Session const&) = delete;
    Session& operator=(Session const&) = delete;

    // Parses the metainfo, then waits for the network thread.
    std::unique_ptr<TorrentHandle> add(AddTorrent const& torrent) const;
    void remove(TorrentHandle const& torrent) const;
    void apply(rust::Vec<Setting> const& settings) const;
    // Requests a status of each torrent that changed; pop_alerts returns them.
    void post_updates() const { m_session.post_torrent_updates(); }
    void pop_alerts(rust::Vec<AlertInfo>& alerts, rust::Vec<TorrentStatus>& statuses) const;

  private:
    // Order matters: the session is destroyed first. It destroys the disk object, which refers to
    // the engine.
    rust::Box<DiskEngine> m_engine;
    // One pop at a time: an alert is valid until the next pop.
    mutable std::mutex m_popping;
    // Its functions are thread-safe, but not const.
    mutable lt::session m_session;
};

std::unique_ptr<Session> new_session(SessionConfig const& config, rust::Box<DiskEngine> engine);

// The version of the headers at compile time, and of the library at run time.
std::uint32_t header_version();
rust::String library_version();
rust::String header_version_text();

} // namespace bae
