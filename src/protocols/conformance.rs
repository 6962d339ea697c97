//! The contract of [`Protocol`] as a test suite. Every protocol passes it against every available server.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use super::{Begun, Found, Listing, Protocol, Remote, Wanted, next, paths::below};
use crate::error::{Error, Kind, Result};

/// A server under test. The suite writes its files without going through the protocol.
#[async_trait]
pub trait Ground: Send + Sync + fmt::Debug {
    /// Creates or replaces the file `path` and creates its parent folders. A replaced file also gets a new date.
    async fn write(&self, path: &str, bytes: Bytes);

    async fn remove(&self, path: &str);

    /// The folder that contains all `path`s. Its URL ends with a slash.
    fn url(&self) -> Url;

    /// Whether the protocol has folders.
    fn has_folders(&self) -> bool;

    /// The same folder with credentials that the server must reject: the password [`WRONG`] or an unknown key. `None`
    /// if the server accepts every login.
    fn stranger(&self) -> Option<Visit>;

    /// An existing file that may not be read, or not even be seen. `None` if all files may be read.
    async fn forbidden(&self) -> Option<Visit>;

    /// Whether this is the last use of the server.
    fn may_stop(&self) -> bool;

    /// Kills the server permanently, in the middle of its work.
    async fn stop(&self);
}

/// A URL, and a protocol with the credentials to try on it.
#[derive(Debug)]
pub struct Visit {
    pub protocol: Arc<dyn Protocol>,
    pub url: Url,
}

/// A password of no account. No error may repeat it.
pub const WRONG: &str = "hunter2-is-nobodys";

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
const DEEP: usize = 70;
/// Length of the test files in bytes, not a multiple of any block size.
const LEN: u64 = 3_000_017;

/// Runs the suite in a folder of its own.
///
/// # Panics
/// On the first violation, with a sentence that names it.
pub async fn check(protocol: &dyn Protocol, ground: &dyn Ground) {
    let suite = Suite { protocol, ground };
    suite.finds_a_file().await;
    suite.gives_exact_ranges().await;
    suite.gives_an_empty_file().await;
    suite.tells_what_is_missing().await;
    suite.keeps_real_file_names().await;
    suite.notices_a_changed_file().await;
    suite.serves_many_at_once().await;
    suite.survives_dropped_streams().await;
    if ground.has_folders() {
        suite.lists_folders().await;
        suite.lists_an_empty_end().await;
        suite.lists_deep_folders().await;
    }
    suite.tells_a_stranger().await;
    suite.tells_what_is_forbidden().await;
    if ground.may_stop() {
        suite.notices_that_the_server_has_gone().await;
    }
}

/// A file that a server sends in an unusual way.
#[derive(Debug)]
pub struct Oddity {
    /// Description of what is unusual.
    pub what: &'static str,
    pub url: Url,
    /// The expected bytes; `None` if they cannot be determined, so that the protocol must fail.
    pub body: Option<Bytes>,
}

/// Checks one rule: a stream that ends without an error has delivered the whole file, whatever the server declares.
///
/// # Panics
/// If the stream ends without an error on other bytes than the file's, or if it fails although the file can be fetched.
pub async fn check_oddity(protocol: &dyn Protocol, oddity: &Oddity) {
    let Oddity { what, url, body } = oddity;
    let got = async {
        let Begun { found: Found::File(remote), first } = protocol.begin(url).await? else {
            panic!("{what}: a file was taken for a folder");
        };
        let mut stream = match first {
            Some(first) => first,
            None => protocol.open(&remote, Wanted { start: 0, end: remote.len }).await?,
        };
        let mut all = Vec::new();
        loop {
            match next(&mut stream).await {
                Some(Ok(bytes)) => all.extend_from_slice(&bytes),
                None => return Ok(all),
                Some(Err(e)) => return Err(e),
            }
        }
    };
    let got: Result<Vec<u8>> = got.await;
    match (got, body) {
        (Ok(all), Some(body)) => assert!(all == *body, "{what}: {} bytes as all", all.len()),
        (Ok(all), None) => panic!("{what}: {} bytes as all", all.len()),
        (Err(e), Some(_)) => panic!("{what}: it could be known: {}", e.report()),
        (Err(_), None) => {}
    }
}

struct Suite<'a> {
    protocol: &'a dyn Protocol,
    ground: &'a dyn Ground,
}

