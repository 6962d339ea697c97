//! The libtorrent settings that bae chooses, with the reasons for numbers that differ from the defaults of libtorrent.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::features::{self, Feature};
use crate::{
    config::{Encryption, Proxy, SessionOptions},
    error::{Error, Kind, Result},
    memory::BLOCK_LEN,
    torrents::disk::ffi::Setting,
};

/// The client name sent to trackers and peers. It is our own: `BA` is in no list of client ids.
const PEER_ID_PREFIX: &str = concat!("-BA", "0100", "-");
const USER_AGENT: &str = concat!("bae/", env!("CARGO_PKG_VERSION"));

/// How long trackers may take to answer the announce that bae stops.
pub(super) const TRACKER_STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// All addresses of this machine, on a port that the system chooses.
const LISTEN_ANYWHERE: &str = "0.0.0.0:0,[::]:0";

/// libtorrent's alert categories that `cpp/alerts.cpp` translates: error, storage, tracker, status.
const ALERTS: i64 = 1 | 8 | 16 | 64;

/// Rejects interfaces and source addresses, and interfaces to listen on, that this machine does not have. libtorrent
/// would continue without a message, and without a connection. Addresses to listen on are not checked: libtorrent
/// reports those that it cannot bind.
///
/// # Errors
/// `InvalidInput`, naming the interface.
pub fn check_interfaces(options: &SessionOptions) -> Result<()> {
    let outgoing = options.interface.iter().flat_map(|list| list.split(',')).map(str::trim);
    for name in outgoing.filter(|name| !name.is_empty()) {
        check_interface(name)?;
    }
    let listen = options.listen.iter().flatten();
    let devices = listen.filter(|text| text.parse::<SocketAddr>().is_err());
    for (device, _) in devices.filter_map(|text| text.rsplit_once(':')) {
        check_interface(device)?;
    }
    Ok(())
}

fn check_interface(name: &str) -> Result<()> {
    // The interface in `fe80::1%eth0` is the part behind `%`.
    let name = name.rsplit_once('%').map_or(name, |(_, device)| device);
    let exists = match name.parse::<IpAddr>() {
        Ok(address) => UdpSocket::bind((address, 0)).is_ok(),
        Err(_) => is_interface(name),
    };
    if exists {
        return Ok(());
    }
    let text = format!("interface {name} does not exist on this machine");
    Err(Error::new(Kind::InvalidInput, text)
        .hint("`ip address` lists interfaces and their addresses; is the tunnel up?"))
}

/// Whether the system has an interface of this name.
#[cfg(target_os = "linux")]
fn is_interface(name: &str) -> bool {
    UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))
        .is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

/// Not checked on other systems: libtorrent reports when it cannot listen there.
#[cfg(not(target_os = "linux"))]
fn is_interface(_: &str) -> bool {
    true
}

#[derive(Default)]
struct Settings(Vec<Setting>);

impl Settings {
    fn number(&mut self, name: &str, number: impl Into<i64>) {
        self.0.push(Setting { name: name.into(), number: number.into(), text: String::new() });
    }

    fn text(&mut self, name: &str, text: impl Into<String>) {
        self.0.push(Setting { name: name.into(), number: 0, text: text.into() });
    }
}

/// All settings of a session. `budget` is the memory budget in bytes.
pub(in crate::torrents) fn session(options: &SessionOptions, budget: usize) -> Vec<Setting> {
    let mut s = Settings::default();
    identity(&mut s, options);
    network(&mut s, options);
    encryption(&mut s, options.encryption);
    picker(&mut s);
    seeding(&mut s, options, budget);
    limits(&mut s, options);
    if let Some(proxy) = &options.proxy {
        self::proxy(&mut s, proxy);
    }
    options.libtorrent.iter().for_each(|(name, number)| s.number(name, *number));
    s.0
}

/// The addresses to accept peers on; `None` stops listening. Can change while the session runs.
pub(in crate::torrents) fn listen(options: Option<&SessionOptions>) -> Vec<Setting> {
    let mut s = Settings::default();
    s.text("listen_interfaces", options.map(interfaces).unwrap_or_default());
    s.0
}

fn interfaces(o: &SessionOptions) -> String {
    o.listen.as_ref().map_or_else(|| LISTEN_ANYWHERE.into(), |l| l.join(","))
}

