//! `get`: URLs to plain local files, several at a time. `get_file` has the way of one file.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::get_file::FileJob;
use crate::{
    downloads::{Effort, Mirror, Resume, Sink, Source, WriteRoom, beside, find},
    error::{Error, Kind, Result},
    events::{EventSink, FetchedFile},
    names,
    protocols::{Digest, FetchOptions, Found, Listing, Protocols, Remote, place},
    rate::RateLimit,
    torrents::keep_heap_steady,
};

/// What may wait for the disk, over all files: enough that no connection waits for a write that a fast one takes at once.
const WRITE_ROOM: usize = 2 << 20;

/// How files are fetched; the same for all of a run.
#[derive(Debug, Clone)]
pub struct GetOrder {
    pub fetch: FetchOptions,
    /// Speaks for every URL, whatever its own scheme.
    pub protocol: Option<String>,
    pub effort: Effort,
    /// Files at once (at least 1).
    pub jobs: usize,
    /// Bytes a second, over all files.
    pub limit: Option<u64>,
    /// Bytes a second, for each file.
    pub limit_each: Option<u64>,
    pub resume: Resume,
    /// The checksum that lies beside a file counts as well.
    pub beside: bool,
    /// Also where there is a file of that name already.
    pub overwrite: bool,
    /// The first byte wanted, and the one behind the last.
    pub range: Option<(u64, Option<u64>)>,
}

/// One thing to be fetched.
#[derive(Debug, Clone)]
pub struct GetItem {
    /// Of one file, or of one folder. Several are mirrors: servers that have the same file.
    pub urls: Vec<Url>,
    /// The folder it goes to.
    pub dir: PathBuf,
    /// Its name there, or its path; `None` is what the server calls it.
    pub out: Option<PathBuf>,
    pub checksums: Vec<Digest>,
}

/// Fetches, with the connections and limits that all share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Getter {
    pub(super) order: Arc<GetOrder>,
    pub(super) limit: Arc<RateLimit>,
    pub(super) room: WriteRoom,
    protocols: Protocols,
    turns: Arc<Semaphore>,
}

impl Getter {
    #[must_use]
    pub fn new(order: GetOrder) -> Self {
        // Read buffers come and go all the time.
        keep_heap_steady();
        Self {
            limit: RateLimit::new(order.limit),
            room: WriteRoom::new(WRITE_ROOM),
            protocols: Protocols::new(order.fetch.clone()),
            turns: Arc::new(Semaphore::new(order.jobs.max(1))),
            order: Arc::new(order),
        }
    }

    /// Changes the limit over all files, also of those under way.
    pub fn set_limit(&self, bytes_per_second: Option<u64>) {
        self.limit.set(bytes_per_second);
    }

