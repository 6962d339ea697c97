//! Bytes in blocks of their own. Fetched bytes are written into blocks once. Each block is then shared without a copy,
//! and a reader that still sends it keeps only that block alive, not its neighbours.
//!
//! Each unit (a piece) starts a new block, so a peer's request lies in one block.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    backends::Payload,
    memory::{BLOCK_LEN, BlockPool, OpenBlock},
};

/// Immutable bytes in blocks. A clone copies no bytes.
#[derive(Debug, Clone)]
pub(in crate::storage) struct Blocks {
    parts: Arc<[Bytes]>,
    len: usize,
    footprint: u64,
}

impl Blocks {
    fn new(parts: impl Into<Arc<[Bytes]>>) -> Self {
        let parts = parts.into();
        let memory =
            |part: &Bytes| if is_long(part.len()) { BLOCK_LEN.max(part.len()) } else { part.len() };
        let footprint = parts.iter().map(memory).sum::<usize>() as u64;
        Self { len: parts.iter().map(Bytes::len).sum(), footprint, parts }
    }

    pub(in crate::storage) fn len(&self) -> usize {
        self.len
    }

    /// The number of bytes in memory. A part of more than half a block is a block, shorter ones have allocations of
    /// their own.
    pub(in crate::storage) fn footprint(&self) -> u64 {
        self.footprint
    }

    pub(in crate::storage) fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The bytes of `range`, which must lie within the blocks.
    pub(in crate::storage) fn slice(&self, range: Range<usize>) -> Payload {
        let mut payload = Payload::default();
        // All blocks except those at the ends of units are whole.
        let first_guess = (range.start / BLOCK_LEN).min(self.parts.len());
        let is_even = self.parts[..first_guess].iter().all(|part| part.len() == BLOCK_LEN);
        let (first, mut at) = if is_even { (first_guess, first_guess * BLOCK_LEN) } else { (0, 0) };
        for part in &self.parts[first..] {
            if at >= range.end {
                break;
            }
            let (start, end) = (range.start.max(at) - at, range.end.min(at + part.len()) - at);
            if start < end {
                payload.push(part.slice(start..end));
            }
            at += part.len();
        }
        payload
    }

    /// Splits at `len`, which is the end of a unit: the blocks before it, and the rest.
    pub(in crate::storage) fn split(&self, len: usize) -> (Self, Self) {
        let mut at = 0;
        let before = self.parts.iter().take_while(|part| {
            at += part.len();
            at <= len
        });
        let (before, rest) = self.parts.split_at(before.count());
        (Self::new(before), Self::new(rest))
    }

    #[cfg(test)]
    fn joined(&self) -> Bytes {
        self.slice(0..self.len).to_bytes()
    }
}

/// Whether a part of this length is kept as a block.
fn is_long(part: usize) -> bool {
    part * 2 > BLOCK_LEN
}

impl From<Bytes> for Blocks {
    fn from(bytes: Bytes) -> Self {
        Self::new([bytes])
    }
}

/// How the bytes of an import are cut into blocks.
#[derive(Debug, Clone)]
pub(in crate::storage) struct BlockCutter {
    pub(in crate::storage) pool: BlockPool,
    /// Each multiple of this length starts a new block.
    pub(in crate::storage) unit: u64,
}

impl BlockCutter {
    /// Starts to fill blocks with the bytes from `at` on.
    pub(super) fn writer_at(&self, at: u64) -> BlockWriter {
        BlockWriter { cutter: self.clone(), at, open: None, parts: Vec::new() }
    }

    /// The number of bytes from `at` to the end of its block.
    fn left_in_block(&self, at: u64) -> usize {
        let (unit, block) = (self.unit.max(1), BLOCK_LEN as u64);
        let in_unit = at % unit;
        usize::try_from((block - in_unit % block).min(unit - in_unit)).unwrap_or(BLOCK_LEN)
    }
}

/// Blocks that are being filled.
#[derive(Debug)]
pub(super) struct BlockWriter {
    cutter: BlockCutter,
    at: u64,
    open: Option<(OpenBlock, usize)>,
    parts: Vec<Bytes>,
}

impl BlockWriter {
    #[cfg(test)]
    fn at(&self) -> u64 {
        self.at
    }