/// The upload limit alone, to change it while the session runs.
pub(in crate::torrents) fn upload_limit(limit: Option<u64>) -> Vec<Setting> {
    let mut s = Settings::default();
    s.number("upload_rate_limit", rate(limit));
    s.0
}

/// The download limit alone, to change it while the session runs.
pub(in crate::torrents) fn download_limit(limit: Option<u64>) -> Vec<Setting> {
    let mut s = Settings::default();
    s.number("download_rate_limit", rate(limit));
    s.0
}

fn identity(s: &mut Settings, o: &SessionOptions) {
    s.text("peer_fingerprint", o.peer_id_prefix.as_deref().unwrap_or(PEER_ID_PREFIX));
    let agent = o.user_agent.as_deref().unwrap_or(USER_AGENT);
    s.text("user_agent", agent);
    s.text("handshake_client_version", agent);
    s.number("alert_mask", ALERTS);
    // Adding a large import may produce one alert per piece at once.
    s.number("alert_queue_size", 10_000);
}

fn network(s: &mut Settings, o: &SessionOptions) {
    s.text("listen_interfaces", interfaces(o));
    if let Some(interface) = &o.interface {
        s.text("outgoing_interfaces", interface.as_str());
    }
    s.number("enable_dht", o.dht);
    s.text("dht_bootstrap_nodes", o.dht_bootstrap.join(","));
    if o.dht_bootstrap.is_empty() {
        s.0.retain(|x| x.name != "dht_bootstrap_nodes");
    }
    if o.dht_bootstrap.iter().any(|n| n.starts_with("127.")) {
        // A DHT on this machine alone: its nodes share an address range, which the public DHT rightly distrusts.
        for name in ["dht_restrict_routing_ips", "dht_restrict_search_ips", "dht_enforce_node_id"] {
            s.number(name, false);
        }
        for name in ["dht_ignore_dark_internet", "dht_prefer_verified_node_ids"] {
            s.number(name, false);
        }
    }
    s.number("enable_lsd", o.lsd);
    s.number("enable_upnp", o.upnp);
    s.number("enable_natpmp", o.upnp);
    let utp = o.utp.unwrap_or_else(|| features::is_safe(Feature::Utp));
    s.number("enable_outgoing_utp", utp);
    s.number("enable_incoming_utp", utp);
    // Announce to every tracker of every tier: a torrent that lists several trackers is meant to be found through each.
    s.number("announce_to_all_trackers", true);
    s.number("announce_to_all_tiers", true);
    s.number("stop_tracker_timeout", i64::try_from(TRACKER_STOP_TIMEOUT.as_secs()).unwrap_or(5));
    s.number("allow_multiple_connections_per_ip", true);
    // After a pause, peers are reconnected within 10 s; the default is one minute.
    s.number("min_reconnect_time", 10);
    // libtorrent connects to peers and shares out rate limits at this interval. The default of 500 ms delays a start.
    s.number("tick_interval", 100);
}

fn encryption(s: &mut Settings, encryption: Encryption) {
    // libtorrent: 0 forced, 1 enabled, 2 disabled.
    let policy = match encryption {
        Encryption::Required => 0,
        Encryption::Enabled => 1,
        Encryption::Disabled => 2,
    };
    s.number("out_enc_policy", policy);
    s.number("in_enc_policy", policy);
}

fn picker(s: &mut Settings) {
    // Finish open pieces before opening more: open pieces are what uses memory.
    s.number("prioritize_partial_pieces", true);
    s.number("whole_pieces_threshold", 0);
    s.number("request_queue_time", 1);
    // The piece order is ours from the first piece on (see `chunk_priorities`): no random start.
    s.number("initial_picker_threshold", 0);
    s.number("predictive_piece_announce", 0);
    // Back-pressure may last longer than the 20 s after which a silent peer counts as stalled.
    s.number("piece_timeout", 120);
    // Acks are held until durable, so the budget limits "unwritten" bytes; a huge mark silences libtorrent's alert.
    s.number("max_queued_disk_bytes", i64::from(i32::MAX));
}

