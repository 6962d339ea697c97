//! The bytes of an object as a stream, checked against the requested length.

use std::{future::Future, ops::Range, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::{StreamExt, stream};

use crate::error::{Error, Kind, Result};

/// The bytes of a range, in order. The stream ends after exactly the whole range, or with one error. It reads only
/// when polled; dropping it closes the connection.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// A response body that is being read.
pub(super) trait BodySource: Send + 'static {
    /// The next bytes; `None` at the end of the answer.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send;

    /// The error for an answer that is longer or shorter than it should be.
    fn length_error(&self, detail: &str) -> Error;
}

/// A body of exactly `len` bytes. An answer that is longer or shorter ends with an error.
pub(super) fn exact_body(answer: impl BodySource, len: u64) -> Body {
    Box::pin(stream::try_unfold((answer, len), |(mut answer, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        match answer.next().await? {
            Some(bytes) if bytes.len() as u64 <= left => {
                let left = left - bytes.len() as u64;
                Ok(Some((bytes, (answer, left))))
            }
            Some(_) => Err(answer.length_error("the body is longer than announced")),
            None => Err(answer.length_error("the connection was closed early")),
        }
    }))
}

/// Collects the bytes of `range`. When a body breaks off, the missing rest is opened again, up to `resumes` times.
pub(super) async fn collect_resuming<F: Future<Output = Result<Body>>>(
    range: &Range<u64>,
    resumes: u32,
    open: impl Fn(Range<u64>) -> F,
) -> Result<Bytes> {
    let len = usize::try_from(range.end - range.start).map_err(|e| {
        Error::new(Kind::InvalidInput, format!("the range {range:?} is too long for one read"))
            .because(e)
    })?;
    let mut bytes = BytesMut::with_capacity(len);
    let mut resumed = 0;
    loop {
        let body = open(range.start + bytes.len() as u64..range.end).await?;
        match collect(body, &mut bytes).await {
            Ok(()) => return Ok(bytes.freeze()),
            Err(e) if resumed == resumes => return Err(e),
            Err(_) => resumed += 1,
        }
    }
}

/// Appends the whole body to `into`. After an error, `into` holds the bytes received before it.
pub(super) async fn collect(mut body: Body, into: &mut BytesMut) -> Result<()> {
    while let Some(bytes) = body.next().await {
        into.extend_from_slice(&bytes?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Parts(Vec<&'static [u8]>);

    impl BodySource for Parts {
        async fn next(&mut self) -> Result<Option<Bytes>> {
            Ok((!self.0.is_empty()).then(|| Bytes::from_static(self.0.remove(0))))
        }

        fn length_error(&self, detail: &str) -> Error {
            Error::new(Kind::Network, detail)
        }
    }

    #[tokio::test]
    async fn a_body_of_the_wrong_length_ends_with_an_error() {
        let read = async |len| {
            let mut bytes = BytesMut::new();
            let ended = collect(exact_body(Parts(vec![b"ab", b"", b"c"]), len), &mut bytes).await;
            (bytes.freeze(), ended.map_err(|e| e.report()))
        };
        assert_eq!(read(3).await, (Bytes::from_static(b"abc"), Ok(())));
        let (bytes, error) = read(4).await;
        assert!(&bytes[..] == b"abc" && error.unwrap_err().contains("closed early"));
        let (bytes, error) = read(1).await;
        assert!(bytes.is_empty() && error.unwrap_err().contains("longer than announced"));
        assert_eq!(read(0).await, (Bytes::new(), Ok(())));
    }
}
