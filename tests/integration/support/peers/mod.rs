//! Clients of other projects, as seeders and as leechers.
//!
//! Two limits decide which side dials. aria2 takes no peer address, so it finds peers through the tracker.
//! Transmission 3.00 treats 127/8 as invalid ("martian") and never dials it, so the other side must dial.

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
