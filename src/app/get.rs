//! `get`: downloads URLs to plain local files, several at a time.
//!
//! A [`Getter`] takes one [`GetItem`] after the other. It probes the URLs, chooses a local path, and runs
//! one [`FileJob`] for the file, or one for each file of a folder. Connections, rate limit and write
//! buffers are shared by all files.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{asking::Told, get_claims::Claims, get_file::FileJob};
use crate::{
    downloads::{Asking, Effort, Existing, Mirror, Resume, Sink, Source, WriteRoom, beside},
    error::{Error, Kind, Result},
    events::{EventSink, FetchedFile},
    names, open_files,
    protocols::{Begun, Digest, Entry, FetchOptions, Found, Listing, Protocols, Remote, place},
    rate::RateLimit,
    torrents::keep_heap_steady,
};

/// Bytes that may wait for the disk, over all files. With a fast disk, no connection has to wait for a write.
const WRITE_ROOM: usize = 2 << 20;

/// Options of all downloads of a run.
#[derive(Debug, Clone)]
pub struct GetOrder {
    pub fetch: FetchOptions,
    /// Protocol to use for every URL, instead of that of its scheme.
    pub protocol: Option<String>,
    pub effort: Effort,
    /// Files downloaded at once (at least 1).
    pub jobs: usize,
    /// Rate limit over all files, in bytes per second.
    pub limit: Option<u64>,
    /// Rate limit for each file, in bytes per second.
    pub limit_each: Option<u64>,
    pub resume: Resume,
    /// Also verify against the checksum file next to each file on the server.
    pub beside: bool,
    /// Replace existing files of the same name.
    pub overwrite: bool,
    /// Byte range to fetch: start, and end (exclusive).
    pub range: Option<(u64, Option<u64>)>,
}

/// One file or folder to download.
#[derive(Debug, Clone)]
pub struct GetItem {
    /// URL of a file or of a folder. Several URLs are mirrors: servers that have the same file.
    pub urls: Vec<Url>,
    /// The target folder.
    pub dir: PathBuf,
    /// File name or path in `dir`; `None` takes the name that the server reports.
    pub out: Option<PathBuf>,
    pub checksums: Vec<Digest>,
}

/// Downloads items. All downloads share its limits and connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Getter {
    pub(super) order: Arc<GetOrder>,
    pub(super) limit: Arc<RateLimit>,
    pub(super) room: WriteRoom,
    /// Local paths used in this run.
    pub(super) claims: Claims,
    protocols: Protocols,
    turns: Arc<Semaphore>,
}

impl Getter {
    #[must_use]
    pub fn new(order: GetOrder) -> Self {
        // Read buffers are allocated and freed all the time. Without this, glibc returns the
        // memory to the system each time.
        keep_heap_steady();
        Self {
            limit: RateLimit::new(order.limit),
            room: WriteRoom::new(WRITE_ROOM),
            claims: Claims::default(),
            protocols: Protocols::new(order.fetch.clone()),
            turns: Arc::new(Semaphore::new(jobs_that_fit(&order))),
            order: Arc::new(order),
        }
    }

    /// Changes the rate limit over all files, including those in flight.
    pub fn set_limit(&self, bytes_per_second: Option<u64>) {
        self.limit.set(bytes_per_second);
    }