    /// Fetches the file or folder that `item` names. Returns when all of it is there under its name, a summary a file.
    ///
    /// # Errors
    /// What is wrong with the URL or the server; `AlreadyExists` and `Changed` as the order says; `NoSpace`; `Corrupt`
    /// when a checksum is another; `Cancelled`. What came is kept, for the same call again.
    pub async fn get(
        &self,
        item: GetItem,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<FetchedFile>> {
        let turn = self.turn(cancel).await?;
        match self.find(&item.urls, cancel).await? {
            Mirrors::File(source) => {
                let path = self.path(&item, &source)?;
                let mut checksums = item.checksums;
                if self.order.beside {
                    checksums.push(self.beside(&item.urls[0], cancel).await?);
                }
                let job = FileJob { getter: self, source, path, checksums, events, cancel };
                Ok(vec![job.run().await?])
            }
            Mirrors::Folder(folder) => {
                drop(turn);
                let (url, listing) = *folder;
                self.get_folder(&item, url, listing, events, cancel).await
            }
        }
    }

    /// Fetches the file that `item` names and hands it to `sink`, from its first byte to its last; nothing is kept of it
    /// here.
    ///
    /// # Errors
    /// As [`Getter::get`]; `InvalidInput` for a folder. What was handed on stays that, also when a checksum is another.
    pub async fn get_to(
        &self,
        item: GetItem,
        sink: Sink,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<FetchedFile> {
        let Mirrors::File(source) = self.find(&item.urls, cancel).await? else {
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

    /// Waits until a file may be fetched.
    async fn turn(&self, cancel: &CancellationToken) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let stopped = || Error::new(Kind::Cancelled, "stopped");
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(stopped()),
            turn = Arc::clone(&self.turns).acquire_owned() => turn.map_err(|_| stopped()),
        }
    }

    async fn find(&self, urls: &[Url], cancel: &CancellationToken) -> Result<Mirrors> {
        let mut mirrors = Vec::new();
        let mut failed = None;
        for url in urls {
            let protocol = self.protocols.of(url, self.order.protocol.as_deref())?;
            match find(&protocol, url, self.order.effort.max_tries, cancel).await {
                Ok(Found::File(remote)) => mirrors.push(Mirror::new(protocol, remote)),
                Ok(Found::Folder(listing)) if urls.len() == 1 => {
                    return Ok(Mirrors::Folder(Box::new((url.clone(), listing))));
                }
                Ok(Found::Folder(_)) => {
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

    /// Where a file goes that is no folder's.
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
        if listing.files.is_empty() {
            tracing::warn!("{}: the folder has no files", place(&url));
        }
        let paths = paths_below(&listing)?;
        let mut running: JoinSet<Result<FetchedFile>> = JoinSet::new();
        let protocol = self.protocols.of(&url, self.order.protocol.as_deref())?;
        for (entry, path) in listing.files.into_iter().zip(paths) {
            // Before it is begun: there may be a million files.
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
        let fetched = all_of(running).await?;
        match cancel.is_cancelled() {
            true => Err(Error::new(Kind::Cancelled, "stopped")),
            false => Ok(fetched),
        }
    }
}

/// What the URLs of an item are.
enum Mirrors {
    File(Source),
    Folder(Box<(Url, Listing)>),
}

/// Every file has its turn, whatever became of the others; the first error is the folder's.
async fn all_of(mut running: JoinSet<Result<FetchedFile>>) -> Result<Vec<FetchedFile>> {
    let (mut fetched, mut failed) = (Vec::new(), None);
    while let Some(ended) = running.join_next().await {
        let ended =
            ended.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "a file failed").because(e)));
        match ended {
            Ok(file) => fetched.push(file),
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

/// The paths of the files of a folder below it, made safe.
pub(super) fn paths_below(listing: &Listing) -> Result<Vec<String>> {
    let safe = |path: &str| names::join("", path.split('/').map(str::as_bytes));
    let paths: Vec<_> = listing.files.iter().map(|file| safe(&file.path)).collect::<Result<_>>()?;
    names::refuse_collisions(paths.iter().map(String::as_str))?;
    Ok(paths)
}

pub(super) fn folder_name(listing: &Listing) -> Result<String> {
    let host = || listing.url.host_str().unwrap_or("folder").to_owned();
    Ok(names::component(listing.name.as_bytes())?.unwrap_or_else(host))
}

/// What a file is called that the user gave no name: what its server calls it, else the end of the URL's path. A name
/// that cannot be used is passed over, not mended: it would then be nobody's.
pub(super) fn file_name(remote: &Remote) -> Result<String> {
    let by_server = remote.name.as_deref().map(|name| names::component(name.as_bytes()));
    if let Some(Ok(Some(name))) = by_server {
        return Ok(name);
    }
    let last = remote.asked.path().rsplit('/').next().unwrap_or_default();
    let last: Vec<u8> = percent_encoding::percent_decode_str(last).collect();
    match names::component(&last) {
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
        for bad in ["http://x/a%2Fb", "http://x/%00", "http://x/a%2F..%2F..%2Fpasswd"] {
            assert_eq!(named(bad, None).unwrap_err().kind(), Kind::InvalidInput, "{bad}");
        }
    }
}
