//! A target whose reader takes the bytes in order, from the first to the last, and cannot give any back.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    checksum::{Check, Checksums},
    target::Target,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::Remote,
};

/// Writes bytes to the reader. Blocks while the reader is slow.
pub type Sink = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// The reader, as a target. Only one connection at a time may write, in order.
pub struct PipeTarget {
    state: Arc<Mutex<State>>,
    start: u64,
    /// The version of the file that the reader receives.
    version: Mutex<Remote>,
}

struct State {
    sink: Sink,
    /// The position of the next byte for the reader.
    next: u64,
    check: Check,
}

impl std::fmt::Debug for PipeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipeTarget").field("start", &self.start).finish_non_exhaustive()
    }
}

impl PipeTarget {
    /// `start` is the first wanted byte. A second pass must be proven to return the same version.
    #[must_use]
    pub fn new(sink: Sink, start: u64, version: Remote, checksums: &Checksums) -> Self {
        let state = State { sink, next: start, check: checksums.check() };
        Self { state: Arc::new(Mutex::new(state)), start, version: Mutex::new(version) }
    }

    /// Verifies the checksums, after all bytes are written.
    ///
    /// # Errors
    /// `Corrupt`; the reader has received the bytes by then.
    pub fn finish(self, what: &dyn std::fmt::Display) -> Result<()> {
        let state = Arc::into_inner(self.state)
            .ok_or_else(|| Error::new(Kind::Internal, format!("{what} is still being written")))?;
        state.into_inner().check.finish(what)
    }
}

#[async_trait]
impl Target for PipeTarget {
    async fn room(&self) -> Result<()> {
        Ok(())
    }

    async fn write(&self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        let state = Arc::clone(&self.state);
        // On a blocking thread, since the reader may be slow.
        let written = tokio::task::spawn_blocking(move || state.lock().write(pos, parts));
        written.await.unwrap_or_else(|e| Err(Error::new(Kind::Internal, "output").because(e)))
    }

    /// Nothing to do: written bytes are with the reader.
    async fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// When the file is sent again, bytes that the reader already has are skipped.
    async fn restart(&self, now: &Remote) -> Result<()> {
        let mut version = self.version.lock();
        if version.is_same(now) || self.state.lock().next == self.start {
            *version = now.clone();
            return Ok(());
        }
        let text = "the file would have to come again from its start, and its server does not tell whether it is the same";
        Err(Error::new(Kind::Changed, text)
            .hint("what was written already is of no use: begin anew"))
    }
}

/// Maps an error of the reader to a kind that is not retried.
fn not_taken(e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(Kind::Unsupported, "the output is not read any more").because(e);
    }
    let error = Error::io("output", e);
    match error.kind().is_retryable() {
        true => Error::new(Kind::Internal, error.report()),
        false => error,
    }
}

impl State {
    fn write(&mut self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        if pos > self.next {
            let text = format!("byte {pos} came before byte {}", self.next);
            return Err(Error::new(Kind::Internal, text));
        }
        let mut known = self.next - pos;
        for mut part in parts {
            let again = known.min(part.len() as u64);
            known -= again;
            let _ = part.split_to(usize::try_from(again).unwrap_or(usize::MAX));
            (self.sink)(&part).map_err(not_taken)?;
            self.check.update(&part);
            self.next += part.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{downloads::checksum::parse, protocols::Validator};

    fn version(proven: bool) -> Remote {
        let validator = proven.then(|| Validator::ETag("\"a\"".into()));
        Remote { validator, ..Remote::at("http://x/f".parse().unwrap()) }
    }

    fn target(proven: bool, md5: &str) -> (PipeTarget, Arc<Mutex<Vec<u8>>>) {
        let got: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = {
            let got = Arc::clone(&got);
            Box::new(move |bytes: &[u8]| {
                got.lock().extend_from_slice(bytes);
                Ok(())
            })
        };
        let checksums = Checksums::new([parse(&format!("md5={md5}")).unwrap()]);
        (PipeTarget::new(sink, 3, version(proven), &checksums), got)
    }

    const MD5_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";

    #[tokio::test]
    async fn a_second_pass_brings_only_what_the_reader_has_not() {
        let (target, got) = target(true, MD5_ABC);
        target.write(3, vec!["a".into()]).await.unwrap();
        target.restart(&version(true)).await.unwrap();
        target.write(3, vec!["ab".into()]).await.unwrap();
        target.write(5, vec!["c".into()]).await.unwrap();
        assert_eq!(*got.lock(), b"abc");
        target.finish(&"f").unwrap();
    }

    #[tokio::test]
    async fn nothing_is_left_out_and_nothing_is_begun_anew_unproven() {
        let (target, got) = target(false, MD5_ABC);
        assert_eq!(target.write(4, vec!["b".into()]).await.unwrap_err().kind(), Kind::Internal);
        target.restart(&version(false)).await.unwrap();
        target.write(3, vec!["x".into()]).await.unwrap();
        for now in [version(false), version(true)] {
            assert_eq!(target.restart(&now).await.unwrap_err().kind(), Kind::Changed);
        }
        assert_eq!(*got.lock(), b"x");
        assert_eq!(target.finish(&"f").unwrap_err().kind(), Kind::Corrupt);
    }
}
