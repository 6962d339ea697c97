//! Collects the bytes of a range from padding, memory and objects, with as few GETs as possible.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all};
use tokio::task::JoinSet;

use super::{
    blocks::{Blocks, Cut},
    cache::LONGEST,
    import::{ImportStore, Source, StoredObject},
};
use crate::{
    backends::{Key, Payload, StorageBackend},
    error::{Error, Kind, Result},
    units::KIB,
};

/// The shortest GET. Where less of an object is needed (a piece that extends a little into the next object), the GET is
/// made longer and the extra bytes are discarded. That costs the same: a GET of a few bytes takes as long as one of 256
/// KiB.
const SHORTEST: u64 = 256 * KIB;

/// A GET, and where its bytes go.
#[derive(Debug, PartialEq, Eq)]
struct Get {
    key: Key,
    range: Range<u64>,
    /// The needed part of the GET's range, from its start.
    wanted: Range<u64>,
    /// The offset of the needed bytes in the range that is fetched.
    at: u64,
}

/// The sources of one range: the bytes at hand, and the GETs for the rest.
#[derive(Debug, Default)]
struct Plan {
    ready: Vec<(u64, Bytes)>,
    gets: Vec<Get>,
}

impl Plan {
    fn of(sources: Vec<Source>) -> Result<Self> {
        let (mut plan, mut at) = (Self::default(), 0);
        for source in sources {
            let len = source.len();
            match source {
                // Gaps between the sources are filled with zeros.
                Source::Zeros(_) => {}
                Source::Memory(bytes) => plan.ready.push((at, bytes)),
                Source::Object(object, range) => plan.get(&object, range, at),
                Source::Unfinished(range) => {
                    let Range { start, end } = range;
                    let text = format!(
                        "bytes {start}..{end} are in a file that is not uploaded to its end"
                    );
                    let error = Error::new(Kind::Unavailable, text);
                    return Err(error.hint("readable when the file is complete"));
                }
                Source::Hole(hole) => {
                    let text = format!("bytes {}..{} are not stored yet", hole.start, hole.end);
                    let error = Error::new(Kind::NotFound, text);
                    return Err(error.hint("import it again to fetch the rest"));
                }
            }
            at += len;
        }
        Ok(plan)
    }

    fn get(&mut self, object: &StoredObject, mut range: Range<u64>, mut at: u64) {
        while !range.is_empty() {
            let end = range.end.min(range.start + LONGEST);
            let part = range.start..end;
            let asked = at_least(&part, object.len);
            self.gets.push(Get {
                key: object.key.clone(),
                wanted: part.start - asked.start..end - asked.start,
                range: asked,
                at,
            });
            at += end - range.start;
            range.start = end;
        }
    }
}

/// `part` of an object of `len` bytes, extended to [`SHORTEST`] where the object is that long: towards its end first,
/// then towards its start.
fn at_least(part: &Range<u64>, len: u64) -> Range<u64> {
    let end = part.end.max(part.start.saturating_add(SHORTEST)).min(len.max(part.end));
    part.start.min(end.saturating_sub(SHORTEST))..end
}

/// The fetched bytes of a range.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Blocks,
    /// Whether some of them were read from the storage.
    pub(super) from_place: bool,
}

/// Fetches the bytes of `range`.
///
/// # Errors
/// `NotFound` when a part is not stored yet or its object is gone; else the error of the backend.
pub(super) async fn fetch(store: &ImportStore, range: Range<u64>, cut: &Cut) -> Result<Fetched> {
    loop {
        let moves = store.moves();
        match fetch_once(store, range.clone(), cut).await {
            // The bytes moved to another object after the lookup. The next lookup finds them there.
            Err(e) if e.kind() == Kind::NotFound && store.moves() != moves => {}
            fetched => return fetched,
        }
    }
}

