//! Sources other than the swarm: the [`Protocol`] trait that every URL scheme implements, and the schemes.
//!
//! A protocol turns a URL into bytes and does nothing else. [`Protocol::probe`] describes the URL: one file with all
//! metadata that the server sends, or a folder and its files. [`Protocol::open`] returns a range of a file as a stream
//! of [`Bytes`], in the blocks in which they arrive. [`Protocol::probe_with_body`] does both in one request, where a
//! protocol can do that. `downloads` decides which ranges are requested, how many run at once, what follows a failure
//! and where the bytes go. Therefore no protocol retries, limits, buffers or writes anything itself.
//!
//! A protocol refuses bytes that are not those of the requested range: a server may ignore `Range`, declare a false
//! length, send too much, or have changed the file. It refuses headers and listings of unlimited size, and never sends
//! credentials to another host.

#[doc(hidden)]
pub mod conformance;
mod dash;
mod date;
mod dial;
mod document;
mod folder_walk;
#[cfg(feature = "ftp")]
mod ftp;
mod hls;
mod http;
mod ipfs;
mod listing;
mod magnet_link;
pub mod netrc;
mod options;
mod password_source;
mod public_addresses;
mod registry;
mod s3;
mod segments;
#[cfg(feature = "sftp")]
mod sftp;
mod timeouts;
mod tls;
mod url_paths;
mod web;
mod webdav;

use std::{fmt, ops::Range, pin::Pin, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use url::Url;

use crate::error::Result;

pub use document::{Document, DocumentAnswer, DocumentRequest, DocumentVersion, fetch_document};
pub use http::Http;
pub use ipfs::{
    BlockSink, Cid, CidProfile, CidVerifier, FileImporter, FolderEntry, ImportedNode, import_folder,
};
pub use listing::{ListedFile, Listing, MAX_ENTRIES, SkippedEntry};
pub use magnet_link::MagnetLink;
pub use options::{CustomProtocols, FetchOptions, HostKeyPolicy, Login, OutgoingOptions};
pub use password_source::{PasswordPrompt, PasswordSource};
pub use public_addresses::{has_private_host, is_public_address};
pub use registry::Protocols;
pub use segments::{Rendition, SegmentedFile, StreamOptions, StreamSummary, Traits};
pub use url_paths::url_error_reason;

/// The bytes of a range, in order. An error is the last item.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The file or folder at a URL.
#[derive(Debug, Clone)]
pub enum UrlTarget {
    File(RemoteFile),
    Folder(Listing),
}

/// A file on a server, with the metadata that the server sends.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The URL that was requested. Credentials and headers may be sent to its host only.
    pub requested_url: Url,
    /// The URL of the bytes, after redirects. [`Protocol::open`] requests this one.
    pub url: Url,
    /// Length in bytes, if the server declares one.
    pub len: Option<u64>,
    /// Whether the server supports range requests. `false` means a single stream from the first byte on.
    pub supports_ranges: bool,
    /// Identifies this version of the file.
    pub validator: Option<Validator>,
    /// Checksums that the server declares for the file.
    pub digests: Vec<Digest>,
    pub content_type: Option<String>,
    /// The file name that the server suggests. The server chooses it freely and it is not sanitised.
    pub name: Option<String>,
    pub modified: Option<SystemTime>,
    /// Permission bits of the file, where the protocol has them.
    pub mode: Option<u32>,
    /// The segments that the file is made of, if it is a stream.
    pub segments: Option<Arc<SegmentedFile>>,
}

impl RemoteFile {
    /// A file of which only the URL is known.
    #[must_use]
    pub fn from_url(url: Url) -> Self {
        Self {
            requested_url: url.clone(),
            url,
            len: None,
            supports_ranges: false,
            validator: None,
            digests: Vec::new(),
            content_type: None,
            name: None,
            modified: None,
            mode: None,
            segments: None,
        }
    }

    // ANCHOR: same_version
    /// Whether `other` is provably the same version: equal lengths, and either equal validators or equal dates with a
    /// known length. The date counts because servers behind one host name may send different ETags for the same file.
    #[must_use]
    pub fn is_same_version(&self, other: &Self) -> bool {
        let validator = self.validator.is_some() && self.validator == other.validator;
        let date = self.modified.is_some() && self.modified == other.modified;
        self.len == other.len && (validator || date && self.len.is_some())
    }
    // ANCHOR_END: same_version
}

impl fmt::Debug for RemoteFile {
    /// Omits the parts of the URL that may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFile")
            .field("url", &display_url(&self.url))
            .field("len", &self.len)
            .field("supports_ranges", &self.supports_ranges)
            .field("validator", &self.validator)
            .finish_non_exhaustive()
    }
}

/// The result of the first request of a download.
pub struct FirstResponse {
    pub target: UrlTarget,
    /// The whole file from its first byte, if the same response contains it. While this stream runs, a failure of a
    /// later request does not end the download.
    pub body: Option<ByteStream>,
}

