//! How a torrent enters the session: what bae knows of it, as plain values for libtorrent.

use std::net::{IpAddr, SocketAddr};

use super::settings::rate;
use crate::{
    config::{SessionOptions, TorrentOptions},
    error::{Error, Kind, Result},
    torrents::{
        disk::ffi::{AddTorrent, PeerAddress},
        metainfo::{
            MAX_PIECES,
            rewrite::{LibtorrentFile, for_libtorrent},
        },
    },
};

/// The priority of a wanted piece at the start.
const NORMAL_PRIORITY: u8 = 4;

/// The source of a torrent's metainfo.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A .torrent file's bytes, checked by [`Metainfo::parse`](crate::torrents::metainfo::Metainfo::parse).
    File(Vec<u8>),
    /// A .torrent file of which every piece is stored. It is not checked again.
    Stored(Vec<u8>),
    Magnet(String),
}

/// How a torrent starts.
#[derive(Debug, Clone)]
pub struct Start {
    pub origin: Origin,
    /// One entry per piece; empty = no piece is stored.
    pub have: Vec<bool>,
    /// The wanted pieces, one entry per piece; empty = all.
    pub wanted: Vec<bool>,
}

impl Start {
    /// A torrent of which every piece is stored.
    #[must_use]
    pub fn seeding(torrent: Vec<u8>) -> Self {
        Self { origin: Origin::Stored(torrent), have: Vec::new(), wanted: Vec::new() }
    }

    /// A torrent of which only the magnet link is known.
    #[must_use]
    pub fn magnet(link: String) -> Self {
        Self { origin: Origin::Magnet(link), have: Vec::new(), wanted: Vec::new() }
    }

    /// What libtorrent gets. `number` is ours for the torrent.
    pub(super) fn for_libtorrent(
        self,
        number: u64,
        options: &TorrentOptions,
        session: &SessionOptions,
    ) -> Result<AddTorrent> {
        let complete = matches!(self.origin, Origin::Stored(_));
        let (file, magnet) = match self.origin {
            Origin::File(bytes) | Origin::Stored(bytes) => (for_libtorrent(&bytes)?, String::new()),
            Origin::Magnet(uri) => (LibtorrentFile { bytes: Vec::new(), private: false }, uri),
        };
        let public = !options.private && !file.private;
        let priority = |wanted| if wanted { NORMAL_PRIORITY } else { 0 };
        Ok(AddTorrent {
            torrent: number,
            metainfo: file.bytes,
            magnet,
            max_pieces: MAX_PIECES,
            complete,
            have: self.have.into_iter().map(u8::from).collect(),
            priorities: self.wanted.into_iter().map(priority).collect(),
            peers: options.peers.iter().map(|peer| address(*peer)).collect(),
            sequential: options.sequential,
            dht: session.dht && public,
            lsd: session.lsd && public,
            pex: session.pex && public,
            upload_limit: rate(options.upload_limit),
            download_limit: rate(options.limit_rate),
        })
    }
}

/// Parses the address of a peer.
///
/// # Errors
/// `InvalidInput` when it is not `IP:PORT`, with a port from 1 to 65535.
pub(super) fn parse_peer(text: &str) -> Result<SocketAddr> {
    let peer: Option<SocketAddr> = text.parse().ok();
    peer.filter(|peer| peer.port() != 0).ok_or_else(|| {
        let text = format!("peer {text:?} is not an IP address with a port");
        Error::new(Kind::InvalidInput, text)
            .hint("write it as 192.0.2.1:6881 or [2001:db8::1]:6881")
    })
}

pub(super) fn address(peer: SocketAddr) -> PeerAddress {
    let mut ip = [0; 16];
    match peer.ip() {
        IpAddr::V4(v4) => ip[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => ip = v6.octets(),
    }
    PeerAddress { ip, is_v6: peer.is_ipv6(), port: peer.port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "6:lengthi1e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa";

    fn add(start: Start, options: &TorrentOptions) -> AddTorrent {
        start.for_libtorrent(7, options, &SessionOptions::default()).unwrap()
    }

    #[test]
    fn a_private_torrent_uses_only_its_trackers_however_it_is_known_to_be_private() {
        let torrent = |private: &str| format!("d4:infod{INFO}{private}ee").into_bytes();
        let private = TorrentOptions { private: true, ..TorrentOptions::default() };
        let public = TorrentOptions::default();
        for (start, options, discovers) in [
            (Start::seeding(torrent("")), &public, true),
            (Start::seeding(torrent("7:privatei1e")), &public, false),
            (Start::seeding(torrent("7:privatei0e")), &public, true),
            (Start::seeding(torrent("")), &private, false),
            (Start::magnet("magnet:?".into()), &public, true),
            (Start::magnet("magnet:?".into()), &private, false),
        ] {
            let file = Start {
                origin: match start.origin.clone() {
                    Origin::Stored(bytes) => Origin::File(bytes),
                    other => other,
                },
                ..start.clone()
            };
            for start in [start, file] {
                let add = add(start, options);
                assert_eq!([add.dht, add.lsd, add.pex], [discovers; 3]);
            }
        }
    }

    #[test]
    fn the_limits_and_peers_of_a_torrent_reach_libtorrent() {
        let peers = vec!["192.0.2.1:65535".parse().unwrap(), "[2001:db8::2]:1".parse().unwrap()];
        let options = TorrentOptions {
            peers,
            limit_rate: Some(u64::MAX),
            upload_limit: Some(7),
            ..TorrentOptions::default()
        };
        let mut start = Start::magnet("magnet:?".into());
        (start.have, start.wanted) = (vec![true, false], vec![false, true]);
        let add = add(start, &options);
        assert_eq!((add.download_limit, add.upload_limit), (i32::MAX, 7));
        assert_eq!((add.have, add.priorities), (vec![1, 0], vec![0, 4]));
        let [v4, v6] = &add.peers[..] else { panic!("{} peers", add.peers.len()) };
        assert_eq!((&v4.ip[..4], v4.is_v6, v4.port), (&[192, 0, 2, 1][..], false, 65535));
        assert_eq!((v6.ip[0], v6.ip[15], v6.is_v6, v6.port), (0x20, 2, true, 1));
    }

    #[test]
    fn ports_that_do_not_fit_are_refused() {
        for good in ["192.0.2.1:1", "192.0.2.1:65535", "[::1]:6881", "127.0.0.1:4464"] {
            assert_eq!(parse_peer(good).unwrap().to_string(), good);
        }
        for bad in [
            "192.0.2.1:70000",
            "192.0.2.1:65536",
            "192.0.2.1:0",
            "192.0.2.1:-1",
            "192.0.2.1:1 2",
            "192.0.2.1:",
            "192.0.2.1",
            "::1:6881",
            "peer.example:6881",
            "",
        ] {
            let error = parse_peer(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
