//! Downloads and settings, from the queue to messages and back.

use super::pb;
use crate::{
    catalog::{LayoutKind, hex},
    error::{Error, Kind, Result},
    events::Activity,
    queue::{
        Download, FetchSettings, NewDownload, NewSource, Order, Priority, Progress, RateLimits,
        SeedLimits, Seeding, Settings, SourceKind, State, StateName,
    },
};

impl From<&Download> for pb::Download {
    fn from(download: &Download) -> Self {
        let settings = &download.settings;
        let exported = download.exported.as_ref().map(|path| path.to_string_lossy().into_owned());
        Self {
            id: download.id.to_string(),
            number: download.number,
            name: download.name.clone(),
            kind: pb::SourceKind::from(download.kind).into(),
            source: download.shown_source(),
            info_hash_v1: download.hashes.v1.map(|hash| hex(&hash)),
            info_hash_v2: download.hashes.v2.map(|hash| hex(&hash)),
            state: pb::State::from(download.state.name()).into(),
            error: download.state.error().map(Into::into),
            retry_at: match download.state {
                State::Retrying { at, .. } => Some(at),
                _ => None,
            },
            tries: download.tries,
            seeding: pb::Seeding::from(download.seeding).into(),
            import_id: download.import.clone(),
            exported,
            storage: settings.storage.clone(),
            layout: pb::Layout::from(settings.layout).into(),
            category: settings.category.clone(),
            tags: settings.tags.iter().cloned().collect(),
            priority: pb::Priority::from(settings.priority).into(),
            start_after: settings.start_after,
            forced: settings.forced,
            sequential: settings.sequential,
            select: settings.select.clone(),
            limits: Some(settings.limits.into()),
            seed_limits: Some(settings.seed_limits.into()),
            ratio: download.ratio(),
            progress: Some((&download.progress).into()),
            added_at: download.added_at,
            started_at: download.started_at,
            finished_at: download.finished_at,
            last_activity: download.last_activity,
        }
    }
}

impl From<&Progress> for pb::Progress {
    fn from(progress: &Progress) -> Self {
        Self {
            bytes: progress.bytes,
            stored: progress.stored,
            share: progress.share(),
            downloaded: progress.downloaded,
            uploaded: progress.uploaded,
            download_rate: progress.download_rate,
            upload_rate: progress.upload_rate,
            store_rate: progress.store_rate,
            peers: progress.peers as u64,
            seeds: progress.seeds as u64,
            eta_seconds: progress.eta_seconds,
            active_seconds: progress.active_seconds,
            seeding_seconds: progress.seeding_seconds,
            activity: progress.activity.map_or(pb::Activity::Unspecified, Into::into).into(),
            trouble: progress.trouble.clone(),
        }
    }
}

impl TryFrom<pb::StartDownloadRequest> for NewDownload {
    type Error = Error;

    fn try_from(request: pb::StartDownloadRequest) -> Result<Self> {
        use pb::start_download_request::Source;
        let (layout, priority) = (layout_of(&request)?, priority_of(&request)?);
        let source = match request.source {
            Some(Source::Url(url)) => NewSource::Link(url),
            Some(Source::Torrent(torrent)) => NewSource::Torrent(torrent),
            None => return Err(invalid("give either url or torrent")),
        };
        Ok(Self {
            source,
            name: request.name,
            layout,
            paused: request.paused,
            first: request.first,
            idempotency_key: request.idempotency_key,
            settings: Settings {
                storage: request.storage,
                category: request.category,
                tags: request.tags.into_iter().collect(),
                priority,
                start_after: request.start_after,
                forced: request.forced,
                limits: request.limits.map(Into::into).unwrap_or_default(),
                seed_limits: request.seed_limits.map(Into::into).unwrap_or_default(),
                select: request.select,
                sequential: request.sequential,
                protocol: request.protocol,
                fetch: request.fetch.map(Into::into).unwrap_or_default(),
                ..Settings::default()
            },
        })
    }
}

fn layout_of(request: &pb::StartDownloadRequest) -> Result<Option<LayoutKind>> {
    match pb::Layout::try_from(request.layout) {
        Ok(pb::Layout::Unspecified) => Ok(None),
        Ok(pb::Layout::Chunks) => Ok(Some(LayoutKind::Chunks)),
        Ok(pb::Layout::Files) => Ok(Some(LayoutKind::Files)),
        Err(_) => Err(unknown("layout", request.layout)),
    }
}

fn priority_of(request: &pb::StartDownloadRequest) -> Result<Priority> {
    match pb::Priority::try_from(request.priority) {
        Ok(pb::Priority::Unspecified | pb::Priority::Normal) => Ok(Priority::Normal),
        Ok(pb::Priority::High) => Ok(Priority::High),
        Ok(pb::Priority::Low) => Ok(Priority::Low),
        Err(_) => Err(unknown("priority", request.priority)),
    }
}

/// # Errors
/// `InvalidInput` for a number that no state has.
pub(super) fn state_name(number: i32) -> Result<StateName> {
    match pb::State::try_from(number) {
        Ok(pb::State::Queued) => Ok(StateName::Queued),
        Ok(pb::State::Starting) => Ok(StateName::Starting),
        Ok(pb::State::Downloading) => Ok(StateName::Downloading),
        Ok(pb::State::Paused) => Ok(StateName::Paused),
        Ok(pb::State::Retrying) => Ok(StateName::Retrying),
        Ok(pb::State::Failed) => Ok(StateName::Failed),
        Ok(pb::State::Exporting) => Ok(StateName::Exporting),
        Ok(pb::State::Done) => Ok(StateName::Done),
        Ok(pb::State::Unspecified) | Err(_) => Err(unknown("state", number)),
    }
}

