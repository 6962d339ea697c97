//! The index of a file of fragments: a `sidx` box (ISO/IEC 14496-12). Pure.

use std::{ops::Range, time::Duration};

use crate::{
    error::{Error, Kind, Result},
    protocols::segments::box_header,
};

/// The fragments that the index in `bytes` lists. `start` is the position of `bytes` in the file.
///
/// # Errors
/// `Unsupported` for an index of other indexes; `Corrupt` for an invalid one.
pub(super) fn fragments(bytes: &[u8], start: u64) -> Result<Vec<(Range<u64>, Duration)>> {
    let invalid = || Error::new(Kind::Corrupt, "the index of the file is not valid");
    let header = box_header(bytes)?;
    if &header.name != b"sidx" {
        return Err(invalid());
    }
    let content =
        bytes.get(usize::try_from(header.header_len).unwrap_or(0)..).ok_or_else(invalid)?;
    let word = |at: usize| -> Result<u64> {
        let bytes = content.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u64::from(u32::from_be_bytes(bytes))).ok_or_else(invalid)
    };
    let long = |at: usize| Ok::<_, Error>(word(at)? << 32 | word(at + 4)?);
    let scale = word(8)?.max(1);
    // The earliest time and the first offset are longer in version 1.
    let (first_offset, mut at) = match content.first() {
        Some(0) => (word(16)?, 20),
        _ => (long(20)?, 28),
    };
    let count = word(at)? & 0xffff;
    at += 4;
    let mut pos = start.checked_add(header.len).and_then(|end| end.checked_add(first_offset));
    let mut all = Vec::new();
    for _ in 0..count {
        let (size, duration) = (word(at)?, word(at + 4)?);
        if size >> 31 == 1 {
            let text = "the index of the file lists other indexes";
            return Err(Error::new(Kind::Unsupported, text));
        }
        let from = pos.ok_or_else(invalid)?;
        let to = from.checked_add(size).filter(|to| *to > from).ok_or_else(invalid)?;
        all.push((from..to, Duration::from_nanos(duration * 1_000_000_000 / scale)));
        pos = Some(to);
        at += 12;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sidx(version: u8, sizes: &[u32]) -> Vec<u8> {
        let mut content = vec![version, 0, 0, 0];
        content.extend([1_u32, 1000].iter().flat_map(|word| word.to_be_bytes()));
        content.extend(vec![0; if version == 0 { 4 } else { 8 }]);
        let offset = [vec![0; if version == 0 { 0 } else { 4 }], vec![0, 0, 0, 5]].concat();
        content.extend(offset);
        content.extend(u32::try_from(sizes.len()).unwrap().to_be_bytes());
        for size in sizes {
            content.extend([*size, 2000, 0].iter().flat_map(|word| word.to_be_bytes()));
        }
        let len = u32::try_from(content.len() + 8).unwrap();
        [&len.to_be_bytes()[..], b"sidx", &content].concat()
    }

    #[test]
    fn fragments_follow_the_index() {
        for version in [0, 1] {
            let bytes = sidx(version, &[100, 50]);
            let start = 800 + bytes.len() as u64 + 5;
            let two = Duration::from_secs(2);
            let expected = [(start..start + 100, two), (start + 100..start + 150, two)];
            assert_eq!(fragments(&bytes, 800).unwrap(), expected);
        }
        assert_eq!(fragments(&sidx(0, &[1 << 31]), 0).unwrap_err().kind(), Kind::Unsupported);
        assert!(fragments(&sidx(0, &[0]), 0).is_err() && fragments(b"", 0).is_err());
        assert!(fragments(&sidx(0, &[7])[..30], 0).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_fragments_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80), start in any::<u64>()) {
            let _ = fragments(&[b"\0\0\0\x50sidx", &bytes[..]].concat(), start);
        }
    }
}
