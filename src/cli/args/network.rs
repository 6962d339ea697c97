//! Network flags of `import`, `seed` and `verify`, applied over the settings of the config file.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::{
    Args,
    builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser},
};

use super::rate;
use crate::{
    config::{
        Encryption, NetworkOptions, Proxy, SessionOptions, TorrentOptions, check_listen,
        check_peer_id_prefix,
    },
    error::{Error, Kind, Result},
};

/// A switch that also exists in the config file takes an optional value, so that a flag or variable can switch it back.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(in crate::cli) struct NetworkArgs {
    /// Peer to connect to; may be repeated
    #[arg(long, env = "BAE_PEER", value_name = "HOST:PORT", value_delimiter = ',')]
    peer: Vec<String>,
    /// Listen address for peers; may be repeated [default: every interface, a free port]
    #[arg(long, env = "BAE_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    listen: Vec<String>,
    /// Network interface or local address for outgoing connections
    #[arg(long, env = "BAE_INTERFACE", value_name = "NAME|ADDR")]
    interface: Option<String>,
    /// Disable the DHT
    #[arg(long, env = "BAE_NO_DHT", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    no_dht: Option<bool>,
    /// DHT bootstrap node; may be repeated
    #[arg(long, env = "BAE_DHT_BOOTSTRAP", value_name = "HOST:PORT", value_delimiter = ',')]
    dht_bootstrap: Vec<String>,
    /// Disable local peer discovery (LSD)
    #[arg(long, env = "BAE_NO_LSD", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    no_lsd: Option<bool>,
    /// Disable peer exchange (PEX)
    #[arg(long, env = "BAE_NO_PEX", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    no_pex: Option<bool>,
    /// Do not download from the web seeds of a torrent
    #[arg(long, env = "BAE_NO_WEB_SEEDS", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    no_web_seeds: Option<bool>,
    /// Use TCP only, without uTP
    #[arg(long, env = "BAE_NO_UTP", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    no_utp: Option<bool>,
    /// Map the listen port on the router (UPnP and NAT-PMP)
    #[arg(long, env = "BAE_UPNP", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    upnp: Option<bool>,
    /// Protocol encryption [default: enabled]
    #[arg(long, env = "BAE_ENCRYPTION", value_name = "MODE",
          value_parser = PossibleValuesParser::new(Encryption::NAMES).try_map(|name| name.parse::<Encryption>()))]
    encryption: Option<Encryption>,
    /// Proxy: socks5://host:port or http://host:port; with a password only in BAE_PROXY or the config file
    // A string, not a `Proxy`: clap prints a value that does not parse, and this one may contain a password.
    #[arg(long, env = "BAE_PROXY", value_name = "URL", hide_env_values = true)]
    proxy: Option<String>,
    /// Maximum number of connections [default: 200]
    #[arg(long, env = "BAE_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Maximum upload rate to peers in bytes per second; 0 for no limit
    #[arg(long, env = "BAE_UPLOAD_LIMIT", value_name = "RATE", value_parser = rate)]
    upload_limit: Option<u64>,
    /// Maximum number of peers served at once
    #[arg(long, env = "BAE_UPLOAD_SLOTS", value_name = "N")]
    upload_slots: Option<u32>,
    /// Prefix of our peer id
    #[arg(long, env = "BAE_PEER_ID_PREFIX", value_name = "TEXT")]
    peer_id_prefix: Option<String>,
    /// Client name sent to trackers and peers
    #[arg(long, env = "BAE_USER_AGENT", value_name = "TEXT")]
    user_agent: Option<String>,
    /// Download pieces in order instead of rarest first
    #[arg(long, env = "BAE_SEQUENTIAL", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true, value_parser = BoolishValueParser::new())]
    sequential: Option<bool>,
}

