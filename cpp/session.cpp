#include "bae/cpp/session.hpp"
#include "bae/cpp/alerts.hpp"
#include "bae/cpp/bae_disk_interface.hpp"
#include "bae/cpp/compat.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/bencode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/extensions/smart_ban.hpp>
#include <libtorrent/extensions/ut_metadata.hpp>
#include <libtorrent/extensions/ut_pex.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/magnet_uri.hpp>
#include <libtorrent/peer_class.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/version.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <stdexcept>

namespace bae {

namespace {

std::string text(rust::String const& s) { return {s.data(), s.size()}; }
std::string text(rust::Str s) { return {s.data(), s.size()}; }

// The most chokes by a peer beyond one per second. More of them cost work and memory, without use.
constexpr int max_chokes = 100;
// The most requests of a peer whose answers it has not read: libtorrent keeps all answers.
constexpr int max_unread = 4000;
// Bytes in the send buffer. Every peer that reads its answers gets below this.
constexpr int drained_send_buffer = 64 * 1024;
// Bytes in the send buffer. No peer that reads its answers gets above this: it is eight times the
// watermark up to which payload is queued.
constexpr int max_send_buffer = 64 * 1024 * 1024;

// Limits the requests in flight to one peer to its share, whatever reqq the peer announces.
// Inspects its handshake, sends it the suggestions of the engine, and disconnects a peer that would
// fill the memory.
struct peer_limit_plugin final : lt::peer_plugin {
    peer_limit_plugin(lt::peer_connection_handle const& peer,
                      std::shared_ptr<request_budget> budget, DiskEngine const& engine,
                      std::uint64_t torrent)
        : m_peer(peer), m_budget(std::move(budget)), m_engine(engine), m_torrent(torrent),
          m_number(++m_budget->connections) {
        ++m_budget->peers;
    }
    ~peer_limit_plugin() override {
        --m_budget->peers;
        m_engine.peer_disconnected(m_torrent, m_number);
    }

    lt::string_view type() const override { return "bae_peer_limit"; }
    // With small pieces, a peer may request no more ahead than three quarters of the suggestions
    // that it remembers. Otherwise it picks some pieces at random before the next suggestion
    // reaches it, and each of those costs a GET.
    void add_handshake(lt::entry& handshake) override {
        auto const torrent = complete_torrent();
        auto* const depth = handshake.find_key("reqq");
        if (!torrent || depth == nullptr)
            return;
        constexpr std::int64_t max_pieces = 12;
        // With smaller pieces than this, 12 pieces would be too few for a link of 100 ms.
        constexpr std::int64_t min_blocks = 4;
        std::int64_t const blocks = torrent->torrent_file().piece_length() / lt::default_block_size;
        if (blocks >= min_blocks)
            *depth = std::min(depth->integer(), std::max<std::int64_t>(max_pieces * blocks, 128));
    }
    bool on_interested() override {
        suggest(-1);
        return false;
    }
    bool on_request(lt::peer_request const& r) override {
        if (count_unread_request())
            return true;
        int const piece = static_cast<int>(r.piece);
        if (piece != m_requested_piece && piece >= 0) {
            m_requested_piece = piece;
            suggest(piece);
        }
        return false;
    }
    bool on_handshake(lt::span<char const>) override {
        if (auto const peer = m_peer.native_handle())
            after_handshake(*peer);
        return true;
    }
    void sent_request(lt::peer_request const&) override { limit_requests(); }
    bool on_extended(int, int, lt::span<char const>) override { return count_unread_request(); }
    void sent_payload(int bytes) override { m_unread = std::max(0, m_unread - 1 - bytes / 1024); }
    bool on_choke() override {
        if (++m_chokes > max_chokes)
            disconnect();
        return false;
    }
    void tick() override {
        m_chokes = std::max(0, m_chokes - 1);
        auto const peer = m_peer.native_handle();
        if (peer && peer->send_buffer_size() > max_send_buffer)
            disconnect();
        limit_requests();
    }

  private:
    // Counts a request, and disconnects when too many answers were not read.
    bool count_unread_request() {
        auto const peer = m_peer.native_handle();
        if (!peer || peer->send_buffer_size() < drained_send_buffer)
            m_unread = 0;
        if (++m_unread <= max_unread)
            return false;
        disconnect();
        return true;
    }

    void disconnect() {
        namespace errc = boost::system::errc;
        m_peer.disconnect(errc::make_error_code(errc::no_buffer_space), lt::operation_t::bittorrent,
                          lt::peer_connection_interface::peer_error);
    }

