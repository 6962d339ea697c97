// libtorrent's plugins: tell Rust which pieces passed, and apply to each peer what Rust decides
// (picker/peer_limits.rs, picker/suggester).
//
// Threads: the network thread calls everything here, once for each message of a peer, so no call
// waits. Destructors may also run on the thread that joins the network thread.
#pragma once

#include <cstdint>
#include <memory>

#include <libtorrent/extensions.hpp>
#include <libtorrent/torrent_handle.hpp>

namespace bae {

namespace lt = libtorrent;
struct DiskEngine; // Rust

// The plugin of one torrent. `number` is ours; the engine outlives the session.
std::shared_ptr<lt::torrent_plugin>
make_torrent_plugin(DiskEngine const& engine, lt::torrent_handle torrent, std::uint64_t number);

} // namespace bae
