//! Downloads a file in one pass from its first byte, when the server supports no ranges or does not even send a length.
//! After a failure the pass starts over.

use std::{
    future::Future,
    ops::Range,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    file_download::{FileDownload, PROGRESS_INTERVAL},
    range_scheduler::{RangeScheduler, RunId},
    worker::Batch,
};
use crate::{
    error::{Error, Kind, Result},
    memory::Share,
    protocols::{ByteStream, RangeRequest, SegmentedFile, next_bytes},
    storage::RangeSet,
};

/// Time for the segments in flight when a recording is stopped.
const FINISH_TIMEOUT: Duration = Duration::from_secs(20);

impl FileDownload {
    /// `first` is the stream of the first pass, if the first request has opened it.
    pub(super) async fn run_in_one_pass(
        &mut self,
        mut first: Option<ByteStream>,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut is_retry = false;
        loop {
            let error = match self.run_pass_until_stopped(first.take(), is_retry, cancel).await {
                Ok(len) => return Ok(len),
                Err(error) => error,
            };
            // The bytes of a broken pass are useless without the rest, so they do not count as progress.
            if !error.kind().is_retryable() || !self.tries.allows_retry(&error, 0) {
                return Err(error);
            }
            is_retry = true;
            (self.sink)(self.snapshot(0, self.tries.trouble()));
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                () = self.tries.wait() => {}
            }
        }
    }

    async fn run_pass_until_stopped(
        &mut self,
        first: Option<ByteStream>,
        is_retry: bool,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let live = self.shared.source.live_stream();
        let mut pass = pin!(self.run_pass(first, is_retry));
        tokio::select! {
            () = cancel.cancelled() => match live {
                Some(stream) => finish_recording(&stream, pass).await,
                None => Err(Error::new(Kind::Cancelled, "stopped")),
            },
            done = &mut pass => done,
        }
    }

    async fn run_pass(&mut self, first: Option<ByteStream>, is_retry: bool) -> Result<u64> {
        let stream = match first {
            Some(first) => first,
            None => self.open_from_start(is_retry).await?,
        };
        let remote = self.shared.source.remote();
        if !self.is_partial {
            self.range = remote.len.map(|len| 0..len);
        }
        self.shared.target.restart(&remote).await?;
        let range = self.range.clone();
        let wanted = range.clone().unwrap_or(0..u64::MAX);
        *self.shared.scheduler.lock() =
            RangeScheduler::new(wanted, &RangeSet::new(), u64::MAX, self.limits.strategy);
        let len = self.write_stream(stream, RangeFilter::of(range.as_ref())).await?;
        match range {
            Some(range) if len < range.end - range.start => {
                Err(Error::new(Kind::Network, "connection closed before the end of the file"))
            }
            _ => Ok(len),
        }
    }

    /// Opens the stream by a request like the first, if the protocol returns bytes with it, and accepts the version
    /// that it returns. Otherwise opens it by a range request. In a retry, a file whose length and version are known
    /// must be the same: servers answer with pages of their own too, for example for a login.
    async fn open_from_start(&self, is_retry: bool) -> Result<ByteStream> {
        let mirror = &self.shared.source.mirrors()[0];
        let known = mirror.remote();
        let must_match = is_retry && known.len.is_some() && known.validator.is_some();
        if mirror.first_request_has_body()
            && let Some(first) = mirror.repeat_first_request(must_match).await?
        {
            return Ok(first);
        }
        let end = self.range.as_ref().map(|range| range.end);
        let changed = match mirror.open(RangeRequest { start: 0, end }).await {
            Err(e) if e.kind() == Kind::Changed && !must_match => e,
            opened => return opened,
        };
        // A pass keeps nothing of the version that was probed, so the current one is accepted.
        mirror.repeat_first_request(false).await?.ok_or(changed)
    }

    /// Writes the stream to the target as far as `filter` passes it. Returns the number of bytes written.
    async fn write_stream(&self, mut stream: ByteStream, mut filter: RangeFilter) -> Result<u64> {
        let taken = self.shared.scheduler.lock().take(1);
        let Some((id, _)) = taken else { return Ok(0) };
        let memory = self.shared.target.memory();
        let mut batch = Batch::at(filter.skip, memory);
        let mut len = 0;
        let mut last_report = tokio::time::Instant::now();
        loop {
            // The batch is written first: it would hold what it waits for.
            if memory.share(Share::Bodies).is_full() {
                len += self.write_batch(id, &mut batch).await?;
                memory.wait_for_room(Share::Bodies).await;
            }
            self.shared.target.wait_for_capacity().await?;
            let next = tokio::time::timeout(PROGRESS_INTERVAL, next_bytes(&mut stream)).await;
            let Ok(received) = next else {
                // Between the segments of a live stream nothing comes for seconds.
                len += self.write_batch(id, &mut batch).await?;
                (self.sink)(self.snapshot(1, None));
                continue;
            };
            let received = received.transpose()?;
            let ended = received.is_none();
            if let Some(bytes) = received.map(|bytes| filter.clip(bytes)) {
                self.shared.record_received(bytes.len() as u64).await;
                self.shared.scheduler.lock().grant(id, bytes.len() as u64);
                batch.push(bytes);
            }
            let ended = ended || filter.remaining == 0;
            if batch.is_due() || ended {
                len += self.write_batch(id, &mut batch).await?;
            }
            if ended {
                return Ok(len);
            }
            if last_report.elapsed() >= PROGRESS_INTERVAL {
                last_report = tokio::time::Instant::now();
                (self.sink)(self.snapshot(1, None));
            }
        }
    }

    /// Returns the number of bytes written.
    async fn write_batch(&self, id: RunId, batch: &mut Batch) -> Result<u64> {
        let Some((pos, len, bytes)) = batch.take() else { return Ok(0) };
        self.shared.target.write_at(pos, bytes).await?;
        self.shared.scheduler.lock().wrote(id, len);
        Ok(len)
    }
}

/// Ends the recording of a live stream on request: the segments that are in flight are its last ones.
async fn finish_recording(
    stream: &SegmentedFile,
    pass: Pin<&mut impl Future<Output = Result<u64>>>,
) -> Result<u64> {
    stream.finish();
    let stopped = |_| Err(Error::new(Kind::Cancelled, "stopped"));
    tokio::time::timeout(FINISH_TIMEOUT, pass).await.unwrap_or_else(stopped)
}

/// Passes the wanted range of a stream that starts at byte 0 of the file.
struct RangeFilter {
    /// How many bytes come before the range.
    skip: u64,
    remaining: u64,
}

impl RangeFilter {
    fn of(range: Option<&Range<u64>>) -> Self {
        let (skip, end) = range.map_or((0, u64::MAX), |range| (range.start, range.end));
        Self { skip, remaining: end.saturating_sub(skip) }
    }

    /// The bytes that are in the range, of those that come next.
    fn clip(&mut self, mut bytes: Bytes) -> Bytes {
        let before = self.skip.min(bytes.len() as u64);
        self.skip -= before;
        let _ = bytes.split_to(usize::try_from(before).unwrap_or(usize::MAX));
        bytes.truncate(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.remaining -= bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_passes_only_the_bytes_of_its_range() {
        let mut filter = RangeFilter::of(Some(&(3..6)));
        let passed: Vec<_> =
            ["ab", "cde", "fgh", "i"].map(|text| filter.clip(Bytes::from(text))).into();
        assert_eq!(passed.concat(), b"def");
        assert_eq!(filter.remaining, 0);
        let mut all = RangeFilter::of(None);
        assert_eq!(all.clip(Bytes::from("abc")), "abc");
    }
}
