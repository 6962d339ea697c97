//! Joins renditions of fragmented MP4 into one file with several tracks, without decoding anything. Pure.
//!
//! The initialization sections become one, in which each track has a number of its own. The segments follow in the
//! order of their times. Each fragment gets the number of its track on the way (`patch`).

use std::time::Duration;

use bytes::Bytes;

use super::{
    patch::{MAX_FRAGMENTS, TrackPatch, box_header},
    segment::{Label, Segment, Source},
};
use crate::error::{Error, Kind, Result};

/// One rendition: its initialization section, and its segments.
#[derive(Debug, Clone)]
pub(in crate::protocols) struct Mp4Track {
    pub(in crate::protocols) init: Bytes,
    pub(in crate::protocols) segments: Vec<Segment>,
}

/// The segments of the joined file.
///
/// # Errors
/// `Unsupported` for initialization sections that do not have exactly one track; `Corrupt` for invalid ones.
pub(in crate::protocols) fn join(tracks: Vec<Mp4Track>) -> Result<Vec<Segment>> {
    let inits: Vec<_> = tracks.iter().map(|track| &track.init[..]).collect();
    let init = merge_inits(&inits)?;
    let mut joined = vec![Segment::new(Label::Init(0), Source::Inline(init.into()))];
    let count: usize = tracks.iter().map(|track| track.segments.len()).sum();
    let mut queues: Vec<_> = tracks
        .into_iter()
        .map(|track| (Duration::ZERO, track.segments.into_iter().peekable()))
        .collect();
    for position in 0..count {
        let ready = queues.iter_mut().enumerate();
        let ready = ready.filter_map(|(index, (time, queue))| queue.peek().map(|_| (*time, index)));
        let Some((_, index)) = ready.min() else { break };
        let (time, queue) = &mut queues[index];
        let Some(segment) = queue.next() else { break };
        *time += segment.duration;
        let fragments_before = u32::try_from(position).ok();
        let fragments_before = fragments_before.and_then(|count| count.checked_mul(MAX_FRAGMENTS));
        let first_sequence = fragments_before.and_then(|count| count.checked_add(1));
        let too_many = || Error::new(Kind::Unsupported, "the stream has too many segments to join");
        let patch = TrackPatch {
            track_id: track_id(index),
            first_sequence: first_sequence.ok_or_else(too_many)?,
        };
        joined.push(Segment { track: index, patch: Some(patch), ..segment });
    }
    Ok(joined)
}

fn track_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1)
}

/// A box with its header.
#[derive(Clone, Copy)]
struct Mp4Box<'a> {
    name: [u8; 4],
    whole: &'a [u8],
    content: &'a [u8],
}

fn boxes(mut bytes: &[u8]) -> Result<Vec<Mp4Box<'_>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let header = box_header(bytes)?;
        let len = if header.len == 0 { bytes.len() as u64 } else { header.len };
        let len = usize::try_from(len).ok().filter(|len| *len <= bytes.len());
        let len = len.ok_or_else(|| invalid("a box ends after its initialization section"))?;
        let header_len = usize::try_from(header.header_len).unwrap_or(len);
        let (whole, rest) = bytes.split_at(len);
        all.push(Mp4Box { name: header.name, whole, content: &whole[header_len.min(len)..] });
        bytes = rest;
    }
    Ok(all)
}

fn invalid(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

fn child<'a>(parent: &Mp4Box<'a>, name: &[u8; 4]) -> Result<Mp4Box<'a>> {
    let mut found = boxes(parent.content)?.into_iter().filter(|child| child.name == *name);
    let name = || String::from_utf8_lossy(name).into_owned();
    let no_box = || invalid(&format!("an initialization section has no box {:?}", name()));
    let first = found.next().ok_or_else(no_box)?;
    match found.next() {
        None => Ok(first),
        Some(_) => {
            let text = format!("an initialization section has several boxes {:?}", name());
            Err(Error::new(Kind::Unsupported, text).hint("only renditions of one track are joined"))
        }
    }
}

/// One initialization section for all tracks.
fn merge_inits(inits: &[&[u8]]) -> Result<Vec<u8>> {
    let (mut head, mut tracks, mut extends) = (Vec::new(), Vec::new(), Vec::new());
    for (index, init) in inits.iter().enumerate() {
        let all = boxes(init)?;
        let find = |name: &[u8; 4]| all.iter().find(|found| found.name == *name);
        let moov =
            find(b"moov").ok_or_else(|| invalid("an initialization section has no tracks"))?;
        if index == 0 {
            head.extend(find(b"ftyp").map(|ftyp| ftyp.whole.to_vec()).unwrap_or_default());
            tracks.extend(movie_header(&child(moov, b"mvhd")?, inits.len())?);
        }
        tracks.extend(numbered_track(&child(moov, b"trak")?, track_id(index))?);
        let extend = child(&child(moov, b"mvex")?, b"trex")?;
        extends.extend(with_word(&extend, 4, track_id(index))?);
    }
    tracks.extend(make_box(b"mvex", &extends));
    head.extend(make_box(b"moov", &tracks));
    Ok(head)
}

