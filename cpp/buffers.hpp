// Read buffers whose bytes stay owned by Rust, and the small heap object that releases them.
#pragma once

#include <libtorrent/disk_buffer_holder.hpp>
#include "rust/cxx.h"

namespace bae {

namespace lt = libtorrent;
struct ReadBuf; // Rust

// Returns a holder of exactly `length` bytes over `buffer`, without a copy; empty when `buffer` has
// another length. The length must be exact, because libtorrent appends protocol bytes behind a
// holder that claims to be larger.
lt::disk_buffer_holder lend(rust::Box<ReadBuf> buffer, int length);

} // namespace bae
