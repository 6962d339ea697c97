//! `torrents/properties`, `torrents/trackers` and `torrents/webseeds`.

use serde_json::{Value, json};

use super::{
    Dialect,
    answer::{Answer, json as json_answer},
    fields::int,
    params::Params,
};
use crate::queue::{Download, Seeding, State};

/// The status of a tracker: not contacted, or works.
const NOT_CONTACTED: u8 = 1;
const WORKS: u8 = 2;
const DISABLED: u8 = 0;

impl Dialect {
    pub(super) async fn properties(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        if self.0.facts.get(download.number).is_none() {
            self.read_facts(&download).await;
        }
        let facts = self.0.facts.get(download.number).unwrap_or_default();
        let fields = self.fields_of(&download, &self.queue().categories(), 0);
        let progress = &download.progress;
        let per_second = |bytes: u64, seconds: u64| int(bytes.checked_div(seconds).unwrap_or(0));
        let pieces_have = match fields.progress {
            done if done >= 1.0 => facts.pieces,
            _ => progress.stored.checked_div(facts.piece_length).unwrap_or(0).min(facts.pieces),
        };
        let session_seconds = progress.active_seconds.saturating_add(progress.seeding_seconds);
        let mut shown = json!({
            "hash": fields.hash,
            "infohash_v1": fields.infohash_v1,
            "infohash_v2": fields.infohash_v2,
            "name": fields.name,
            "save_path": fields.save_path,
            "download_path": "",
            "seeding_time": fields.seeding_time,
            "total_size": fields.total_size,
            "piece_size": if facts.piece_length == 0 { -1 } else { int(facts.piece_length) },
            "pieces_num": if facts.pieces == 0 { -1 } else { int(facts.pieces) },
            "pieces_have": int(pieces_have),
            "progress": fields.progress,
            "share_ratio": fields.ratio,
            "popularity": 0.0,
            "time_elapsed": fields.time_active,
            "eta": fields.eta,
            "addition_date": fields.added_on,
            "completion_date": fields.completion_on,
            "creation_date": facts.created.unwrap_or(-1),
            "created_by": "",
            "comment": fields.comment,
        });
        let more = json!({
            "dl_speed": fields.dlspeed,
            "dl_speed_avg": per_second(progress.downloaded, progress.active_seconds),
            "up_speed": fields.upspeed,
            "up_speed_avg": per_second(progress.uploaded, session_seconds),
            "dl_limit": fields.dl_limit,
            "up_limit": fields.up_limit,
            "total_downloaded": fields.downloaded,
            "total_downloaded_session": fields.downloaded_session,
            "total_uploaded": fields.uploaded,
            "total_uploaded_session": fields.uploaded_session,
            "total_wasted": 0,
            "nb_connections": int(progress.peers as u64),
            "nb_connections_limit": -1,
            "seeds": fields.num_seeds,
            "seeds_total": fields.num_complete,
            "peers": fields.num_leechs,
            "peers_total": fields.num_incomplete,
            "reannounce": 0,
            "last_seen": fields.seen_complete,
            "is_private": fields.private,
            "private": fields.private,
            "has_metadata": fields.has_metadata,
        });
        if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
            shown.extend(more);
        }
        Ok(json_answer(&shown))
    }

    pub(super) async fn trackers(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        if self.0.facts.get(download.number).is_none() {
            self.read_facts(&download).await;
        }
        Ok(json_answer(&self.tracker_rows(&download)))
    }

    /// The rows of the ways to find peers, then those of the trackers, without passkeys.
    pub(super) fn tracker_rows(&self, download: &Download) -> Vec<Value> {
        let facts = self.0.facts.get(download.number).unwrap_or_default();
        let session = &self.api().engine().config().network.session;
        let runs = download.state == State::Downloading || download.seeding == Seeding::Active;
        let status = if runs { WORKS } else { NOT_CONTACTED };
        let ways = [
            ("** [DHT] **", session.dht),
            ("** [PeX] **", session.pex),
            ("** [LSD] **", session.lsd),
        ];
        let ways = ways.into_iter().map(|(name, is_on)| {
            let is_on = is_on && !facts.private;
            let text = if facts.private { "This torrent is private" } else { "" };
            row(name, -1, if is_on { status } else { DISABLED }, text)
        });
        let trackers = facts.trackers.iter().zip(0..);
        ways.chain(trackers.map(|(url, tier)| row(url, tier, status, ""))).collect()
    }

    pub(super) async fn web_seeds(&self, params: &Params) -> Answer {
        let download = self.torrent(params)?;
        let seeds = match &download.import {
            Some(import) => self.api().engine().info(import).await?.web_seeds,
            None => Vec::new(),
        };
        let seeds = seeds.iter().map(|url| json!({ "url": url }));
        Ok(json_answer(&seeds.collect::<Vec<_>>()))
    }
}

fn row(url: &str, tier: i64, status: u8, text: &str) -> Value {
    json!({
        "url": url,
        "tier": tier,
        "status": status,
        "msg": text,
        "num_peers": -1,
        "num_seeds": -1,
        "num_leeches": -1,
        "num_downloaded": -1,
    })
}
