#include "bae/cpp/plugins.hpp"
#include "bae/cpp/compat.hpp"
#include "bae/cpp/convert.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/entry.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/peer_request.hpp>

namespace bae {

namespace {

// One peer. Gathers what Rust needs to know of it, and does what Rust answers.
struct peer_plugin final : lt::peer_plugin {
    peer_plugin(lt::peer_connection_handle const& peer, rust::Box<PeerState> state)
        : m_peer(peer), m_state(std::move(state)) {}

    lt::string_view type() const override { return "bae_peer"; }

    void add_handshake(lt::entry& handshake) override {
        peer_view const peer(m_peer);
        auto* const depth = handshake.find_key("reqq");
        if (!peer || depth == nullptr)
            return;
        if (auto const torrent = peer.complete_torrent())
            *depth = m_state->announced_depth(depth->integer(), torrent->piece_length);
    }

    bool on_handshake(lt::span<char const>) override {
        if (peer_view const peer(m_peer); peer)
            peer.after_handshake();
        return true;
    }

    bool on_interested() override {
        suggest(-1);
        return false;
    }

    bool on_request(lt::peer_request const& r) override {
        if (requested())
            return true;
        int const piece = static_cast<int>(r.piece);
        peer_view const peer(m_peer);
        if (peer && m_state->wants_suggestions(piece, peer.is_choked()))
            suggest(piece);
        return false;
    }

    // An extended message is answered too, like a request.
    bool on_extended(int, int, lt::span<char const>) override { return requested(); }
    void sent_payload(int bytes) override { m_state->on_payload_sent(bytes); }
    void sent_request(lt::peer_request const&) override { limit_requests(); }

    bool on_choke() override {
        apply(m_state->on_choke());
        return false;
    }

    void tick() override {
        peer_view const peer(m_peer);
        apply(m_state->on_tick(peer ? peer.send_buffer_size() : 0));
        limit_requests();
    }

  private:
    // Returns whether the peer was disconnected.
    bool requested() {
        peer_view const peer(m_peer);
        return apply(m_state->on_request(peer ? peer.send_buffer_size() : 0));
    }

    bool apply(PeerVerdict verdict) {
        if (verdict == PeerVerdict::Keep)
            return false;
        namespace errc = boost::system::errc;
        m_peer.disconnect(errc::make_error_code(errc::no_buffer_space), lt::operation_t::bittorrent,
                          lt::peer_connection_interface::peer_error);
        return true;
    }

    void limit_requests() {
        if (peer_view const peer(m_peer); peer)
            peer.request_depth() = m_state->request_depth(peer.request_depth());
    }

    // `requested` is the piece that the peer requests, or -1.
    void suggest(int requested) {
        peer_view const peer(m_peer);
        if (!peer)
            return;
        auto const torrent = peer.complete_torrent();
        if (!torrent)
            return;
        auto const& have = peer.pieces();
        rust::Slice<std::uint8_t const> const bits(
            reinterpret_cast<std::uint8_t const*>(have.data()),
            static_cast<std::size_t>((have.size() + 7) / 8));
        auto const pieces = m_state->suggest(requested, torrent->pieces, torrent->piece_length,
                                             bits, peer.num_pieces());
        // A libtorrent peer requests the last suggestion first.
        for (auto i = pieces.size(); i-- > 0;)
            peer.suggest(to_piece(pieces[i]));
    }

    lt::peer_connection_handle m_peer;
    rust::Box<PeerState> m_state;
};

// One torrent. Alerts can be dropped, and the disk interface is not told which pieces passed.
struct torrent_plugin final : lt::torrent_plugin {
    torrent_plugin(DiskEngine const& engine, lt::torrent_handle torrent, std::uint64_t number)
        : m_engine(engine), m_torrent(std::move(torrent)), m_number(number) {}

    void on_piece_pass(lt::piece_index_t p) override {
        m_passed.add(m_torrent, p);
        m_engine.piece_passed(m_number, from_piece(p));
    }
    void on_piece_failed(lt::piece_index_t p) override {
        after_failed_piece(m_torrent);
        m_engine.piece_failed(m_number, from_piece(p));
    }
    std::shared_ptr<lt::peer_plugin>
    new_connection(lt::peer_connection_handle const& peer) override {
        if (peer.type() != lt::connection_type::bittorrent)
            return {};
        return std::make_shared<peer_plugin>(peer, m_engine.peer_connected(m_number));
    }

  private:
    DiskEngine const& m_engine;
    lt::torrent_handle m_torrent;
    std::uint64_t m_number;
    passed_pieces m_passed;
};

} // namespace

std::shared_ptr<lt::torrent_plugin>
make_torrent_plugin(DiskEngine const& engine, lt::torrent_handle torrent, std::uint64_t number) {
    return std::make_shared<torrent_plugin>(engine, std::move(torrent), number);
}

} // namespace bae
