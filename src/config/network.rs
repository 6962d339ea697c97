//! Network settings: of a session (addresses, discovery, limits, identity), and of each torrent in it.

use std::{collections::BTreeMap, fmt, net::SocketAddr, str::FromStr};

use serde::Deserialize;
use url::Url;

use super::file::rate;
use crate::error::{Error, Kind, Result};

/// The network settings of a command: those of its session, and those of each torrent that it adds.
#[derive(Debug, Clone, Default)]
pub struct NetworkOptions {
    pub session: SessionOptions,
    pub torrent: TorrentOptions,
}

/// The network settings of one torrent session. Rates are in bytes per second; `None` leaves a choice to the session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// `ADDR:PORT` or `DEVICE:PORT`, each checked by [`check_listen`]. `None` is every interface, on a port chosen by
    /// the system.
    pub listen: Option<Vec<String>>,
    /// Network interface or local address of outgoing connections.
    pub interface: Option<String>,
    pub dht: bool,
    /// DHT bootstrap nodes as `HOST:PORT`.
    pub dht_bootstrap: Vec<String>,
    pub lsd: bool,
    pub pex: bool,
    /// `None` enables uTP where libtorrent's is reliable (2.0.14 and later).
    pub utp: Option<bool>,
    /// Maps the port on the router with both UPnP and NAT-PMP.
    pub upnp: bool,
    pub encryption: Encryption,
    pub proxy: Option<Proxy>,
    /// Maximum connections at once.
    pub connections: u32,
    /// Download limit of all torrents together, web seeds included.
    pub limit_rate: Option<u64>,
    /// Upload limit of all torrents together.
    pub upload_limit: Option<u64>,
    /// Maximum peers served at once.
    pub upload_slots: Option<u32>,
    pub peer_id_prefix: Option<String>,
    pub user_agent: Option<String>,
    /// Send suggest messages for pieces that are in memory or will be read next.
    pub suggest: bool,
    /// libtorrent settings by their own names. They override ours; only a few are accepted.
    pub libtorrent: BTreeMap<String, i64>,
}

/// The network settings of one torrent. Rates are in bytes per second.
#[derive(Debug, Clone)]
pub struct TorrentOptions {
    /// Peers to connect to in addition to discovered ones.
    pub peers: Vec<SocketAddr>,
    /// Download pieces in order instead of rarest first.
    pub sequential: bool,
    /// Also download from the web seeds of the torrent.
    pub web_seeds: bool,
    /// Find peers only through trackers. A torrent whose own metadata says so is private without this.
    pub private: bool,
    /// Download limit of the torrent, web seeds included.
    pub limit_rate: Option<u64>,
    /// Upload limit of the torrent.
    pub upload_limit: Option<u64>,
}

/// libtorrent settings that can be set directly: how much data is prepared for peers, and how many peers are served.
/// All others keep memory within its budget or are relied on elsewhere in the program.
pub(super) const TUNABLE: [&str; 7] = [
    "choking_algorithm",
    "connection_speed",
    "max_allowed_in_request_queue",
    "seed_choking_algorithm",
    "send_buffer_low_watermark",
    "send_buffer_watermark",
    "send_buffer_watermark_factor",
];

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            listen: None,
            interface: None,
            dht: true,
            dht_bootstrap: Vec::new(),
            lsd: true,
            pex: true,
            utp: None,
            upnp: false,
            encryption: Encryption::default(),
            proxy: None,
            connections: 200,
            limit_rate: None,
            upload_limit: None,
            upload_slots: None,
            peer_id_prefix: None,
            user_agent: None,
            suggest: true,
            libtorrent: BTreeMap::new(),
        }
    }
}

impl Default for TorrentOptions {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            sequential: false,
            web_seeds: true,
            private: false,
            limit_rate: None,
            upload_limit: None,
        }
    }
}

impl SessionOptions {
    /// The interface or address of outgoing connections. libtorrent accepts several; this is the first.
    #[must_use]
    pub fn first_interface(&self) -> Option<&str> {
        self.interface.as_deref()?.split(',').map(str::trim).find(|name| !name.is_empty())
    }
}

/// BitTorrent's protocol encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Encryption is offered and accepted.
    #[default]
    Enabled,
    /// Peers without encryption are rejected.
    Required,
    Disabled,
}

impl Encryption {
    pub const NAMES: [&str; 3] = ["enabled", "required", "disabled"];
}

