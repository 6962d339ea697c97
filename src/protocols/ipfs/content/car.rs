//! Reads a CAR, version 1: a header, and sections with a CID and its block each. Pure.
//!
//! The bytes of a response are pushed as they arrive. Lengths are checked before anything is allocated. Blocks are not
//! verified here. The roots in the header mean nothing and are not read.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    super::names::cbor::{self, Item},
    MAX_BLOCK,
    cid::Cid,
    varint::{self, Varint},
};
use crate::error::{Error, Kind, Result};

/// Maximum length of the header in bytes: enough for a thousand roots.
const MAX_HEADER: u64 = 64 << 10;
/// Maximum length of the CID in a section, in bytes.
const MAX_CID: u64 = 160;

/// A reader in progress.
#[derive(Debug, Default)]
pub(in crate::protocols::ipfs) struct CarReader {
    buffer: BytesMut,
    has_header: bool,
}

impl CarReader {
    /// Adds the next bytes of the CAR.
    pub(in crate::protocols::ipfs) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next block with its CID; `None` if more bytes are needed.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are not a CAR; `Unsupported` for version 2 and for blocks of more than 2 MiB.
    pub(in crate::protocols::ipfs) fn next(&mut self) -> Result<Option<(Cid, Bytes)>> {
        if !self.has_header {
            let Some(header) = self.take_section(MAX_HEADER)? else { return Ok(None) };
            check_header(&header)?;
            self.has_header = true;
        }
        let Some(section) = self.take_section(MAX_BLOCK as u64 + MAX_CID)? else { return Ok(None) };
        let (cid, len) =
            Cid::read(&section).ok_or_else(|| malformed("a section does not begin with a CID"))?;
        if section.len() - len > MAX_BLOCK {
            return Err(too_long());
        }
        Ok(Some((cid, section.slice(len..))))
    }

