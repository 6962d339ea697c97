//! The daemon: its queue, its REST API, who may use it, and what survives a kill.
//!
//! Tests wait for events of the daemon, never for a time.

mod access;
mod aria2;
mod categories;
mod commands;
mod crash;
mod downloads;
mod events;
mod feeds;
mod folder;
mod grpc;
mod logs;
mod openapi;
mod page;
mod qbittorrent;
mod transmission;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{bae::Bae, daemon::write_config, torrents::Fixture};

/// A home with a config file for the daemon.
fn home() -> Bae {
    let bae = Bae::new();
    write_config(&bae, "");
    bae
}

/// The request to add a torrent file.
fn torrent_request(torrent: &Fixture) -> Value {
    let bytes = std::fs::read(&torrent.torrent).unwrap();
    json!({ "torrent": STANDARD.encode(bytes) })
}

fn id_of(download: &Value) -> String {
    download["id"].as_str().unwrap().to_owned()
}
