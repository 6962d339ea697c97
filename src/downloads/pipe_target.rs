//! A target whose reader takes the bytes in order, from the first to the last, and cannot return any.

use std::{io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    checksum::{ChecksumVerifier, Checksums},
    target::Target,
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    memory::Budget,
    protocols::RemoteFile,
};

/// Writes bytes to the reader. Blocks while the reader is slow.
pub type Sink = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// The reader, as a target. Only one connection at a time may write, in order.
pub struct PipeTarget {
    state: Arc<Mutex<State>>,
    start: u64,
    /// The version of the file that the reader receives.
    version: Mutex<RemoteFile>,
    memory: Budget,
}

struct State {
    sink: Sink,
    /// The position of the next byte for the reader.
    next: u64,
    verifier: ChecksumVerifier,
}

impl std::fmt::Debug for PipeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipeTarget").field("start", &self.start).finish_non_exhaustive()
    }
}

impl PipeTarget {
    /// `start` is the first wanted byte. A second pass must be proven to return the same version.
    #[must_use]
    pub fn new(
        sink: Sink,
        start: u64,
        version: RemoteFile,
        checksums: &Checksums,
        memory: Budget,
    ) -> Self {
        let state = State { sink, next: start, verifier: checksums.verifier() };
        Self { state: Arc::new(Mutex::new(state)), start, version: Mutex::new(version), memory }
    }

    /// Verifies the checksums, after all bytes are written.
    ///
    /// # Errors
    /// `Corrupt`; the reader has received the bytes by then.
    pub fn finish(self, what: &dyn std::fmt::Display) -> Result<()> {
        let state = Arc::into_inner(self.state)
            .ok_or_else(|| Error::new(Kind::Internal, format!("{what} is still being written")))?;
        state.into_inner().verifier.finish(what)
    }
}

#[async_trait]
impl Target for PipeTarget {
    fn memory(&self) -> &Budget {
        &self.memory
    }

    async fn wait_for_capacity(&self) -> Result<()> {
        Ok(())
    }

    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        let state = Arc::clone(&self.state);
        // On a blocking thread, since the reader may be slow.
        let written = tokio::task::spawn_blocking(move || state.lock().write(pos, parts));
        written.await.unwrap_or_else(|e| {
            Err(Error::new(Kind::Internal, "writing the output panicked").because(e))
        })
    }

    /// Nothing to do: written bytes are with the reader.
    async fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// When the file is sent again, bytes that the reader already has are skipped.
    async fn restart(&self, now: &RemoteFile) -> Result<()> {
        let mut version = self.version.lock();
        if version.is_same_version(now) || self.state.lock().next == self.start {
            *version = now.clone();
            return Ok(());
        }
        let text = "the file must be sent again from its start, and the server does not prove that it is unchanged";
        Err(Error::new(Kind::Changed, text).hint(hint![
            "discard the written output and run ",
            Operation::Same,
            " again"
        ]))
    }
}

/// Maps an error of the reader to a kind that is not retried.
fn output_error(e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(Kind::Unsupported, "the reader closed the output").because(e);
    }
    let error = Error::io("cannot write the output", e);
    match error.kind().is_retryable() {
        true => Error::new(Kind::Internal, error.report()),
        false => error,
    }
}

impl State {
    fn write(&mut self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        if pos > self.next {
            let text = format!("byte {pos} was received before byte {}", self.next);
            return Err(Error::new(Kind::Internal, text));
        }
        let mut skip = self.next - pos;
        for mut part in parts {
            let skipped = skip.min(part.len() as u64);
            skip -= skipped;
            let _ = part.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
            (self.sink)(&part).map_err(output_error)?;
            self.verifier.update(&part);
            self.next += part.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{downloads::checksum::parse, protocols::Validator};

    fn version(proven: bool) -> RemoteFile {
        let validator = proven.then(|| Validator::ETag("\"a\"".into()));
        RemoteFile { validator, ..RemoteFile::from_url("http://x/f".parse().unwrap()) }
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
        let memory = Budget::new(32 << 20);
        (PipeTarget::new(sink, 3, version(proven), &checksums, memory), got)
    }

    const MD5_ABC: &str = "900150983cd24fb0d6963f7d28e17f72";

    #[tokio::test]
    async fn a_second_pass_delivers_only_the_missing_bytes() {
        let (target, got) = target(true, MD5_ABC);
        target.write_at(3, vec!["a".into()]).await.unwrap();
        target.restart(&version(true)).await.unwrap();
        target.write_at(3, vec!["ab".into()]).await.unwrap();
        target.write_at(5, vec!["c".into()]).await.unwrap();
        assert_eq!(*got.lock(), b"abc");
        target.finish(&"f").unwrap();
    }

    #[tokio::test]
    async fn gaps_and_unproven_restarts_are_rejected() {
        let (target, got) = target(false, MD5_ABC);
        assert_eq!(target.write_at(4, vec!["b".into()]).await.unwrap_err().kind(), Kind::Internal);
        target.restart(&version(false)).await.unwrap();
        target.write_at(3, vec!["x".into()]).await.unwrap();
        for now in [version(false), version(true)] {
            assert_eq!(target.restart(&now).await.unwrap_err().kind(), Kind::Changed);
        }
        assert_eq!(*got.lock(), b"x");
        assert_eq!(target.finish(&"f").unwrap_err().kind(), Kind::Corrupt);
    }
}
