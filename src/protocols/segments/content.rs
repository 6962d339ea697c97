//! Recognises a segment by its first bytes, so that a page of a server is never taken for a part of a stream. Pure.

use std::{cmp::Ordering, fmt};

use super::patch::{BoxHeader, box_header};

/// Length of a packet of MPEG-TS in bytes.
const TS_PACKET: usize = 188;
/// The first byte of each packet.
const TS_SYNC: u8 = 0x47;
/// Bytes at the start of a segment that decide what it is: three packets begin in them.
pub(in crate::protocols) const HEAD_LEN: usize = 2 * TS_PACKET + 1;
/// Bytes at the start of a segment in which MPEG-TS may begin behind the header of an image. Headers of up to 6102
/// bytes have been seen.
pub(in crate::protocols) const LONG_HEAD_LEN: usize = 64 << 10;

/// The container of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::protocols) enum Content {
    MpegTs,
    /// Fragmented MP4, as in CMAF.
    Mp4,
    /// AAC, MP3 or AC-3 without a container.
    PackedAudio(&'static str),
    WebVtt,
    /// Text in XML, which is the content of some subtitles. As any other segment it is a page of a server.
    Xml,
    /// Binary data of another kind.
    Other,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MpegTs => "MPEG-TS",
            Self::Mp4 => "MP4",
            Self::PackedAudio(_) => "audio",
            Self::WebVtt => "WebVTT",
            Self::Xml => "XML",
            Self::Other => "unknown",
        })
    }
}

impl Content {
    /// The usual suffix of file names.
    pub(in crate::protocols) fn suffix(self) -> &'static str {
        match self {
            Self::MpegTs => "ts",
            Self::Mp4 => "mp4",
            Self::PackedAudio(suffix) => suffix,
            Self::WebVtt => "vtt",
            Self::Xml => "ttml",
            Self::Other => "bin",
        }
    }
}

/// What the start of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) enum Start {
    Content(Content),
    /// MPEG-TS behind this many bytes of an image.
    Disguised(u64),
    /// An image. With more bytes of the segment it may turn out as disguised.
    Image,
    /// Not a part of a stream.
    False(&'static str),
}

/// Recognises `head`, the first [`HEAD_LEN`] bytes of a segment, or all of a shorter one.
pub(in crate::protocols) fn recognise(head: &[u8]) -> Start {
    if has_ts_sync(head) {
        return Start::Content(Content::MpegTs);
    }
    if is_mp4(head) {
        return Start::Content(Content::Mp4);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if text.starts_with(b"WEBVTT") {
        return Start::Content(Content::WebVtt);
    }
    if is_image(head) {
        return match (0..head.len()).find(|start| has_ts_sync_of_three(&head[*start..])) {
            Some(start) => Start::Disguised(start as u64),
            None => Start::Image,
        };
    }
    if let Some(suffix) = packed_audio(head) {
        return Start::Content(Content::PackedAudio(suffix));
    }
    let lower: Vec<u8> = text.iter().take(16).map(u8::to_ascii_lowercase).collect();
    if lower.starts_with(b"<!doctype h") || lower.starts_with(b"<html") {
        return Start::False("an HTML page");
    }
    let is_text = is_text(head);
    match lower.first() {
        Some(b'<') if is_text => Start::Content(Content::Xml),
        Some(b'{' | b'[') if is_text => Start::False("JSON"),
        Some(_) if is_text && head.len() >= 8 => Start::False("text"),
        _ => Start::Content(Content::Other),
    }
}

/// Why a segment of `content`, with `len` bytes, is not complete; `None` if nothing shows that. `head` are its first
/// bytes.
pub(in crate::protocols) fn incomplete(
    content: Content,
    len: u64,
    head: &[u8],
) -> Option<&'static str> {
    match content {
        _ if len == 0 => Some("it is empty"),
        Content::MpegTs if !len.is_multiple_of(TS_PACKET as u64) => {
            Some("its length is not a multiple of 188 bytes")
        }
        Content::Mp4 if walk_boxes(head, 0, len) == Boxes::TooShort => {
            Some("its last box ends after it")
        }
        _ => None,
    }
}

/// How far the boxes of a segment of MP4 are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocols) enum Boxes {
    /// The last box ends with the segment.
    Complete,
    /// The next box begins at this position, after the known bytes.
    Continue(u64),
    /// A box ends after the segment.
    TooShort,
}

/// Walks over the boxes of a segment of `len` bytes. `part` are the bytes from `start` on, where a box begins.
pub(in crate::protocols) fn walk_boxes(part: &[u8], start: u64, len: u64) -> Boxes {
    let mut pos = start;
    loop {
        match pos.cmp(&len) {
            Ordering::Greater => return Boxes::TooShort,
            Ordering::Equal => return Boxes::Complete,
            Ordering::Less => {}
        }
        let rest = usize::try_from(pos - start).ok().and_then(|at| part.get(at..));
        match rest.map(box_header) {
            // The last box, up to the end of the file.
            Some(Ok(BoxHeader { len: 0, .. })) => return Boxes::Complete,
            Some(Ok(header)) => pos = pos.saturating_add(header.len),
            Some(Err(_)) | None => return Boxes::Continue(pos),
        }
    }
}

fn has_ts_sync(head: &[u8]) -> bool {
    head.len() >= TS_PACKET && head.iter().step_by(TS_PACKET).take(3).all(|byte| *byte == TS_SYNC)
}

fn has_ts_sync_of_three(head: &[u8]) -> bool {
    head.len() > 2 * TS_PACKET && has_ts_sync(head)
}

