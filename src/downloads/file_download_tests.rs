use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Notify;

use super::*;
use crate::{
    downloads::source::Mirror,
    memory::Budget,
    protocols::{Protocol, RangeRequest, RemoteFile, UrlTarget},
};

const LEN: usize = 4 << 20;

/// A server that refuses each further request when the file is written, and a target that then waits for the refusal.
#[derive(Debug)]
struct LateRefusal {
    memory: Budget,
    written: AtomicUsize,
    is_written: Notify,
    refused: Notify,
}

#[async_trait]
impl Protocol for Arc<LateRefusal> {
    async fn probe(&self, _: &url::Url) -> Result<UrlTarget> {
        Err(Error::new(Kind::Changed, "another version"))
    }

    async fn open(&self, _: &RemoteFile, _: RangeRequest) -> Result<ByteStream> {
        self.is_written.notified().await;
        self.refused.notify_one();
        Err(Error::new(Kind::Changed, "another version"))
    }
}

#[async_trait]
impl Target for LateRefusal {
    fn memory(&self) -> &Budget {
        &self.memory
    }

    async fn wait_for_capacity(&self) -> Result<()> {
        Ok(())
    }

    async fn write_at(&self, _: u64, parts: Vec<Bytes>) -> Result<()> {
        let len: usize = parts.iter().map(Bytes::len).sum();
        if self.written.fetch_add(len, Ordering::Relaxed) + len == LEN {
            self.is_written.notify_one();
            self.refused.notified().await;
        }
        Ok(())
    }

    async fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    async fn restart(&self, _: &RemoteFile) -> Result<()> {
        panic!("the file was fetched again");
    }
}

/// The first worker ends, and marks the first response as read, before the refusal of the other worker is handled.
#[tokio::test]
async fn a_refusal_that_is_handled_after_the_last_byte_ends_no_download() {
    let server = Arc::new(LateRefusal {
        memory: Budget::new(64 << 20),
        written: AtomicUsize::new(0),
        is_written: Notify::new(),
        refused: Notify::new(),
    });
    let mut remote = RemoteFile::from_url("http://host/f".parse().unwrap());
    (remote.len, remote.supports_ranges) = (Some(LEN as u64), true);
    let parts = (0..LEN / (64 << 10)).map(|_| Ok(Bytes::from(vec![7; 64 << 10])));
    let first: ByteStream = Box::pin(stream::iter(parts.collect::<Vec<_>>()));
    let mirror = Mirror::with_first_response(Arc::new(Arc::clone(&server)), remote, Some(first));
    let source = DownloadSource::new(vec![mirror]).unwrap();
    let limits = FetchLimits { per_server: 2, ..FetchLimits::default() };
    let (target, sink) = (Arc::clone(&server), Box::new(|_| {}));
    let none = RangeSet::new();
    let download = FileDownload::new(source, target, None, &none, limits, Vec::new(), sink);
    let done = download.run(&CancellationToken::new()).await.unwrap();
    assert_eq!(done.len, LEN as u64);
}
