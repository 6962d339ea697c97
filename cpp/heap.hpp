// How the C library's heap keeps what is freed.
#pragma once

namespace bae {

// For a process that reads fast from few threads: one heap for all of them, which keeps up to 4 MiB
// that were freed at its end. By itself glibc gives the end back at 128 KiB, to have the system map
// and clear it again for the next read (a quarter of the time of a download, measured at 1 GiB/s),
// and each thread's heap keeps what others could use. Blocks of a MiB or more stay mappings of
// their own.
void keep_heap_steady();

} // namespace bae
