//! Where bytes come from when it is not the swarm: the trait every URL scheme implements, and the schemes.
//!
//! A protocol turns a URL into bytes and nothing else. [`Protocol::probe`] says what is there (one file, with all that
//! the server tells of it, or a folder and its files), [`Protocol::open`] gives a range of a file as a stream of
//! [`Bytes`], as they come off the wire. [`Protocol::begin`] is both in one request, where a protocol can do that. Which
//! ranges are asked for, how many at once, what happens after a failure and where the bytes go is decided by `downloads`;
//! so no protocol retries, limits, buffers or writes anything itself.
//!
//! What it refuses: bytes that are not those of the range that was asked for (a server that ignores `Range`, lies about
//! a length, sends more than asked, or has changed the file), headers and listings without bound, and to carry
//! credentials to another host.

#[doc(hidden)]
pub mod conformance;
mod date;
mod dial;
mod ftp;
mod http;
mod listing;
mod magnet_link;
pub mod netrc;
mod options;
mod passwords;
mod paths;
mod patience;
mod reach;
mod registry;
mod s3;
mod sftp;
mod tls;
mod walk;
mod webdav;

use std::{fmt, ops::Range, pin::Pin, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use url::Url;

use crate::error::Result;

pub use http::Http;
pub use listing::{Entry, LeftOut, Listing, MAX_ENTRIES};
pub use magnet_link::MagnetLink;
pub use options::{FetchOptions, HostKeys, Login, Outgoing};
pub use passwords::{Ask, Passwords};
pub use paths::no_url;
pub use reach::{is_public, names_private_host};
pub use registry::Protocols;

/// Bytes as they come, in order. The first error is the last item.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What is at a URL.
#[derive(Debug, Clone)]
pub enum Found {
    File(Remote),
    Folder(Listing),
}

/// A file at a server, as far as the server tells of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// What was asked for. Credentials and headers are for its host alone.
    pub asked: Url,
    /// Where its bytes are, after redirects; to be opened by this.
    pub url: Url,
    /// Bytes, where the server says.
    pub len: Option<u64>,
    /// Whether a range can be asked for. `false` means one stream from the first byte on.
    pub ranges: bool,
    /// What tells this version of the file from another.
    pub validator: Option<Validator>,
    /// What the server says its bytes hash to.
    pub digests: Vec<Digest>,
    pub content_type: Option<String>,
    /// What the server calls it, not made safe: a name of the server's choosing.
    pub name: Option<String>,
    pub modified: Option<SystemTime>,
}

impl Remote {
    /// A file of which nothing is known but where it is.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self {
            asked: url.clone(),
            url,
            len: None,
            ranges: false,
            validator: None,
            digests: Vec::new(),
            content_type: None,
            name: None,
            modified: None,
        }
    }

    /// Whether the server proves that `other` is the same version: by the validator, or by date and length together,
    /// since machines behind one name may have tags of their own.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let validator = self.validator.is_some() && self.validator == other.validator;
        let date = self.modified.is_some() && self.modified == other.modified;
        self.len == other.len && (validator || date && self.len.is_some())
    }
}

impl fmt::Debug for Remote {
    /// Without what a URL may keep secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("url", &place(&self.url))
            .field("len", &self.len)
            .field("ranges", &self.ranges)
            .field("validator", &self.validator)
            .finish_non_exhaustive()
    }
}

/// What the first request of a download brought.
pub struct Begun {
    pub found: Found,
    /// The bytes of the file from the first to the last, where the same answer has them. What is wrong with a later
    /// request is then no matter, as long as this one goes on.
    pub first: Option<ByteStream>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").field("found", &self.found).finish_non_exhaustive()
    }
}

/// A URL as errors and logs name it: host, port where it is not the usual one, and path. No user, no password, and no
/// query, which may hold a signature.
#[must_use]
pub fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path())
}

/// The next bytes of a stream; `None` after the last.
pub async fn next(stream: &mut ByteStream) -> Option<Result<Bytes>> {
    std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

/// Tells two versions of a file apart, in the server's words. What is kept of an interrupted download is gone on with
/// only while it is the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validator {
    /// A strong entity tag, quotes included.
    ETag(String),
    /// When it was last changed, as the server writes it, and its length.
    Modified(String, u64),
}

/// A checksum of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    pub algorithm: Algorithm,
    pub bytes: Vec<u8>,
}

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// Weakest first.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// As standards and aria2 write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    /// The algorithm of this name, in any case, with or without its dash.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let bare = |name: &str| name.replace('-', "").to_ascii_lowercase();
        let wanted = bare(name);
        // HTTP's older header calls SHA-1 just that.
        let wanted = if wanted == "sha" { "sha1".to_owned() } else { wanted };
        Self::ALL.into_iter().find(|algorithm| bare(algorithm.name()) == wanted)
    }

    /// Bytes of a checksum.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no checksum is empty")]
    pub fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A scheme that bytes can come by. Every implementation passes the one suite in `protocols::conformance`.
///
/// All calls may run at the same time, many for one URL. Dropping a future or a stream abandons the call and frees its
/// connection. Errors name the host and the path, never a password or a query, and carry a
/// [`Kind`](crate::error::Kind): what may pass by itself has a retryable kind, and nothing else has.
///
/// A stream ends without an error only where the server's own words say that it is the end. A length, an end or a range
/// that was not understood is an error, or is asked for in another way.
#[async_trait]
pub trait Protocol: Send + Sync + fmt::Debug {
    /// What is at `url`. Asks the server as little as it takes, and reads no payload beyond a few bytes.
    ///
    /// # Errors
    /// `NotFound`; `Unauthenticated` or `PermissionDenied`; `InvalidInput` for a URL that cannot be one of this scheme;
    /// `Unsupported` for what this scheme cannot give (a device, a login that is not known); else a retryable kind.
    async fn probe(&self, url: &Url) -> Result<Found>;

    /// What is at `url`, and the bytes of a file where the answer that tells of it brings them: no second answer has to
    /// be like the first. The stream is as [`Protocol::open`] gives it for [`Wanted::ALL`].
    ///
    /// # Errors
    /// As [`Protocol::probe`].
    async fn begin(&self, url: &Url) -> Result<Begun> {
        Ok(Begun { found: self.probe(url).await?, first: None })
    }

    /// The bytes of `range` of a file that was probed before, in order, exactly as many, or fewer and then an error;
    /// `end` `None` is to the end of the file. `Ok` says that the server has agreed to give this range of this version:
    /// with `remote.validator`, another version is never taken for it.
    ///
    /// The stream ends after the last byte of the range; where the server would go on, it is hung up on. When the file
    /// ends before the range does, the stream ends with `Corrupt`; when it comes shorter than the server said that it is,
    /// with `Network`.
    ///
    /// # Errors
    /// `Changed` when it is not the version that was probed; `Unsupported` when `range` does not begin at 0 and the
    /// server gives the whole file only; else as [`Protocol::probe`].
    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream>;
}

/// A range to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub start: u64,
    /// `None`: to the end of the file, wherever that is.
    pub end: Option<u64>,
}

impl Wanted {
    /// From the first byte to the last, for files of which not even the length is known.
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

impl From<Range<u64>> for Wanted {
    fn from(range: Range<u64>) -> Self {
        Self { start: range.start, end: Some(range.end) }
    }
}
