// Two errors that valgrind must report: a read past the end of a heap buffer, and a read after free. `valgrind.rs`
// builds and runs this program with the same options as bae, so that a clean run of bae means something.
#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    auto* buffer = static_cast<volatile char*>(std::malloc(16384));
    for (int i = 0; i < 16384; ++i)
        buffer[i] = static_cast<char>(i);
    int seen = buffer[16383 + argc]; // one byte past the end
    std::free(const_cast<char*>(buffer));
    seen += buffer[argc]; // a read after the free
    std::printf("%d %s\n", seen & 1, argv[0]);
}