    /// Downloads the file or folder of `item`. Returns one summary per file when all files are
    /// complete under their names.
    ///
    /// # Errors
    /// Errors of the URL or the server; `AlreadyExists` and `Changed`, depending on the options; `NoSpace`; `Corrupt`
    /// when a checksum does not match; `Cancelled`. Received bytes are kept, so that the same call can resume.
    pub async fn get(
        &self,
        item: GetItem,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<FetchedFile>> {
        let turn = self.turn(cancel).await?;
        match self.find(&item, events, cancel).await? {
            Mirrors::File(source) => {
                let path = self.path(&item, &source)?;
                let mut checksums = item.checksums;
                if self.order.beside {
                    checksums.push(self.beside(&item.urls[0], cancel).await?);
                }
                let job = FileJob { getter: self, source, path, checksums, events, cancel };
                Ok(job.run().await?.into_iter().collect())
            }
            Mirrors::Folder(folder) => {
                drop(turn);
                let (url, listing) = *folder;
                self.get_folder(&item, url, listing, events, cancel).await
            }
        }
    }

    /// Downloads the file of `item` in order and passes its bytes to `sink`. Nothing is stored locally.
    ///
    /// # Errors
    /// As [`Getter::get`]; `InvalidInput` for a folder. After an error, also a wrong checksum, `sink` has already
    /// received bytes.
    pub async fn get_to(
        &self,
        item: GetItem,
        sink: Sink,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<FetchedFile> {
        let Mirrors::File(source) = self.find(&item, events, cancel).await? else {
            let text = format!("{} is a folder, and no file to be read", place(&item.urls[0]));
            return Err(Error::new(Kind::InvalidInput, text).hint("name a folder for it with -d"));
        };
        let mut checksums = item.checksums;
        if self.order.beside {
            checksums.push(self.beside(&item.urls[0], cancel).await?);
        }
        let path = item.out.unwrap_or_default();
        FileJob { getter: self, source, path, checksums, events, cancel }.run_to(sink).await
    }

    async fn beside(&self, url: &Url, cancel: &CancellationToken) -> Result<Digest> {
        let protocol = self.protocols.of(url, self.order.protocol.as_deref())?;
        beside(&protocol, url, self.order.effort.max_tries, cancel).await
    }

    /// Waits for a permit to download a file.
    async fn turn(&self, cancel: &CancellationToken) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let stopped = || Error::new(Kind::Cancelled, "stopped");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(stopped()),
            turn = Arc::clone(&self.turns).acquire_owned() => turn.map_err(|_| stopped()),
        }
    }

    /// Whether the first request may already transfer the file. Not for a range that starts later, and not
    /// while another request has to come before the bytes are read: a server that serves one connection at a
    /// time would not answer it.
    fn wants_first_bytes(&self) -> bool {
        !self.order.beside && self.order.range.is_none_or(|(start, _)| start == 0)
    }

