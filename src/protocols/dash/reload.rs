//! Fetches a manifest again, when the URLs of its segments have expired.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    files::segments_of,
    manifest::{self, MediaKind},
    select::choose,
};
use crate::{
    error::Result,
    protocols::segments::{Label, ListClient, ListReload, MAX_LIST_LEN, Segment, decode},
};

/// The kinds of representations in a file.
#[derive(Debug)]
pub(super) struct DashReload {
    client: Arc<ListClient>,
    kinds: Vec<MediaKind>,
}

impl DashReload {
    pub(super) fn new(client: &Arc<ListClient>, kinds: Vec<MediaKind>) -> Self {
        Self { client: Arc::clone(client), kinds }
    }
}

#[async_trait]
impl ListReload for DashReload {
    async fn reload(&self) -> Result<Vec<Segment>> {
        let url = &self.client.list_url;
        let http = self.client.http_for(url).await?;
        let (list, bytes) = http.read_whole(url, url, MAX_LIST_LEN).await?;
        let periods = manifest::parse(&decode(&bytes)?, &list.url)?;
        let chosen = choose(&periods, &self.client.options)?;
        let mut all = Vec::new();
        for (track, kind) in self.kinds.iter().enumerate() {
            let Some((_, found)) = chosen.iter().find(|(found, _)| found == kind) else { continue };
            let mut segments = Vec::new();
            for representation in found {
                segments.extend(segments_of(representation)?);
            }
            let is_only = found.len() == 1;
            for (number, segment) in (1..).zip(segments) {
                let label = if is_only { segment.label } else { Label::Media(number) };
                all.push(Segment { track, label, ..segment });
            }
        }
        Ok(all)
    }
}
