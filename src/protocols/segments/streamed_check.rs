//! Checks that a segment is complete while its bytes pass, for segments whose length the server does not tell. Pure.

use super::{
    content::{Content, incomplete},
    patch::{BoxHeader, box_header},
};

/// Length of the header of a box in bytes, and of one with a long length.
const HEADER_LENS: (usize, usize) = (8, 16);

/// The state of one segment.
#[derive(Debug)]
pub(super) struct StreamedCheck {
    content: Content,
    len: u64,
    /// Position of the next box of MP4.
    next_box: u64,
    /// The first bytes of that box.
    header: Vec<u8>,
    /// The last box is as long as the rest of the segment.
    is_open: bool,
}

impl StreamedCheck {
    pub(super) fn new(content: Content) -> Self {
        Self { content, len: 0, next_box: 0, header: Vec::new(), is_open: false }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let mut pos = self.len;
        self.len += bytes.len() as u64;
        while self.content == Content::Mp4 && !self.is_open && !bytes.is_empty() {
            let before = (self.next_box + self.header.len() as u64).saturating_sub(pos);
            let Some(rest) = usize::try_from(before).ok().and_then(|before| bytes.get(before..))
            else {
                return;
            };
            pos += before;
            let taken = rest.len().min(self.wanted_header() - self.header.len());
            self.header.extend_from_slice(&rest[..taken]);
            (bytes, pos) = (&rest[taken..], pos + taken as u64);
            if self.header.len() < self.wanted_header() {
                continue;
            }
            match box_header(&self.header) {
                Ok(BoxHeader { len, .. }) if len > 0 => {
                    self.next_box = self.next_box.saturating_add(len);
                    self.header.clear();
                }
                // A box up to the end, or no box at all.
                _ => self.is_open = true,
            }
        }
    }

    fn wanted_header(&self) -> usize {
        match self.header.starts_with(&[0, 0, 0, 1]) {
            true => HEADER_LENS.1,
            false => HEADER_LENS.0,
        }
    }

    /// Why the segment is not complete; `None` if nothing shows that.
    pub(super) fn finish(&self) -> Option<&'static str> {
        let is_mp4 = self.content == Content::Mp4 && self.len > 0;
        match is_mp4 && !self.is_open && (self.next_box > self.len || !self.header.is_empty()) {
            true => Some("its last box ends after it"),
            false => incomplete(self.content, self.len, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn boxes(lens: &[u32]) -> Vec<u8> {
        let one = |len: &u32| {
            let mut all = len.to_be_bytes().to_vec();
            all.extend(b"mdat");
            all.resize(*len as usize, 9);
            all
        };
        lens.iter().flat_map(one).collect()
    }

    fn check(content: Content, bytes: &[u8], step: usize) -> bool {
        let mut check = StreamedCheck::new(content);
        bytes.chunks(step).for_each(|part| check.update(part));
        check.finish().is_none()
    }

    #[test]
    fn packets_and_an_open_box_are_checked() {
        assert!(check(Content::MpegTs, &[0x47; 376], 100));
        assert!(!check(Content::MpegTs, &[0x47; 375], 100));
        assert!(!check(Content::Other, &[], 1));
        let open = [&boxes(&[20])[..], &[0, 0, 0, 0], b"mdat", &[1; 50]].concat();
        assert!(check(Content::Mp4, &open, 7));
    }

    proptest! {
        #[test]
        fn only_a_segment_whose_last_box_is_complete_passes(
            lens in prop::collection::vec(8_u32..60, 1..8), step in 1_usize..40, cut in 1_usize..60,
        ) {
            let bytes = boxes(&lens);
            prop_assert!(check(Content::Mp4, &bytes, step));
            let cut = bytes.len().saturating_sub(cut);
            let mut ends = lens.iter().scan(0_usize, |end, len| { *end += *len as usize; Some(*end) });
            let is_end = ends.any(|end| end == cut);
            prop_assert_eq!(check(Content::Mp4, &bytes[..cut], step), is_end);
        }
    }
}
