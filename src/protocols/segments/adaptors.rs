//! Streams of bytes made from other streams: decrypted, without their first bytes, with some bytes replaced.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::{cipher::Decryptor, patch::PatchPoint};
use crate::{
    error::Result,
    protocols::{ByteStream, next_bytes},
};

/// The decrypted bytes of `stream`.
pub(super) fn decrypting(stream: ByteStream, decryptor: Decryptor) -> ByteStream {
    let state = (stream, Some(decryptor));
    Box::pin(stream::try_unfold(state, |(mut stream, decryptor)| async move {
        let Some(mut decryptor) = decryptor else { return Ok(None) };
        while let Some(bytes) = next_bytes(&mut stream).await.transpose()? {
            let plain = decryptor.push(&bytes)?;
            if !plain.is_empty() {
                return Ok(Some((plain, (stream, Some(decryptor)))));
            }
        }
        let last = decryptor.finish()?;
        Ok((!last.is_empty()).then_some((last, (stream, None))))
    }))
}

/// `stream` without its first `skip` bytes.
pub(super) fn skipping(stream: ByteStream, skip: u64) -> ByteStream {
    if skip == 0 {
        return stream;
    }
    Box::pin(stream::try_unfold((stream, skip), |(mut stream, mut skip)| async move {
        while let Some(mut bytes) = next_bytes(&mut stream).await.transpose()? {
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            let _ = bytes.split_to(usize::try_from(skipped).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                return Ok(Some((bytes, (stream, skip))));
            }
        }
        Ok(None)
    }))
}

/// `stream`, which starts at `start` of its segment, with the bytes at `points` replaced.
pub(super) fn patching(stream: ByteStream, start: u64, points: Arc<Vec<PatchPoint>>) -> ByteStream {
    Box::pin(stream::try_unfold((stream, start), move |(mut stream, pos)| {
        let points = Arc::clone(&points);
        async move {
            let Some(bytes) = next_bytes(&mut stream).await.transpose()? else { return Ok(None) };
            let end = pos + bytes.len() as u64;
            let first = points.partition_point(|point| point.end() <= pos);
            let here = points[first..].iter().take_while(|point| point.pos < end);
            let mut here = here.peekable();
            let bytes = match here.peek() {
                None => bytes,
                Some(_) => {
                    let mut changed = BytesMut::from(&bytes[..]);
                    here.for_each(|point| point.apply(&mut changed, pos));
                    changed.freeze()
                }
            };
            Ok(Some((bytes, (stream, end))))
        }
    }))
}

/// The first bytes of a stream, and the stream with them put back.
pub(in crate::protocols) struct Peeked {
    /// At least as many bytes as requested, unless the stream is shorter or has failed.
    pub(in crate::protocols) head: Bytes,
    pub(in crate::protocols) stream: ByteStream,
    pub(in crate::protocols) has_failed: bool,
}

/// Reads the first `count` bytes of `stream`. An error is put back too, for the reader of the stream.
pub(in crate::protocols) async fn peek(mut stream: ByteStream, count: usize) -> Peeked {
    let mut head = BytesMut::new();
    let mut seen: Vec<Result<Bytes>> = Vec::new();
    let mut has_failed = false;
    while head.len() < count {
        let Some(item) = next_bytes(&mut stream).await else { break };
        has_failed = item.is_err();
        if let Ok(bytes) = &item {
            head.extend_from_slice(bytes);
        }
        seen.push(item);
        if has_failed {
            break;
        }
    }
    Peeked { head: head.freeze(), stream: Box::pin(stream::iter(seen).chain(stream)), has_failed }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::error::{Error, Kind};

    fn of(parts: &[&'static str]) -> ByteStream {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from(*part))).collect();
        Box::pin(stream::iter(parts))
    }

    async fn text(stream: ByteStream) -> String {
        let parts: Vec<Result<Bytes>> = stream.collect().await;
        let parts: Vec<_> = parts.into_iter().map(Result::unwrap).collect();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[tokio::test]
    async fn first_bytes_are_skipped_and_others_replaced_across_parts() {
        assert_eq!(text(skipping(of(&["ab", "cde", "f"]), 3)).await, "def");
        assert_eq!(text(skipping(of(&["ab"]), 3)).await, "");
        let points =
            vec![PatchPoint { pos: 11, bytes: *b"WXYZ" }, PatchPoint { pos: 16, bytes: *b"1234" }];
        let patched = patching(of(&["ab", "cde", "fghij", "kl"]), 10, Arc::new(points));
        assert_eq!(text(patched).await, "aWXYZf1234kl");
    }

    #[tokio::test]
    async fn peeking_returns_the_head_and_keeps_the_whole_stream() {
        let Peeked { head, stream, has_failed } = peek(of(&["ab", "cd", "ef"]), 3).await;
        assert_eq!((&head[..], has_failed), (&b"abcd"[..], false));
        assert_eq!(text(stream).await, "abcdef");
        let failing = stream::iter([Ok(Bytes::from("ab")), Err(Error::new(Kind::Network, "lost"))]);
        let Peeked { head, mut stream, has_failed } = peek(Box::pin(failing), 10).await;
        assert_eq!((&head[..], has_failed), (&b"ab"[..], true));
        assert!(next_bytes(&mut stream).await.unwrap().is_ok());
        assert_eq!(next_bytes(&mut stream).await.unwrap().unwrap_err().kind(), Kind::Network);
    }
}
