//! `addUri` and `addTorrent`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    Aria2,
    envelope::{RpcError, RpcResult},
    options::{self, Options},
    params::Params,
};
use crate::{
    daemon::folders::Folders,
    queue::{Move, NewDownload, NewSource, Settings},
};

/// Most URIs of one download.
const MAX_URIS: usize = 100;

impl Aria2 {
    pub(super) async fn add_uri(&self, params: &Params) -> RpcResult {
        let uris = params.texts(0)?;
        if uris.len() > MAX_URIS {
            return Err(RpcError::new(format!("A download has at most {MAX_URIS} URIs.")));
        }
        // Further URIs are mirrors of the first one.
        let uri = uris.first().ok_or_else(|| RpcError::new("URI is not provided."))?;
        let options = self.parse_options(params, 1)?;
        let source = NewSource::Link((*uri).to_owned());
        self.add(source, options, params.optional_int(2)?).await
    }

    pub(super) async fn add_torrent(&self, params: &Params) -> RpcResult {
        let encoded = params.text(0)?.trim();
        let torrent = STANDARD
            .decode(encoded)
            .map_err(|_| RpcError::new("The parameter at 0 is no torrent in base64."))?;
        if !params.optional_texts(1)?.is_empty() {
            return Err(RpcError::new("Web seeds besides those of the torrent are not supported."));
        }
        let options = self.parse_options(params, 2)?;
        self.add(NewSource::Torrent(torrent), options, params.optional_int(3)?).await
    }

    fn parse_options(&self, params: &Params, at: usize) -> RpcResult<Options> {
        options::parse(&params.options(at)?, &Folders::of(self.state()))
    }

    async fn add(&self, source: NewSource, options: Options, position: Option<i64>) -> RpcResult {
        let new = NewDownload {
            source,
            paused: options.paused,
            first: position == Some(0),
            settings: Settings {
                storage: options.target.storage.clone().unwrap_or_default(),
                category: options.target.category.clone(),
                limits: options.limits(Default::default()),
                seed_limits: options.seed_limits(Default::default()),
                select: options.select,
                fetch: options.fetch,
                only_public: !self.state().options().private_hosts,
                ..Settings::default()
            },
            name: options.name,
            ..NewDownload::default()
        };
        let queue = self.state().queue();
        let added = queue.add(new).await?;
        let position = position.filter(|position| *position > 0 && added.is_new);
        if let Some(position) = position.and_then(|position| usize::try_from(position).ok()) {
            queue.move_to(std::slice::from_ref(&added.download.id), Move::To(position)).await?;
        }
        Ok(Value::String(added.download.id.to_string()))
    }
}
