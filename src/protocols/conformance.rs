//! The contract of [`Protocol`] as a test suite. Every protocol passes it against every available server.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use super::{
    FirstResponse, Listing, Protocol, RangeRequest, RemoteFile, UrlTarget, next_bytes,
    url_paths::url_below,
};
use crate::error::{Error, Kind, Result};

/// A server under test. The suite writes its files without going through the protocol.
#[async_trait]
pub trait ConformanceTarget: Send + Sync + fmt::Debug {
    /// Creates or replaces the file `path` and creates its parent folders. A replaced file also gets a new date.
    async fn write(&self, path: &str, bytes: Bytes);

    async fn remove(&self, path: &str);

    /// The folder that contains all `path`s. Its URL ends with a slash.
    fn url(&self) -> Url;

    /// Whether the protocol has folders.
    fn has_folders(&self) -> bool;

    /// Whether a file may be empty. A stream without segments is an error.
    fn has_empty_files(&self) -> bool {
        true
    }

    /// The same folder with credentials that the server must reject: the password [`WRONG_PASSWORD`] or an unknown key.
    /// `None` if the server accepts every login.
    fn with_wrong_login(&self) -> Option<TargetAccess>;

    /// An existing file that may not be read, or not even be seen. `None` if all files may be read.
    async fn forbidden_file(&self) -> Option<TargetAccess>;

    /// Whether a file is named by its content: [`ConformanceTarget::write`] makes another file then, and the one before
    /// stays readable. [`ConformanceTarget::url`] may differ after each write.
    fn is_content_addressed(&self) -> bool;

    /// Whether this is the last use of the server.
    fn can_stop(&self) -> bool;

    /// Kills the server permanently, in the middle of its work.
    async fn stop(&self);
}

/// A URL, and a protocol with the credentials to try on it.
#[derive(Debug)]
pub struct TargetAccess {
    pub protocol: Arc<dyn Protocol>,
    pub url: Url,
}

/// A password of no account. No error may repeat it.
pub const WRONG_PASSWORD: &str = "hunter2-is-nobodys";

/// File names with characters that are special in a shell, a URL, a pattern or a command line. Here they are literal.
const NAMES: &[&str] = &[
    "a b.bin",
    "50%.bin",
    "%41.bin",
    "what?.bin",
    "a#b.bin",
    "+&;=,@:.bin",
    "[x]*{y}.bin",
    "-la",
    "'\"$~.bin",
    "日本 é.bin",
    ".hidden",
];
/// Folder depth of the deep listing, more than folders usually have.
const FOLDER_DEPTH: usize = 70;
/// Length of the test files in bytes, not a multiple of any block size.
const FILE_LEN: u64 = 3_000_017;

/// Runs the suite in a folder of its own.
///
/// # Panics
/// On the first violation, with a sentence that names it.
pub async fn check(protocol: &dyn Protocol, target: &dyn ConformanceTarget) {
    let suite = Suite { protocol, target };
    suite.describes_a_file().await;
    suite.returns_exact_ranges().await;
    if target.has_empty_files() {
        suite.returns_an_empty_file().await;
    }
    suite.reports_missing_files().await;
    suite.accepts_special_file_names().await;
    suite.detects_changed_files().await;
    suite.serves_concurrent_ranges().await;
    suite.survives_dropped_streams().await;
    if target.has_folders() {
        suite.lists_folders().await;
        suite.lists_a_folder_of_one_empty_file().await;
        suite.lists_deep_folders().await;
    }
    suite.rejects_a_wrong_login().await;
    suite.reports_forbidden_files().await;
    if target.can_stop() {
        suite.reports_a_stopped_server().await;
    }
}

/// A file that a server sends in an unusual way.
#[derive(Debug)]
pub struct UnusualResponse {
    /// Description of what is unusual.
    pub description: &'static str,
    pub url: Url,
    /// The expected bytes; `None` if they cannot be determined, so that the protocol must fail.
    pub body: Option<Bytes>,
}

/// Checks one rule: a stream that ends without an error has delivered the whole file, whatever the server declares.
///
/// # Panics
/// If the stream ends without an error on other bytes than the file's, or if it fails although the file can be fetched.
pub async fn check_unusual_response(protocol: &dyn Protocol, response: &UnusualResponse) {
    let UnusualResponse { description, url, body: expected } = response;
    let fetched = async {
        let FirstResponse { target: UrlTarget::File(remote), body } =
            protocol.probe_with_body(url).await?
        else {
            panic!("{description}: the file was reported as a folder");
        };
        let mut stream = match body {
            Some(body) => body,
            None => protocol.open(&remote, RangeRequest { start: 0, end: remote.len }).await?,
        };
        let mut all = Vec::new();
        loop {
            match next_bytes(&mut stream).await {
                Some(Ok(bytes)) => all.extend_from_slice(&bytes),
                None => return Ok(all),
                Some(Err(e)) => return Err(e),
            }
        }
    };
    let fetched: Result<Vec<u8>> = fetched.await;
    match (fetched, expected) {
        (Ok(all), Some(expected)) => {
            assert!(all == *expected, "{description}: ended after {} bytes", all.len());
        }
        (Ok(all), None) => panic!("{description}: ended after {} bytes", all.len()),
        (Err(e), Some(_)) => panic!("{description}: failed: {}", e.report()),
        (Err(_), None) => {}
    }
}

