//! Changes fragments of MP4 so that they fit into a file with several tracks. Pure.
//!
//! Each fragment names its track and its number in four bytes each. Boxes that only make sense in the original file
//! (`styp`, `sidx`, `emsg`, `prft`) become `free` boxes. No length changes, so that the position of each byte in the
//! joined file is known before the byte is fetched.

use crate::error::{Error, Kind, Result};

/// The track and the number of the first fragment in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) struct TrackPatch {
    pub(in crate::protocols) track_id: u32,
    pub(in crate::protocols) first_sequence: u32,
}

/// Fragments that one segment may have. Their numbers are below those of the next segment.
pub(in crate::protocols) const MAX_FRAGMENTS: u32 = 256;
/// Bytes at the start of a `moof` box that contain the fields to change.
pub(in crate::protocols) const MOOF_HEAD_LEN: u64 = 256;

/// Four bytes of a segment, and their new values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) struct PatchPoint {
    pub(in crate::protocols) pos: u64,
    pub(in crate::protocols) bytes: [u8; 4],
}

impl PatchPoint {
    pub(super) fn end(&self) -> u64 {
        self.pos + 4
    }

    /// Replaces the bytes of the point in `part`, which starts at `start` of the segment.
    pub(super) fn apply(&self, part: &mut [u8], start: u64) {
        for (pos, byte) in (self.pos..).zip(self.bytes) {
            let at = pos.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            if let Some(target) = at.and_then(|at| part.get_mut(at)) {
                *target = byte;
            }
        }
    }
}

/// The header of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) struct BoxHeader {
    pub(in crate::protocols) name: [u8; 4],
    /// Length of the header and the content; 0 means up to the end of the file.
    pub(in crate::protocols) len: u64,
    pub(in crate::protocols) header_len: u64,
}

/// Reads the header at the start of `bytes`.
///
/// # Errors
/// `Corrupt` if there is none.
pub(in crate::protocols) fn box_header(bytes: &[u8]) -> Result<BoxHeader> {
    let invalid = || Error::new(Kind::Corrupt, "a box of MP4 has no valid header");
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let name = word(4).ok_or_else(invalid)?;
    let short = u32::from_be_bytes(word(0).ok_or_else(invalid)?);
    let (len, header_len) = match short {
        1 => {
            let long = bytes.get(8..16).and_then(|long| long.try_into().ok());
            (u64::from_be_bytes(long.ok_or_else(invalid)?), 16)
        }
        short => (u64::from(short), 8),
    };
    match len == 0 || len >= header_len {
        true => Ok(BoxHeader { name, len, header_len }),
        false => Err(invalid()),
    }
}

/// The points of one box at `pos` of its segment. `head` are the first bytes of the box: at least [`MOOF_HEAD_LEN`], or
/// all of it. `sequence` is the number of the fragment.
///
/// # Errors
/// `Unsupported` for a fragment that cannot be moved; `Corrupt` for one that is not valid.
pub(in crate::protocols) fn box_points(
    header: &BoxHeader,
    head: &[u8],
    pos: u64,
    track_id: u32,
    sequence: u32,
) -> Result<Vec<PatchPoint>> {
    match &header.name {
        b"styp" | b"sidx" | b"emsg" | b"prft" => {
            Ok(vec![PatchPoint { pos: pos + 4, bytes: *b"free" }])
        }
        b"moof" => moof_points(header, head, pos, track_id, sequence),
        _ => Ok(Vec::new()),
    }
}

fn moof_points(
    header: &BoxHeader,
    head: &[u8],
    pos: u64,
    track_id: u32,
    sequence: u32,
) -> Result<Vec<PatchPoint>> {
    let invalid = |text: &str| Error::new(Kind::Corrupt, format!("a fragment of MP4 {text}"));
    let mut points = Vec::new();
    let mut at = header.header_len;
    let end = header.len.min(head.len() as u64);
    while at < end {
        let rest = &head[usize::try_from(at).unwrap_or(usize::MAX)..];
        let Ok(child) = box_header(rest) else { break };
        match &child.name {
            b"mfhd" => {
                // After the header, version and flags.
                points.push(PatchPoint { pos: pos + at + 12, bytes: sequence.to_be_bytes() });
            }
            b"traf" => {
                at += child.header_len;
                continue;
            }
            b"tfhd" => {
                let flags = rest.get(8..12).ok_or_else(|| invalid("is too short"))?;
                if flags[3] & 1 == 1 {
                    let text = "a fragment of MP4 has absolute positions, so it cannot be joined with others";
                    return Err(Error::new(Kind::Unsupported, text));
                }
                points.push(PatchPoint { pos: pos + at + 12, bytes: track_id.to_be_bytes() });
                return match points.len() {
                    2 => Ok(points),
                    _ => Err(invalid("has no number")),
                };
            }
            _ => {}
        }
        at = match child.len {
            0 => break,
            len => at.saturating_add(len),
        };
    }
    Err(invalid("has no track"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let len = u32::try_from(content.len() + 8).unwrap();
        [&len.to_be_bytes()[..], name, content].concat()
    }

    fn moof(flags: u8) -> Vec<u8> {
        let mfhd = mp4_box(b"mfhd", &[0, 0, 0, 0, 0, 0, 0, 9]);
        let tfhd = mp4_box(b"tfhd", &[0, 2, 0, flags, 0, 0, 0, 1, 7, 7, 7, 7]);
        let trun = mp4_box(b"trun", &[0; 40]);
        mp4_box(b"moof", &[mfhd, mp4_box(b"traf", &[tfhd, trun].concat())].concat())
    }

    #[test]
    fn a_fragment_gets_its_track_and_its_number() {
        let mut bytes = moof(0x38);
        let header = box_header(&bytes).unwrap();
        let points = box_points(&header, &bytes, 1000, 2, 77).unwrap();
        points.iter().for_each(|point| point.apply(&mut bytes, 1000));
        let mut expected = moof(0x38);
        expected[23] = 77;
        let track = expected.len() - 48 - 4 - 4;
        assert_eq!(expected[track..track + 4], [0, 0, 0, 1]);
        expected[track + 3] = 2;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn boxes_of_the_original_file_become_free() {
        let mut bytes = mp4_box(b"styp", b"msdh");
        let header = box_header(&bytes).unwrap();
        let points = box_points(&header, &bytes, 0, 1, 1).unwrap();
        points.iter().for_each(|point| point.apply(&mut bytes, 0));
        assert_eq!(bytes, mp4_box(b"free", b"msdh"));
        let other = mp4_box(b"mdat", b"x");
        assert!(box_points(&box_header(&other).unwrap(), &other, 0, 1, 1).unwrap().is_empty());
    }

    #[test]
    fn a_fragment_with_absolute_positions_is_refused() {
        let bytes = moof(0x39);
        let error = box_points(&box_header(&bytes).unwrap(), &bytes, 0, 1, 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let empty = mp4_box(b"moof", &[]);
        assert!(box_points(&box_header(&empty).unwrap(), &empty, 0, 1, 1).is_err());
        for bad in [&b"\0\0\0\x07free"[..], b"\0\0", b"\0\0\0\x01free\0\0\0\0\0\0\0\x0f"] {
            assert!(box_header(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_points_within_them_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 8..120)) {
            bytes[4..8].copy_from_slice(b"moof");
            if let Ok(header) = box_header(&bytes)
                && let Ok(points) = box_points(&header, &bytes, 0, 1, 1)
            {
                prop_assert_eq!(points.len(), 2);
            }
        }
    }
}