impl FromStr for Encryption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "enabled" => Ok(Self::Enabled),
            "required" => Ok(Self::Required),
            "disabled" => Ok(Self::Disabled),
            _ => Err(Error::new(Kind::InvalidInput, format!("unknown encryption mode {text:?}"))
                .hint(format!("modes: {}", Self::NAMES.join(", ")))),
        }
    }
}

/// Default port of SOCKS proxies.
const SOCKS_PORT: u16 = 1080;

/// A SOCKS5 or HTTP proxy. `Display` and `Debug` omit user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

impl Proxy {
    /// The whole URL: the scheme (`socks5`, `socks5h` or `http`, and those that [`Proxy::from_env_url`] also
    /// accepts), always host and port, optionally user and password.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// A proxy from the environment variables that all programs share. Its scheme may also be `https`, `socks4` or
    /// `socks4a`, and the port may be missing. `None` when the URL cannot be a proxy.
    #[must_use]
    pub fn from_env_url(url: Url) -> Option<Self> {
        let mut url = socks_as_socks5(url)?;
        if url.port_or_known_default().is_none() {
            url.set_port(Some(SOCKS_PORT)).ok()?;
        }
        url.host_str().is_some_and(|host| !host.is_empty()).then_some(Self(url))
    }

    #[must_use]
    pub fn has_password(&self) -> bool {
        self.0.password().is_some()
    }
}

/// Reads `socks` as `socks5`, as desktops mean it.
fn socks_as_socks5(url: Url) -> Option<Url> {
    match url.as_str().strip_prefix("socks:") {
        Some(rest) => Url::parse(&format!("socks5:{rest}")).ok(),
        None => Some(url),
    }
}

impl FromStr for Proxy {
    type Err = Error;

    /// Errors never contain the text, which may hold a password.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(Kind::InvalidInput, format!("proxy: {why}"))
                .hint("write it as socks5://host:1080 or http://host:3128")
        };
        let url = Url::parse(text).map_err(|_| bad("not a URL"))?;
        let url = socks_as_socks5(url).ok_or_else(|| bad("not a URL"))?;
        if !["socks5", "socks5h", "http"].contains(&url.scheme()) {
            return Err(bad(&format!("scheme {:?} is not socks5, socks5h or http", url.scheme())));
        }
        if url.host_str().is_none_or(str::is_empty) || url.port_or_known_default().is_none() {
            return Err(bad("no host or no port"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.host_str().unwrap_or_default(), self.0.port_or_known_default());
        write!(f, "{}://{host}:{}", self.0.scheme(), port.unwrap_or_default())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Checks one listen address: `0.0.0.0:6881`, `[::]:0` or `eth0:6881`.
///
/// # Errors
/// `InvalidInput` for any other form.
pub fn check_listen(text: &str) -> Result<()> {
    let device = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let by_device =
        || text.rsplit_once(':').is_some_and(|(d, port)| device(d) && port.parse::<u16>().is_ok());
    if text.parse::<SocketAddr>().is_ok() || by_device() {
        return Ok(());
    }
    Err(Error::new(Kind::InvalidInput, format!("{text:?} is not a listen address"))
        .hint("write it as 0.0.0.0:6881, [::]:6881 or eth0:6881; port 0 lets the system choose"))
}

/// Checks the prefix of our peer id, such as `-BA0100-`.
///
/// # Errors
/// `InvalidInput` when it is empty, longer than 12 characters (a peer id has 20 bytes, of which 8 must stay random), or
/// contains anything but visible ASCII.
pub fn check_peer_id_prefix(text: &str) -> Result<()> {
    if (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidInput,
        format!("peer id prefix {text:?} is not 1 to 12 visible characters"),
    ))
}

/// The `[network]` section of the config file.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkSection {
    listen: Option<OneOrMore>,
    interface: Option<String>,
    peers: Vec<SocketAddr>,
    dht: Option<bool>,
    dht_bootstrap: Vec<String>,
    lsd: Option<bool>,
    pex: Option<bool>,
    utp: Option<bool>,
    upnp: Option<bool>,
    encryption: Option<Encryption>,
    proxy: Option<HiddenText>,
    connections: Option<u32>,
    #[serde(deserialize_with = "rate")]
    limit_rate: Option<u64>,
    #[serde(deserialize_with = "rate")]
    upload_limit: Option<u64>,
    upload_slots: Option<u32>,
    peer_id_prefix: Option<String>,
    user_agent: Option<String>,
    sequential: Option<bool>,
    suggest: Option<bool>,
    web_seeds: Option<bool>,
    libtorrent: BTreeMap<String, i64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(texts) => texts,
        }
    }
}