impl Suite<'_> {
    fn url(&self, path: &str) -> Url {
        below(&self.ground.url(), path)
    }

    async fn write(&self, path: &str, bytes: &Bytes) {
        self.ground.write(path, bytes.clone()).await;
    }

    async fn file(&self, path: &str) -> Remote {
        match self.protocol.probe(&self.url(path)).await {
            Ok(Found::File(remote)) => remote,
            Ok(Found::Folder(_)) => panic!("{path:?} is a file, and was taken for a folder"),
            Err(e) => panic!("probe {path:?} failed: {}", e.report()),
        }
    }

    async fn folder(&self, path: &str) -> Listing {
        match self.protocol.probe(&self.url(path)).await {
            Ok(Found::Folder(listing)) => listing,
            Ok(Found::File(_)) => panic!("{path:?} is a folder, and was taken for a file"),
            Err(e) => panic!("probe of folder {path:?} failed: {}", e.report()),
        }
    }

    async fn read(&self, remote: &Remote, range: Wanted) -> Result<Vec<u8>> {
        let mut stream = self.protocol.open(remote, range).await?;
        let mut all = Vec::new();
        while let Some(bytes) = next(&mut stream).await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all)
    }

    async fn get(&self, remote: &Remote, range: impl Into<Wanted>) -> Vec<u8> {
        let range = range.into();
        let got = self.read(remote, range).await;
        got.unwrap_or_else(|e| panic!("get {range:?} of {remote:?} failed: {}", e.report()))
    }

    async fn finds_a_file(&self) {
        let body = pattern(LEN, 1);
        self.write("plain.bin", &body).await;
        let remote = self.file("plain.bin").await;
        assert_eq!(remote.len, Some(LEN), "the length of a file is told");
        assert!(remote.ranges, "ranges of a file can be asked for");
        assert!(remote.validator.is_some(), "a version of a file can be told from another");
        assert_eq!(remote, self.file("plain.bin").await, "a file that is the same looks the same");
        let whole = self.get(&remote, Wanted::ALL).await;
        assert!(whole == body, "a whole file comes as it is");
    }

    async fn gives_exact_ranges(&self) {
        let body = pattern(LEN, 2);
        self.write("ranges.bin", &body).await;
        let remote = self.file("ranges.bin").await;
        for range in [
            0..1,
            LEN - 1..LEN,
            0..LEN,
            1_234_567..2_345_678,
            7..7,
            LEN..LEN,
            32_767..32_769,
            LEN - 40_000..LEN,
        ] {
            let got = self.get(&remote, range.clone()).await;
            assert!(got == body[bounds(&range)], "{range:?} gives exactly these bytes");
        }
        for start in [0, 1, 2_000_000, LEN - 1, LEN] {
            let got = self.get(&remote, Wanted { start, end: None }).await;
            assert!(got == body[bounds(&(start..LEN))], "from {start} on gives the rest");
        }
        for past in [LEN - 1..LEN + 1, LEN + 5..LEN + 6] {
            let got = self.read(&remote, past.clone().into()).await;
            let kind = got.expect_err("a range past the end is an error").kind();
            assert_eq!(kind, Kind::Corrupt, "a file that ends before {past:?} does is Corrupt");
        }
    }

    async fn gives_an_empty_file(&self) {
        self.write("empty.bin", &Bytes::new()).await;
        let remote = self.file("empty.bin").await;
        assert_eq!(remote.len, Some(0), "a file of 0 bytes is there, with length 0");
        for range in [Wanted::ALL, Wanted { start: 0, end: Some(0) }] {
            assert!(self.get(&remote, range).await.is_empty(), "an empty file has no bytes");
        }
    }

    async fn tells_what_is_missing(&self) {
        for path in ["missing.bin", "no folder/missing.bin"] {
            let kind = failure(self.protocol.probe(&self.url(path)).await).kind();
            assert_eq!(kind, Kind::NotFound, "{path:?} is not there");
        }
        self.write("gone.bin", &pattern(1000, 3)).await;
        let remote = self.file("gone.bin").await;
        self.ground.remove("gone.bin").await;
        let kind = failure(self.read(&remote, (0..1000).into()).await).kind();
        assert_eq!(kind, Kind::NotFound, "a file that is gone is NotFound");
    }

    async fn keeps_real_file_names(&self) {
        for (n, name) in NAMES.iter().enumerate() {
            let body = pattern(1000, n as u64 + 10);
            self.write(name, &body).await;
            let remote = self.file(name).await;
            assert!(self.get(&remote, 0..1000).await == body, "{name:?} has its own bytes");
        }
    }

    async fn notices_a_changed_file(&self) {
        for (what, len) in [("longer", LEN + 1), ("shorter", 1000), ("as long", LEN)] {
            self.write("changing.bin", &pattern(LEN, 4)).await;
            let remote = self.file("changing.bin").await;
            self.write("changing.bin", &pattern(len, 5)).await;
            for range in [0..100, 500..600] {
                let kind = failure(self.read(&remote, range.into()).await).kind();
                assert_eq!(kind, Kind::Changed, "a file that is another, and {what}, is Changed");
            }
            let body = self.get(&self.file("changing.bin").await, Wanted::ALL).await;
            assert!(body == pattern(len, 5), "and can be fetched anew");
        }
    }

    /// Opens 8 ranges concurrently, as downloads do. A server may reject some of them, but only with a retryable error.
    async fn serves_many_at_once(&self) {
        let body = pattern(LEN, 6);
        self.write("many.bin", &body).await;
        let remote = self.file("many.bin").await;
        let part = LEN / 8;
        let read = |n| {
            let remote = remote.clone();
            async move { self.read(&remote, (n * part..(n + 1) * part).into()).await }
        };
        let parts = futures_util::future::join_all((0..8).map(read)).await;
        for (n, got) in (0..).zip(parts) {
            match got {
                Ok(got) => {
                    assert!(got == body[bounds(&(n * part..(n + 1) * part))], "part {n} is right");
                }
                Err(e) => assert!(e.kind().is_retryable(), "too many at once: {}", e.report()),
            }
        }
    }

    async fn survives_dropped_streams(&self) {
        let body = pattern(LEN, 7);
        self.write("dropped.bin", &body).await;
        let remote = self.file("dropped.bin").await;
        for start in (0..40).map(|n| n * 1000) {
            let opened = self.protocol.open(&remote, Wanted { start, end: None }).await;
            let mut stream =
                opened.unwrap_or_else(|e| panic!("open {start}.. failed: {}", e.report()));
            let first = next(&mut stream).await.expect("there are bytes").expect("they come");
            let wanted = &body[bounds(&(start..start + first.len() as u64))];
            assert!(first == wanted, "a stream after dropped ones begins at {start}");
        }
        assert!(self.get(&remote, 0..LEN).await == body, "after dropped streams all is well");
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
        assert_eq!(found, names, "a folder has its files at any depth, sorted");
        for (file, (path, body)) in listing.files.iter().zip(&wanted) {
            assert_eq!(file.remote.len, Some(body.len() as u64), "{path:?} has its length");
            let got = self.get(&file.remote, Wanted::ALL).await;
            assert!(got == *body, "{path:?} is opened by what the listing says of it");
        }
        let again = self.folder("top/").await;
        assert_eq!(again.files, listing.files, "a slash at the end makes no difference");
        self.write("top/-la", &pattern(100 + 7, 99)).await;
        let old = listing.files.iter().find(|file| file.path == "-la").expect("it was listed");
        let kind = failure(self.read(&old.remote, Wanted::ALL).await).kind();
        assert_eq!(kind, Kind::Changed, "a file that changed since its folder was listed");
    }

    /// A folder whose only file is empty, as the last page or the last folder of a listing may be.
    async fn lists_an_empty_end(&self) {
        self.write("thin/only.bin", &Bytes::new()).await;
        let listing = self.folder("thin").await;
        assert_eq!(listing.files.len(), 1, "a folder of one empty file: {listing:?}");
        assert_eq!(listing.files[0].remote.len, Some(0));
    }

    async fn lists_deep_folders(&self) {
        let path = format!("{}end.bin", "d/".repeat(DEEP));
        self.write(&format!("deep/{path}"), &pattern(10, 9)).await;
        let listing = self.folder("deep").await;
        let found: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(found, [path], "a file {DEEP} folders deep");
    }

    async fn tells_a_stranger(&self) {
        self.write("for friends.bin", &pattern(1000, 8)).await;
        let Some(Visit { protocol, url }) = self.ground.stranger() else { return };
        let error = failure(protocol.probe(&below(&url, "for friends.bin")).await);
        assert_eq!(error.kind().exit_code(), 24, "a stranger is told so: {}", error.report());
        let said = format!("{} {error:?} {:?}", error.report(), error.hint_text());
        assert!(!said.contains(WRONG), "the password is repeated: {said}");
    }

    async fn tells_what_is_forbidden(&self) {
        let Some(Visit { protocol, url }) = self.ground.forbidden().await else { return };
        let got = async {
            match protocol.probe(&url).await? {
                Found::File(remote) => {
                    let mut stream = protocol.open(&remote, Wanted::ALL).await?;
                    next(&mut stream).await.transpose()
                }
                Found::Folder(_) => panic!("{url} is a file, and was taken for a folder"),
            }
        };
        let error = failure(got.await);
        let kind = error.kind();
        assert_eq!(kind, Kind::PermissionDenied, "what is forbidden: {}", error.report());
    }

    /// Stops the server in the middle of a file. No later test can use this server.
    async fn notices_that_the_server_has_gone(&self) {
        let body = Bytes::from(vec![7; 64 << 20]);
        self.write("big.bin", &body).await;
        let remote = self.file("big.bin").await;
        let opened = self.protocol.open(&remote, Wanted::ALL).await;
        let mut stream = opened.unwrap_or_else(|e| panic!("open failed: {}", e.report()));
        next(&mut stream).await.expect("there are bytes").expect("they come");
        self.ground.stop().await;
        let error = loop {
            match next(&mut stream).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("the end of a file that did not come whole"),
            }
        };
        assert!(error.kind().is_retryable(), "it may come back: {}", error.report());
        let error = failure(self.protocol.open(&remote, Wanted::ALL).await);
        assert!(error.kind().is_retryable(), "nobody is there now: {}", error.report());
    }
}

fn failure<T>(outcome: Result<T>) -> Error {
    outcome.err().expect("an error was wanted")
}

/// Test bytes that depend on `seed` and differ at every distance by which a faulty range is likely to be off.
fn pattern(len: u64, seed: u64) -> Bytes {
    let byte = |n: u64| {
        let mixed = (n ^ seed << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        u8::try_from(mixed >> 56).expect("eight bits")
    };
    (0..len).map(byte).collect()
}

fn bounds(range: &Range<u64>) -> Range<usize> {
    let bound = |n| usize::try_from(n).expect("small");
    bound(range.start)..bound(range.end)
}
