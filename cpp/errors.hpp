// Exceptions on their way to Rust. An exception crosses the bridge as a text: the digit of its
// FailureKind, then its message. session/failures.rs reads it.
#pragma once

#include <stdexcept>
#include <string>

namespace bae {

// The caller gave something unusable: a setting, a torrent file, a magnet link.
struct invalid_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The text of the exception that is being handled.
std::string failure_text();

} // namespace bae

// Handles exceptions in all functions of the bridge that may throw. Replaces the default of cxx.
namespace rust {
namespace behavior {
template <typename Try, typename Fail> static void trycatch(Try&& func, Fail&& fail) noexcept {
    try {
        func();
    } catch (...) {
        fail(bae::failure_text());
    }
}
} // namespace behavior
} // namespace rust
