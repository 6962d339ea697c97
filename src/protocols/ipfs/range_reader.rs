//! Reads a range of a file: walks over its blocks, and fetches the next ones before they are needed.
//!
//! A block must be complete and verified before its first byte is returned, so the blocks in flight take memory. Each
//! reader may always fetch the block that it needs; blocks ahead of that share one limit, [`ReadAhead`]. Therefore no
//! reader waits for another.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    content::{
        cid::Cid,
        file_node::FileNode,
        file_walk::{FileWalk, Step},
        multihash::Multihash,
    },
    gateways::{
        blocks::{BlockRequest, Blocks, Keep},
        car_feed::CarFeed,
    },
};
use crate::{error::Result, protocols::RangeRequest, units::MIB};

/// Maximum length of all blocks that are fetched ahead, in bytes: enough for 400 MB/s at 50 ms.
const MAX_AHEAD: u64 = 24 * MIB;
/// The same for one reader, as bytes and as blocks.
const MAX_AHEAD_EACH: u64 = 6 * MIB;
const MAX_BLOCKS_AHEAD: usize = 24;
/// Bytes per permit, since a request for permits is limited to a `u32`.
const BYTES_PER_PERMIT: u64 = 1024;
/// A shorter range is read block by block: a CAR has the nodes above the range as well.
const MIN_CAR_RANGE: u64 = MIB;

/// The limit of blocks that are fetched ahead, over all readers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ReadAhead(Arc<Semaphore>);

impl Default for ReadAhead {
    fn default() -> Self {
        let permits = usize::try_from(MAX_AHEAD / BYTES_PER_PERMIT).expect("a small number");
        Self(Arc::new(Semaphore::new(permits)))
    }
}

impl ReadAhead {
    /// `None` if the limit is reached.
    fn reserve(&self, len: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(len.div_ceil(BYTES_PER_PERMIT)).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(permits).ok()
    }
}

/// A reader of a range.
#[derive(Debug)]
pub(super) struct RangeReader {
    blocks: Arc<Blocks>,
    root: Cid,
    walk: FileWalk,
    /// Requests for the blocks that follow, in order.
    ahead: VecDeque<BlockAhead>,
    limit: ReadAhead,
    cars: Option<CarFeed>,
    /// The block before: files repeat blocks of zeros.
    last: Option<(Multihash, Bytes)>,
    /// Bytes that `open` has fetched already.
    first: Option<Bytes>,
}

/// A block that is fetched ahead. Another reader may take over the range, and then shares the request.
#[derive(Debug)]
struct BlockAhead {
    hash: Multihash,
    len: u64,
    request: Arc<BlockRequest>,
    _permit: OwnedSemaphorePermit,
}

impl RangeReader {
    /// Opens a range of the file with the root block `root`, and fetches its first bytes.
    ///
    /// # Errors
    /// Those of the first block.
    pub(super) async fn open(
        blocks: &Arc<Blocks>,
        root: &Cid,
        node: FileNode,
        range: RangeRequest,
        limit: &ReadAhead,
    ) -> Result<Self> {
        let range = range.start..range.end.unwrap_or(node.len).min(node.len);
        let is_long = range.end.saturating_sub(range.start) >= MIN_CAR_RANGE;
        let wants_cars = is_long && !node.parts.is_empty() && blocks.gateways.prefers_cars();
        let mut reader = Self {
            blocks: Arc::clone(blocks),
            root: root.clone(),
            cars: wants_cars.then(|| CarFeed::new(blocks, root, range.end)),
            walk: FileWalk::new(node, range),
            ahead: VecDeque::new(),
            limit: limit.clone(),
            last: None,
            first: None,
        };
        reader.first = reader.fetch_next().await?;
        Ok(reader)
    }

    /// The next bytes; `None` at the end of the range.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.fetch_next().await,
        }
    }

    async fn fetch_next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.walk.next() {
                Step::Bytes(bytes) => return Ok(Some(bytes)),
                Step::End => return Ok(None),
                Step::Block(cid) => {
                    let block = self.block(&cid).await?;
                    let keeps = !self.walk.needs_whole_block();
                    self.walk.enter(&block)?;
                    // The neighbouring range needs the rest of it.
                    if keeps {
                        self.blocks.keep(&cid, &block);
                    }
                    self.last = Some((cid.hash().clone(), block));
                }
            }
        }
    }

    async fn block(&mut self, cid: &Cid) -> Result<Bytes> {
        if let Some(block) = self.blocks.known(cid) {
            return Ok(block);
        }
        if let Some((hash, block)) = &self.last
            && hash == cid.hash()
        {
            return Ok(block.clone());
        }
        if let Some(cars) = &mut self.cars
            && let Some(block) = cars.take(cid, self.walk.position()).await
        {
            return Ok(block);
        }
        let requested = self.ahead.iter().position(|block| block.hash == *cid.hash());
        let requested = requested.and_then(|at| self.ahead.remove(at));
        if self.cars.is_none() {
            self.fetch_ahead(cid);
        }
        match requested {
            Some(ahead) => ahead.request.answer().await,
            None => self.blocks.get(cid, Some(&self.root), Keep::No).await,
        }
    }

    /// Requests the blocks after `current`, as far as the limits allow.
    fn fetch_ahead(&mut self, current: &Cid) {
        let mut bytes: u64 = self.ahead.iter().map(|block| block.len).sum();
        let upcoming = self.walk.upcoming().take(MAX_BLOCKS_AHEAD);
        let mut wanted = Vec::new();
        for (cid, len) in upcoming {
            // A node with links stands for many bytes and is a small block.
            let len = len.min(2 * MIB);
            let is_requested = |hash: &Multihash| {
                self.ahead.iter().any(|block| block.hash == *hash)
                    || wanted.iter().any(|(cid, _): &(Cid, u64)| cid.hash() == hash)
            };
            if cid.hash() == current.hash() || is_requested(cid.hash()) {
                continue;
            }
            if bytes + len > MAX_AHEAD_EACH || self.ahead.len() + wanted.len() >= MAX_BLOCKS_AHEAD {
                break;
            }
            bytes += len;
            wanted.push((cid.clone(), len));
        }
        for (cid, len) in wanted {
            let Some(permit) = self.limit.reserve(len) else { return };
            let request = self.blocks.request(&cid, Some(&self.root));
            let hash = cid.hash().clone();
            self.ahead.push_back(BlockAhead { hash, len, request, _permit: permit });
        }
    }
}