impl NetworkArgs {
    /// Applies these flags over `base`. Resolves the host names of peers, so it may block on DNS.
    ///
    /// # Errors
    /// `InvalidInput` for an unusable value, `Network` for a peer whose host name cannot be resolved.
    pub(in crate::cli) fn resolve(self, base: NetworkOptions) -> Result<NetworkOptions> {
        self.listen.iter().try_for_each(|address| check_listen(address))?;
        self.peer_id_prefix.as_deref().map_or(Ok(()), check_peer_id_prefix)?;
        let peers: Vec<_> = self.peer.iter().map(|peer| look_up(peer)).collect::<Result<_>>()?;
        let given = self.proxy.filter(|text| !text.trim().is_empty());
        let proxy = given.map(|text| text.parse::<Proxy>()).transpose()?;
        let some_or = |given: Vec<String>, base| if given.is_empty() { base } else { given };
        let NetworkOptions { session: base, torrent } = base;
        let session = SessionOptions {
            listen: if self.listen.is_empty() { base.listen } else { Some(self.listen) },
            interface: self.interface.or(base.interface),
            dht: self.no_dht.map_or(base.dht, |no| !no),
            dht_bootstrap: some_or(self.dht_bootstrap, base.dht_bootstrap),
            lsd: self.no_lsd.map_or(base.lsd, |no| !no),
            pex: self.no_pex.map_or(base.pex, |no| !no),
            utp: self.no_utp.map(|no| !no).or(base.utp),
            upnp: self.upnp.unwrap_or(base.upnp),
            encryption: self.encryption.unwrap_or(base.encryption),
            proxy: proxy.or(base.proxy),
            connections: self.connections.unwrap_or(base.connections),
            limit_rate: base.limit_rate,
            upload_limit: self.upload_limit.or(base.upload_limit).filter(|rate| *rate > 0),
            upload_slots: self.upload_slots.or(base.upload_slots),
            peer_id_prefix: self.peer_id_prefix.or(base.peer_id_prefix),
            user_agent: self.user_agent.or(base.user_agent),
            suggest: base.suggest,
            libtorrent: base.libtorrent,
        };
        let torrent = TorrentOptions {
            peers: if peers.is_empty() { torrent.peers } else { peers },
            sequential: self.sequential.unwrap_or(torrent.sequential),
            web_seeds: self.no_web_seeds.map_or(torrent.web_seeds, |no| !no),
            ..torrent
        };
        Ok(NetworkOptions { session, torrent })
    }
}

fn look_up(peer: &str) -> Result<SocketAddr> {
    if let Ok(address) = peer.parse() {
        return Ok(address);
    }
    let has_port = peer.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok()
    });
    if !has_port {
        return Err(Error::new(Kind::InvalidInput, format!("peer {peer:?} is not HOST:PORT")));
    }
    let not_found = || Error::new(Kind::Network, format!("peer {peer:?}: host not found"));
    let mut addresses = peer.to_socket_addrs().map_err(|e| not_found().because(e))?;
    addresses.next().ok_or_else(not_found)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        network: NetworkArgs,
    }

    fn resolve(line: &str, base: NetworkOptions) -> Result<NetworkOptions> {
        Only::try_parse_from(line.split_whitespace()).expect("parses").network.resolve(base)
    }

    #[test]
    fn flags_take_precedence_over_the_file_and_the_rest_stays() {
        let session =
            SessionOptions { dht: false, upnp: true, connections: 7, ..SessionOptions::default() };
        let base = NetworkOptions { session, ..NetworkOptions::default() };
        let same = resolve("x", base.clone()).unwrap().session;
        assert!(!same.dht && same.upnp && same.pex && same.connections == 7);
        let line = "x --no-dht=false --no-pex --upnp=no --connections 9 --peer 127.0.0.1:5,[::1]:6 --upload-limit 1k";
        let NetworkOptions { session: over, torrent } = resolve(line, base).unwrap();
        assert!(over.dht && !over.pex && !over.upnp && over.connections == 9);
        assert_eq!(torrent.peers.len(), 2);
        assert_eq!(over.upload_limit, Some(1024));
    }

    #[test]
    fn invalid_values_are_rejected() {
        for line in [
            "x --peer host",
            "x --peer ::1",
            "x --peer :1",
            "x --listen here",
            "x --proxy ftp://h:1",
        ] {
            let e = resolve(line, NetworkOptions::default()).unwrap_err();
            assert_eq!(e.kind(), Kind::InvalidInput, "{line}");
        }
    }
}