async fn fetch_once(store: &ImportStore, range: Range<u64>, cut: &Cut) -> Result<Fetched> {
    let Range { start, end } = range;
    let Plan { ready, gets } = Plan::of(store.locate(range))?;
    let from_place = !gets.is_empty();
    let backend = store.backend();
    let in_blocks = backend.capabilities().blocks;
    let mut came = match in_blocks {
        true => try_join_all(gets.iter().map(|get| in_blocks_of(backend.as_ref(), get))).await?,
        false => gets_at_once(backend, gets).await?,
    };
    came.extend(ready.into_iter().map(|(at, bytes)| (at, false, Payload::from_iter([bytes]))));
    came.sort_by_key(|(at, ..)| *at);
    let mut filling = cut.from(start);
    for (at, own, payload) in came {
        // The gaps between the received bytes are padding.
        filling.zeros_to(start + at);
        for part in payload.parts() {
            if own { filling.take(part.clone()) } else { filling.write(part) }
        }
    }
    filling.zeros_to(end);
    Ok(Fetched { bytes: filling.finish(), from_place })
}

/// The offset of received bytes, whether they are in blocks of their own, and the bytes.
type Came = (u64, bool, Payload);

async fn gets_at_once(backend: &Arc<dyn StorageBackend>, gets: Vec<Get>) -> Result<Vec<Came>> {
    let mut running = JoinSet::new();
    for get in gets {
        let backend = Arc::clone(backend);
        running.spawn(async move {
            let bytes = got(backend.get(&get.key, get.range.clone()).await, &get)?;
            Ok::<_, Error>((get.at, false, Payload::from_iter([bytes])))
        });
    }
    let mut came = Vec::with_capacity(running.len());
    while let Some(ended) = running.join_next().await {
        let broke = |e| Error::new(Kind::Internal, "a get did not finish").because(e);
        came.push(ended.map_err(broke)??);
    }
    Ok(came)
}

/// The needed part of the response, which must have the requested length.
fn got(answer: Result<Bytes>, get: &Get) -> Result<Bytes> {
    let bytes = answer?;
    let Range { start, end } = get.range;
    if bytes.len() as u64 == end - start {
        return Ok(bytes.slice(size(get.wanted.start)..size(get.wanted.end)));
    }
    let text = format!("object {}: {} bytes came for {start}..{end}", get.key, bytes.len());
    Err(Error::new(Kind::Corrupt, text))
}

/// As [`got`], for a backend whose bodies arrive in blocks: the blocks are kept as they are.
async fn in_blocks_of(backend: &dyn StorageBackend, get: &Get) -> Result<Came> {
    let from = get.range.start + get.wanted.start;
    let len = get.wanted.end - get.wanted.start;
    let mut body = backend.open(&get.key, from..from + len).await?;
    let mut payload = Payload::default();
    while let Some(part) = body.next().await {
        payload.push(part?);
    }
    if payload.len() == len {
        return Ok((get.at, true, payload));
    }
    let text =
        format!("object {}: {} bytes came for {from}..{}", get.key, payload.len(), from + len);
    Err(Error::new(Kind::Corrupt, text))
}

fn size(len: u64) -> usize {
    usize::try_from(len).expect("a fetch is as long as some windows")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::MIB;

    #[test]
    fn a_get_is_long_enough_but_at_the_end_of_what_there_is() {
        let of = |start: u64, end: u64, len: u64| at_least(&(start..end), len);
        assert_eq!(of(0, MIB, 16 * MIB), 0..MIB);
        assert_eq!(of(0, 10, 16 * MIB), 0..256 * KIB);
        assert_eq!(of(16 * MIB - 10, 16 * MIB, 16 * MIB), 16 * MIB - 256 * KIB..16 * MIB);
        assert_eq!(of(5, 10, 100), 0..100);
    }

    proptest! {
        #[test]
        fn a_get_has_what_is_wanted_and_stays_in_its_object(
            len in 1u64..4 * MIB,
            a in 0u64..4 * MIB,
            b in 0u64..4 * MIB,
        ) {
            let (start, end) = (a.min(b).min(len), a.max(b).min(len));
            let asked = at_least(&(start..end), len);
            prop_assert!(asked.start <= start && end <= asked.end && asked.end <= len);
            prop_assert!(asked.end - asked.start >= SHORTEST.min(len));
            prop_assert!(asked.end - asked.start <= SHORTEST.max(end - start));
        }
    }
}
