#include "bae/cpp/compat.hpp"

#include <libtorrent/hash_picker.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_peer.hpp>

#include <unordered_map>

namespace bae {

namespace {

// Protected members: a derived class may name them. No object of this class ever exists. The
// function is virtual, so no exported symbol is needed.
struct protected_members final : lt::peer_connection {
    static std::uint16_t& request_depth(lt::peer_connection& peer) {
        return peer.*(&protected_members::m_max_out_request_queue);
    }
    static lt::typed_bitfield<lt::piece_index_t> const& pieces(lt::peer_connection const& peer) {
        return peer.*(&protected_members::m_have_piece);
    }
    static void suggest(lt::peer_connection& peer, lt::piece_index_t piece) {
        (peer.*(&protected_members::write_suggest))(piece);
    }
};

// Private members: the arguments of an explicit instantiation may name them.

#if LIBTORRENT_VERSION_NUM < 20014
void forget_block_hash_requests(lt::hash_picker& picker);
template <auto List> struct hash_picker_list {
    friend void forget_block_hash_requests(lt::hash_picker& picker) { (picker.*List).clear(); }
};
template struct hash_picker_list<&lt::hash_picker::m_piece_block_requests>;
#endif

void decrement_passed_count(lt::piece_picker& picker, lt::piece_index_t piece);
#if LIBTORRENT_VERSION_NUM < 20011
int passed_count(lt::piece_picker const& picker) { return picker.num_passed(); }
template <auto Passed> struct picker_count {
    friend void decrement_passed_count(lt::piece_picker& picker, lt::piece_index_t) {
        --(picker.*Passed);
    }
};
template struct picker_count<&lt::piece_picker::m_num_passed>;
#else
// From 2.0.11 on, a piece that passed counts as "have" at once, together with its padding.
int passed_count(lt::piece_picker const& picker) { return picker.num_have(); }
int padding_of(std::unordered_map<lt::piece_index_t, int> const& pads, lt::piece_index_t piece) {
    auto const found = pads.find(piece);
    return found == pads.end() ? 0 : found->second;
}
template <auto Have, auto HavePads, auto Pads> struct picker_count {
    friend void decrement_passed_count(lt::piece_picker& picker, lt::piece_index_t piece) {
        --(picker.*Have);
        picker.*HavePads -= padding_of(picker.*Pads, piece);
    }
};
template struct picker_count<&lt::piece_picker::m_num_have, &lt::piece_picker::m_have_pad_bytes,
                             &lt::piece_picker::m_pads_in_piece>;
#endif

} // namespace

int peer_view::send_buffer_size() const { return m_peer->send_buffer_size(); }
bool peer_view::is_choked() const { return m_peer->is_choked(); }
int peer_view::num_pieces() const { return m_peer->num_have_pieces(); }

lt::typed_bitfield<lt::piece_index_t> const& peer_view::pieces() const {
    return protected_members::pieces(*m_peer);
}

std::uint16_t& peer_view::request_depth() const {
    return protected_members::request_depth(*m_peer);
}

void peer_view::suggest(lt::piece_index_t piece) const {
    protected_members::suggest(*m_peer, piece);
}

std::optional<peer_view::torrent_shape> peer_view::complete_torrent() const {
    auto const torrent = m_peer->associated_torrent().lock();
    if (!torrent || !torrent->valid_metadata() || torrent->has_picker())
        return std::nullopt;
    auto const& info = torrent->torrent_file();
    return torrent_shape{info.num_pieces(), info.piece_length()};
}

#if LIBTORRENT_VERSION_NUM < 20014
void after_failed_piece(lt::torrent_handle const& handle) {
    auto const torrent = handle.native_handle();
    if (torrent && torrent->has_hash_picker())
        forget_block_hash_requests(torrent->get_hash_picker());
}

void peer_view::after_handshake() const {
    auto const torrent = m_peer->associated_torrent().lock();
    auto* const info = m_peer->peer_info_struct();
    if (torrent && info != nullptr && !torrent->info_hash().has_v2())
        info->protocol_v2 = false;
}
#else
void after_failed_piece(lt::torrent_handle const&) {}
void peer_view::after_handshake() const {}
#endif

void passed_pieces::add(lt::torrent_handle const& handle, lt::piece_index_t piece) {
    auto const torrent = handle.native_handle();
    if (!torrent || torrent->info_hash().has_v1() || !torrent->has_picker())
        return;
    auto const index = static_cast<std::size_t>(static_cast<int>(piece));
    if (index >= m_passed.size())
        m_passed.resize(index + 1);
    if (!m_passed[index]) {
        m_passed[index] = true;
        ++m_count;
    } else if (passed_count(torrent->picker()) > m_count) {
        decrement_passed_count(torrent->picker(), piece);
    }
}

} // namespace bae