    async fn find(
        &self,
        item: &GetItem,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Mirrors> {
        let mut mirrors = Vec::new();
        let mut failed = None;
        let urls = &item.urls;
        for url in urls {
            let protocol = self.protocols.of(url, self.order.protocol.as_deref())?;
            let told = Told::new(url, item, events);
            let max_tries = self.order.effort.max_tries;
            let asking = Asking { max_tries, cancel, waits: &|why| told.waits(why) };
            let found = match mirrors.is_empty() && self.wants_first_bytes() {
                true => asking.begin(&protocol, url).await,
                false => asking.probe(&protocol, url).await,
            };
            match found {
                Ok(Begun { found: Found::File(remote), first }) => {
                    mirrors.push(Mirror::begun(protocol, remote, first));
                }
                Ok(Begun { found: Found::Folder(listing), .. }) if urls.len() == 1 => {
                    return Ok(Mirrors::Folder(Box::new((url.clone(), listing))));
                }
                Ok(_) => {
                    let text = format!("{} is a folder, and no mirror of a file", place(url));
                    return Err(Error::new(Kind::InvalidInput, text));
                }
                Err(e) if e.kind() == Kind::Cancelled || urls.len() == 1 => return Err(e),
                Err(e) => {
                    tracing::warn!("{}; going on without that mirror", e.report());
                    failed.get_or_insert(e);
                }
            }
        }
        match failed {
            Some(error) if mirrors.is_empty() => Err(error),
            _ => Source::new(mirrors).map(Mirrors::File),
        }
    }

    /// Checks that the target of a folder is a folder, or does not exist.
    fn check_folder(folder: &Path) -> Result<()> {
        match Existing::at(folder)? {
            Existing::Nothing | Existing::Folder => Ok(()),
            _ => {
                let text = format!("{} is no folder, and a folder is fetched", folder.display());
                Err(Error::new(Kind::InvalidInput, text).hint("name another one with -o or -d"))
            }
        }
    }

    /// The local path of a single file, not one of a folder.
    fn path(&self, item: &GetItem, source: &Source) -> Result<PathBuf> {
        match &item.out {
            Some(out) => Ok(item.dir.join(out)),
            None => Ok(item.dir.join(file_name(&source.remote())?)),
        }
    }

    async fn get_folder(
        &self,
        item: &GetItem,
        url: Url,
        listing: Listing,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<FetchedFile>> {
        if !item.checksums.is_empty() || self.order.beside {
            let text = format!("{} is a folder: it has no checksum", place(&url));
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let folder = match &item.out {
            Some(out) => item.dir.join(out),
            None => item.dir.join(folder_name(&listing)?),
        };
        Self::check_folder(&folder)?;
        if listing.files.is_empty() && listing.left_out.is_empty() {
            tracing::warn!("{} is a folder without files", place(&url));
        }
        let paths = paths_below(&listing);
        let left_out = listing.left_out.into_iter().map(Error::from);
        let mut odd: Vec<Error> = left_out.collect();
        let mut running: JoinSet<Result<Option<FetchedFile>>> = JoinSet::new();
        let protocol = self.protocols.of(&url, self.order.protocol.as_deref())?;
        for (entry, path) in listing.files.into_iter().zip(paths) {
            let path = match path {
                Ok(path) => path,
                Err(e) => {
                    odd.push(e);
                    continue;
                }
            };
            // The permit is taken before the task is started, because a folder may have a million files.
            let Ok(turn) = self.turn(cancel).await else { break };
            let (getter, protocol) = (self.clone(), Arc::clone(&protocol));
            let (path, events, cancel) = (folder.join(path), events.clone(), cancel.clone());
            running.spawn(async move {
                let _turn = turn;
                let source = Source::new(vec![Mirror::new(protocol, entry.remote)])?;
                let checksums = Vec::new();
                let (getter, events, cancel) = (&getter, &events, &cancel);
                FileJob { getter, source, path, checksums, events, cancel }.run().await
            });
        }
        let fetched = all_of(running, odd).await?;
        match cancel.is_cancelled() {
            true => Err(Error::new(Kind::Cancelled, "stopped")),
            false => Ok(fetched),
        }
    }
}

/// The number of files to download at once: as requested, or fewer where the limit of open files requires it.
fn jobs_that_fit(order: &GetOrder) -> usize {
    // Descriptors per file: its connections, one idle connection, the file itself, and its state file during a save.
    let each = order.effort.per_server.min(order.effort.split).saturating_add(3) as u64;
    let (jobs, others) = (order.jobs.max(1), 64);
    let limit = open_files::up_to((jobs as u64).saturating_mul(each).saturating_add(others));
    let fit = usize::try_from(limit.saturating_sub(others) / each).unwrap_or(usize::MAX).max(1);
    if fit < jobs {
        tracing::warn!("{fit} files at once instead of {jobs}: no more may be open (ulimit -n)");
    }
    jobs.min(fit)
}

/// What the URLs of an item are: mirrors of one file, or a folder.
enum Mirrors {
    File(Source),
    Folder(Box<(Url, Listing)>),
}

/// Waits for all files, even when some fail. All errors are logged, and the first is returned. `odd` has the errors of
/// files that could not be started.
async fn all_of(
    mut running: JoinSet<Result<Option<FetchedFile>>>,
    odd: Vec<Error>,
) -> Result<Vec<FetchedFile>> {
    let (mut fetched, mut failed) = (Vec::new(), None);
    for error in odd {
        tracing::warn!("{}", error.report());
        failed.get_or_insert(error);
    }
    while let Some(ended) = running.join_next().await {
        let ended =
            ended.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "a file failed").because(e)));
        match ended {
            Ok(file) => fetched.extend(file),
            Err(e) => {
                if e.kind() != Kind::Cancelled {
                    tracing::warn!("{}", e.report());
                }
                failed.get_or_insert(e);
            }
        }
    }
    failed.map_or(Ok(fetched), Err)
}

