//! Makes plans of files from a media playlist: fetches its keys and initialization sections, and decides where one file
//! ends and the next one begins.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use url::Url;

use super::{
    key::{AesKey, Keys},
    media_playlist::{Map, MediaSegment},
    tracks::{Track, read_small},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        display_url,
        segments::{Cipher, Label, ListClient, Segment, Source, bytes_of_data_url, with_tries},
    },
};

/// Length of a key in bytes.
const KEY_LEN: usize = 16;
/// Keys and initialization sections that are fetched at once.
const MAX_CONCURRENT: usize = 8;
/// Maximum number of initialization sections of one playlist. Each advertisement may have its own.
const MAX_MAPS: usize = 1000;

/// The segments of one file, and the initialization section before them.
#[derive(Debug, Clone, Default)]
pub(super) struct PlannedFile {
    pub(super) init: Option<Bytes>,
    pub(super) segments: Vec<Segment>,
}

impl PlannedFile {
    /// All segments, with the initialization section as the first one.
    pub(super) fn into_segments(self) -> Vec<Segment> {
        let init = self.init.map(|bytes| Segment::new(Label::Init(0), Source::Inline(bytes)));
        init.into_iter().chain(self.segments).collect()
    }
}

/// Keys and initialization sections that were fetched. They are kept in memory only.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    keys: HashMap<Url, [u8; KEY_LEN]>,
    maps: HashMap<(Url, Option<(u64, u64)>), Bytes>,
}

impl Fetched {
    /// Fetches what `segments` need and is not known yet.
    ///
    /// # Errors
    /// `Unsupported` for segments that cannot be decrypted; errors of the server.
    pub(super) async fn add(
        &mut self,
        client: &ListClient,
        track: &Track,
        segments: &[MediaSegment],
    ) -> Result<()> {
        let mut keys = Vec::new();
        let mut maps: Vec<Arc<Map>> = Vec::new();
        for segment in segments {
            keys.extend(segment.keys.aes_key()?.map(|key| key.uri.to_owned()));
            keys.dedup();
            if let Some(map) = &segment.map
                && maps.last().is_none_or(|last| !Arc::ptr_eq(last, map))
            {
                keys.extend(map.keys.aes_key()?.map(|key| key.uri.to_owned()));
                maps.push(Arc::clone(map));
            }
        }
        self.add_keys(client, track, keys).await?;
        if maps.len() > MAX_MAPS {
            let text = format!("the playlist has more than {MAX_MAPS} initialization sections");
            return Err(Error::new(Kind::Unsupported, text));
        }
        for map in maps {
            self.add_map(client, track, &map).await?;
        }
        Ok(())
    }

    async fn add_keys(
        &mut self,
        client: &ListClient,
        track: &Track,
        uris: Vec<String>,
    ) -> Result<()> {
        let mut urls: Vec<Url> = Vec::new();
        for uri in uris {
            urls.push(ListClient::resolve(&track.url, &uri)?);
        }
        urls.sort();
        urls.dedup();
        urls.retain(|url| !self.keys.contains_key(url));
        let fetch = |url: Url| async move {
            let read = || read_small(client, &url, None);
            let bytes = with_tries(&client.tries, "a key", read).await?;
            let key: [u8; KEY_LEN] = (&bytes[..]).try_into().map_err(|_| {
                let (len, at) = (bytes.len(), location(&url));
                let text = format!("{at}: a key has {len} bytes instead of {KEY_LEN}");
                Error::new(Kind::Unsupported, text)
            })?;
            Ok::<_, Error>((url, key))
        };
        let fetched = stream::iter(urls).map(fetch).buffered(MAX_CONCURRENT);
        self.keys.extend(fetched.try_collect::<Vec<_>>().await?);
        Ok(())
    }

