//! A download: an entry of the queue, with everything that an API shows of it.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::state::{Seeding, State};
use crate::{
    catalog::{LayoutKind, hex},
    error::{Error, Kind, Result},
    events::Activity,
};

/// The id of a download: 16 random hexadecimal digits, which is also the form of aria2's GIDs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DownloadId(Arc<str>);

impl DownloadId {
    /// A random id.
    ///
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
        Ok(Self(hex(&bytes).into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DownloadId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 16 && text.bytes().all(digit) {
            return Ok(Self(text.into()));
        }
        Err(Error::new(Kind::InvalidInput, format!("{text:?} is not the id of a download")))
    }
}

impl fmt::Display for DownloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DownloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DownloadId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DownloadId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The hashes by which a torrent is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoHashes {
    #[serde(default, with = "hex_bytes", skip_serializing_if = "Option::is_none")]
    pub v1: Option<[u8; 20]>,
    #[serde(default, with = "hex_bytes", skip_serializing_if = "Option::is_none")]
    pub v2: Option<[u8; 32]>,
}

impl InfoHashes {
    #[must_use]
    pub fn is_torrent(&self) -> bool {
        self.v1.is_some() || self.v2.is_some()
    }

    /// The hash for display: v1, else the whole of v2, in hexadecimal.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        self.v1.as_ref().map(|hash| hex(hash)).or_else(|| self.v2.as_ref().map(|hash| hex(hash)))
    }

    /// Whether both are hashes of one torrent.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.v1.is_some() && self.v1 == other.v1 || self.v2.is_some() && self.v2 == other.v2
    }

    /// Whether `text` is v1, v2, or v2 cut to the length of v1, in hexadecimal of either case.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let same = |hash: &[u8]| hex(hash).eq_ignore_ascii_case(text);
        self.v1.is_some_and(|hash| same(&hash))
            || self.v2.is_some_and(|hash| same(&hash) || same(&hash[..20]))
    }
}

/// Fixed-length bytes as hexadecimal digits.
mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::catalog::hex;

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &Option<[u8; N]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&bytes.as_ref().map(|bytes| hex(bytes)).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = |at: usize| text.get(2 * at..2 * at + 2);
        let byte = |at: usize| digits(at).and_then(|two| u8::from_str_radix(two, 16).ok());
        let bytes: Option<Vec<u8>> = (0..N).map(byte).collect();
        let bytes = bytes.filter(|_| text.len() == 2 * N).and_then(|b| b.try_into().ok());
        bytes.map(Some).ok_or_else(|| D::Error::custom("not a hash in hexadecimal"))
    }
}

/// What a download is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A torrent file, which the catalog keeps.
    Torrent,
    Magnet,
    Url,
}

/// The order of downloads. Higher priorities are started first.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// Rates in bytes per second; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RateLimits {
    pub download: Option<u64>,
    pub upload: Option<u64>,
}

/// When to stop seeding a download. `None` takes the category's goal, then that of the config.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SeedLimits {
    /// Bytes sent to peers per byte of the import; 0 is no limit.
    pub ratio: Option<f64>,
    /// Seconds of seeding; 0 is no limit.
    pub seconds: Option<u64>,
}

/// How the files of a URL are fetched.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FetchSettings {
    pub user_agent: Option<String>,
    pub referer: Option<String>,
    /// Header lines as name and value. They may hold secrets: no API shows them.
    pub headers: Vec<(String, String)>,
    /// Like `sha-256=…`.
    pub checksums: Vec<String>,
    /// Maximum connections to one server.
    pub connections: Option<usize>,
}

impl fmt::Debug for FetchSettings {
    /// Omits the values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("FetchSettings").field("headers", &names).finish_non_exhaustive()
    }
}

/// The settings of a download. All but `storage`, `layout`, `protocol`, `fetch` and `only_public` can change later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The name of a storage; never a URL.
    pub storage: String,
    pub layout: LayoutKind,
    pub category: Option<String>,
    pub tags: BTreeSet<String>,
    pub priority: Priority,
    /// Not started before this time, in seconds since 1970.
    pub start_after: Option<u64>,
    /// Started whatever the limits of active downloads are.
    pub forced: bool,
    pub limits: RateLimits,
    pub seed_limits: SeedLimits,
    /// Files by number (from 1), range, or glob; `None` is all.
    pub select: Option<String>,
    /// Requests the pieces of a torrent in order.
    pub sequential: bool,
    /// Replaces the protocol of the URL's scheme.
    pub protocol: Option<String>,
    pub fetch: FetchSettings,
    /// Refuses servers outside the public network.
    pub only_public: bool,
    /// Values that an API keeps for its clients, by names that begin with the API's.
    pub extra: std::collections::BTreeMap<String, String>,
}