/// For each file of a folder, its safe path relative to that folder, or the error why it has none.
pub(super) fn paths_below(listing: &Listing) -> Vec<Result<String>> {
    let within = |file: &Entry, e: Error| {
        Error::new(Kind::Unsupported, e.report()).within(place(&file.remote.url))
    };
    let safe = |file: &Entry| names::path_of_server(&file.path).map_err(|e| within(file, e));
    let paths: Vec<_> = listing.files.iter().map(safe).collect();
    let mut folders = HashSet::new();
    for path in paths.iter().flatten() {
        folders.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
    }
    let mut seen = HashSet::new();
    let alone = |(path, file): (Result<String>, &Entry)| {
        let path = path?;
        let bad = |why: &str| within(file, Error::new(Kind::Unsupported, why));
        if folders.contains(&path) {
            return Err(bad("a folder has the same name"));
        }
        match seen.insert(path.clone()) {
            true => Ok(path),
            false => Err(bad("another file of this folder has the same name here")),
        }
    };
    paths.into_iter().zip(&listing.files).map(alone).collect()
}

pub(super) fn folder_name(listing: &Listing) -> Result<String> {
    let host = || listing.url.host_str().unwrap_or("folder").to_owned();
    let name = names::of_server(listing.name.as_bytes());
    Ok(name.map_err(|e| e.hint("give it a name with -o"))?.unwrap_or_else(host))
}

/// The local name of a file without a user-given name: the server's name for it, else the last part of the URL's path.
/// An unsafe server name is ignored, not sanitised: the result would be a name that neither server nor user has chosen.
pub(super) fn file_name(remote: &Remote) -> Result<String> {
    let by_server = remote.name.as_deref().map(|name| names::of_server(name.as_bytes()));
    if let Some(Ok(Some(name))) = by_server {
        return Ok(name);
    }
    let last = remote.asked.path().rsplit('/').next().unwrap_or_default();
    let last: Vec<u8> = percent_encoding::percent_decode_str(last).collect();
    // A decoded name may contain slashes. Only the part after the last one is used, as for names from servers.
    let last = last.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match names::of_server(last) {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Ok("index.html".to_owned()),
        Err(e) => Err(e.hint("give it a name with -o")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(url: &str, name: Option<&str>) -> Result<String> {
        let remote = Remote { name: name.map(str::to_owned), ..Remote::at(url.parse().unwrap()) };
        file_name(&remote)
    }

    #[test]
    fn a_file_is_called_as_its_server_says_or_as_its_url_ends() {
        assert_eq!(named("http://x/a/b%20c.bin?d=e/f", None).unwrap(), "b c.bin");
        assert_eq!(named("http://x/a", Some("naïve.bin")).unwrap(), "naïve.bin");
        assert_eq!(named("http://x/a", Some("..")).unwrap(), "a");
        assert_eq!(named("http://x/a", Some("a\u{0}b")).unwrap(), "a");
        assert_eq!(named("http://x/", None).unwrap(), "index.html");
        let long = named("http://x/a", Some(&format!("{}.tar", "x".repeat(300)))).unwrap();
        assert!(long.len() <= names::MAX_COMPONENT && long.ends_with(".tar"));
        assert_eq!(named("http://x/c/a%2Fb", None).unwrap(), "b");
        assert_eq!(named("http://x/a%2F..%2F..%2Fpasswd", None).unwrap(), "passwd");
        for bad in ["http://x/%00", "http://x/a%2F.."] {
            assert_eq!(named(bad, None).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn one_file_without_a_path_leaves_those_of_the_others() {
        let url: Url = "ftp://h/f/".parse().unwrap();
        let entry = |path: &&str| {
            let remote = Remote::at(url.join(path).unwrap());
            Entry { path: (*path).to_owned(), remote }
        };
        let paths = ["a/b", "a", "aux", "bad\tname", "x\u{200e}", "x"];
        let listing = Listing {
            files: paths.iter().map(entry).collect(),
            url: url.clone(),
            name: "f".into(),
            left_out: Vec::new(),
        };
        let found = paths_below(&listing);
        let told = |at: usize| found[at].as_ref().map_err(Error::report).cloned();
        assert_eq!(told(0).unwrap(), "a/b");
        assert!(told(1).unwrap_err().contains("a folder has the same name"));
        assert_eq!(told(2).unwrap(), "aux");
        assert!(told(3).unwrap_err().starts_with("h/f/bad"), "{:?}", told(3));
        assert_eq!(told(4).unwrap(), "x");
        assert!(told(5).unwrap_err().contains("another file"));
    }
}
