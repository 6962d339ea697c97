//! `get`: downloads URLs to plain local files, several at a time.
//!
//! A [`Getter`] takes one [`GetItem`] after the other. It probes the URLs, chooses a local path, and runs
//! one [`FileJob`] for the file, or one for each file of a folder. Connections, rate limit and memory are shared by all
//! files.

pub(super) mod claims;
pub(super) mod file;
pub(super) mod folder;
pub(super) mod probe_progress;

use std::{path::PathBuf, sync::Arc};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::probe_progress::{ProbeProgress, provisional_path};
use self::{claims::Claims, file::FileJob, folder::local_paths};
use crate::{
    downloads::{
        DownloadSource, FetchLimits, FirstRequest, Mirror, ResumePolicy, Sink, fetch_sidecar_digest,
    },
    error::{Error, Kind, Result},
    events::{EventSink, FetchedFile, FoundFile},
    hints::{Setting, hint},
    memory::Budget,
    names, open_files,
    protocols::{
        Digest, FetchOptions, FirstResponse, Listing, Protocols, RemoteFile, Rendition, UrlTarget,
        display_url,
    },
    rate::RateLimit,
    units::ByteSize,
};

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
    /// Maximum payload bytes held in memory, over all files.
    pub memory: ByteSize,
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

/// What a download would fetch.
#[derive(Debug, Clone)]
pub struct GetPreview {
    pub files: Vec<FoundFile>,
    /// All renditions of a stream.
    pub renditions: Vec<Rendition>,
}

/// Downloads items. All downloads share its limits and connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Getter {
    pub(super) options: Arc<GetOptions>,
    pub(super) limit: Arc<RateLimit>,
    pub(super) memory: Budget,
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
            memory: Budget::new(options.memory.0),
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
        let path = item.urls.first().map(|url| provisional_path(url, &item));
        let report = |e: &Error| events.file_failed(path.as_deref(), e);
        match self.resolve(&item, events, cancel).await.inspect_err(report)? {
            ResolvedItem::File(source) => {
                let job = self.file_job(item, source, events, cancel).await;
                Ok(job.inspect_err(report)?.run().await?.into_iter().collect())
            }
            ResolvedItem::Folder(folder) => {
                drop(permit);
                let (url, listing) = *folder;
                let folder = self.target_folder(&item, &url, &listing).inspect_err(report)?;
                self.get_folder(&folder, url, listing, events, cancel).await
            }
        }
    }

    async fn file_job<'a>(
        &'a self,
        item: GetItem,
        source: DownloadSource,
        events: &'a EventSink,
        cancel: &'a CancellationToken,
    ) -> Result<FileJob<'a>> {
        let path = self.path(&item, &source)?;
        let mut checksums = item.checksums;
        if self.options.sidecar {
            checksums.push(self.sidecar_checksum(&item.urls[0], cancel).await?);
        }
        Ok(FileJob { getter: self, source, path, checksums, events, cancel })
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
        let path = item.out.clone();
        let done = self.get_to_sink(item, sink, events, cancel).await;
        done.inspect_err(|e| events.file_failed(path.as_deref(), e))
    }

    async fn get_to_sink(
        &self,
        item: GetItem,
        sink: Sink,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<FetchedFile> {
        let ResolvedItem::File(source) = self.resolve(&item, events, cancel).await? else {
            let text = format!("{} is a folder, not a file", display_url(&item.urls[0]));
            return Err(Error::new(Kind::InvalidInput, text)
                .hint(hint!["download it into a folder with ", Setting::OutFolder]));
        };
        let mut checksums = item.checksums;
        if self.options.sidecar {
            checksums.push(self.sidecar_checksum(&item.urls[0], cancel).await?);
        }
        let path = item.out.unwrap_or_default();
        FileJob { getter: self, source, path, checksums, events, cancel }.run_to_sink(sink).await
    }

    /// What [`Getter::get`] would download. No payload is downloaded.
    ///
    /// # Errors
    /// Errors of the URL or the server.
    pub async fn preview(
        &self,
        item: &GetItem,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<GetPreview> {
        let url = &item.urls[0];
        let protocol = self.protocols.for_url(url, self.options.protocol.as_deref())?;
        let renditions = tokio::select! {
            found = protocol.renditions(url) => found?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
        };
        let file = |path: PathBuf, remote: &RemoteFile| FoundFile {
            url: display_url(&remote.requested_url),
            path: path.display().to_string(),
            bytes: remote.len,
            stored: 0,
        };
        let files = match self.resolve(item, events, cancel).await? {
            ResolvedItem::File(source) => vec![file(self.path(item, &source)?, &source.remote())],
            ResolvedItem::Folder(folder) => {
                let (url, listing) = &*folder;
                let folder = self.target_folder(item, url, listing)?;
                let files = listing.files.iter().zip(local_paths(listing));
                files
                    .map(|(found, path)| Ok(file(folder.join(path?), &found.remote)))
                    .collect::<Result<_>>()?
            }
        };
        Ok(GetPreview { files, renditions })
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

    /// The local path of a single file, not one of a folder.
    fn path(&self, item: &GetItem, source: &DownloadSource) -> Result<PathBuf> {
        match &item.out {
            Some(out) => Ok(item.dir.join(out)),
            None => Ok(item.dir.join(file_name(&source.remote())?)),
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

fn with_name_hint(error: Error) -> Error {
    error.hint(hint!["name the file with ", Setting::OutName])
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
        Err(e) => Err(with_name_hint(e)),
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
}
