#include "bae/cpp/buffers.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

namespace bae {

namespace {

// One per read. libtorrent calls free_disk_buffer once, on the network thread or on the thread that
// joins it. Dropping the box only releases Rust's reference and never calls back into the engine.
struct rust_buffer final : lt::buffer_allocator_interface {
    explicit rust_buffer(rust::Box<ReadBuf> b) : bytes(std::move(b)) {}
    void free_disk_buffer(char*) override { delete this; }
    rust::Box<ReadBuf> bytes;
};

} // namespace

lt::disk_buffer_holder lend(rust::Box<ReadBuf> buffer, int length) {
    auto const slice = buffer->bytes();
    if (slice.size() != static_cast<std::size_t>(length))
        return {};
    // libtorrent never writes through a holder (is_mutable() is false): the cast only fits its
    // signature.
    auto* data = const_cast<char*>(reinterpret_cast<char const*>(slice.data()));
    auto* owner = new rust_buffer(std::move(buffer));
    return lt::disk_buffer_holder(*owner, data, length);
}

} // namespace bae