struct Suite<'a> {
    protocol: &'a dyn Protocol,
    target: &'a dyn ConformanceTarget,
}

impl Suite<'_> {
    fn url(&self, path: &str) -> Url {
        url_below(&self.target.url(), path)
    }

    async fn write(&self, path: &str, bytes: &Bytes) {
        self.target.write(path, bytes.clone()).await;
    }

    async fn file(&self, path: &str) -> RemoteFile {
        match self.protocol.probe(&self.url(path)).await {
            Ok(UrlTarget::File(remote)) => remote,
            Ok(UrlTarget::Folder(_)) => panic!("the file {path:?} was reported as a folder"),
            Err(e) => panic!("probe {path:?} failed: {}", e.report()),
        }
    }

    async fn folder(&self, path: &str) -> Listing {
        match self.protocol.probe(&self.url(path)).await {
            Ok(UrlTarget::Folder(listing)) => listing,
            Ok(UrlTarget::File(_)) => panic!("the folder {path:?} was reported as a file"),
            Err(e) => panic!("probe of folder {path:?} failed: {}", e.report()),
        }
    }

    async fn read(&self, remote: &RemoteFile, range: RangeRequest) -> Result<Vec<u8>> {
        let mut stream = self.protocol.open(remote, range).await?;
        let mut all = Vec::new();
        while let Some(bytes) = next_bytes(&mut stream).await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    async fn get(&self, remote: &RemoteFile, range: impl Into<RangeRequest>) -> Vec<u8> {
        let range = range.into();
        let bytes = self.read(remote, range).await;
        bytes.unwrap_or_else(|e| panic!("get {range:?} of {remote:?} failed: {}", e.report()))
    }

    async fn describes_a_file(&self) {
        let body = pattern(FILE_LEN, 1);
        self.write("plain.bin", &body).await;
        let remote = self.file("plain.bin").await;
        assert_eq!(remote.len, Some(FILE_LEN), "the length is reported");
        assert!(remote.supports_ranges, "ranges are supported");
        assert!(remote.validator.is_some(), "there is a validator");
        assert_eq!(
            remote,
            self.file("plain.bin").await,
            "two probes of an unchanged file are equal"
        );
        let whole = self.get(&remote, RangeRequest::ALL).await;
        assert!(whole == body, "the whole file has the right bytes");
    }

    async fn returns_exact_ranges(&self) {
        let body = pattern(FILE_LEN, 2);
        self.write("ranges.bin", &body).await;
        let remote = self.file("ranges.bin").await;
        for range in [
            0..1,
            FILE_LEN - 1..FILE_LEN,
            0..FILE_LEN,
            1_234_567..2_345_678,
            7..7,
            FILE_LEN..FILE_LEN,
            32_767..32_769,
            FILE_LEN - 40_000..FILE_LEN,
        ] {
            let got = self.get(&remote, range.clone()).await;
            assert!(got == body[usize_range(&range)], "{range:?} has the right bytes");
        }
        for start in [0, 1, 2_000_000, FILE_LEN - 1, FILE_LEN] {
            let got = self.get(&remote, RangeRequest { start, end: None }).await;
            assert!(got == body[usize_range(&(start..FILE_LEN))], "{start}.. has the right bytes");
        }
        for past in [FILE_LEN - 1..FILE_LEN + 1, FILE_LEN + 5..FILE_LEN + 6] {
            let got = self.read(&remote, past.clone().into()).await;
            let kind = got.expect_err("a range past the end is an error").kind();
            assert_eq!(kind, Kind::Corrupt, "{past:?} is past the end");
        }
    }

    async fn returns_an_empty_file(&self) {
        self.write("empty.bin", &Bytes::new()).await;
        let remote = self.file("empty.bin").await;
        assert_eq!(remote.len, Some(0), "an empty file has length 0");
        for range in [RangeRequest::ALL, RangeRequest { start: 0, end: Some(0) }] {
            assert!(self.get(&remote, range).await.is_empty(), "an empty file has no bytes");
        }
    }

    async fn reports_missing_files(&self) {
        for path in ["missing.bin", "no folder/missing.bin"] {
            let kind = expect_error(self.protocol.probe(&self.url(path)).await).kind();
            assert_eq!(kind, Kind::NotFound, "{path:?} does not exist");
        }
        // A protocol may keep a short file that is named by its content: its bytes stay right.
        let len = if self.target.is_content_addressed() { FILE_LEN } else { 1000 };
        self.write("removed.bin", &pattern(len, 3)).await;
        let remote = self.file("removed.bin").await;
        self.target.remove("removed.bin").await;
        let kind = expect_error(self.read(&remote, (0..1000).into()).await).kind();
        assert_eq!(kind, Kind::NotFound, "the file was removed");
    }

    async fn accepts_special_file_names(&self) {
        for (n, name) in NAMES.iter().enumerate() {
            let body = pattern(1000, n as u64 + 10);
            self.write(name, &body).await;
            let remote = self.file(name).await;
            assert!(self.get(&remote, 0..1000).await == body, "{name:?} has the right bytes");
        }
    }

    async fn detects_changed_files(&self) {
        for (change, len) in [("longer", FILE_LEN + 1), ("shorter", 1000), ("as long", FILE_LEN)] {
            self.write("changing.bin", &pattern(FILE_LEN, 4)).await;
            let remote = self.file("changing.bin").await;
            self.write("changing.bin", &pattern(len, 5)).await;
            for range in [0..100, 500..600] {
                if self.target.is_content_addressed() {
                    let old = self.get(&remote, range.clone()).await;
                    let wanted = pattern(FILE_LEN, 4).slice(usize_range(&range));
                    assert!(old == wanted, "the version before stays, and the new one is {change}");
                    continue;
                }
                let kind = expect_error(self.read(&remote, range.into()).await).kind();
                assert_eq!(kind, Kind::Changed, "the file was replaced, and is {change}");
            }
            let body = self.get(&self.file("changing.bin").await, RangeRequest::ALL).await;
            assert!(body == pattern(len, 5), "the new version is fetched");
        }
    }

    /// Opens 8 ranges concurrently, as downloads do. A server may reject some of them, but only with a retryable error.
    async fn serves_concurrent_ranges(&self) {
        let body = pattern(FILE_LEN, 6);
        self.write("many.bin", &body).await;
        let remote = self.file("many.bin").await;
        let part = FILE_LEN / 8;
        let read = |n| {
            let remote = remote.clone();
            async move { self.read(&remote, (n * part..(n + 1) * part).into()).await }
        };
        let parts = futures_util::future::join_all((0..8).map(read)).await;
        for (n, got) in (0..).zip(parts) {
            match got {
                Ok(got) => {
                    assert!(
                        got == body[usize_range(&(n * part..(n + 1) * part))],
                        "part {n} has the right bytes"
                    );
                }
                Err(e) => {
                    assert!(e.kind().is_retryable(), "one of 8 concurrent ranges: {}", e.report())
                }
            }
        }
    }

    async fn survives_dropped_streams(&self) {
        let body = pattern(FILE_LEN, 7);
        self.write("dropped.bin", &body).await;
        let remote = self.file("dropped.bin").await;
        for start in (0..40).map(|n| n * 1000) {
            let opened = self.protocol.open(&remote, RangeRequest { start, end: None }).await;
            let mut stream =
                opened.unwrap_or_else(|e| panic!("open {start}.. failed: {}", e.report()));
            let first = next_bytes(&mut stream)
                .await
                .expect("the stream is not empty")
                .expect("the first read succeeds");
            let wanted = &body[usize_range(&(start..start + first.len() as u64))];
            assert!(first == wanted, "a stream after dropped ones starts at {start}");
        }
        assert!(
            self.get(&remote, 0..FILE_LEN).await == body,
            "the whole file after dropped streams has the right bytes"
        );
    }

    async fn lists_folders(&self) {
        let mut wanted = Vec::new();
        for (n, name) in NAMES.iter().enumerate() {
            for folder in ["", "sub folder/", "sub folder/deeper #2/"] {
                let (path, body) = (format!("{folder}{name}"), pattern(100 + n as u64, n as u64));
                self.write(&format!("top/{path}"), &body).await;
                wanted.push((path, body));
            }
        }
        wanted.sort();
        let listing = self.folder("top").await;
        assert_eq!(listing.name, "top");
        assert!(listing.url.path().ends_with("/top/"), "{} ends with a slash", listing.url);
        let found: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let names: Vec<_> = wanted.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(found, names, "files at any depth are listed, sorted");
        for (file, (path, body)) in listing.files.iter().zip(&wanted) {
            assert_eq!(file.remote.len, Some(body.len() as u64), "{path:?} has its length");
            let got = self.get(&file.remote, RangeRequest::ALL).await;
            assert!(got == *body, "{path:?} is opened with the metadata of the listing");
        }
        let again = self.folder("top/").await;
        assert_eq!(again.files, listing.files, "a trailing slash makes no difference");
        self.write("top/-la", &pattern(100 + 7, 99)).await;
        let old = listing.files.iter().find(|file| file.path == "-la").expect("it was listed");
        if self.target.is_content_addressed() {
            let (_, body) = wanted.iter().find(|(path, _)| path == "-la").expect("it was written");
            assert!(self.get(&old.remote, RangeRequest::ALL).await == *body, "the listed version");
            return;
        }
        let kind = expect_error(self.read(&old.remote, RangeRequest::ALL).await).kind();
        assert_eq!(kind, Kind::Changed, "the file changed after its folder was listed");
    }

    /// A folder whose only file is empty, as the last page or the last folder of a listing may be.
    async fn lists_a_folder_of_one_empty_file(&self) {
        self.write("thin/only.bin", &Bytes::new()).await;
        let listing = self.folder("thin").await;
        assert_eq!(listing.files.len(), 1, "a folder of one empty file: {listing:?}");
        assert_eq!(listing.files[0].remote.len, Some(0));
    }

    async fn lists_deep_folders(&self) {
        let path = format!("{}end.bin", "d/".repeat(FOLDER_DEPTH));
        self.write(&format!("deep/{path}"), &pattern(10, 9)).await;
        let listing = self.folder("deep").await;
        let found: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(found, [path], "a file {FOLDER_DEPTH} folders deep");
    }

    async fn rejects_a_wrong_login(&self) {
        self.write("private.bin", &pattern(1000, 8)).await;
        let Some(TargetAccess { protocol, url }) = self.target.with_wrong_login() else { return };
        let error = expect_error(protocol.probe(&url_below(&url, "private.bin")).await);
        assert_eq!(error.kind().exit_code(), 24, "a wrong login: {}", error.report());
        let texts = format!("{} {error:?} {:?}", error.report(), error.hint_text());
        assert!(!texts.contains(WRONG_PASSWORD), "the password is repeated: {texts}");
    }

    async fn reports_forbidden_files(&self) {
        let Some(TargetAccess { protocol, url }) = self.target.forbidden_file().await else {
            return;
        };
        let got = async {
            match protocol.probe(&url).await? {
                UrlTarget::File(remote) => {
                    let mut stream = protocol.open(&remote, RangeRequest::ALL).await?;
                    next_bytes(&mut stream).await.transpose()
                }
                UrlTarget::Folder(_) => panic!("the file {url} was reported as a folder"),
            }
        };
        let error = expect_error(got.await);
        let kind = error.kind();
        assert_eq!(kind, Kind::PermissionDenied, "a forbidden file: {}", error.report());
    }

    /// Stops the server in the middle of a file. No later test can use this server.
    async fn reports_a_stopped_server(&self) {
        // No two parts are equal: a protocol may fetch equal ones once.
        let mut body = vec![7; 64 << 20];
        for (n, part) in body.chunks_mut(1 << 16).enumerate() {
            part[..8].copy_from_slice(&(n as u64).to_le_bytes());
        }
        self.write("big.bin", &Bytes::from(body)).await;
        let remote = self.file("big.bin").await;
        let opened = self.protocol.open(&remote, RangeRequest::ALL).await;
        let mut stream = opened.unwrap_or_else(|e| panic!("open failed: {}", e.report()));
        next_bytes(&mut stream)
            .await
            .expect("the stream is not empty")
            .expect("the first read succeeds");
        self.target.stop().await;
        let error = loop {
            match next_bytes(&mut stream).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("the stream ended without an error"),
            }
        };
        assert!(
            error.kind().is_retryable(),
            "the server stopped during a transfer: {}",
            error.report()
        );
        let error = expect_error(self.protocol.open(&remote, RangeRequest::ALL).await);
        assert!(error.kind().is_retryable(), "the server is stopped: {}", error.report());
    }
}

fn expect_error<T>(outcome: Result<T>) -> Error {
    outcome.err().expect("an error is expected")
}

/// Test bytes that depend on `seed` and differ at every distance by which a faulty range is likely to be off.
fn pattern(len: u64, seed: u64) -> Bytes {
    let byte = |n: u64| {
        let mixed = (n ^ seed << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        u8::try_from(mixed >> 56).expect("eight bits")
    };
    (0..len).map(byte).collect()
}

fn usize_range(range: &Range<u64>) -> Range<usize> {
    let bound = |n| usize::try_from(n).expect("small");
    bound(range.start)..bound(range.end)
}
