//! Collects the bytes of a range from padding, memory and objects, with as few GETs as possible.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use tokio::task::JoinSet;

use super::{
    blocks::{BlockCutter, Blocks},
    cache::MAX_FETCH,
};
use crate::{
    backends::{Key, Payload, StorageBackend},
    error::{Error, Kind, Result},
    storage::map::import_store::{ByteSource, ImportStore, StoredObject},
    units::KIB,
};

/// The shortest GET. Where less of an object is needed (a piece that extends a little into the next object), the GET is
/// made longer and the extra bytes are discarded. That costs the same: a GET of a few bytes takes as long as one of 256
/// KiB.
const MIN_GET: u64 = 256 * KIB;

/// A GET, and where its bytes go.
#[derive(Debug, PartialEq, Eq)]
struct Get {
    key: Key,
    range: Range<u64>,
    /// The needed part of the GET's range, from its start.
    needed: Range<u64>,
    /// The offset of the needed bytes in the range that is fetched.
    offset: u64,
}

/// The sources of one range: the bytes at hand, and the GETs for the rest.
#[derive(Debug, Default)]
struct FetchPlan {
    ready: Vec<(u64, Bytes)>,
    gets: Vec<Get>,
}

impl FetchPlan {
    fn of(sources: Vec<ByteSource>) -> Result<Self> {
        let (mut plan, mut at) = (Self::default(), 0);
        for source in sources {
            let len = source.len();
            match source {
                // Gaps between the sources are filled with zeros.
                ByteSource::Zeros(_) => {}
                ByteSource::Memory(bytes) => plan.ready.push((at, bytes)),
                ByteSource::Object(object, range) => plan.add_gets(&object, range, at),
                ByteSource::Unfinished(range) => {
                    let Range { start, end } = range;
                    let text =
                        format!("bytes {start}..{end} are in an upload that is not finished");
                    let error = Error::new(Kind::Unavailable, text);
                    return Err(error.hint("readable when the file is complete"));
                }
                ByteSource::Hole(hole) => {
                    let text = format!("bytes {}..{} are not stored yet", hole.start, hole.end);
                    let error = Error::new(Kind::NotFound, text);
                    return Err(error.hint("import it again to fetch the rest"));
                }
            }
            at += len;
        }
        Ok(plan)
    }

    fn add_gets(&mut self, object: &StoredObject, mut range: Range<u64>, mut offset: u64) {
        while !range.is_empty() {
            let end = range.end.min(range.start + MAX_FETCH);
            let part = range.start..end;
            let requested = extend_to_min_get(&part, object.len);
            self.gets.push(Get {
                key: object.key.clone(),
                needed: part.start - requested.start..end - requested.start,
                range: requested,
                offset,
            });
            offset += end - range.start;
            range.start = end;
        }
    }
}

/// `part` of an object of `len` bytes, extended to [`MIN_GET`] where the object is that long: towards its end first,
/// then towards its start.
fn extend_to_min_get(part: &Range<u64>, len: u64) -> Range<u64> {
    let end = part.end.max(part.start.saturating_add(MIN_GET)).min(len.max(part.end));
    part.start.min(end.saturating_sub(MIN_GET))..end
}

/// The fetched bytes of a range.
#[derive(Debug)]
pub(in crate::storage) struct Fetched {
    pub(in crate::storage) bytes: Blocks,
    /// Whether some of them were read from the storage.
    pub(super) from_storage: bool,
}

/// Fetches the bytes of `range`.
///
/// # Errors
/// `NotFound` when a part is not stored yet or its object is gone; else the error of the backend.
pub(in crate::storage) async fn fetch(
    store: &ImportStore,
    range: Range<u64>,
    cutter: &BlockCutter,
) -> Result<Fetched> {
    loop {
        let moves = store.move_count();
        match fetch_once(store, range.clone(), cutter).await {
            // The bytes moved to another object after the lookup. The next lookup finds them there.
            Err(e) if e.kind() == Kind::NotFound && store.move_count() != moves => {}
            fetched => return fetched,
        }
    }
}

