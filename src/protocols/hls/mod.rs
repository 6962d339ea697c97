//! HLS: streams as playlists of segments (RFC 8216), over `http` and `https`.
//!
//! A URL is the playlist, whatever its name: of one rendition, or of several, of which the best one is chosen unless
//! [`StreamOptions`](crate::protocols::StreamOptions) says otherwise. The playlist becomes a file, or a folder of
//! files: one for each rendition, and a further one where the encoding changes.
//!
//! The path of a byte: `playlist` reads the text, `tracks` chooses and fetches the playlists of the renditions, `plan`
//! fetches keys and initialization sections and makes lists of segments, and `files` makes files of them with the room
//! `segments`. `live` follows a playlist to which segments are added.
//!
//! What it refuses: systems for digital rights management and SAMPLE-AES, by name; playlists of key frames; everything
//! that the room `segments` refuses.

mod attributes;
mod files;
mod key;
mod live;
mod live_window;
mod media_playlist;
mod mirror;
mod multivariant;
mod plan;
mod playlist;
mod reload;
mod subtitles;
mod tracks;
mod variables;

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use self::{
    files::build_files,
    mirror::mirror,
    playlist::Playlist,
    tracks::{FetchedPlaylist, fetch_tracks, list_renditions},
    variables::Variables,
};
use super::{
    ByteStream, FetchOptions, Protocol, RangeRequest, RemoteFile, Rendition, UrlTarget,
    display_url,
    http::Http,
    segments::{BuiltFile, ListClient, MAX_LIST_LEN, as_target, decode, decode_head, stem_of},
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["hls"];

/// The protocol of HLS playlists.
#[derive(Debug)]
pub(super) struct Hls {
    http: Arc<Http>,
    options: Arc<FetchOptions>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    Ok(Arc::new(Hls::new(Arc::new(Http::new(options)?), options)))
}

/// Whether `head`, the first bytes of a file, are those of a playlist of HLS.
pub(super) fn is_playlist_head(head: &[u8]) -> bool {
    playlist::is_playlist(&decode_head(head))
}

impl Hls {
    pub(super) fn new(http: Arc<Http>, options: &Arc<FetchOptions>) -> Self {
        Self { http, options: Arc::clone(options) }
    }

    /// The files of the stream whose playlist has the text `bytes`. `list` is the answer with the playlist.
    pub(super) async fn target_of(&self, list: &RemoteFile, bytes: &[u8]) -> Result<UrlTarget> {
        let with_url = |e: Error| e.with_context(display_url(&list.url));
        let text = decode(bytes).map_err(with_url)?;
        let playlist =
            Playlist::parse(&text, &list.url, &Variables::default()).map_err(with_url)?;
        let fetched = FetchedPlaylist { url: list.url.clone(), text, playlist };
        let requested_url = list.requested_url.clone();
        let client = ListClient::new(&self.http, requested_url, &self.options).await;
        let client = Arc::new(client);
        let tracks = fetch_tracks(&client, fetched).await?;
        let stem = stem_of(&list.requested_url);
        if client.options.mirror {
            let listing = mirror(&client, list, &tracks, &stem).await.map_err(with_url)?;
            return Ok(UrlTarget::Folder(listing));
        }
        let files = build_files(&client, tracks, &stem).await.map_err(with_url)?;
        let remote = |(path, file): (String, BuiltFile)| {
            let remote = file.into_remote(list, path.clone());
            (path, remote)
        };
        Ok(as_target(list, stem, files.into_iter().map(remote).collect()))
    }

    /// The renditions of the stream whose playlist has the text `bytes`.
    pub(super) fn renditions_of(&self, list: &RemoteFile, bytes: &[u8]) -> Result<Vec<Rendition>> {
        match Playlist::parse(&decode(bytes)?, &list.url, &Variables::default())? {
            Playlist::Multivariant(stream) => Ok(list_renditions(&stream, &self.options.streams)),
            Playlist::Media(_) => Ok(Vec::new()),
        }
    }
}

#[async_trait]
impl Protocol for Hls {
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

/// Refuses URLs that are not on web servers.
pub(super) fn check_web_url(url: &Url) -> Result<()> {
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(()),
        false => {
            let text = format!("a stream is at an http or https URL, not at {}:", url.scheme());
            Err(Error::new(Kind::InvalidInput, text))
        }
    }
}