    /// Checks that the CAR ends after a whole section.
    ///
    /// # Errors
    /// `Network` if it ends inside of one.
    pub(in crate::protocols::ipfs) fn finish(&self) -> Result<()> {
        match self.has_header && self.buffer.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Network, "the CAR ends in the middle of a section")),
        }
    }

    /// Takes the next section, without its length.
    fn take_section(&mut self, max: u64) -> Result<Option<Bytes>> {
        let (len, len_len) = match varint::read(&self.buffer) {
            Varint::Value(len, len_len) => (len, len_len),
            Varint::Incomplete => return Ok(None),
            Varint::Invalid => return Err(malformed("a length is not valid")),
        };
        match len {
            0 => return Err(malformed("a section is empty")),
            len if len > max && self.has_header => return Err(too_long()),
            len if len > max => return Err(malformed("the header is too long")),
            _ => {}
        }
        let len = usize::try_from(len).expect("at most a few MiB");
        if self.buffer.len() < len_len + len {
            // Exactly as much as the section needs.
            self.buffer.reserve(len_len + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(len_len);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

fn check_header(header: &Bytes) -> Result<()> {
    let map = cbor::parse(header).and_then(Item::into_map);
    let version = map.as_ref().and_then(|map| map.get("version")).and_then(Item::as_uint);
    match version {
        Some(1) => Ok(()),
        Some(version) => Err(Error::new(Kind::Unsupported, format!("a CAR of version {version}"))),
        None => Err(malformed("it has no header")),
    }
}

fn malformed(reason: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the answer is not a CAR: {reason}"))
}

fn too_long() -> Error {
    Error::new(Kind::Unsupported, "a block of more than 2 MiB")
}

/// The header of a CAR without roots.
#[cfg(test)]
pub(in crate::protocols::ipfs) fn empty_header() -> Vec<u8> {
    // {"roots": [], "version": 1}
    let map = b"\xa2\x65roots\x80\x67version\x01";
    let mut header = vec![u8::try_from(map.len()).expect("short")];
    header.extend_from_slice(map);
    header
}

/// Appends a section.
#[cfg(test)]
pub(in crate::protocols::ipfs) fn write_section(cid: &Cid, block: &[u8], out: &mut Vec<u8>) {
    let cid = cid.to_bytes();
    varint::write((cid.len() + block.len()) as u64, out);
    out.extend_from_slice(&cid);
    out.extend_from_slice(block);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{cid::RAW, multihash::Multihash},
        *,
    };

    fn car(blocks: &[Vec<u8>]) -> Vec<u8> {
        let mut car = empty_header();
        for block in blocks {
            write_section(&Cid::v1(RAW, Multihash::sha2_256(block)), block, &mut car);
        }
        car
    }

    /// Reads a CAR that arrives in pieces.
    fn read(car: &[u8], piece: usize) -> Result<Vec<Vec<u8>>> {
        let (mut reader, mut blocks) = (CarReader::default(), Vec::new());
        for piece in car.chunks(piece.max(1)) {
            reader.push(piece);
            while let Some((cid, block)) = reader.next()? {
                assert!(cid.hash().verifies(&block));
                blocks.push(block.to_vec());
            }
        }
        reader.finish()?;
        Ok(blocks)
    }

    #[test]
    fn a_car_with_roots_is_read() {
        let root = Cid::v1(RAW, Multihash::sha2_256(b"x")).to_bytes();
        // {"roots": [42(h'00…')], "version": 1}
        let mut map = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00".to_vec();
        map.extend_from_slice(&root);
        map.extend_from_slice(b"\x67version\x01");
        let mut car = vec![u8::try_from(map.len()).unwrap()];
        car.extend(map);
        write_section(&Cid::v1(RAW, Multihash::sha2_256(b"x")), b"x", &mut car);
        assert_eq!(read(&car, 7).unwrap(), [b"x"]);
    }

    #[test]
    fn a_car_that_is_cut_anywhere_is_an_error_except_between_sections() {
        let all = car(&[b"one".to_vec(), b"two".to_vec()]);
        let ends = [car(&[]).len(), car(&[b"one".to_vec()]).len(), all.len()];
        for len in 0..=all.len() {
            assert_eq!(read(&all[..len], 5).is_ok(), ends.contains(&len), "{len}");
        }
    }

    #[test]
    fn other_answers_are_refused() {
        let mut truncated = car(&[b"one".to_vec()]);
        truncated.extend_from_slice(b"\n\n[Gateway Error: Response truncated due to an error");
        let mut padded = car(&[b"one".to_vec()]);
        padded.extend([0; 9]);
        let version_2 = b"\x0a\xa1\x67version\x02".to_vec();
        let html = b"<!DOCTYPE html><html><body>no block here</body></html>".to_vec();
        let mut long_header = Vec::new();
        varint::write(1 << 40, &mut long_header);
        for (bytes, kind) in [
            (truncated, Kind::Corrupt),
            (padded, Kind::Corrupt),
            (version_2, Kind::Unsupported),
            (html, Kind::Network),
            (long_header, Kind::Corrupt),
            (vec![0xff; 20], Kind::Corrupt),
            (b"\x01\x80".to_vec(), Kind::Corrupt),
        ] {
            let error = read(&bytes, 11).unwrap_err();
            assert!(
                matches!(error.kind(), k if k == kind || k == Kind::Corrupt),
                "{}",
                error.report()
            );
        }
    }

    #[test]
    fn a_block_of_more_than_2_mib_is_refused_before_it_arrives() {
        let exact = car(&[vec![7; MAX_BLOCK]]);
        assert_eq!(read(&exact, 1 << 20).unwrap()[0].len(), MAX_BLOCK);
        let long = car(&[vec![7; MAX_BLOCK + 1]]);
        assert_eq!(read(&long, 1 << 20).unwrap_err().kind(), Kind::Unsupported);
        let mut endless = empty_header();
        varint::write(1 << 50, &mut endless);
        let mut reader = CarReader::default();
        reader.push(&endless);
        assert_eq!(reader.next().unwrap_err().kind(), Kind::Unsupported);
        assert!(reader.buffer.capacity() < 1 << 20);
    }

    proptest! {
        #[test]
        fn blocks_round_trip_in_pieces_of_any_size(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8), piece in 1usize..40,
        ) {
            prop_assert_eq!(read(&car(&blocks), piece).unwrap(), blocks);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), piece in 1usize..40) {
            let _ = read(&[&empty_header()[..], &bytes].concat(), piece);
            let _ = read(&bytes, piece);
        }
    }
}
