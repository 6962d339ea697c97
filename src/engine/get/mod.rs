//! `get`: downloads URLs to plain local files, several at a time.
//!
//! A [`Getter`] takes one [`GetItem`] after the other. It probes the URLs, chooses a local path, and runs
//! one [`FileJob`] for the file, or one for each file of a folder. Connections, rate limit and write
//! buffers are shared by all files.

pub(super) mod claims;
pub(super) mod file;
pub(super) mod probe_progress;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::probe_progress::ProbeProgress;
use self::{claims::Claims, file::FileJob};
use crate::{
    downloads::{
        DownloadSource, FetchLimits, FirstRequest, Mirror, PathKind, ResumePolicy, Sink,
        WriteBudget, fetch_sidecar_digest,
    },
    error::{Error, Kind, Result},
    events::{EventSink, FetchedFile},
    names, open_files,
    protocols::{
        Digest, FetchOptions, FirstResponse, ListedFile, Listing, Protocols, RemoteFile, UrlTarget,
        display_url,
    },
    rate::RateLimit,
};

/// Bytes that may wait for the disk, over all files. With a fast disk, no connection has to wait for a write.
const WRITE_BUFFER_LIMIT: usize = 2 << 20;

/// Options of all downloads of a run.
#[derive(Debug, Clone)]
pub struct GetOptions {
    pub fetch: FetchOptions,
    /// Protocol to use for every URL, instead of that of its scheme.
    pub protocol: Option<String>,
    pub fetch_limits: FetchLimits,
    /// Files downloaded at once (at least 1).
    pub jobs: usize,
    /// Rate limit over all files, in bytes per second.
    pub limit: Option<u64>,
    /// Rate limit for each file, in bytes per second.
    pub limit_each: Option<u64>,
    pub resume: ResumePolicy,
    /// Also verify against the checksum file next to each file on the server.
    pub sidecar: bool,
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
    pub(super) options: Arc<GetOptions>,
    pub(super) limit: Arc<RateLimit>,
    pub(super) write_buffer: WriteBudget,
    /// Local paths used in this run.
    pub(super) claims: Claims,
    protocols: Protocols,
    file_permits: Arc<Semaphore>,
}