    /// Copies the bytes into blocks.
    pub(in crate::storage) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = self.cutter.left_in_block(self.at);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            let (mut block, filled) =
                self.open.take().unwrap_or_else(|| (self.cutter.pool.allocate(), 0));
            block[filled..filled + now.len()].copy_from_slice(now);
            self.at += now.len() as u64;
            self.open = Some((block, filled + now.len()));
            if now.len() == left {
                self.close();
            }
            bytes = later;
        }
    }

    /// Adds `block` without a copy if it is exactly the next whole block, and long enough; else copies it.
    pub(in crate::storage) fn push(&mut self, block: Bytes) {
        let is_next = self.open.is_none() && block.len() == self.cutter.left_in_block(self.at);
        if is_next && is_long(block.len()) {
            self.at += block.len() as u64;
            self.parts.push(block);
        } else {
            self.write(&block);
        }
    }

    /// Fills with zeros up to `at`.
    pub(super) fn pad_to(&mut self, at: u64) {
        static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        while self.at < at {
            let len = usize::try_from(at - self.at).map_or(BLOCK_LEN, |len| len.min(BLOCK_LEN));
            self.write(&ZEROS[..len]);
        }
    }

    fn close(&mut self) {
        let Some((block, filled)) = self.open.take() else { return };
        // A part of at most half a block is copied, so that it does not hold a whole block.
        let part = match is_long(filled) {
            true => block.freeze(filled),
            false => Bytes::copy_from_slice(&block[..filled]),
        };
        self.parts.push(part);
    }

    pub(in crate::storage) fn finish(mut self) -> Blocks {
        self.close();
        Blocks::new(self.parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cutter(unit: u64) -> BlockCutter {
        BlockCutter { pool: BlockPool::new(1 << 20), unit }
    }

    #[test]
    fn whole_aligned_blocks_are_kept_and_others_are_copied() {
        let pool = BlockPool::new(1 << 20);
        let mut writer = cutter(1 << 20).writer_at(1 << 20);
        let block = pool.copy(&[7; BLOCK_LEN]);
        let at = block.as_ptr();
        writer.push(block);
        writer.write(b"x");
        writer.push(pool.copy(&[8; BLOCK_LEN]));
        let blocks = writer.finish();
        assert_eq!(blocks.parts()[0].as_ptr(), at);
        assert_eq!(pool.held(), BLOCK_LEN, "the second was copied");
        assert_eq!(
            blocks.parts().iter().map(Bytes::len).collect::<Vec<_>>(),
            [BLOCK_LEN, BLOCK_LEN, 1]
        );
    }

    proptest! {
        #[test]
        fn any_portions_become_blocks_that_start_anew_at_each_unit(
            unit in prop_oneof![Just(16_384u64), Just(65_536), 1u64..100_000],
            units in 0u64..3,
            portions in prop::collection::vec((1usize..40_000, any::<bool>()), 1..12),
            part in (0usize..1000, 0usize..1000),
        ) {
            let (mut whole, mut writer) = (Vec::<u8>::new(), cutter(unit).writer_at(units * unit));
            for (n, (len, own)) in portions.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|at| u8::try_from((at * 7 + n) % 251).unwrap()).collect();
                whole.extend(&bytes);
                if own { writer.push(bytes.into()) } else { writer.write(&bytes) }
            }
            prop_assert_eq!(writer.at(), units * unit + whole.len() as u64);
            let blocks = writer.finish();
            prop_assert_eq!(&blocks.joined()[..], &whole[..]);
            let mut at = 0;
            for block in blocks.parts() {
                prop_assert!(block.len() <= BLOCK_LEN);
                prop_assert!(at / unit == (at + block.len() as u64 - 1) / unit, "in one unit");
                at += block.len() as u64;
            }
            let index = |n: usize| whole.len() * n / 1000;
            let range = index(part.0.min(part.1))..index(part.0.max(part.1));
            prop_assert_eq!(&blocks.slice(range.clone()).to_bytes()[..], &whole[range]);
            let len = usize::try_from(unit).unwrap().min(whole.len());
            let (before, rest) = blocks.split(len);
            prop_assert_eq!((before.len(), rest.len()), (len, whole.len() - len));
            prop_assert_eq!(&[before.joined(), rest.joined()].concat(), &whole);
        }
    }
}
