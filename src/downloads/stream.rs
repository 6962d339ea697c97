//! Downloads a file in one pass from its first byte, when the server supports no ranges or does not even send a length.
//! After a failure the pass starts over.

use std::ops::Range;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{fetch::Fetch, holes::Holes, worker::Batch};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, Wanted, next},
    storage::RangeSet,
};

impl Fetch {
    /// `first` is the stream of the first pass, if the first request has opened it.
    pub(super) async fn in_one_pass(
        &mut self,
        mut first: Option<ByteStream>,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut again = false;
        loop {
            let pass = self.one_pass(first.take(), again);
            let error = tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                done = pass => match done {
                    Ok(len) => return Ok(len),
                    Err(error) => error,
                },
            };
            // The bytes of a broken pass are useless without the rest, so they do not count as progress.
            if !error.kind().is_retryable() || !self.tries.again(&error, 0) {
                return Err(error);
            }
            again = true;
            (self.sink)(self.snapshot(0, self.tries.trouble()));
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                () = self.tries.wait() => {}
            }
        }
    }

    async fn one_pass(&mut self, first: Option<ByteStream>, again: bool) -> Result<u64> {
        let stream = match first {
            Some(first) => first,
            None => self.open_whole(again).await?,
        };
        let remote = self.shared.source.remote();
        if !self.part {
            self.range = remote.len.map(|len| 0..len);
        }
        self.shared.target.restart(&remote).await?;
        let range = self.range.clone();
        let holes = range.clone().unwrap_or(0..u64::MAX);
        *self.shared.holes.lock() = Holes::new(holes, &RangeSet::new(), u64::MAX, self.effort.cut);
        let len = self.drain(stream, Window::of(range.as_ref())).await?;
        match range {
            Some(range) if len < range.end - range.start => {
                Err(Error::new(Kind::Network, "the connection ended before the file did"))
            }
            _ => Ok(len),
        }
    }

    /// Opens the stream by a request like the first, if the protocol returns bytes with it, and accepts the version
    /// that it returns. Otherwise opens it by a range request. Opened `again`, a file whose length and version are known
    /// must be the same: servers answer with pages of their own too, for example for a login.
    async fn open_whole(&self, again: bool) -> Result<ByteStream> {
        let mirror = &self.shared.source.mirrors()[0];
        let known = mirror.remote();
        let same = again && known.len.is_some() && known.validator.is_some();
        if mirror.begins()
            && let Some(first) = mirror.begin_again(same).await?
        {
            return Ok(first);
        }
        let end = self.range.as_ref().map(|range| range.end);
        let changed = match mirror.open(Wanted { start: 0, end }).await {
            Err(e) if e.kind() == Kind::Changed && !same => e,
            opened => return opened,
        };
        // A pass keeps nothing of the version that was probed, so the current one is accepted.
        mirror.begin_again(false).await?.ok_or(changed)
    }

    /// Writes the stream to the target as far as the window shows it. Returns the number of bytes written.
    async fn drain(&self, mut stream: ByteStream, mut window: Window) -> Result<u64> {
        let taken = self.shared.holes.lock().take(1);
        let Some((id, _)) = taken else { return Ok(0) };
        let mut batch = Batch::at(window.skip);
        let mut len = 0;
        let mut told = tokio::time::Instant::now();
        loop {
            self.shared.target.room().await?;
            let came = next(&mut stream).await.transpose()?;
            let ended = came.is_none();
            if let Some(bytes) = came.map(|bytes| window.cut(bytes)) {
                self.shared.arrived(bytes.len() as u64).await;
                self.shared.holes.lock().grant(id, bytes.len() as u64);
                batch.push(bytes);
            }
            let ended = ended || window.left == 0;
            let due = batch.is_due() || ended;
            if let Some((pos, part, bytes)) = if due { batch.take() } else { None } {
                self.shared.target.write(pos, bytes).await?;
                self.shared.holes.lock().wrote(id, part);
                len += part;
            }
            if ended {
                return Ok(len);
            }
            if told.elapsed() >= super::fetch::TICK {
                told = tokio::time::Instant::now();
                (self.sink)(self.snapshot(1, None));
            }
        }
    }
}

/// The wanted part of a stream that starts at byte 0 of the file.
struct Window {
    /// How many bytes come before it.
    skip: u64,
    left: u64,
}

impl Window {
    fn of(range: Option<&Range<u64>>) -> Self {
        let (skip, end) = range.map_or((0, u64::MAX), |range| (range.start, range.end));
        Self { skip, left: end.saturating_sub(skip) }
    }

    /// The bytes that are in the window, of those that come next.
    fn cut(&mut self, mut bytes: Bytes) -> Bytes {
        let before = self.skip.min(bytes.len() as u64);
        self.skip -= before;
        let _ = bytes.split_to(usize::try_from(before).unwrap_or(usize::MAX));
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_the_range_and_nothing_behind_it() {
        let mut window = Window::of(Some(&(3..6)));
        let shown: Vec<_> =
            ["ab", "cde", "fgh", "i"].map(|text| window.cut(Bytes::from(text))).into();
        assert_eq!(shown.concat(), b"def");
        assert_eq!(window.left, 0);
        let mut all = Window::of(None);
        assert_eq!(all.cut(Bytes::from("abc")), "abc");
    }
}
