// Settings of the whole process.
#pragma once

namespace bae {

// For a process that reads fast from few threads: one heap for all threads, which keeps up to 4 MiB
// of freed memory at its end. By default, glibc keeps only 128 KiB and returns the rest to the
// system, which must map and clear it again for the next read (a quarter of the time of a download,
// measured at 1 GiB/s). Also, each thread's heap keeps memory that other threads could use. Blocks
// of 1 MiB or more stay separate mappings.
void configure_heap();

// Marks all open files except the standard streams, so that no program that is started from now on
// inherits them. libtorrent opens its sockets without O_CLOEXEC: a program that inherits one keeps
// the port in use after this process has ended. Kernels before 5.11 do nothing.
void close_files_on_exec();

} // namespace bae
