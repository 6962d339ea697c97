//! MPEG-DASH: recorded streams as manifests (`.mpd`) of segments (ISO/IEC 23009-1), over `http` and `https`.
//!
//! The path of a byte: `xml` reads the text as a tree, `manifest` finds the representations in it, `segment_list`
//! finds the segments of each one (a template, a list, or one file), `select` chooses, and `files` makes files of them
//! with the room `segments`. Audio and video are joined to one file.
//!
//! What it refuses: live streams (`type="dynamic"`), manifests with parts at other URLs (xlink), and protected
//! representations, each with a sentence; everything that the room `segments` refuses.

mod files;
mod index;
mod manifest;
mod reload;
mod segment_list;
mod select;
mod template;
mod xml;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use url::Url;

use self::{
    files::Builder,
    manifest::{MediaKind, Period, Representation},
    segment_list::Description,
    select::choose,
};
use super::{
    ByteStream, FetchOptions, Protocol, RangeRequest, RemoteFile, Rendition, UrlTarget,
    display_url,
    hls::check_web_url,
    http::Http,
    segments::{ListClient, MAX_LIST_LEN, as_target, decode, decode_head, stem_of},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

pub(super) const SCHEMES: &[&str] = &["dash"];

/// The protocol of DASH manifests.
#[derive(Debug)]
pub(super) struct Dash {
    http: Arc<Http>,
    options: Arc<FetchOptions>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(Dash::new(Arc::new(Http::new(options)?), options)))
}

/// Whether `head`, the first bytes of a file, are those of a manifest.
pub(super) fn is_manifest_head(head: &[u8]) -> bool {
    manifest::is_manifest(&decode_head(head))
}

impl Dash {
    pub(super) fn new(http: Arc<Http>, options: &Arc<FetchOptions>) -> Self {
        Self { http, options: Arc::clone(options) }
    }

    /// The files of the stream whose manifest has the text `bytes`. `list` is the answer with the manifest.
    pub(super) async fn target_of(&self, list: &RemoteFile, bytes: &[u8]) -> Result<UrlTarget> {
        let with_url = |e: Error| e.with_context(display_url(&list.url));
        let options = &self.options.streams;
        if options.mirror {
            let text = "the list and segments of a stream can be kept as files for HLS only";
            return Err(Error::new(Kind::Unsupported, text)
                .hint(hint!["leave out ", Setting::MirrorStream]));
        }
        let mut periods =
            decode(bytes).and_then(|text| manifest::parse(&text, &list.url)).map_err(with_url)?;
        if let Some(duration) = options.duration {
            limit_duration(&mut periods, duration);
        }
        let chosen = choose(&periods, options).map_err(with_url)?;
        let client = ListClient::new(&self.http, list.requested_url.clone(), &self.options).await;
        let stem = stem_of(&list.requested_url);
        let builder = Builder { client: &Arc::new(client), list, stem: &stem };
        let files = builder.build(&chosen).await.map_err(with_url)?;
        Ok(as_target(list, stem, files))
    }

    /// The representations in the first period of the manifest with the text `bytes`.
    pub(super) fn renditions_of(&self, list: &RemoteFile, bytes: &[u8]) -> Result<Vec<Rendition>> {
        let periods = manifest::parse(&decode(bytes)?, &list.url)?;
        let chosen = choose(&periods, &self.options.streams).unwrap_or_default();
        let is_chosen = |found: &Representation| {
            chosen.iter().flat_map(|(_, all)| all).any(|other| std::ptr::eq(*other, found))
        };
        let rendition = |found: &Representation| Rendition {
            kind: match found.kind {
                MediaKind::Video => "video",
                MediaKind::Audio => "audio",
                MediaKind::Text => "subtitles",
            },
            traits: found.traits.clone(),
            chosen: is_chosen(found),
        };
        Ok(periods[0].representations.iter().map(rendition).collect())
    }
}

/// Drops the segments after `duration`.
fn limit_duration(periods: &mut [Period], duration: Duration) {
    for representation in periods.iter_mut().flat_map(|period| &mut period.representations) {
        let Description::Segments { segments, .. } = &mut representation.description else {
            continue;
        };
        let mut total = Duration::ZERO;
        segments.retain(|segment| {
            let is_wanted = total < duration;
            total += segment.duration;
            is_wanted
        });
    }
}

#[async_trait]
impl Protocol for Dash {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        check_web_url(url)?;
        let (list, bytes) = self.http.read_whole(url, url, MAX_LIST_LEN).await?;
        self.target_of(&list, &bytes).await
    }

    async fn renditions(&self, url: &Url) -> Result<Vec<Rendition>> {
        check_web_url(url)?;
        let (list, bytes) = self.http.read_whole(url, url, MAX_LIST_LEN).await?;
        self.renditions_of(&list, &bytes)
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        match &remote.segments {
            Some(file) => file.open(range).await,
            None => self.http.open(remote, range).await,
        }
    }
}
