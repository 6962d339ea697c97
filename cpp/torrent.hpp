// One torrent of the session, for Rust.
//
// Threads: libtorrent's handle is thread-safe, so any thread may call anything at any time. Calls
// are queued for the network thread; those marked so wait for it. The session must not end during a
// call, because a handle reaches the session through a plain reference: Rust keeps the session for
// the time of each call (session/native.rs). A handle may outlive the session. It is weak: a call
// on a torrent that was removed throws invalid_torrent_handle.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <libtorrent/socket.hpp>
#include <libtorrent/torrent_handle.hpp>
#include "bae/cpp/convert.hpp"

namespace bae {

struct PeerAddress; // Rust

lt::tcp::endpoint endpoint(PeerAddress const& peer);

class TorrentHandle {
  public:
    explicit TorrentHandle(lt::torrent_handle handle) : m_handle(std::move(handle)) {}

    lt::torrent_handle const& handle() const { return m_handle; }

    void pause() const { m_handle.pause(); }
    void resume() const { m_handle.resume(); }
    void set_sequential(bool on) const;
    // Bytes per second; 0 for no limit.
    void set_upload_limit(std::int32_t rate) const { m_handle.set_upload_limit(rate); }
    void set_download_limit(std::int32_t rate) const { m_handle.set_download_limit(rate); }
    void connect_peer(PeerAddress const& peer) const;
    // Sets one priority (0 to 7) for the given pieces.
    void prioritize(rust::Slice<std::uint32_t const> pieces, std::uint8_t priority) const;
    // Sets deadlines: the given pieces come first, in this order, each due `step` milliseconds
    // after the one before. Requests for other pieces are cancelled when no piece had a deadline
    // before.
    void set_deadlines(rust::Slice<std::uint32_t const> pieces, std::int32_t step) const;
    // Removes the deadlines of the given pieces. Missing ones then have libtorrent's lowest
    // priority.
    void clear_deadlines(rust::Slice<std::uint32_t const> pieces) const;

    // Waits. Makes libtorrent write the blocks of a piece that no peer sent, and hash the piece.
    // The engine has the bytes, and uses them instead of those of this write: libtorrent is given
    // zeros. No piece is longer than `longest`.
    void add_piece(std::uint32_t piece, std::uint32_t longest) const;
    // Waits. How many peers have each piece; empty for a seed.
    std::unique_ptr<std::vector<std::int32_t>> availability() const;
    // Waits. The torrent as a .torrent file, with all v2 piece layers known so far.
    std::unique_ptr<Bytes> torrent_file() const;
    // Waits. The info dictionary.
    std::unique_ptr<Bytes> info_dictionary() const;

  private:
    lt::torrent_handle m_handle;
};

} // namespace bae