/// Progress of a download: of this run, except for `stored` and the totals. Rates are bytes per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Bytes to store, once they are known.
    pub bytes: Option<u64>,
    /// Bytes that are durable.
    pub stored: u64,
    /// Bytes received, over all runs.
    pub downloaded: u64,
    /// Bytes sent to peers, over all runs.
    pub uploaded: u64,
    /// Seconds of downloading, over all runs.
    pub active_seconds: u64,
    /// Seconds of seeding, over all runs.
    pub seeding_seconds: u64,
    #[serde(skip)]
    pub downloaded_now: u64,
    #[serde(skip)]
    pub uploaded_now: u64,
    #[serde(skip)]
    pub download_rate: u64,
    #[serde(skip)]
    pub upload_rate: u64,
    #[serde(skip)]
    pub store_rate: u64,
    #[serde(skip)]
    pub peers: usize,
    #[serde(skip)]
    pub seeds: usize,
    #[serde(skip)]
    pub eta_seconds: Option<u64>,
    /// What the running import does; `None` while none runs.
    #[serde(skip)]
    pub activity: Option<Activity>,
    /// The last error while the import goes on, such as a storage that refuses writes.
    #[serde(skip)]
    pub trouble: Option<String>,
}

impl Progress {
    /// The stored part, 0 to 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a share for display")]
    pub fn share(&self) -> f64 {
        match self.bytes {
            Some(0) => 1.0,
            Some(bytes) => (self.stored as f64 / bytes as f64).min(1.0),
            None => 0.0,
        }
    }

    /// Clears what is only true while an import runs.
    pub(super) fn settle_unless(&mut self, runs: bool) {
        if !runs {
            let (bytes, stored) = (self.bytes, self.stored);
            let (downloaded, uploaded) = (self.downloaded, self.uploaded);
            let (active_seconds, seeding_seconds) = (self.active_seconds, self.seeding_seconds);
            let totals = Self {
                bytes,
                stored,
                downloaded,
                uploaded,
                active_seconds,
                seeding_seconds,
                ..Self::default()
            };
            *self = totals;
        }
    }
}

/// A download. The store of the queue hands out shared snapshots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Download {
    pub id: DownloadId,
    /// A small number, for APIs whose ids are numbers. Counts up, and is never used twice.
    #[serde(skip)]
    pub number: u64,
    pub name: String,
    pub kind: SourceKind,
    /// A magnet link or a URL; for a torrent file its magnet link. May hold logins and passkeys: APIs show
    /// [`Download::shown_source`].
    pub source: String,
    #[serde(default)]
    pub hashes: InfoHashes,
    /// Host of a URL.
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub settings: Settings,
    /// Manual order within a priority; lower is earlier.
    #[serde(default)]
    pub position: i64,
    #[serde(flatten)]
    pub state: State,
    #[serde(default)]
    pub seeding: Seeding,
    /// The import in the catalog, once it is known.
    #[serde(default)]
    pub import: Option<String>,
    /// Where the files were exported to: the file or root folder.
    #[serde(default)]
    pub exported: Option<PathBuf>,
    #[serde(default)]
    pub progress: Progress,
    /// Failed tries since the last success or request.
    #[serde(default)]
    pub tries: u32,
    /// Times in seconds since 1970.
    pub added_at: u64,
    #[serde(default)]
    pub started_at: Option<u64>,
    #[serde(default)]
    pub finished_at: Option<u64>,
    #[serde(default)]
    pub last_activity: Option<u64>,
    /// Is being removed: not listed any more. The flag says whether its stored data goes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) removing: Option<bool>,
    /// The queue's revision of the last change, for [`Queue::changes_since`](super::Queue::changes_since).
    #[serde(skip)]
    pub revision: u64,
}

impl Download {
    /// The source without logins, queries and trackers, which may hold passkeys.
    #[must_use]
    pub fn shown_source(&self) -> String {
        crate::redact::source(&self.source)
    }

    #[must_use]
    pub fn is_torrent(&self) -> bool {
        self.kind != SourceKind::Url || self.hashes.is_torrent()
    }

    /// Bytes sent to peers per byte of the import.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a ratio for display")]
    pub fn ratio(&self) -> f64 {
        match self.progress.bytes {
            Some(bytes) if bytes > 0 => self.progress.uploaded as f64 / bytes as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_is_found_by_each_of_its_hashes() {
        let hashes = InfoHashes { v1: Some([0xab; 20]), v2: Some([0xcd; 32]) };
        for text in ["ab".repeat(20), "AB".repeat(20), "cd".repeat(32), "cd".repeat(20)] {
            assert!(hashes.matches(&text), "{text}");
        }
        assert!(!hashes.matches("ab") && !hashes.matches("") && !InfoHashes::default().matches(""));
        assert!(hashes.overlap(&InfoHashes { v1: None, v2: Some([0xcd; 32]) }));
        assert!(!InfoHashes::default().overlap(&InfoHashes::default()));
        let json = serde_json::to_string(&hashes).unwrap();
        assert_eq!(serde_json::from_str::<InfoHashes>(&json).unwrap(), hashes);
        assert_eq!(serde_json::from_str::<InfoHashes>("{}").unwrap(), InfoHashes::default());
        assert!(serde_json::from_str::<InfoHashes>(r#"{"v1":"zz"}"#).is_err());
    }

    #[test]
    fn debug_output_of_headers_has_no_values() {
        let headers = vec![("Cookie".to_owned(), "hunter2".to_owned())];
        let fetch = FetchSettings { headers, ..FetchSettings::default() };
        assert!(!format!("{fetch:?}").contains("hunter2"));
    }
}
