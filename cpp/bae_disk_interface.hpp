// libtorrent's disk interface, forwarded to Rust. Moves bytes and handlers, decides nothing.
//
// Threads: the constructor runs on the thread that builds the session. get_status may run on any
// thread. The second abort() and the destructor run on the thread that joins the network thread.
// Everything else runs on the network thread. Every async_* call becomes a job (jobs.hpp) that Rust
// completes later from any thread; no call waits.
#pragma once

#include "bae/cpp/jobs.hpp"

namespace bae {

struct DiskEngine; // Rust

std::unique_ptr<lt::disk_interface> make_disk(lt::io_context& ios, DiskEngine const& engine);

} // namespace bae
