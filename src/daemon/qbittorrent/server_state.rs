//! The state of the whole server, for `sync/maindata` and `transfer/info`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Dialect, fields::int};
use crate::{
    backends::local::free_space_at,
    config::ProfileKind,
    queue::{Download, Seeding},
};

/// What a bucket is said to have free: 1 PiB. It has no size.
const BUCKET_SPACE: u64 = 1 << 50;
/// Time for which the free space of a disk is not looked up again.
const SPACE_LIFETIME: Duration = Duration::from_secs(10);
/// Milliseconds between two requests of a client.
const REFRESH_INTERVAL: u32 = 1500;

/// Sums over all downloads.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
    pub(super) download_rate: u64,
    pub(super) upload_rate: u64,
    pub(super) peers: u64,
    /// Bytes to store that are not stored yet.
    pub(super) missing: u64,
}

impl Dialect {
    /// Space for downloads that name no storage.
    pub(super) async fn free_space(&self) -> u64 {
        let config = self.api().engine().config();
        let Ok(profile) = config.storage(self.default_storage()) else { return 0 };
        let ProfileKind::Local { path } = profile.kind else { return BUCKET_SPACE };
        if let Some((at, free)) = *self.0.free_space.lock()
            && at.elapsed() < SPACE_LIFETIME
        {
            return free;
        }
        let free = tokio::task::spawn_blocking(move || free_space_at(&path).unwrap_or(0)).await;
        let free = free.unwrap_or(0);
        *self.0.free_space.lock() = Some((Instant::now(), free));
        free
    }

    pub(super) async fn server_state(&self, all: &[Arc<Download>]) -> BTreeMap<String, Value> {
        let free = self.free_space().await;
        let sums = sums(all);
        let mut state = self.transfer_state(&sums);
        #[allow(clippy::cast_precision_loss, reason = "a ratio for display")]
        let ratio = match sums.downloaded {
            0 => 0.0,
            downloaded => sums.uploaded as f64 / downloaded as f64,
        };
        let more = [
            ("alltime_dl", json!(int(sums.downloaded))),
            ("alltime_ul", json!(int(sums.uploaded))),
            ("free_space_on_disk", json!(int(free))),
            ("global_ratio", json!(format!("{ratio:.2}"))),
            ("total_peer_connections", json!(int(sums.peers))),
            ("total_wasted_session", json!(0)),
            ("queueing", json!(true)),
            ("use_alt_speed_limits", json!(false)),
            ("refresh_interval", json!(REFRESH_INTERVAL)),
            ("use_subcategories", json!(false)),
            ("read_cache_hits", json!("0")),
            ("read_cache_overload", json!("0")),
            ("write_cache_overload", json!("0")),
            ("average_time_queue", json!(0)),
            ("queued_io_jobs", json!(0)),
            ("total_buffers_size", json!(int(self.api().engine().memory_use().0))),
            ("total_queued_size", json!(0)),
        ];
        state.extend(more.map(|(name, value)| (name.to_owned(), value)));
        state
    }

    /// The part that `transfer/info` shows too.
    pub(super) fn transfer_state(&self, sums: &Sums) -> BTreeMap<String, Value> {
        let (totals, rates) = (self.queue().totals(), self.queue().rates());
        let is_up = !self.api().stopping().is_cancelled();
        let fields = [
            ("connection_status", json!(if is_up { "connected" } else { "disconnected" })),
            ("dht_nodes", json!(0)),
            ("dl_info_data", json!(int(totals.received))),
            ("dl_info_speed", json!(int(sums.download_rate))),
            ("dl_rate_limit", json!(int(rates.download.unwrap_or(0)))),
            ("up_info_data", json!(int(totals.sent))),
            ("up_info_speed", json!(int(sums.upload_rate))),
            ("up_rate_limit", json!(int(rates.upload.unwrap_or(0)))),
            ("last_external_address_v4", json!("")),
            ("last_external_address_v6", json!("")),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

pub(super) fn sums(all: &[Arc<Download>]) -> Sums {
    let mut sums = Sums::default();
    for download in all {
        let progress = &download.progress;
        sums.downloaded = sums.downloaded.saturating_add(progress.downloaded);
        sums.uploaded = sums.uploaded.saturating_add(progress.uploaded);
        sums.download_rate = sums.download_rate.saturating_add(progress.download_rate);
        sums.upload_rate = sums.upload_rate.saturating_add(progress.upload_rate);
        if !download.state.is_stored() || download.seeding == Seeding::Active {
            sums.peers += progress.peers as u64;
        }
        let missing = progress.bytes.unwrap_or(0).saturating_sub(progress.stored);
        sums.missing = sums.missing.saturating_add(missing);
    }
    sums
}