impl fmt::Debug for FirstResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstResponse").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A URL in the form that errors and logs show: host, non-default port and path. User, password and query are omitted;
/// the query may hold a signature.
#[must_use]
pub fn display_url(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path())
}

/// The next bytes of a stream; `None` at its end.
pub async fn next_bytes(stream: &mut ByteStream) -> Option<Result<Bytes>> {
    std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

// ANCHOR: validator
/// Identifies a version of a file by metadata of the server. An interrupted download is resumed only if the validator
/// is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validator {
    /// A strong ETag, including its quotes.
    ETag(String),
    /// The modification date as the server writes it, and the length in bytes.
    Modified(String, u64),
}
// ANCHOR_END: validator

/// A checksum of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub algorithm: Algorithm,
    pub bytes: Vec<u8>,
}

/// The hash function of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    /// A CID of IPFS, in its binary form. It is no hash of the whole file.
    Ipfs,
}

impl Algorithm {
    /// All hash functions, weakest first.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// The name in the spelling of the standards and of aria2.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
            Self::Ipfs => "ipfs",
        }
    }

    /// Finds a hash function by name, in any case, with or without the dash.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let normalized = |name: &str| name.replace('-', "").to_ascii_lowercase();
        let wanted = normalized(name);
        // The older HTTP header `Digest` calls SHA-1 `sha`.
        let wanted = if wanted == "sha" { "sha1".to_owned() } else { wanted };
        Self::ALL.into_iter().find(|algorithm| normalized(algorithm.name()) == wanted)
    }

    /// Length of a checksum in bytes; 0 for a CID, whose length varies.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no checksum is empty")]
    pub fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Ipfs => 0,
        }
    }
}

/// The contract of a URL scheme. Every implementation passes the suite in `protocols::conformance`.
///
/// All calls may run concurrently, also many for one URL. Dropping a future or a stream cancels the call and frees its
/// connection. Errors name the host and the path, never a password or a query. The [`Kind`](crate::error::Kind) of an
/// error is retryable exactly if the failure may be temporary.
///
/// A stream ends without an error only where the server itself declares the end. If a length, an end or a range cannot
/// be parsed, the call fails or sends a different request.
#[async_trait]
pub trait Protocol: Send + Sync + fmt::Debug {
    /// Describes the file or folder at `url`. Sends as few requests as possible and reads at most a few bytes of
    /// payload.
    ///
    /// # Errors
    /// `NotFound`; `Unauthenticated` or `PermissionDenied`; `InvalidInput` for a URL that is not valid for this scheme;
    /// `Unsupported` for devices, unknown login methods and other things that this scheme cannot fetch; otherwise a
    /// retryable kind.
    async fn probe(&self, url: &Url) -> Result<UrlTarget>;

    /// Describes `url`, and also returns the bytes of the file if the same response contains them. This avoids a second
    /// response that may differ from the first. The stream follows the rules of [`Protocol::open`] with
    /// [`RangeRequest::ALL`].
    ///
    /// # Errors
    /// As [`Protocol::probe`].
    async fn probe_with_body(&self, url: &Url) -> Result<FirstResponse> {
        Ok(FirstResponse { target: self.probe(url).await?, body: None })
    }

    /// The renditions of the stream at `url`, among which [`Protocol::probe`] chooses. Empty for everything else.
    ///
    /// # Errors
    /// As [`Protocol::probe`].
    async fn renditions(&self, _url: &Url) -> Result<Vec<Rendition>> {
        Ok(Vec::new())
    }

    // ANCHOR: open
    /// Opens `range` of a file that was probed before. The stream contains exactly these bytes in order, or fewer and
    /// then an error. An `end` of `None` means the end of the file. `Ok` means that the server has agreed to send this
    /// range of this version: if `remote.validator` is set, another version is never accepted.
    ///
    /// The stream ends after the last byte of the range; if the server sends more, the connection is closed. If the
    /// file ends inside the range, the stream ends with `Corrupt`. If the server sends less than the length that it
    /// declared, the stream ends with `Network`.
    ///
    /// # Errors
    /// `Changed` if the version differs from the probed one; `Unsupported` if `range` does not start at 0 and the
    /// server sends only whole files; otherwise as [`Protocol::probe`].
    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream>;
    // ANCHOR_END: open

    /// Ranges that begin and end at multiples of this many bytes are cheaper than others. At least 1.
    fn range_grain(&self) -> u64 {
        1
    }
}

/// A byte range to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeRequest {
    pub start: u64,
    /// `None` means the end of the file, at whatever position.
    pub end: Option<u64>,
}

impl RangeRequest {
    /// The whole file, also when its length is unknown.
    pub const ALL: Self = Self { start: 0, end: None };

    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_sub(self.start))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl From<Range<u64>> for RangeRequest {
    fn from(range: Range<u64>) -> Self {
        Self { start: range.start, end: Some(range.end) }
    }
}
