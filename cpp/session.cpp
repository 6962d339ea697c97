#include "bae/cpp/session.hpp"
#include "bae/cpp/alerts.hpp"
#include "bae/cpp/bae_disk_interface.hpp"
#include "bae/cpp/compat.hpp"
#include "bae/cpp/errors.hpp"
#include "bae/cpp/plugins.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/extensions/smart_ban.hpp>
#include <libtorrent/extensions/ut_metadata.hpp>
#include <libtorrent/extensions/ut_pex.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/magnet_uri.hpp>
#include <libtorrent/peer_class.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/version.hpp>

#include <limits>

namespace bae {

namespace {

lt::settings_pack pack(rust::Vec<Setting> const& settings) {
    lt::settings_pack p;
    for (auto const& s : settings) {
        int const name = lt::setting_by_name(text(s.name));
        if (name < 0)
            throw invalid_input("libtorrent has no setting " + text(s.name));
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

lt::session_params params(SessionConfig const& config, DiskEngine const& engine) {
    // An empty plugin list instead of libtorrent's default: the plugins are added one by one below.
    lt::session_params p(pack(config.settings), {});
    p.disk_io_constructor = [&engine](lt::io_context& ios, lt::settings_interface const&,
                                      lt::counters&) { return make_disk(ios, engine); };
    return p;
}

// A filter that puts all peers into the class that the session's limits apply to. By default, peers
// on the local network are in a class without limits.
lt::ip_filter all_limited() {
    lt::ip_filter filter;
    auto const global = 1u << static_cast<std::uint32_t>(lt::session::global_peer_class_id);
    filter.add_rule(lt::make_address("0.0.0.0"), lt::make_address("255.255.255.255"), global);
    filter.add_rule(lt::make_address("::"),
                    lt::make_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), global);
    return filter;
}

lt::add_torrent_params torrent_params(AddTorrent const& t) try {
    if (!t.magnet.empty())
        return lt::parse_magnet_uri(text(t.magnet));
    lt::span<char const> const file(reinterpret_cast<char const*>(t.metainfo.data()),
                                    static_cast<std::ptrdiff_t>(t.metainfo.size()));
    lt::load_torrent_limits limits;
    // Rust has parsed and limited the file already (metainfo/bencode): no file that Rust accepted
    // is refused here for its size.
    limits.max_pieces = static_cast<int>(t.max_pieces);
    limits.max_decode_tokens = std::numeric_limits<int>::max();
    limits.max_buffer_size = std::numeric_limits<int>::max();
    lt::add_torrent_params p;
    p.ti = std::make_shared<lt::torrent_info>(file, limits, lt::from_span);
    return p;
} catch (lt::system_error const& e) {
    throw invalid_input(e.what());
}

// One byte per piece, for all pieces or for none: libtorrent reads a shorter bitfield as "checked
// up to here".
lt::typed_bitfield<lt::piece_index_t> bitfield(rust::Vec<std::uint8_t> const& have) {
    lt::typed_bitfield<lt::piece_index_t> bits;
    bits.resize(static_cast<int>(have.size()), false);
    for (std::size_t i = 0; i < have.size(); ++i)
        if (have[i] != 0)
            bits.set_bit(lt::piece_index_t{static_cast<int>(i)});
    return bits;
}

} // namespace

Session::Session(SessionConfig const& config, rust::Box<DiskEngine> engine)
    : m_engine(std::move(engine)), m_session(params(config, *m_engine)) {
    m_session.add_extension(&lt::create_ut_metadata_plugin);
    m_session.add_extension(&lt::create_ut_pex_plugin);
    if (config.smart_ban)
        m_session.add_extension(&lt::create_smart_ban_plugin);
    if (config.limit_local_peers)
        m_session.set_peer_class_filter(all_limited());
    m_session.set_alert_notify([engine_ptr = &*m_engine] { engine_ptr->alerts_ready(); });
}

Session::~Session() {
    m_session.set_alert_notify([] {});
}

std::unique_ptr<TorrentHandle> Session::add(AddTorrent const& t) const {
    lt::add_torrent_params p = torrent_params(t);
    p.userdata = tag(t.torrent);
    // Only a name: nothing is saved there. Absolute, or the working directory must exist.
    p.save_path = "/" + std::to_string(t.torrent);
    p.flags &= ~(lt::torrent_flags::auto_managed | lt::torrent_flags::paused);
    p.flags |= lt::torrent_flags::update_subscribe;
    // Otherwise libtorrent returns the torrent that is there already, and two owners would share
    // it.
    p.flags |= lt::torrent_flags::duplicate_is_error;
    if (t.sequential)
        p.flags |= lt::torrent_flags::sequential_download;
    if (!t.dht)
        p.flags |= lt::torrent_flags::disable_dht;
    if (!t.lsd)
        p.flags |= lt::torrent_flags::disable_lsd;
    if (!t.pex)
        p.flags |= lt::torrent_flags::disable_pex;
    p.upload_limit = t.upload_limit;
    p.download_limit = t.download_limit;
    // Rust handles web seeds (torrents/web_seeds). An explicit empty list replaces the web seeds of
    // the torrent file.
    p.url_seeds.clear();
    p.http_seeds.clear();
    p.flags |= lt::torrent_flags::override_web_seeds;
    for (auto const& peer : t.peers)
        p.peers.push_back(endpoint(peer));
    p.have_pieces = bitfield(t.have);
    if (t.complete && p.ti)
        p.have_pieces.resize(p.ti->num_pieces(), true);
    for (auto const prio : t.priorities)
        p.piece_priorities.push_back(lt::download_priority_t{prio});
    p.extensions.emplace_back(
        [engine = &*m_engine, number = t.torrent](lt::torrent_handle const& h, lt::client_data_t) {
            return make_torrent_plugin(*engine, h, number);
        });
    return std::make_unique<TorrentHandle>(m_session.add_torrent(std::move(p)));
}

void Session::remove(TorrentHandle const& torrent) const {
    m_session.remove_torrent(torrent.handle());
}

void Session::apply(rust::Vec<Setting> const& settings) const {
    m_session.apply_settings(pack(settings));
}

void Session::pop_alerts(rust::Vec<AlertInfo>& alerts, rust::Vec<TorrentStatus>& statuses) const {
    std::lock_guard<std::mutex> lock(m_popping);
    std::vector<lt::alert*> list;
    m_session.pop_alerts(&list);
    for (auto const* a : list)
        translate(*a, alerts, statuses);
}

std::unique_ptr<Session> new_session(SessionConfig const& config, rust::Box<DiskEngine> engine) {
    return std::make_unique<Session>(config, std::move(engine));
}

std::uint32_t header_version() { return LIBTORRENT_VERSION_NUM; }
rust::String library_version() { return lt::version(); }
rust::String header_version_text() { return LIBTORRENT_VERSION; }

} // namespace bae
