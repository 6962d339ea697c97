#include "bae/cpp/alerts.hpp"
#include "bae/cpp/compat.hpp"
#include "bae/src/torrents/disk/ffi.rs.h"

#include <libtorrent/alert_types.hpp>
#include <libtorrent/torrent_status.hpp>

#include <sstream>

namespace bae {

namespace {

template <typename T> std::uint64_t to_unsigned(T v) {
    return v > 0 ? static_cast<std::uint64_t>(v) : 0;
}

TorrentStatus status_of(lt::torrent_status const& s) {
    TorrentStatus out{};
    out.torrent = torrent_of(s.handle);
    out.downloaded = to_unsigned(s.total_payload_download);
    out.uploaded = to_unsigned(s.total_payload_upload);
    out.upload_rate = to_unsigned(s.upload_payload_rate);
    out.peers = static_cast<std::uint32_t>(to_unsigned(s.num_peers));
    out.seeds = static_cast<std::uint32_t>(to_unsigned(s.num_seeds));
    out.paused = bool(s.flags & lt::torrent_flags::paused);
    return out;
}

AlertInfo& add(rust::Vec<AlertInfo>& alerts, AlertKind kind, lt::alert const& a) {
    AlertInfo info{};
    info.kind = kind;
    info.text = rust::String::lossy(a.message());
    if (auto const* t = dynamic_cast<lt::torrent_alert const*>(&a); t && t->handle.is_valid())
        info.torrent = torrent_of(t->handle);
    alerts.push_back(std::move(info));
    return alerts[alerts.size() - 1];
}

TrackerFailure failure_of(lt::error_code const& e) {
    if (e.category() == lt::bdecode_category())
        return TrackerFailure::NotBencoded;
    if (e.category() == lt::http_category())
        return TrackerFailure::HttpStatus;
    if (e == lt::error_code(lt::errors::tracker_failure))
        return TrackerFailure::Refused;
    return TrackerFailure::Other;
}

void add_tracker_error(rust::Vec<AlertInfo>& alerts, lt::tracker_error_alert const& a) {
    auto& info = add(alerts, AlertKind::TrackerError, a);
    // Not the alert's message, which contains the whole URL.
    info.text = rust::String::lossy(a.error.message());
    info.url = rust::String::lossy(a.tracker_url());
    info.failure = failure_of(a.error);
    info.code = a.error.value();
    info.reason = rust::String::lossy(a.failure_reason());
    if (a.handle.is_valid())
        for (char const c : a.handle.info_hashes().get_best())
            info.info_hash.push_back(static_cast<std::uint8_t>(c));
}

} // namespace

void translate(lt::alert const& a, rust::Vec<AlertInfo>& alerts,
               rust::Vec<TorrentStatus>& statuses) {
    if (auto const* updates = lt::alert_cast<lt::state_update_alert>(&a)) {
        for (auto const& s : updates->status)
            if (s.handle.is_valid())
                statuses.push_back(status_of(s));
    } else if (lt::alert_cast<lt::metadata_received_alert>(&a)) {
        add(alerts, AlertKind::Metadata, a);
    } else if (auto const* listen = lt::alert_cast<lt::listen_succeeded_alert>(&a)) {
        if (listen->socket_type == lt::socket_type_t::tcp) {
            std::ostringstream endpoint;
            endpoint << lt::tcp::endpoint(listen->address,
                                          static_cast<std::uint16_t>(listen->port));
            add(alerts, AlertKind::Listening, a).text = endpoint.str();
        }
    } else if (lt::alert_cast<lt::listen_failed_alert>(&a)) {
        add(alerts, AlertKind::ListenFailed, a);
    } else if (auto const* failed = lt::alert_cast<lt::tracker_error_alert>(&a)) {
        add_tracker_error(alerts, *failed);
    } else if (auto const* reply = lt::alert_cast<lt::tracker_reply_alert>(&a)) {
        auto& info = add(alerts, AlertKind::TrackerReply, a);
        info.text = std::to_string(reply->num_peers);
        info.url = rust::String::lossy(reply->tracker_url());
    } else if (auto const* warned = lt::alert_cast<lt::tracker_warning_alert>(&a)) {
        auto& info = add(alerts, AlertKind::TrackerWarning, a);
        info.text = rust::String::lossy(warned->warning_message());
        info.url = rust::String::lossy(warned->tracker_url());
    } else if (lt::alert_cast<lt::hash_failed_alert>(&a) ||
               lt::alert_cast<lt::file_error_alert>(&a) ||
               lt::alert_cast<lt::metadata_failed_alert>(&a)) {
        // libtorrent continues: it requests the piece again, or rejects the peer's request.
        add(alerts, AlertKind::NonFatalError, a);
    } else if (lt::alert_cast<lt::torrent_error_alert>(&a)) {
        add(alerts, AlertKind::TorrentError, a);
    }
}

} // namespace bae
