// What valgrind must not miss: a byte read behind a heap buffer, and a use after free. Built and run by `valgrind.rs`
// under the same options as bae, so that a clean run of bae means something.
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    auto* buffer = static_cast<volatile char*>(std::malloc(16384));
    for (int i = 0; i < 16384; ++i)
        buffer[i] = static_cast<char>(i);
    int seen = buffer[16383 + argc]; // one behind the end
    std::free(const_cast<char*>(buffer));
    seen += buffer[argc]; // after the free
    std::printf("%d %s\n", seen & 1, argv[0]);
}