    // Below 4 blocks, round trips cost more than the memory. Above 500 there is no gain, even on
    // loopback.
    std::uint16_t request_share() const {
        std::uint32_t const peers = std::max(m_budget->peers.load(), 1u);
        return static_cast<std::uint16_t>(std::clamp(m_budget->blocks / peers, 4u, 500u));
    }

    void limit_requests() {
        auto const peer = m_peer.native_handle();
        if (!peer)
            return;
        std::uint16_t& depth = request_depth::of(*peer);
        if (depth != m_limit)
            m_announced = depth; // libtorrent has set it since, from the peer's handshake
        m_limit = std::min(m_announced, request_share());
        depth = m_limit;
    }

    // The torrent of this peer if we have all of it. Such a torrent has no picker.
    std::shared_ptr<lt::torrent> complete_torrent() const {
        auto const peer = m_peer.native_handle();
        auto torrent = peer ? peer->associated_torrent().lock() : nullptr;
        bool const is_complete = torrent && torrent->valid_metadata() && !torrent->has_picker();
        return is_complete ? torrent : nullptr;
    }

    void suggest(int requested) {
        auto const peer = m_peer.native_handle();
        if (!peer || (requested >= 0 && peer->is_choked()))
            return;
        auto const torrent = complete_torrent();
        if (!torrent)
            return;
        auto const& have = suggestion::have(*peer);
        auto const bytes = reinterpret_cast<std::uint8_t const*>(have.data());
        PeerPieces const peer_has{{bytes, static_cast<std::size_t>((have.size() + 7) / 8)},
                                  static_cast<std::uint32_t>(peer->num_have_pieces())};
        auto const& info = torrent->torrent_file();
        auto const pieces = m_engine.suggest(
            m_torrent, m_number, requested, static_cast<std::uint32_t>(info.num_pieces()),
            static_cast<std::uint32_t>(info.piece_length()), peer_has);
        // A libtorrent peer requests the last suggestion first.
        for (auto i = pieces.size(); i-- > 0;)
            suggestion::send(*peer, lt::piece_index_t{static_cast<int>(pieces[i])});
    }

    lt::peer_connection_handle m_peer;
    std::shared_ptr<request_budget> m_budget;
    DiskEngine const& m_engine;
    std::uint64_t m_torrent;
    std::uint64_t m_number;
    int m_requested_piece = -1;
    int m_chokes = 0;
    int m_unread = 0;
    std::uint16_t m_announced = 0;
    std::uint16_t m_limit = 0;
};

// Tells the engine which pieces passed: alerts can be dropped, and the disk interface is not told.
struct piece_plugin final : lt::torrent_plugin {
    piece_plugin(DiskEngine const& engine, lt::torrent_handle handle, std::uint64_t torrent,
                 std::shared_ptr<request_budget> budget)
        : m_engine(engine), m_handle(std::move(handle)), m_torrent(torrent),
          m_budget(std::move(budget)) {}

    void on_piece_pass(lt::piece_index_t p) override {
        m_passed.add(m_handle, p);
        m_engine.piece_passed(m_torrent, static_cast<std::uint32_t>(static_cast<int>(p)));
    }
    void on_piece_failed(lt::piece_index_t p) override {
        after_failed_piece(m_handle);
        m_engine.piece_failed(m_torrent, static_cast<std::uint32_t>(static_cast<int>(p)));
    }
    std::shared_ptr<lt::peer_plugin>
    new_connection(lt::peer_connection_handle const& peer) override {
        if (peer.type() != lt::connection_type::bittorrent)
            return {};
        return std::make_shared<peer_limit_plugin>(peer, m_budget, m_engine, m_torrent);
    }

