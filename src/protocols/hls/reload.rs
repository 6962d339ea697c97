//! Fetches the playlists of a stream again, when the URLs of its segments have expired.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    plan::located,
    tracks::{TrackKind, fetch_playlist, fetch_tracks},
    variables::Variables,
};
use crate::{
    error::Result,
    protocols::segments::{ListClient, ListReload, Segment},
};

/// The tracks of a file.
#[derive(Debug)]
pub(super) struct HlsReload {
    client: Arc<ListClient>,
    kinds: Vec<TrackKind>,
}

impl HlsReload {
    pub(super) fn new(client: &Arc<ListClient>, kinds: Vec<TrackKind>) -> Self {
        Self { client: Arc::clone(client), kinds }
    }
}

#[async_trait]
impl ListReload for HlsReload {
    async fn reload(&self) -> Result<Vec<Segment>> {
        let client = &self.client;
        let fetched = fetch_playlist(client, &client.list_url, &Variables::default()).await?;
        let tracks = fetch_tracks(client, fetched).await?;
        let mut segments = Vec::new();
        for (index, kind) in self.kinds.iter().enumerate() {
            let Some(track) = tracks.get(kind) else { continue };
            for media in &track.playlist.segments {
                segments.push(Segment { track: index, ..located(track, media)? });
            }
        }
        Ok(segments)
    }
}
