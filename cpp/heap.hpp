// Configures how the C library's heap keeps freed memory.
#pragma once

namespace bae {

// For a process that reads fast from few threads: one heap for all threads, which keeps up to 4 MiB
// of freed memory at its end. By default, glibc keeps only 128 KiB and returns the rest to the
// system, which must map and clear it again for the next read (a quarter of the time of a download,
// measured at 1 GiB/s). Also, each thread's heap keeps memory that other threads could use. Blocks
// of 1 MiB or more stay separate mappings.
void configure_heap();

} // namespace bae