    async fn add_map(&mut self, client: &ListClient, track: &Track, map: &Map) -> Result<()> {
        let key = map_key(track, map)?;
        if self.maps.contains_key(&key) {
            return Ok(());
        }
        let read = || read_small(client, &key.0, map.range.clone());
        let bytes = with_tries(&client.tries, "an initialization section", read).await?;
        let bytes = match map.keys.aes_key()? {
            None => bytes,
            Some(AesKey { iv: None, .. }) => {
                let text = format!(
                    "{}: an initialization section is encrypted without an IV",
                    location(&key.0)
                );
                return Err(Error::new(Kind::Unsupported, text));
            }
            Some(found) => {
                let cipher = self.cipher(track, found, 0)?;
                cipher.decrypt_whole(&bytes).map_err(|e| {
                    e.with_context("the initialization section").with_context(location(&key.0))
                })?
            }
        };
        self.maps.insert(key, bytes);
        Ok(())
    }

    /// The cipher of a key, for the segment with this number.
    fn cipher(&self, track: &Track, key: AesKey<'_>, sequence: u64) -> Result<Cipher> {
        let url = ListClient::resolve(&track.url, key.uri)?;
        let no_key = || Error::new(Kind::Internal, "a key was not fetched");
        let bytes = self.keys.get(&url).ok_or_else(no_key)?;
        Ok(Cipher::new(*bytes, key.iv.unwrap_or(u128::from(sequence).to_be_bytes())))
    }

    fn cipher_of(&self, track: &Track, keys: &Keys, sequence: u64) -> Result<Option<Cipher>> {
        keys.aes_key()?.map(|key| self.cipher(track, key, sequence)).transpose()
    }

    /// The initialization section of a segment.
    pub(super) fn init_of(&self, track: &Track, segment: &MediaSegment) -> Result<Option<Bytes>> {
        let Some(map) = &segment.map else { return Ok(None) };
        Ok(self.maps.get(&map_key(track, map)?).cloned())
    }

    /// The segment to fetch.
    pub(super) fn segment(&self, track: &Track, media: &MediaSegment) -> Result<Segment> {
        let cipher = self.cipher_of(track, &media.keys, media.sequence)?;
        let segment = located(track, media)?;
        match (&segment.source, cipher) {
            (Source::Inline(bytes), Some(cipher)) => {
                let plain =
                    cipher.decrypt_whole(bytes).map_err(|e| e.with_context(segment.label))?;
                Ok(Segment { source: Source::Inline(plain), ..segment })
            }
            _ => Ok(Segment { cipher, ..segment }),
        }
    }

    /// The files of a track. A segment with another initialization section than the one before begins a new file,
    /// because its samples are encoded in another way.
    pub(super) fn files(&self, track: &Track) -> Result<Vec<PlannedFile>> {
        let mut files: Vec<PlannedFile> = Vec::new();
        for media in &track.playlist.segments {
            let init = self.init_of(track, media)?;
            let segment = self.segment(track, media)?;
            match files.last_mut() {
                Some(file) if file.init == init => file.segments.push(segment),
                _ => files.push(PlannedFile { init, segments: vec![segment] }),
            }
        }
        Ok(files)
    }
}

/// A segment as the playlist has it, without its cipher.
pub(super) fn located(track: &Track, media: &MediaSegment) -> Result<Segment> {
    let url = ListClient::resolve(&track.url, &media.uri)?;
    let source = match bytes_of_data_url(&url)? {
        Some(bytes) => Source::Inline(bytes),
        None => Source::Remote(url, media.range.clone()),
    };
    Ok(Segment {
        duration: media.duration,
        is_gap: media.is_gap,
        ..Segment::new(Label::Media(media.sequence), source)
    })
}

fn map_key(track: &Track, map: &Map) -> Result<(Url, Option<(u64, u64)>)> {
    let url = ListClient::resolve(&track.url, &map.uri)?;
    Ok((url, map.range.as_ref().map(|range| (range.start, range.end))))
}

fn location(url: &Url) -> String {
    match url.scheme() {
        "data" => "a data: URL".to_owned(),
        _ => display_url(url),
    }
}
