//! Torrents: what a `.torrent` says, and how memory and the picker are led. All of it pure.

pub mod bencode;
pub mod check;
pub mod governor;
pub mod layout;
pub mod merkle;
pub mod metainfo;
pub mod names;
pub mod select;
pub mod steering;