  private:
    DiskEngine const& m_engine;
    lt::torrent_handle m_handle;
    std::uint64_t m_torrent;
    std::shared_ptr<request_budget> m_budget;
    passed_pieces m_passed;
};

lt::settings_pack pack(rust::Vec<Setting> const& settings) {
    lt::settings_pack p;
    for (auto const& s : settings) {
        int const name = lt::setting_by_name(text(s.name));
        if (name < 0)
            throw std::invalid_argument("libtorrent has no setting " + text(s.name));
        switch (name & lt::settings_pack::type_mask) {
        case lt::settings_pack::string_type_base:
            p.set_str(name, text(s.text));
            break;
        case lt::settings_pack::int_type_base:
            p.set_int(name, static_cast<int>(s.number));
            break;
        default:
            p.set_bool(name, s.number != 0);
            break;
        }
    }
    return p;
}

lt::session_params params(rust::Vec<Setting> const& settings, DiskEngine const& engine) {
    // An empty plugin list instead of libtorrent's default: the plugins are added one by one below.
    lt::session_params p(pack(settings), {});
    p.disk_io_constructor = [&engine](lt::io_context& ios, lt::settings_interface const&,
                                      lt::counters&) { return make_disk(ios, engine); };
    return p;
}

lt::tcp::endpoint endpoint(std::string const& s) {
    auto const colon = s.rfind(':');
    if (colon == std::string::npos)
        throw std::invalid_argument("peer " + s + " has no port");
    auto host = s.substr(0, colon);
    if (host.size() > 2 && host.front() == '[')
        host = host.substr(1, host.size() - 2);
    return {lt::make_address(host), static_cast<std::uint16_t>(std::stoul(s.substr(colon + 1)))};
}

lt::add_torrent_params torrent_params(AddTorrent const& t) {
    lt::add_torrent_params p;
    if (t.magnet.empty()) {
        lt::span<char const> const file(reinterpret_cast<char const*>(t.metainfo.data()),
                                        static_cast<std::ptrdiff_t>(t.metainfo.size()));
        lt::load_torrent_limits limits;
        // Rust has parsed and limited the file already (torrents/bencode): no file that Rust
        // accepted is refused here for its size.
        limits.max_pieces = static_cast<int>(t.max_pieces);
        limits.max_decode_tokens = std::numeric_limits<int>::max();
        limits.max_buffer_size = std::numeric_limits<int>::max();
        p.ti = std::make_shared<lt::torrent_info>(file, limits, lt::from_span);
    } else {
        p = lt::parse_magnet_uri(text(t.magnet));
    }
    return p;
}

// The longest piece: MAX_PIECE_LENGTH of torrents/metainfo.rs.
constexpr std::size_t longest_piece = 128 * 1024 * 1024;

// Zeros for a whole piece. They use address space and no memory.
char const* zeros() {
    static void* const mapped = ::mmap(nullptr, longest_piece, PROT_READ,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        throw std::runtime_error("no address space for a piece");
    return static_cast<char const*>(mapped);
}

} // namespace

Session::Session(rust::Vec<Setting> const& settings, rust::Box<DiskEngine> engine, bool smart_ban)
    : m_engine(std::move(engine)), m_requests(std::make_shared<request_budget>()),
      m_session(params(settings, *m_engine)) {
    m_session.add_extension(&lt::create_ut_metadata_plugin);
    m_session.add_extension(&lt::create_ut_pex_plugin);
    if (smart_ban)
        m_session.add_extension(&lt::create_smart_ban_plugin);
    // Peers on the local network obey the limits too: their bytes use memory like all others.
    lt::ip_filter all_peers;
    auto const global = 1u << static_cast<std::uint32_t>(lt::session::global_peer_class_id);
    all_peers.add_rule(lt::make_address("0.0.0.0"), lt::make_address("255.255.255.255"), global);
    all_peers.add_rule(lt::make_address("::"),
                       lt::make_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), global);
    m_session.set_peer_class_filter(all_peers);
    m_session.set_alert_notify([engine_ptr = &*m_engine] { engine_ptr->alerts_ready(); });
}

Session::~Session() {
    m_session.set_alert_notify([] {});
}

lt::torrent_handle const& Session::handle(std::uint64_t torrent) const {
    auto const found = m_torrents.find(torrent);
    if (found == m_torrents.end())
        throw std::out_of_range("no such torrent in the session");
    return found->second;
}

void Session::add(AddTorrent const& t) {
    lt::add_torrent_params p = torrent_params(t);
    p.userdata = tag(t.torrent);
    // Only a name: nothing is saved there. Absolute, or the working directory must exist.
    p.save_path = "/" + std::to_string(t.torrent);
    p.flags &= ~(lt::torrent_flags::auto_managed | lt::torrent_flags::paused);
    p.flags |= lt::torrent_flags::update_subscribe;
    if (t.sequential)
        p.flags |= lt::torrent_flags::sequential_download;
    if (!t.dht)
        p.flags |= lt::torrent_flags::disable_dht;
    if (!t.lsd)
        p.flags |= lt::torrent_flags::disable_lsd;
    if (!t.pex)
        p.flags |= lt::torrent_flags::disable_pex;
    // Rust handles web seeds (torrents/web_seeds). An explicit empty list replaces the web seeds of
    // the torrent file.
    p.url_seeds.clear();
    p.http_seeds.clear();
    p.flags |= lt::torrent_flags::override_web_seeds;
    for (auto const& peer : t.peers)
        p.peers.push_back(endpoint(text(peer)));
    // One byte per piece, for all pieces or for none: libtorrent reads a shorter bitfield as
    // "checked up to here".
    p.have_pieces.resize(static_cast<int>(t.have.size()), false);
    for (std::size_t i = 0; i < t.have.size(); ++i)
        if (t.have[i] != 0)
            p.have_pieces.set_bit(lt::piece_index_t{static_cast<int>(i)});
    if (t.complete && p.ti)
        p.have_pieces.resize(p.ti->num_pieces(), true);
    for (auto const prio : t.priorities)
        p.piece_priorities.push_back(lt::download_priority_t{prio});
    p.extensions.emplace_back(
        [this, id = t.torrent](lt::torrent_handle const& h, lt::client_data_t) {
            return std::make_shared<piece_plugin>(*m_engine, h, id, m_requests);
        });
    m_torrents[t.torrent] = m_session.add_torrent(std::move(p));
}

void Session::remove(std::uint64_t torrent) {
    m_session.remove_torrent(handle(torrent));
    m_torrents.erase(torrent);
}

void Session::pause(std::uint64_t torrent) const { handle(torrent).pause(); }
void Session::resume(std::uint64_t torrent) const { handle(torrent).resume(); }

void Session::set_limits(std::uint64_t torrent, std::int32_t download, std::int32_t upload) const {
    auto const& h = handle(torrent);
    h.set_download_limit(download);
    h.set_upload_limit(upload);
}

void Session::set_sequential(std::uint64_t torrent, bool sequential) const {
    auto const flag = lt::torrent_flags::sequential_download;
    handle(torrent).set_flags(sequential ? flag : lt::torrent_flags_t{}, flag);
}

void Session::connect_peer(std::uint64_t torrent, rust::Str peer) const {
    handle(torrent).connect_peer(endpoint(text(peer)));
}

void Session::prioritize(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
                         std::uint8_t priority) const {
    std::vector<std::pair<lt::piece_index_t, lt::download_priority_t>> list;
    list.reserve(pieces.size());
    for (auto const p : pieces)
        list.emplace_back(lt::piece_index_t{static_cast<int>(p)},
                          lt::download_priority_t{priority});
    handle(torrent).prioritize_pieces(list);
}

void Session::set_deadlines(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces,
                            std::int32_t step) const {
    auto const& h = handle(torrent);
    int due = 0;
    for (auto const p : pieces) {
        h.set_piece_deadline(lt::piece_index_t{static_cast<int>(p)}, due);
        due += step;
    }
}

void Session::clear_deadlines(std::uint64_t torrent,
                              rust::Slice<std::uint32_t const> pieces) const {
    auto const& h = handle(torrent);
    for (auto const p : pieces)
        h.reset_piece_deadline(lt::piece_index_t{static_cast<int>(p)});
}

void Session::add_piece(std::uint64_t torrent, std::uint32_t piece) const {
    handle(torrent).add_piece(lt::piece_index_t{static_cast<int>(piece)}, zeros());
}

rust::Vec<std::uint32_t> Session::availability(std::uint64_t torrent) const {
    std::vector<int> found;
    handle(torrent).piece_availability(found);
    rust::Vec<std::uint32_t> out;
    out.reserve(found.size());
    for (int const n : found)
        out.push_back(n > 0 ? static_cast<std::uint32_t>(n) : 0);
    return out;
}

void Session::apply(rust::Vec<Setting> const& settings) {
    m_session.apply_settings(pack(settings));
}

rust::Vec<std::uint8_t> Session::torrent_file(std::uint64_t torrent) const {
    auto const ti = handle(torrent).torrent_file_with_hashes();
    if (!ti)
        throw std::runtime_error("the torrent has no metadata yet");
    std::vector<char> bytes;
    lt::bencode(std::back_inserter(bytes), lt::create_torrent(*ti).generate());
    rust::Vec<std::uint8_t> out;
    out.reserve(bytes.size());
    for (char const c : bytes)
        out.push_back(static_cast<std::uint8_t>(c));
    return out;
}

void Session::pop_alerts(rust::Vec<AlertInfo>& alerts, rust::Vec<TorrentStatus>& statuses) {
    std::vector<lt::alert*> list;
    m_session.pop_alerts(&list);
    for (auto const* a : list)
        translate(*a, alerts, statuses);
}

std::unique_ptr<Session> new_session(rust::Vec<Setting> const& settings,
                                     rust::Box<DiskEngine> engine, bool smart_ban) {
    return std::make_unique<Session>(settings, std::move(engine), smart_ban);
}

std::uint32_t header_version() { return LIBTORRENT_VERSION_NUM; }
rust::String library_version() { return lt::version(); }
rust::String header_version_text() { return LIBTORRENT_VERSION; }

} // namespace bae