async fn fetch_once(
    store: &ImportStore,
    range: Range<u64>,
    cutter: &BlockCutter,
) -> Result<Fetched> {
    let Range { start, end } = range;
    let FetchPlan { ready, gets } = FetchPlan::of(store.locate(range))?;
    let from_storage = !gets.is_empty();
    let backend = store.backend();
    let returns_blocks = backend.capabilities().body_in_blocks;
    let mut received = match returns_blocks {
        true => try_join_all(gets.iter().map(|get| get_in_blocks(backend.as_ref(), get))).await?,
        false => run_gets(backend, gets).await?,
    };
    received.extend(ready.into_iter().map(|(at, bytes)| (at, false, Payload::from_iter([bytes]))));
    received.sort_by_key(|(at, ..)| *at);
    let mut writer = cutter.writer_at(start);
    for (at, is_block, payload) in received {
        // The gaps between the received bytes are padding.
        writer.pad_to(start + at);
        for part in payload.buffers() {
            if is_block { writer.push(part.clone()) } else { writer.write(part) }
        }
    }
    writer.pad_to(end);
    Ok(Fetched { bytes: writer.finish(), from_storage })
}

/// The offset of received bytes, whether they are in blocks of their own, and the bytes.
type Received = (u64, bool, Payload);

async fn run_gets(backend: &Arc<dyn StorageBackend>, gets: Vec<Get>) -> Result<Vec<Received>> {
    let mut running = JoinSet::new();
    for get in gets {
        let backend = Arc::clone(backend);
        running.spawn(async move {
            let bytes = needed_bytes(backend.get(&get.key, get.range.clone()).await, &get)?;
            Ok::<_, Error>((get.offset, false, Payload::from_iter([bytes])))
        });
    }
    let mut received = Vec::with_capacity(running.len());
    while let Some(ended) = running.join_next().await {
        let panicked = |e| Error::new(Kind::Internal, "a GET task panicked").because(e);
        received.push(ended.map_err(panicked)??);
    }
    Ok(received)
}

/// The needed part of the response, which must have the requested length.
fn needed_bytes(response: Result<Bytes>, get: &Get) -> Result<Bytes> {
    let bytes = response?;
    let Range { start, end } = get.range;
    if bytes.len() as u64 == end - start {
        return Ok(bytes.slice(to_usize(get.needed.start)..to_usize(get.needed.end)));
    }
    let text = format!("object {}: received {} bytes for {start}..{end}", get.key, bytes.len());
    Err(Error::new(Kind::Corrupt, text))
}

/// As [`needed_bytes`], for a backend whose bodies arrive in blocks: the blocks are kept as they are.
async fn get_in_blocks(backend: &dyn StorageBackend, get: &Get) -> Result<Received> {
    let from = get.range.start + get.needed.start;
    let len = get.needed.end - get.needed.start;
    let mut body = backend.open(&get.key, from..from + len).await?;
    let mut payload = Payload::default();
    while let Some(part) = body.next().await {
        payload.push(part?);
    }
    if payload.len() == len {
        return Ok((get.offset, true, payload));
    }
    let text =
        format!("object {}: received {} bytes for {from}..{}", get.key, payload.len(), from + len);
    Err(Error::new(Kind::Corrupt, text))
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("a fetch fits in memory")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::MIB;

    #[test]
    fn a_short_get_is_extended_within_its_object() {
        let of = |start: u64, end: u64, len: u64| extend_to_min_get(&(start..end), len);
        assert_eq!(of(0, MIB, 16 * MIB), 0..MIB);
        assert_eq!(of(0, 10, 16 * MIB), 0..256 * KIB);
        assert_eq!(of(16 * MIB - 10, 16 * MIB, 16 * MIB), 16 * MIB - 256 * KIB..16 * MIB);
        assert_eq!(of(5, 10, 100), 0..100);
    }

    proptest! {
        #[test]
        fn an_extended_get_covers_the_part_and_stays_in_its_object(
            len in 1u64..4 * MIB,
            a in 0u64..4 * MIB,
            b in 0u64..4 * MIB,
        ) {
            let (start, end) = (a.min(b).min(len), a.max(b).min(len));
            let requested = extend_to_min_get(&(start..end), len);
            prop_assert!(requested.start <= start && end <= requested.end && requested.end <= len);
            prop_assert!(requested.end - requested.start >= MIN_GET.min(len));
            prop_assert!(requested.end - requested.start <= MIN_GET.max(end - start));
        }
    }
}
