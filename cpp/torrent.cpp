#include "bae/cpp/torrent.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/bencode.hpp>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/torrent_flags.hpp>
#include <libtorrent/torrent_info.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace bae {

namespace {

// Zeros for the longest piece, the same for every call. They use address space and no memory.
char const* zeros(std::size_t longest) {
    static void* const mapped =
        ::mmap(nullptr, longest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        throw std::bad_alloc();
    return static_cast<char const*>(mapped);
}

} // namespace

lt::tcp::endpoint endpoint(PeerAddress const& peer) {
    if (peer.is_v6)
        return {lt::address_v6(peer.ip), peer.port};
    lt::address_v4::bytes_type v4;
    std::copy_n(peer.ip.begin(), v4.size(), v4.begin());
    return {lt::address_v4(v4), peer.port};
}

void TorrentHandle::set_sequential(bool on) const {
    if (on)
        m_handle.set_flags(lt::torrent_flags::sequential_download);
    else
        m_handle.unset_flags(lt::torrent_flags::sequential_download);
}

void TorrentHandle::connect_peer(PeerAddress const& peer) const {
    m_handle.connect_peer(endpoint(peer));
}

void TorrentHandle::prioritize(rust::Slice<std::uint32_t const> pieces,
                               std::uint8_t priority) const {
    std::vector<std::pair<lt::piece_index_t, lt::download_priority_t>> list;
    list.reserve(pieces.size());
    for (auto const p : pieces)
        list.emplace_back(to_piece(p), lt::download_priority_t{priority});
    m_handle.prioritize_pieces(list);
}

void TorrentHandle::set_deadlines(rust::Slice<std::uint32_t const> pieces,
                                  std::int32_t step) const {
    int due = 0;
    for (auto const p : pieces) {
        m_handle.set_piece_deadline(to_piece(p), due);
        due += step;
    }
}

void TorrentHandle::clear_deadlines(rust::Slice<std::uint32_t const> pieces) const {
    for (auto const p : pieces)
        m_handle.reset_piece_deadline(to_piece(p));
}

void TorrentHandle::add_piece(std::uint32_t piece, std::uint32_t longest) const {
    m_handle.add_piece(to_piece(piece), zeros(longest));
}

std::unique_ptr<std::vector<std::int32_t>> TorrentHandle::availability() const {
    auto peers = std::make_unique<std::vector<std::int32_t>>();
    m_handle.piece_availability(*peers);
    return peers;
}

std::unique_ptr<Bytes> TorrentHandle::torrent_file() const {
    auto const info = m_handle.torrent_file_with_hashes();
    if (!info)
        throw lt::system_error(lt::errors::no_metadata);
    auto bytes = std::make_unique<Bytes>();
    lt::bencode(std::back_inserter(*bytes), lt::create_torrent(*info).generate());
    return bytes;
}

std::unique_ptr<Bytes> TorrentHandle::info_dictionary() const {
    auto const info = m_handle.torrent_file();
    if (!info)
        throw lt::system_error(lt::errors::no_metadata);
    auto const section = info->info_section();
    return std::make_unique<Bytes>(section.begin(), section.end());
}

} // namespace bae
