//! The blocks of a range of a file, from CARs: each request brings a slice of the range.
//!
//! The order of the blocks is not relied on. A verified block waits until the walk over the file needs it. Blocks that
//! do not come are requested one by one, by the caller.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    super::content::{cid::Cid, multihash::Multihash},
    blocks::Blocks,
    gateway::{CarRange, CarStream},
};
use crate::units::MIB;

/// Length of a slice in bytes. A gateway gives up an answer after some time, and waiting blocks take memory.
const SLICE: u64 = 16 * MIB;
/// How much more than the slice a CAR may have: parts at both ends, and the nodes above.
const SURPLUS: u64 = 8 * MIB;
/// A CAR without a new block for this time is given up, if another gateway can send the block.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// The CARs of a range.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct CarFeed {
    blocks: Arc<Blocks>,
    root: Cid,
    /// End of the range.
    end: u64,
    slice: Option<Slice>,
}

/// One CAR.
#[derive(Debug)]
struct Slice {
    /// `None` after its end.
    stream: Option<CarStream>,
    /// Position in the file up to which it has blocks.
    end: u64,
    max: u64,
    waiting: HashMap<Multihash, Bytes>,
    /// The block that was taken last: files repeat blocks of zeros, and CARs need not.
    last: Option<(Multihash, Bytes)>,
}

impl CarFeed {
    pub(in crate::protocols::ipfs) fn new(blocks: &Arc<Blocks>, root: &Cid, end: u64) -> Self {
        Self { blocks: Arc::clone(blocks), root: root.clone(), end, slice: None }
    }

    /// The block of `cid`, which is needed at `position` of the file. `None` if the CARs do not have it.
    pub(in crate::protocols::ipfs) async fn take(
        &mut self,
        cid: &Cid,
        position: u64,
    ) -> Option<Bytes> {
        if self.slice.as_ref().is_none_or(|slice| position >= slice.end) {
            // The waiting blocks of the slice before are freed first.
            self.slice = None;
            self.slice = Some(self.open(position).await);
        }
        let slice = self.slice.as_mut()?;
        loop {
            if let Ok(block) = tokio::time::timeout(LATE_AFTER, slice.take(cid)).await {
                return block;
            }
            let gateway = slice.stream.as_ref()?.gateway();
            if self.blocks.gateways.has_others(gateway) {
                gateway.health().was_late(LATE_AFTER);
                slice.stream = None;
            }
        }
    }

    /// Requests the slice that begins at `position`.
    async fn open(&self, position: u64) -> Slice {
        let end = (position / SLICE + 1).saturating_mul(SLICE).min(self.end);
        let range = CarRange { start: position, end };
        let stream = self.blocks.gateways.car(&self.root, range).await;
        let max = end - position + SURPLUS;
        Slice { stream, end, max, waiting: HashMap::new(), last: None }
    }
}

impl Slice {
    async fn take(&mut self, cid: &Cid) -> Option<Bytes> {
        loop {
            if let Some((hash, block)) = &self.last
                && hash == cid.hash()
            {
                return Some(block.clone());
            }
            if let Some((hash, block)) = self.waiting.remove_entry(cid.hash()) {
                self.last = Some((hash, block.clone()));
                return Some(block);
            }
            match self.stream.as_mut()?.next(self.max).await {
                Ok(Some((cid, block))) => {
                    self.waiting.insert(cid.hash().detached(), block);
                }
                Ok(None) => self.stream = None,
                Err(e) => {
                    tracing::debug!("{}; requesting single blocks", e.report());
                    self.stream = None;
                }
            }
        }
    }
}
