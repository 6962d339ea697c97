//! Other people's clients, as seeders and as leechers.
//!
//! What decides who dials whom: aria2 cannot be given a peer, so it goes through the tracker; Transmission 3.00 takes
//! 127/8 for "martian" and never dials it, so whoever is at the other end has to.

mod aria2;
mod libtorrent;
mod payload;
mod qbittorrent;
mod transmission;

pub(crate) use aria2::Aria2;
pub(crate) use libtorrent::{LibtorrentPeer, Release};
pub(crate) use payload::PayloadPeer;
pub(crate) use qbittorrent::QBittorrent;
pub(crate) use transmission::Transmission;
