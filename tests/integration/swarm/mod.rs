//! Downloads from peers: every shape of torrent, every client, and what a bad peer can do.
//!
//! The seeders and leechers are real clients on loopback, because each has its own way of asking, choking and
//! closing. `support::peers` starts them; peers that break the protocol are scripted. An import counts as exact when
//! its export equals the torrent's data byte for byte.
//!
//! `bridge` uses the library without a process, so that storage can hang below it; `valgrind` runs the program.

mod bridge;
mod corrupting_peers;
mod libtorrent_versions;
mod malformed_torrents;
mod network;
mod no_progress;
mod peers;
mod round_trips;
mod torrent_sources;
mod valgrind;
mod web_seeds;
