// The only place that looks at libtorrent's version or reaches for what its public interface does
// not offer.
#pragma once

#include <libtorrent/version.hpp>
#include <libtorrent/config.hpp>
#include <libtorrent/client_data.hpp>
#include <libtorrent/hash_picker.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <libtorrent/torrent_peer.hpp>

#include <cstddef>
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

// How many blocks we ask of a peer ahead of time. libtorrent replaces its own setting by what the
// *remote* peer announces (2000 blocks = 32 MiB from another libtorrent), and requests in flight
// are what fills memory. The member is protected, so a derived class may name it; no object of that
// class ever exists.
struct request_depth final : lt::peer_connection {
    static std::uint16_t& of(lt::peer_connection& peer) {
        return peer.*(&request_depth::m_max_out_request_queue);
    }
};

// Tells a peer that it may want a piece (BEP 6); nothing is sent to one without the fast extension.
// The members are protected, so a derived class may name them; the function is virtual, and no
// symbol is needed.
struct suggestion final : lt::peer_connection {
    static void send(lt::peer_connection& peer, lt::piece_index_t piece) {
        (peer.*(&suggestion::write_suggest))(piece);
    }
    // The pieces that the peer has.
    static lt::typed_bitfield<lt::piece_index_t> const& have(lt::peer_connection const& peer) {
        return peer.*(&suggestion::m_have_piece);
    }
};

#if LIBTORRENT_VERSION_NUM < 20014
// Before 2.0.14 a peer that refuses to send *block* hashes makes libtorrent write outside an array
// (the heap is corrupted; seen here with a peer that sends wrong bytes of a v2 torrent). It asks
// for them only after a piece of a torrent without v1 hashes failed, so that request is taken back:
// bad peers are then found piece by piece, as in v1. The list is private; the arguments of an
// explicit instantiation may name it all the same.
void forget_block_hash_requests(lt::hash_picker& picker);
template <auto List> struct hash_picker_list {
    friend void forget_block_hash_requests(lt::hash_picker& picker) { (picker.*List).clear(); }
};
template struct hash_picker_list<&lt::hash_picker::m_piece_block_requests>;

inline void after_failed_piece(lt::torrent_handle const& handle) {
    auto const torrent = handle.native_handle();
    if (torrent && torrent->has_hash_picker())
        forget_block_hash_requests(torrent->get_hash_picker());
}

// Before 2.0.14 a peer that claims v2 on a v1 magnet link is believed until there is metadata, and
// the tree of hashes it is then asked about does not exist: a null pointer. It is not believed.
inline void after_handshake(lt::peer_connection const& peer) {
    auto const torrent = peer.associated_torrent().lock();
    auto* const info = peer.peer_info_struct();
    if (torrent && info != nullptr && !torrent->info_hash().has_v2())
        info->protocol_v2 = false;
}
#else
inline void after_failed_piece(lt::torrent_handle const&) {}
inline void after_handshake(lt::peer_connection const&) {}
#endif

// libtorrent counts a piece twice that passes twice before its blocks are acknowledged; it only
// asserts that this does not happen. It does in a torrent without v1 hashes from a magnet link: a
// piece passes when its hash is known, and again when the piece layer arrives. With acks that are
// held until the bytes are durable it thus believes half-way through that it is finished, and
// leaves the seeds. The count is private; the arguments of an explicit instantiation may name it
// all the same.
void count_one_less(lt::piece_picker& picker);
template <auto Passed> struct picker_count {
    friend void count_one_less(lt::piece_picker& picker) { --(picker.*Passed); }
};
template struct picker_count<&lt::piece_picker::m_num_passed>;

// The pieces of a torrent that passed, those included that were there from the start.
class passed_pieces {
  public:
    // To be told of each.
    void add(lt::torrent_handle const& handle, lt::piece_index_t piece) {
        auto const torrent = handle.native_handle();
        if (!torrent || torrent->info_hash().has_v1() || !torrent->has_picker())
            return;
        auto const index = static_cast<std::size_t>(static_cast<int>(piece));
        if (index >= m_passed.size())
            m_passed.resize(index + 1);
        if (!m_passed[index]) {
            m_passed[index] = true;
            ++m_count;
        } else if (torrent->picker().num_passed() > m_count) {
            count_one_less(torrent->picker());
        }
    }

  private:
    std::vector<bool> m_passed;
    int m_count = 0;
};

// Our number for a torrent, carried by libtorrent as the pointer it calls user data; never
// dereferenced.
struct torrent_tag;

inline lt::client_data_t tag(std::uint64_t torrent) {
    return lt::client_data_t(reinterpret_cast<torrent_tag*>(static_cast<std::uintptr_t>(torrent)));
}

inline std::uint64_t torrent_of(lt::torrent_handle const& handle) {
    return reinterpret_cast<std::uintptr_t>(handle.userdata().get<torrent_tag>());
}

} // namespace bae