fn is_mp4(head: &[u8]) -> bool {
    let types: [&[u8]; 10] =
        [b"ftyp", b"styp", b"moof", b"moov", b"sidx", b"emsg", b"prft", b"mdat", b"free", b"skip"];
    head.get(4..8).is_some_and(|found| types.contains(&found))
}

/// Whether `head`, which may be cut within a character, is text.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace())
}

fn is_image(head: &[u8]) -> bool {
    let starts: [&[u8]; 4] = [b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"BM"];
    starts.iter().any(|start| head.starts_with(start))
}

/// The suffix of a name for audio without a container.
fn packed_audio(head: &[u8]) -> Option<&'static str> {
    match head {
        // Timestamps of HLS are in an ID3 tag before the audio, which is AAC in nearly all streams.
        [b'I', b'D', b'3', ..] => Some(after_id3(head).and_then(packed_audio).unwrap_or("aac")),
        [0xff, second, ..] if second & 0xf6 == 0xf0 => Some("aac"),
        [0xff, second, ..] if second & 0xe0 == 0xe0 && *second != 0xff => Some("mp3"),
        [0x0b, 0x77, ..] => Some("ac3"),
        _ => None,
    }
}

/// The bytes after an ID3 tag.
fn after_id3(head: &[u8]) -> Option<&[u8]> {
    let size =
        head.get(6..10)?.iter().fold(0_usize, |size, byte| size << 7 | usize::from(byte & 0x7f));
    head.get(10 + size..).filter(|rest| !rest.starts_with(b"ID3"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ts(packets: usize) -> Vec<u8> {
        let packet = |n: usize| {
            let mut packet = vec![u8::try_from(n % 256).unwrap(); TS_PACKET];
            packet[0] = TS_SYNC;
            packet
        };
        (0..packets).flat_map(packet).collect()
    }

    fn mp4_box(name: &[u8; 4], len: u32) -> Vec<u8> {
        let mut all = len.to_be_bytes().to_vec();
        all.extend(name);
        all.resize(len as usize, 0);
        all
    }

    #[test]
    fn each_container_is_recognised() {
        let of = |head: &[u8]| recognise(&head[..head.len().min(HEAD_LEN)]);
        assert_eq!(of(&ts(3)), Start::Content(Content::MpegTs));
        assert_eq!(of(&ts(1)), Start::Content(Content::MpegTs));
        assert_eq!(of(&mp4_box(b"moof", 100)), Start::Content(Content::Mp4));
        assert_eq!(of(b"\xef\xbb\xbfWEBVTT\n\n"), Start::Content(Content::WebVtt));
        for (head, suffix) in [
            (&b"\xff\xf1\x50\x80"[..], "aac"),
            (b"\xff\xfb\x90\x00", "mp3"),
            (b"\x0b\x77\x00\x00", "ac3"),
            (b"ID3\x04\x00\x00\x00\x00\x00\x02ab\xff\xfb\x90", "mp3"),
            (b"ID3\x04\x00\x00\x00\x00\x00\x7f", "aac"),
        ] {
            assert_eq!(of(head), Start::Content(Content::PackedAudio(suffix)), "{head:?}");
        }
        assert_eq!(of(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09"), Start::Content(Content::Other));
        assert_eq!(of(b"<?xml version='1.0'?><tt>"), Start::Content(Content::Xml));
    }

    #[test]
    fn pages_of_servers_are_no_segments() {
        for head in [
            "<!DOCTYPE html><html>",
            "\n <HTML><head>",
            "{\"error\": \"token expired\"}",
            "404 page not found\n",
            "The link has expired – sign in again",
        ] {
            assert!(matches!(recognise(head.as_bytes()), Start::False(_)), "{head}");
        }
    }

    #[test]
    fn mpeg_ts_is_found_behind_an_image() {
        for (image, len) in [
            (&b"\x89PNG\r\n\x1a\n"[..], 69),
            (b"GIF89a", 771),
            (b"\xff\xd8\xff\xe0", 6102),
            (b"BM", 120),
        ] {
            let mut head = image.to_vec();
            head.resize(len, 0);
            assert_eq!(recognise(&head), Start::Image);
            head.extend(ts(4));
            assert_eq!(recognise(&head), Start::Disguised(len as u64));
        }
    }

    #[test]
    fn a_segment_that_ends_early_is_incomplete() {
        assert_eq!(incomplete(Content::MpegTs, 188 * 100, &ts(3)), None);
        assert!(incomplete(Content::MpegTs, 188 * 100 - 1, &ts(3)).is_some());
        let mut head = [mp4_box(b"styp", 24), mp4_box(b"moof", 80)].concat();
        head.extend(1000_u32.to_be_bytes());
        head.extend(b"mdat");
        assert_eq!(incomplete(Content::Mp4, 1104, &head), None);
        assert!(incomplete(Content::Mp4, 1103, &head).is_some());
        assert_eq!(incomplete(Content::Mp4, 50, &head[..24]), None, "its boxes are not known");
        assert!(incomplete(Content::Other, 0, &[]).is_some());
        let mut long = 1_u32.to_be_bytes().to_vec();
        long.extend(b"mdat");
        long.extend(5_000_000_000_u64.to_be_bytes());
        assert_eq!(incomplete(Content::Mp4, 5_000_000_000, &long), None);
        assert!(incomplete(Content::Mp4, 4_999_999_999, &long).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_recognised(head in prop::collection::vec(any::<u8>(), 0..HEAD_LEN), len in any::<u64>()) {
            recognise(&head);
            incomplete(Content::Mp4, len, &head);
        }
    }
}
