//! Fetches blocks once: requests for the same block share one answer, and blocks that are needed often are kept.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::content::{cid::Cid, multihash::Multihash},
    gateway_set::GatewaySet,
};
use crate::error::{Error, Kind, Result};

/// Maximum length of all kept blocks, in bytes. The nodes of a file of 1 GiB have less than 100 KiB.
const MAX_KEPT_BYTES: usize = 6 << 20;
/// Maximum number of kept blocks.
const MAX_KEPT: usize = 1024;
/// Remembered requests above which ended ones are forgotten.
const MAX_IN_FLIGHT: usize = 256;

/// Whether a block is likely to be needed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols::ipfs) enum Keep {
    /// For example a node with links, which every range of the file needs.
    Yes,
    No,
}

/// The blocks at some gateways.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct Blocks {
    pub(in crate::protocols::ipfs) gateways: Arc<GatewaySet>,
    in_flight: Mutex<HashMap<Multihash, Weak<BlockRequest>>>,
    kept: Mutex<KeptBlocks>,
}

impl Blocks {
    pub(in crate::protocols::ipfs) fn new(gateways: GatewaySet) -> Self {
        let gateways = Arc::new(gateways);
        Self { gateways, in_flight: Mutex::default(), kept: Mutex::default() }
    }

    /// The verified block of `cid`.
    ///
    /// # Errors
    /// As [`GatewaySet::block`].
    pub(in crate::protocols::ipfs) async fn get(
        &self,
        cid: &Cid,
        root: Option<&Cid>,
        keep: Keep,
    ) -> Result<Bytes> {
        if let Some(block) = self.known(cid) {
            return Ok(block);
        }
        let block = self.request(cid, root).answer().await?;
        if keep == Keep::Yes {
            self.keep(cid, &block);
        }
        Ok(block)
    }

    /// The block, if no request is needed for it.
    pub(in crate::protocols::ipfs) fn known(&self, cid: &Cid) -> Option<Bytes> {
        cid.hash().identity_block().cloned().or_else(|| self.kept.lock().get(cid.hash()))
    }

    /// Keeps a verified block.
    pub(in crate::protocols::ipfs) fn keep(&self, cid: &Cid, block: &Bytes) {
        self.kept.lock().insert(cid.hash().detached(), block.clone());
    }

    /// Requests the block of `cid`, or joins a request for it that exists.
    pub(in crate::protocols::ipfs) fn request(
        &self,
        cid: &Cid,
        root: Option<&Cid>,
    ) -> Arc<BlockRequest> {
        let mut in_flight = self.in_flight.lock();
        let running = in_flight.get(cid.hash()).and_then(Weak::upgrade);
        if let Some(request) = running.filter(|request| !request.has_failed()) {
            return request;
        }
        if in_flight.len() >= MAX_IN_FLIGHT {
            in_flight.retain(|_, request| request.strong_count() > 0);
        }
        let request = Arc::new(BlockRequest::start(&self.gateways, cid, root));
        in_flight.insert(cid.hash().detached(), Arc::downgrade(&request));
        request
    }
}

/// A request for a block. It runs in a separate task, whether or not anything waits for it, and is given up
/// when the last share of it is dropped.
#[derive(Debug)]
pub(in crate::protocols::ipfs) struct BlockRequest {
    answer: watch::Receiver<Option<Result<Bytes>>>,
    _task: AbortOnDropHandle<()>,
}

impl BlockRequest {
    fn start(gateways: &Arc<GatewaySet>, cid: &Cid, root: Option<&Cid>) -> Self {
        let (sender, answer) = watch::channel(None);
        let (gateways, cid, root) = (Arc::clone(gateways), cid.clone(), root.cloned());
        let task = tokio::spawn(async move {
            let block = gateways.block(&cid, root.as_ref()).await;
            sender.send_replace(Some(block));
        });
        Self { answer, _task: AbortOnDropHandle::new(task) }
    }

    fn has_failed(&self) -> bool {
        matches!(&*self.answer.borrow(), Some(Err(_)))
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// As [`GatewaySet::block`].
    pub(in crate::protocols::ipfs) async fn answer(&self) -> Result<Bytes> {
        let mut answer = self.answer.clone();
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(Error::new(Kind::Internal, "fetching a block panicked")))
    }
}

/// Blocks that are needed often, the least recently used of which are dropped.
#[derive(Debug, Default)]
struct KeptBlocks {
    blocks: HashMap<Multihash, (Bytes, u64)>,
    bytes: usize,
    /// Number of uses, as a clock.
    clock: u64,
}

impl KeptBlocks {
    fn get(&mut self, hash: &Multihash) -> Option<Bytes> {
        self.clock += 1;
        let (block, used_at) = self.blocks.get_mut(hash)?;
        *used_at = self.clock;
        Some(block.clone())
    }

    fn insert(&mut self, hash: Multihash, block: Bytes) {
        self.clock += 1;
        self.bytes += block.len();
        if let Some((old, _)) = self.blocks.insert(hash, (block, self.clock)) {
            self.bytes -= old.len();
        }
        while self.bytes > MAX_KEPT_BYTES || self.blocks.len() > MAX_KEPT {
            let oldest = self.blocks.iter().min_by_key(|(_, (_, used_at))| *used_at);
            let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) else { return };
            if let Some((block, _)) = self.blocks.remove(&oldest) {
                self.bytes -= block.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> Multihash {
        Multihash::sha2_256(&n.to_le_bytes())
    }

    #[test]
    fn the_least_recently_used_blocks_are_dropped() {
        let mut kept = KeptBlocks::default();
        let block = Bytes::from(vec![0; 1 << 20]);
        for n in 0..6 {
            kept.insert(hash(n), block.clone());
        }
        assert!(kept.get(&hash(0)).is_some());
        kept.insert(hash(6), block.clone());
        assert!(kept.get(&hash(1)).is_none() && kept.get(&hash(0)).is_some());
        kept.insert(hash(0), block.clone());
        assert_eq!(kept.bytes, 6 << 20, "the same block counts once");
        for n in 100..3000 {
            kept.insert(hash(n), Bytes::from_static(b"x"));
        }
        assert!(kept.blocks.len() <= MAX_KEPT && kept.bytes <= MAX_KEPT_BYTES);
        assert!(kept.get(&hash(2999)).is_some());
    }
}
