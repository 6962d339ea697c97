// Translates libtorrent's alerts into plain structs. Alerts without a use are dropped here.
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