fn seeding(s: &mut Settings, o: &SessionOptions, budget: usize) {
    // Storage answers in 30 to 200 ms. With the default marks (10 to 500 KiB) a peer gets only 4 MiB/s at 100 ms.
    s.number("send_buffer_low_watermark", 1 << 20);
    s.number("send_buffer_watermark", 8 << 20);
    s.number("send_buffer_watermark_factor", 150);
    // A libtorrent peer requests as many blocks ahead as it is allowed. 8 MiB is little enough that the requested bytes
    // stay in memory until they are sent, and that suggestions arrive in time. Measured with eight leechers that trade
    // among themselves: with 4,000 blocks, 1.4 times the payload is fetched from storage; with 500, 1.06 times.
    let ahead = (budget / 16 / BLOCK_LEN).clamp(256, 500);
    s.number("max_allowed_in_request_queue", i64::try_from(ahead).unwrap_or(256));
    // Bytes queued for sending use memory: the slots times a quarter of a watermark stay within the budget.
    let slots = o.upload_slots.map_or_else(|| (budget >> 21).clamp(4, 64), |n| n as usize);
    s.number("unchoke_slots_limit", i64::try_from(slots).unwrap_or(64));
}

fn limits(s: &mut Settings, o: &SessionOptions) {
    s.number("connections_limit", i64::from(o.connections));
    s.number("download_rate_limit", rate(o.limit_rate));
    s.number("upload_rate_limit", rate(o.upload_limit));
    // bae starts and stops torrents itself; libtorrent's own queue is off.
    for name in ["active_downloads", "active_seeds", "active_limit"] {
        s.number(name, -1);
    }
}

/// The limit as libtorrent's `int`, where 0 means no limit.
pub(super) fn rate(limit: Option<u64>) -> i32 {
    limit.map_or(0, |l| i32::try_from(l.max(1)).unwrap_or(i32::MAX))
}

fn proxy(s: &mut Settings, proxy: &Proxy) {
    let url = proxy.url();
    let auth = !url.username().is_empty();
    // libtorrent: 2 socks5, 3 socks5 with a password, 4 http, 5 http with a password.
    let kind = if url.scheme().starts_with("socks5") { 2 } else { 4 } + i64::from(auth);
    s.number("proxy_type", kind);
    s.text("proxy_hostname", url.host_str().unwrap_or_default());
    s.number("proxy_port", i64::from(url.port_or_known_default().unwrap_or(1080)));
    s.text("proxy_username", url.username());
    s.text("proxy_password", url.password().unwrap_or_default());
    s.number("proxy_hostnames", true);
    s.number("proxy_peer_connections", true);
    s.number("proxy_tracker_connections", true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(settings: &[Setting], name: &str) -> Option<i64> {
        settings.iter().rev().find(|s| s.name == name).map(|s| s.number)
    }

    #[test]
    fn limits_fit_libtorrents_int_and_none_is_zero() {
        let mut o = SessionOptions { limit_rate: Some(u64::MAX), ..Default::default() };
        assert_eq!(
            value(&session(&o, 128 << 20), "download_rate_limit"),
            Some(i64::from(i32::MAX))
        );
        o.limit_rate = None;
        assert_eq!(value(&session(&o, 128 << 20), "download_rate_limit"), Some(0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_error_names_a_missing_interface() {
        let options = |interface: Option<&str>, listen: &[&str]| SessionOptions {
            interface: interface.map(str::to_owned),
            listen: Some(listen.iter().map(|text| (*text).to_owned()).collect()),
            ..Default::default()
        };
        for good in [
            options(None, &[]),
            options(Some("lo"), &["lo:0", "127.0.0.1:0", "[::]:6881", "192.0.2.1:0"]),
            options(Some("127.0.0.1"), &["0.0.0.0:0"]),
        ] {
            check_interfaces(&good).unwrap();
        }
        for (bad, name) in [
            (options(Some("nosuch0"), &[]), "nosuch0"),
            (options(Some("lo, nosuch1"), &[]), "nosuch1"),
            (options(Some("192.0.2.1"), &[]), "192.0.2.1"),
            (options(None, &["127.0.0.1:0", "nosuch2:0"]), "nosuch2"),
        ] {
            let e = check_interfaces(&bad).unwrap_err();
            assert!(e.kind() == Kind::InvalidInput && e.to_string().contains(name), "{e}");
        }
    }

    #[test]
    fn a_proxy_with_a_user_uses_the_type_with_password() {
        let proxy = Some("socks5://me:secret@127.0.0.1:1080".parse().unwrap());
        let s = session(&SessionOptions { proxy, ..Default::default() }, 128 << 20);
        assert_eq!(value(&s, "proxy_type"), Some(3));
        assert_eq!(value(&s, "proxy_port"), Some(1080));
    }
}
