// Translates libtorrent's alerts into plain structs, without a wait for the network thread. Alerts
// without a use are dropped here. A torrent is named by its number, which its user data holds.
#pragma once

#include <libtorrent/alert.hpp>
#include "rust/cxx.h"

namespace bae {

namespace lt = libtorrent;
struct AlertInfo; // Rust
struct TorrentStatus;

void translate(lt::alert const& alert, rust::Vec<AlertInfo>& alerts,
               rust::Vec<TorrentStatus>& statuses);

} // namespace bae