impl Getter {
    #[must_use]
    pub fn new(options: GetOptions) -> Self {
        Self {
            limit: RateLimit::new(options.limit),
            write_buffer: WriteBudget::new(WRITE_BUFFER_LIMIT),
            claims: Claims::default(),
            protocols: Protocols::new(options.fetch.clone()),
            file_permits: Arc::new(Semaphore::new(max_jobs(&options))),
            options: Arc::new(options),
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
        let permit = self.permit(cancel).await?;
        match self.resolve(&item, events, cancel).await? {
            ResolvedItem::File(source) => {
                let path = self.path(&item, &source)?;
                let mut checksums = item.checksums;
                if self.options.sidecar {
                    checksums.push(self.sidecar_checksum(&item.urls[0], cancel).await?);
                }
                let job = FileJob { getter: self, source, path, checksums, events, cancel };
                Ok(job.run().await?.into_iter().collect())
            }
            ResolvedItem::Folder(folder) => {
                drop(permit);
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
        let ResolvedItem::File(source) = self.resolve(&item, events, cancel).await? else {
            let text = format!("{} is a folder, not a file", display_url(&item.urls[0]));
            return Err(
                Error::new(Kind::InvalidInput, text).hint("download it into a folder with -d")
            );
        };
        let mut checksums = item.checksums;
        if self.options.sidecar {
            checksums.push(self.sidecar_checksum(&item.urls[0], cancel).await?);
        }
        let path = item.out.unwrap_or_default();
        FileJob { getter: self, source, path, checksums, events, cancel }.run_to_sink(sink).await
    }

    async fn sidecar_checksum(&self, url: &Url, cancel: &CancellationToken) -> Result<Digest> {
        let protocol = self.protocols.for_url(url, self.options.protocol.as_deref())?;
        fetch_sidecar_digest(&protocol, url, self.options.fetch_limits.max_tries, cancel).await
    }

    /// Waits for a permit to download a file.
    async fn permit(
        &self,
        cancel: &CancellationToken,
    ) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let stopped = || Error::new(Kind::Cancelled, "stopped");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(stopped()),
            permit = Arc::clone(&self.file_permits).acquire_owned() => permit.map_err(|_| stopped()),
        }
    }

    /// Whether the first request may already transfer the file. Not for a range that starts later, and not
    /// while another request has to come before the bytes are read: a server that serves one connection at a
    /// time would not answer it.
    fn wants_first_bytes(&self) -> bool {
        !self.options.sidecar && self.options.range.is_none_or(|(start, _)| start == 0)
    }

    async fn resolve(
        &self,
        item: &GetItem,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<ResolvedItem> {
        let mut mirrors = Vec::new();
        let mut failed = None;
        let urls = &item.urls;
        for url in urls {
            let protocol = self.protocols.for_url(url, self.options.protocol.as_deref())?;
            let progress = ProbeProgress::new(url, item, events);
            let max_tries = self.options.fetch_limits.max_tries;
            let first_request = FirstRequest {
                max_tries,
                cancel,
                on_wait: &|error| progress.report_waiting(error),
            };
            let found = match mirrors.is_empty() && self.wants_first_bytes() {
                true => first_request.probe_with_body(&protocol, url).await,
                false => first_request.probe(&protocol, url).await,
            };
            match found {
                Ok(FirstResponse { target: UrlTarget::File(remote), body: first }) => {
                    mirrors.push(Mirror::with_first_response(protocol, remote, first));
                }
                Ok(FirstResponse { target: UrlTarget::Folder(listing), .. }) if urls.len() == 1 => {
                    return Ok(ResolvedItem::Folder(Box::new((url.clone(), listing))));
                }
                Ok(_) => {
                    let text = format!("{} is a folder, not a mirror of a file", display_url(url));
                    return Err(Error::new(Kind::InvalidInput, text));
                }
                Err(e) if e.kind() == Kind::Cancelled || urls.len() == 1 => return Err(e),
                Err(e) => {
                    tracing::warn!("{}; this mirror is not used", e.report());
                    failed.get_or_insert(e);
                }
            }
        }
        match failed {
            Some(error) if mirrors.is_empty() => Err(error),
            _ => DownloadSource::new(mirrors).map(ResolvedItem::File),
        }
    }

    /// Checks that the target of a folder is a folder, or does not exist.
    fn check_folder(folder: &Path) -> Result<()> {
        match PathKind::at(folder)? {
            PathKind::Missing | PathKind::Folder => Ok(()),
            _ => {
                let text =
                    format!("cannot download a folder to {}: it is not a folder", folder.display());
                Err(Error::new(Kind::InvalidInput, text).hint("name another path with -o or -d"))
            }
        }
    }

    /// The local path of a single file, not one of a folder.
    fn path(&self, item: &GetItem, source: &DownloadSource) -> Result<PathBuf> {
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
        if !item.checksums.is_empty() || self.options.sidecar {
            let text = format!("{} is a folder, and a checksum is of one file", display_url(&url));
            return Err(Error::new(Kind::InvalidInput, text));
        }
        let folder = match &item.out {
            Some(out) => item.dir.join(out),
            None => item.dir.join(folder_name(&listing)?),
        };
        Self::check_folder(&folder)?;
        if listing.files.is_empty() && listing.skipped.is_empty() {
            tracing::warn!("{} is a folder without files", display_url(&url));
        }
        let paths = local_paths(&listing);
        let mut skipped: Vec<Error> = listing.skipped.into_iter().map(Error::from).collect();
        let mut running: JoinSet<Result<Option<FetchedFile>>> = JoinSet::new();
        let protocol = self.protocols.for_url(&url, self.options.protocol.as_deref())?;
        for (entry, path) in listing.files.into_iter().zip(paths) {
            let path = match path {
                Ok(path) => path,
                Err(e) => {
                    skipped.push(e);
                    continue;
                }
            };
            // The permit is taken before the task is started, because a folder may have a million files.
            let Ok(permit) = self.permit(cancel).await else { break };
            let (getter, protocol) = (self.clone(), Arc::clone(&protocol));
            let (path, events, cancel) = (folder.join(path), events.clone(), cancel.clone());
            running.spawn(async move {
                let _permit = permit;
                let source = DownloadSource::new(vec![Mirror::new(protocol, entry.remote)])?;
                let checksums = Vec::new();
                let (getter, events, cancel) = (&getter, &events, &cancel);
                FileJob { getter, source, path, checksums, events, cancel }.run().await
            });
        }
        let fetched = wait_all(running, skipped).await?;
        match cancel.is_cancelled() {
            true => Err(Error::new(Kind::Cancelled, "stopped")),
            false => Ok(fetched),
        }
    }
}

/// The number of files to download at once: as requested, or fewer where the limit of open files requires it.
fn max_jobs(options: &GetOptions) -> usize {
    // Descriptors per file: its connections, one idle connection, the file itself, and its state file during a save.
    let each =
        options.fetch_limits.per_server.min(options.fetch_limits.per_file).saturating_add(3) as u64;
    let (jobs, others) = (options.jobs.max(1), 64);
    let limit = open_files::raise_limit((jobs as u64).saturating_mul(each).saturating_add(others));
    let fit = usize::try_from(limit.saturating_sub(others) / each).unwrap_or(usize::MAX).max(1);
    if fit < jobs {
        tracing::warn!(
            "downloading {fit} files at once instead of {jobs}: the limit of open files is too low (ulimit -n)"
        );
    }
    jobs.min(fit)
}

/// What the URLs of an item are: mirrors of one file, or a folder.
enum ResolvedItem {
    File(DownloadSource),
    Folder(Box<(Url, Listing)>),
}

/// Waits for all files, even when some fail. All errors are logged, and the first is returned. `skipped` has the errors
/// of files that could not be started.
async fn wait_all(
    mut running: JoinSet<Result<Option<FetchedFile>>>,
    skipped: Vec<Error>,
) -> Result<Vec<FetchedFile>> {
    let (mut fetched, mut failed) = (Vec::new(), None);
    for error in skipped {
        tracing::warn!("{}", error.report());
        failed.get_or_insert(error);
    }
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|e| {
            Err(Error::new(Kind::Internal, "downloading a file panicked").because(e))
        });
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
pub(super) fn local_paths(listing: &Listing) -> Vec<Result<String>> {
    let with_url = |file: &ListedFile, e: Error| {
        Error::new(Kind::Unsupported, e.report()).with_context(display_url(&file.remote.url))
    };
    let safe_path =
        |file: &ListedFile| names::server_path(&file.path).map_err(|e| with_url(file, e));
    let paths: Vec<_> = listing.files.iter().map(safe_path).collect();
    let mut folders = HashSet::new();
    for path in paths.iter().flatten() {
        folders.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
    }
    let mut seen = HashSet::new();
    let unique_path = |(path, file): (Result<String>, &ListedFile)| {
        let path = path?;
        let refused = |reason: &str| with_url(file, Error::new(Kind::Unsupported, reason));
        if folders.contains(&path) {
            return Err(refused("a folder has the same name"));
        }
        match seen.insert(path.clone()) {
            true => Ok(path),
            false => Err(refused("another file of the folder has the same local name")),
        }
    };
    paths.into_iter().zip(&listing.files).map(unique_path).collect()
}

pub(super) fn folder_name(listing: &Listing) -> Result<String> {
    let host = || listing.url.host_str().unwrap_or("folder").to_owned();
    let name = names::server_component(listing.name.as_bytes());
    Ok(name.map_err(|e| e.hint("name the file with -o"))?.unwrap_or_else(host))
}

/// The local name of a file without a user-given name: the server's name for it, else the last part of the URL's path.
/// An unsafe server name is ignored, not sanitised: the result would be a name that neither server nor user has chosen.
pub(super) fn file_name(remote: &RemoteFile) -> Result<String> {
    let by_server = remote.name.as_deref().map(|name| names::server_component(name.as_bytes()));
    if let Some(Ok(Some(name))) = by_server {
        return Ok(name);
    }
    let last = remote.requested_url.path().rsplit('/').next().unwrap_or_default();
    let last: Vec<u8> = percent_encoding::percent_decode_str(last).collect();
    // A decoded name may contain slashes. Only the part after the last one is used, as for names from servers.
    let last = last.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match names::server_component(last) {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Ok("index.html".to_owned()),
        Err(e) => Err(e.hint("name the file with -o")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(url: &str, name: Option<&str>) -> Result<String> {
        let remote = RemoteFile {
            name: name.map(str::to_owned),
            ..RemoteFile::from_url(url.parse().unwrap())
        };
        file_name(&remote)
    }

    #[test]
    fn a_file_has_the_name_from_the_server_or_else_from_the_url() {
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
    fn a_file_without_a_safe_path_does_not_affect_the_others() {
        let url: Url = "ftp://h/f/".parse().unwrap();
        let entry = |path: &&str| {
            let remote = RemoteFile::from_url(url.join(path).unwrap());
            ListedFile { path: (*path).to_owned(), remote }
        };
        let paths = ["a/b", "a", "aux", "bad\tname", "x\u{200e}", "x"];
        let listing = Listing {
            files: paths.iter().map(entry).collect(),
            url: url.clone(),
            name: "f".into(),
            skipped: Vec::new(),
        };
        let found = local_paths(&listing);
        let result = |at: usize| found[at].as_ref().map_err(Error::report).cloned();
        assert_eq!(result(0).unwrap(), "a/b");
        assert!(result(1).unwrap_err().contains("a folder has the same name"));
        assert_eq!(result(2).unwrap(), "aux");
        assert!(result(3).unwrap_err().starts_with("h/f/bad"), "{:?}", result(3));
        assert_eq!(result(4).unwrap(), "x");
        assert!(result(5).unwrap_err().contains("another file"));
    }
}
