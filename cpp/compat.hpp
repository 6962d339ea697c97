// The only place that uses libtorrent's internals, and that knows the differences between its
// versions: everything else here and in the other files is its public interface. The definitions
// are in compat.cpp, because explicit instantiations may exist only once in a program.
#pragma once

#include <libtorrent/version.hpp>
#include <libtorrent/config.hpp>
#include <libtorrent/bitfield.hpp>
#include <libtorrent/client_data.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/units.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#if LIBTORRENT_VERSION_NUM < 20008 || LIBTORRENT_VERSION_NUM >= 20100
#error "bae is written for libtorrent-rasterbar >= 2.0.8, < 2.1: its disk interface changes in 2.1"
#endif
#if TORRENT_ABI_VERSION != 1
#error                                                                                             \
    "libtorrent's headers must be used with the library's own defines (see vendor/libtorrent-sys)"
#endif
#if defined TORRENT_USE_ASSERTS && TORRENT_USE_ASSERTS
#error "TORRENT_USE_ASSERTS changes libtorrent's structures; the system library is built without it"
#endif

namespace bae {

namespace lt = libtorrent;

// A peer connection from the inside. Only on the network thread, and only for one call of a plugin.
class peer_view {
  public:
    explicit peer_view(lt::peer_connection_handle const& handle) : m_peer(handle.native_handle()) {}

    // Whether the connection still exists. Otherwise nothing else here may be called.
    explicit operator bool() const { return m_peer != nullptr; }

    int send_buffer_size() const;
    bool is_choked() const;
    // The pieces that the peer has, and their number.
    lt::typed_bitfield<lt::piece_index_t> const& pieces() const;
    int num_pieces() const;

    // The number of blocks requested ahead from the peer. libtorrent replaces its own setting by
    // the number that the *remote* peer announces (2000 blocks = 32 MiB from another libtorrent),
    // and requests in flight are what fills memory.
    std::uint16_t& request_depth() const;

    // Suggests a piece to the peer (BEP 6). Nothing is sent to a peer without the fast extension.
    void suggest(lt::piece_index_t piece) const;

    // The number and length of the pieces of the peer's torrent, if all of it is stored here. Such
    // a torrent has no piece picker.
    struct torrent_shape {
        int pieces;
        int piece_length;
    };
    std::optional<torrent_shape> complete_torrent() const;

    // Before 2.0.14, libtorrent believes a peer that claims v2 on a v1 magnet link until there is
    // metadata. It then uses hash trees that do not exist (a null pointer). To be called after the
    // peer's handshake: removes the claim.
    void after_handshake() const;

  private:
    std::shared_ptr<lt::peer_connection> m_peer;
};

// Before 2.0.14, a peer that refuses to send *block* hashes makes libtorrent write outside an array
// (the heap is corrupted; seen with a peer that sends wrong bytes of a v2 torrent). libtorrent
// requests block hashes only after a piece of a torrent without v1 hashes failed. This function
// removes that request; bad peers are then found piece by piece, as in v1.
void after_failed_piece(lt::torrent_handle const& handle);

// The pieces of a torrent that passed, including pieces that were stored at the start.
//
// libtorrent counts a piece twice when it passes twice before its blocks are acknowledged; it only
// asserts that this does not happen. It does happen in a torrent without v1 hashes from a magnet
// link: a piece passes when its hash is known, and again when the piece layer arrives. As acks are
// held until the bytes are durable, libtorrent then believes half-way through that it is finished,
// and disconnects from the seeds. This class removes the second count.
class passed_pieces {
  public:
    // Must be called from `on_piece_pass`, for each piece that passes.
    void add(lt::torrent_handle const& handle, lt::piece_index_t piece);

  private:
    std::vector<bool> m_passed;
    int m_count = 0;
};

// Our number for a torrent, stored by libtorrent as its user-data pointer; never dereferenced.
struct torrent_tag;

inline lt::client_data_t tag(std::uint64_t torrent) {
    return lt::client_data_t(reinterpret_cast<torrent_tag*>(static_cast<std::uintptr_t>(torrent)));
}

inline std::uint64_t torrent_of(lt::torrent_handle const& handle) {
    return reinterpret_cast<std::uintptr_t>(handle.userdata().get<torrent_tag>());
}

} // namespace bae
