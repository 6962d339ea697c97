//! The import that a download asks the engine for.

use bytes::Bytes;

use super::{
    Queue,
    download::{Download, SeedLimits},
};
use crate::{
    config::{Secret, SeedGoal, SeedOptions, TorrentOptions},
    downloads::{FetchLimits, ResumePolicy, checksum},
    engine::{DownloadOptions, ImportRequest},
    error::Result,
    protocols::{FetchOptions, OutgoingOptions},
};
use std::time::Duration;

impl Queue {
    pub(super) fn import_request(
        &self,
        download: &Download,
        torrent_file: Option<Vec<u8>>,
    ) -> Result<ImportRequest> {
        Ok(ImportRequest {
            source: download.source.clone(),
            torrent_file: torrent_file.map(Bytes::from),
            storage: download.settings.storage.clone(),
            select: download.settings.select.clone(),
            layout: download.settings.layout,
            torrent: self.torrent_options(download),
            seed: self.seeds(download),
            seeding: self.seed_options(download),
            timeout: self.0.engine.config().timeout,
            streams: Some(self.0.streams.clone()),
            download: self.download_options(download)?,
        })
    }

    pub(super) fn torrent_options(&self, download: &Download) -> TorrentOptions {
        let config = self.0.engine.config();
        TorrentOptions {
            sequential: download.settings.sequential || config.network.torrent.sequential,
            ..config.network.torrent.clone()
        }
    }

    /// Whether a finished torrent is seeded.
    pub(super) fn seeds(&self, download: &Download) -> bool {
        let category = download.settings.category.as_ref().and_then(|name| self.category(name));
        let seed = category.and_then(|category| category.seed).unwrap_or(self.0.options.seed);
        download.hashes.is_torrent() && seed
    }

    pub(super) fn seed_options(&self, download: &Download) -> SeedOptions {
        let category = download.settings.category.as_ref().and_then(|name| self.category(name));
        let goal = seed_goal(download.settings.seed_limits);
        let goal = goal.or(category.map(|category| category.goal).unwrap_or_default());
        SeedOptions { from_flags: goal, ..self.0.engine.config().seeding.clone() }
    }

    fn download_options(&self, download: &Download) -> Result<DownloadOptions> {
        let config = self.0.engine.config();
        let (session, fetch) = (&config.network.session, &download.settings.fetch);
        let headers = fetch.headers.iter();
        let limits = FetchLimits::default();
        Ok(DownloadOptions {
            fetch: FetchOptions {
                headers: headers.map(|(k, v)| (k.clone(), Secret::Text(v.clone()))).collect(),
                user_agent: fetch.user_agent.clone().or_else(|| session.user_agent.clone()),
                referer: fetch.referer.clone(),
                proxy: session.proxy.clone(),
                connect_timeout: config.timeout,
                idle_timeout: config.timeout,
                outgoing: OutgoingOptions {
                    interface: session.first_interface().map(str::to_owned),
                    only_public: download.settings.only_public,
                },
                ipfs: config.ipfs.clone(),
                ..FetchOptions::default()
            },
            protocol: download.settings.protocol.clone(),
            fetch_limits: FetchLimits {
                per_server: fetch.connections.unwrap_or(limits.per_server),
                ..limits
            },
            resume: ResumePolicy::IfProven,
            checksums: fetch.checksums.iter().map(|c| checksum::parse(c)).collect::<Result<_>>()?,
            sidecar: false,
        })
    }
}

/// Zero is a goal that is never reached.
fn seed_goal(limits: SeedLimits) -> SeedGoal {
    let ratio = |ratio| if ratio > 0.0 { ratio } else { SeedGoal::NO_RATIO };
    let time = |seconds| if seconds > 0 { Duration::from_secs(seconds) } else { SeedGoal::NO_TIME };
    SeedGoal { ratio: limits.ratio.map(ratio), time: limits.seconds.map(time) }
}
