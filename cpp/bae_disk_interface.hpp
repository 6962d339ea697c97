// libtorrent's disk, handed to Rust. Moves bytes and handlers, decides nothing.
//
// Threads: the constructor runs on the thread that builds the session, everything else on the
// network thread, but get_status (any thread) and the second abort() and the destructor (the thread
// that joins the network thread). Every async_* call becomes a job (jobs.hpp) that Rust completes
// later from any thread; no call waits.
#pragma once

#include "bae/cpp/jobs.hpp"

namespace bae {

struct DiskEngine; // Rust

std::unique_ptr<lt::disk_interface> make_disk(lt::io_context& ios, DiskEngine const& engine);

} // namespace bae