/// Text that `Debug` hides.
#[derive(Deserialize)]
pub(super) struct HiddenText(pub(super) String);

impl fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl NetworkSection {
    pub(super) fn resolve(self) -> Result<NetworkOptions> {
        let listen = self.listen.map(OneOrMore::into_vec);
        let context = |e: Error| e.with_context("[network] in the config file");
        listen.iter().flatten().try_for_each(|address| check_listen(address)).map_err(context)?;
        self.peer_id_prefix.as_deref().map_or(Ok(()), check_peer_id_prefix).map_err(context)?;
        self.libtorrent.keys().try_for_each(|name| check_tunable(name)).map_err(context)?;
        let proxy = self.proxy.filter(|text| !text.0.trim().is_empty());
        let default = SessionOptions::default();
        let session = SessionOptions {
            listen,
            interface: self.interface,
            dht: self.dht.unwrap_or(default.dht),
            dht_bootstrap: self.dht_bootstrap,
            lsd: self.lsd.unwrap_or(default.lsd),
            pex: self.pex.unwrap_or(default.pex),
            utp: self.utp,
            upnp: self.upnp.unwrap_or(default.upnp),
            encryption: self.encryption.unwrap_or_default(),
            proxy: proxy.map(|text| text.0.parse()).transpose().map_err(context)?,
            connections: self.connections.unwrap_or(default.connections),
            limit_rate: self.limit_rate,
            upload_limit: self.upload_limit,
            upload_slots: self.upload_slots,
            peer_id_prefix: self.peer_id_prefix,
            user_agent: self.user_agent,
            suggest: self.suggest.unwrap_or(default.suggest),
            libtorrent: self.libtorrent,
        };
        let default = TorrentOptions::default();
        let torrent = TorrentOptions {
            peers: self.peers,
            sequential: self.sequential.unwrap_or(default.sequential),
            web_seeds: self.web_seeds.unwrap_or(default.web_seeds),
            ..default
        };
        Ok(NetworkOptions { session, torrent })
    }
}

fn check_tunable(name: &str) -> Result<()> {
    if TUNABLE.contains(&name) {
        return Ok(());
    }
    let text = format!("libtorrent setting {name:?} cannot be set");
    Err(Error::new(Kind::InvalidInput, text)
        .hint(format!("settings that can be set: {}", TUNABLE.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_libtorrent_settings_can_be_set() {
        let of = |text: &str| toml::from_str::<NetworkSection>(text).unwrap().resolve();
        let options = of("[libtorrent]\nsend_buffer_watermark = 512_000").unwrap();
        assert_eq!(options.session.libtorrent["send_buffer_watermark"], 512_000);
        let error = of("[libtorrent]\nalert_mask = 0").unwrap_err();
        assert!(error.report().contains("alert_mask"), "{}", error.report());
    }

    #[test]
    fn a_proxy_is_displayed_without_user_and_password() {
        let proxy: Proxy = "socks5://me:hunter2@proxy.example:1080".parse().unwrap();
        assert_eq!(format!("{proxy} {proxy:?}").matches("hunter2").count(), 0);
        assert_eq!(proxy.to_string(), "socks5://proxy.example:1080");
        assert!(proxy.has_password());
        let desktop: Proxy = "SOCKS://h:1080".parse().unwrap();
        assert_eq!(desktop.to_string(), "socks5://h:1080");
        for bad in ["ftp://u:hunter2@h:1", "hunter2", "socks5://u:hunter2@h"] {
            assert!(!format!("{:?}", bad.parse::<Proxy>().unwrap_err()).contains("hunter2"));
        }
    }

    #[test]
    fn addresses_and_devices_are_valid_listen_addresses() {
        for good in ["0.0.0.0:0", "[::]:6881", "127.0.0.1:1", "eth0:6881", "wg-vpn.1:0"] {
            assert!(check_listen(good).is_ok(), "{good}");
        }
        for bad in ["", "6881", ":6881", "::6881", "eth0", "a b:1", "h:99999"] {
            assert!(check_listen(bad).is_err(), "{bad}");
        }
    }
}