/// # Errors
/// `InvalidInput` for a number that no order has.
pub(super) fn order(number: i32) -> Result<Order> {
    match pb::Order::try_from(number) {
        Ok(pb::Order::Unspecified | pb::Order::Added) => Ok(Order::Added),
        Ok(pb::Order::Newest) => Ok(Order::Newest),
        Ok(pb::Order::Queue) => Ok(Order::Queue),
        Err(_) => Err(unknown("order", number)),
    }
}

pub(super) fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

fn unknown(what: &str, number: i32) -> Error {
    invalid(format!("no {what} has the number {number}"))
}

impl From<StateName> for pb::State {
    fn from(state: StateName) -> Self {
        match state {
            StateName::Queued => Self::Queued,
            StateName::Starting => Self::Starting,
            StateName::Downloading => Self::Downloading,
            StateName::Paused => Self::Paused,
            StateName::Retrying => Self::Retrying,
            StateName::Failed => Self::Failed,
            StateName::Exporting => Self::Exporting,
            StateName::Done => Self::Done,
        }
    }
}

impl From<Seeding> for pb::Seeding {
    fn from(seeding: Seeding) -> Self {
        match seeding {
            Seeding::Off => Self::Off,
            Seeding::Waiting => Self::Waiting,
            Seeding::Active => Self::Active,
            Seeding::Paused => Self::Paused,
            Seeding::GoalReached => Self::GoalReached,
        }
    }
}

impl From<SourceKind> for pb::SourceKind {
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::Torrent => Self::Torrent,
            SourceKind::Magnet => Self::Magnet,
            SourceKind::Url => Self::Url,
        }
    }
}

impl From<Priority> for pb::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
        }
    }
}

impl From<LayoutKind> for pb::Layout {
    fn from(layout: LayoutKind) -> Self {
        match layout {
            LayoutKind::Chunks => Self::Chunks,
            LayoutKind::Files => Self::Files,
        }
    }
}

impl From<Activity> for pb::Activity {
    fn from(activity: Activity) -> Self {
        match activity {
            Activity::Metadata => Self::Metadata,
            Activity::Importing => Self::Importing,
            Activity::Fetching => Self::Fetching,
            Activity::Publishing => Self::Publishing,
            Activity::Seeding => Self::Seeding,
            Activity::Paused => Self::Paused,
        }
    }
}

impl From<RateLimits> for pb::RateLimits {
    fn from(limits: RateLimits) -> Self {
        Self { download: limits.download, upload: limits.upload }
    }
}

impl From<pb::RateLimits> for RateLimits {
    fn from(limits: pb::RateLimits) -> Self {
        Self { download: limits.download, upload: limits.upload }
    }
}

impl From<SeedLimits> for pb::SeedLimits {
    fn from(limits: SeedLimits) -> Self {
        Self { ratio: limits.ratio, seconds: limits.seconds }
    }
}

impl From<pb::SeedLimits> for SeedLimits {
    fn from(limits: pb::SeedLimits) -> Self {
        Self { ratio: limits.ratio, seconds: limits.seconds }
    }
}

impl From<pb::FetchSettings> for FetchSettings {
    fn from(fetch: pb::FetchSettings) -> Self {
        let headers = fetch.headers.into_iter().map(|header| (header.name, header.value));
        Self {
            user_agent: fetch.user_agent,
            referer: fetch.referer,
            headers: headers.collect(),
            checksums: fetch.checksums,
            connections: fetch.connections.map(|count| count as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::example_download;

    #[test]
    fn each_state_has_a_number_that_filters_accept() {
        for name in StateName::ALL {
            assert_eq!(state_name(pb::State::from(name).into()).unwrap(), name);
        }
        assert!(state_name(0).is_err() && state_name(99).is_err() && order(9).is_err());
    }

    #[test]
    fn a_download_is_shown_without_its_secrets() {
        let mut download = example_download();
        download.source = "http://user:hunter2@h/f?passkey=hunter2".to_owned();
        download.settings.fetch.headers = vec![("Cookie".into(), "hunter2".into())];
        let shown = pb::Download::from(&download);
        assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
        assert_eq!((shown.id.as_str(), shown.state()), ("0000000000000001", pb::State::Queued));
    }

    #[test]
    fn a_request_needs_a_source_and_known_numbers() {
        use pb::start_download_request::Source;
        let request = pb::StartDownloadRequest::default;
        assert!(NewDownload::try_from(request()).is_err());
        let with_source = || pb::StartDownloadRequest {
            source: Some(Source::Url("http://h/f".to_owned())),
            ..request()
        };
        assert_eq!(NewDownload::try_from(with_source()).unwrap().layout, None);
        for bad in [
            pb::StartDownloadRequest { layout: 9, ..with_source() },
            pb::StartDownloadRequest { priority: -1, ..with_source() },
        ] {
            assert!(NewDownload::try_from(bad).is_err());
        }
    }
}
