// Access to parts of libtorrent that its public interface does not offer, and the differences
// between its versions. The definitions are in compat.cpp, because explicit instantiations may
// exist only once in a program.
#pragma once

#include <libtorrent/version.hpp>
#include <libtorrent/config.hpp>
#include <libtorrent/bitfield.hpp>
#include <libtorrent/client_data.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/units.hpp>

#include <cstddef>
#include <cstdint>
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

// The number of blocks requested ahead from a peer. libtorrent replaces its own setting by the
// number that the *remote* peer announces (2000 blocks = 32 MiB from another libtorrent), and
// requests in flight are what fills memory. The member is protected, so a derived class may name
// it; no object of that class ever exists.
struct request_depth final : lt::peer_connection {
    static std::uint16_t& of(lt::peer_connection& peer);
};

// Suggests a piece to a peer (BEP 6). Nothing is sent to a peer without the fast extension. The
// members are protected, so a derived class may name them; the function is virtual, so no exported
// symbol is needed.
struct suggestion final : lt::peer_connection {
    static void send(lt::peer_connection& peer, lt::piece_index_t piece);
    // The pieces that the peer has.
    static lt::typed_bitfield<lt::piece_index_t> const& have(lt::peer_connection const& peer);
};

// Before 2.0.14, a peer that refuses to send *block* hashes makes libtorrent write outside an array
// (the heap is corrupted; seen with a peer that sends wrong bytes of a v2 torrent). libtorrent
// requests block hashes only after a piece of a torrent without v1 hashes failed. This function
// removes that request; bad peers are then found piece by piece, as in v1.
void after_failed_piece(lt::torrent_handle const& handle);

// Before 2.0.14, libtorrent believes a peer that claims v2 on a v1 magnet link until there is
// metadata. It then uses hash trees that do not exist (a null pointer). This function removes the
// claim.
void after_handshake(lt::peer_connection const& peer);

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