/// The header of the movie, with the number of the track that could be added next.
fn movie_header(mvhd: &Mp4Box<'_>, tracks: usize) -> Result<Vec<u8>> {
    let last =
        mvhd.content.len().checked_sub(4).ok_or_else(|| invalid("a box mvhd is too short"))?;
    with_word(mvhd, last, track_id(tracks))
}

/// A track with another number.
fn numbered_track(trak: &Mp4Box<'_>, id: u32) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    for found in boxes(trak.content)? {
        match &found.name {
            b"tkhd" => {
                // After version and flags and two times, which are longer in version 1.
                let at = if found.content.first() == Some(&1) { 20 } else { 12 };
                content.extend(with_word(&found, at, id)?);
            }
            _ => content.extend_from_slice(found.whole),
        }
    }
    Ok(make_box(b"trak", &content))
}

/// The box with another word at `at` of its content.
fn with_word(found: &Mp4Box<'_>, at: usize, word: u32) -> Result<Vec<u8>> {
    let mut content = found.content.to_vec();
    let target = content.get_mut(at..at + 4).ok_or_else(|| invalid("a box is too short"))?;
    target.copy_from_slice(&word.to_be_bytes());
    Ok(make_box(&found.name, &content))
}

fn make_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len() + 8).unwrap_or(u32::MAX);
    [&len.to_be_bytes()[..], name, content].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn init(name: &[u8; 4], version: u8) -> Vec<u8> {
        let times = if version == 1 { 16 } else { 8 };
        let tkhd = [&[version, 0, 0, 7][..], &vec![0; times], &[0, 0, 0, 9], &[5; 8]].concat();
        let trak = [make_box(b"tkhd", &tkhd), make_box(b"mdia", name)].concat();
        let trex = [0, 0, 0, 0, 0, 0, 0, 9, 1, 1, 1, 1];
        let moov = [
            make_box(b"mvhd", &[3; 20]),
            make_box(b"trak", &trak),
            make_box(b"mvex", &[make_box(b"mehd", &[0; 8]), make_box(b"trex", &trex)].concat()),
            make_box(b"udta", b"x"),
        ];
        [make_box(b"ftyp", name), make_box(b"moov", &moov.concat())].concat()
    }

    #[test]
    fn tracks_are_numbered_in_one_initialization_section() {
        let merged = merge_inits(&[&init(b"vide", 0), &init(b"soun", 1)]).unwrap();
        let all = boxes(&merged).unwrap();
        assert_eq!((all[0].name, all[0].content), (*b"ftyp", &b"vide"[..]));
        let moov = boxes(all[1].content).unwrap();
        let names: Vec<_> = moov.iter().map(|found| found.name).collect();
        assert_eq!(names, [*b"mvhd", *b"trak", *b"trak", *b"mvex"]);
        assert_eq!(moov[0].content[16..], [0, 0, 0, 3]);
        let tkhd = |n: usize| boxes(moov[n].content).unwrap()[0].content.to_vec();
        assert_eq!((&tkhd(1)[12..16], &tkhd(2)[20..24]), (&[0, 0, 0, 1][..], &[0, 0, 0, 2][..]));
        let trex = boxes(moov[3].content).unwrap();
        assert_eq!(
            (&trex[0].content[4..8], &trex[1].content[4..8]),
            (&[0, 0, 0, 1][..], &[0, 0, 0, 2][..])
        );
    }

    #[test]
    fn a_section_of_several_tracks_is_refused() {
        let moov = [make_box(b"mvhd", &[0; 20]), init(b"vide", 0)[12..].to_vec()];
        let two = make_box(
            b"moov",
            &[&moov.concat()[..], &make_box(b"trak", &[]), &make_box(b"trak", &[])].concat(),
        );
        assert_eq!(merge_inits(&[&two]).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(merge_inits(&[b"\0\0\0\x08moov"]).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(merge_inits(&[b""]).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn segments_are_in_the_order_of_their_times() {
        let segment = |number: u64, seconds: u64| Segment {
            duration: Duration::from_secs(seconds),
            ..Segment::new(Label::Media(number), Source::Inline(Bytes::new()))
        };
        let track = |name: &[u8; 4], durations: &[u64]| Mp4Track {
            init: init(name, 0).into(),
            segments: (0..)
                .zip(durations)
                .map(|(number, seconds)| segment(number, *seconds))
                .collect(),
        };
        let joined = join(vec![track(b"vide", &[4, 4, 4]), track(b"soun", &[6, 5])]).unwrap();
        let order: Vec<_> =
            joined[1..].iter().map(|segment| (segment.track, segment.label)).collect();
        let media = Label::Media;
        assert_eq!(
            order,
            [(0, media(0)), (1, media(0)), (0, media(1)), (1, media(1)), (0, media(2))]
        );
        let sequences: Vec<_> =
            joined[1..].iter().map(|s| s.patch.unwrap().first_sequence).collect();
        assert!(sequences.is_sorted() && sequences[0] == 1);
        assert_eq!(joined[2].patch.unwrap().track_id, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_section_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = merge_inits(&[&bytes, &bytes]);
            let moov = make_box(b"moov", &bytes);
            let _ = merge_inits(&[&moov]);
        }
    }
}
