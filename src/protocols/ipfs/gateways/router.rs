//! Delegated routers: web servers that know which gateways provide a CID, and the records of IPNS names.

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use url::Url;

use super::{
    super::{
        content::{cid::Cid, multihash::Multihash},
        names::{ipns_name::IpnsName, ipns_record::MAX_RECORD},
    },
    gateway::{Gateway, is_local},
    provider,
};
use crate::{
    config::BlockFormat,
    error::{Error, Kind, Result},
    protocols::{
        display_url,
        http::{Http, PlainRequest},
    },
};

const PROVIDERS: &str = "application/x-ndjson, application/json;q=0.9";
const IPNS_RECORD: &str = "application/vnd.ipfs.ipns-record";
/// Maximum length of an answer in bytes. It names at most 100 peers.
const MAX_ANSWER: usize = 1 << 20;
/// Maximum number of CIDs that are looked up in a run.
const MAX_LOOKUPS: usize = 10_000;

/// All routers.
pub(in crate::protocols::ipfs) struct Routers {
    /// With a slash at the end.
    urls: Vec<Url>,
    http: Arc<Http>,
    /// For gateways that a router of the public network names: only those of the public network.
    public_http: Arc<Http>,
    /// For the gateways.
    format: BlockFormat,
    /// CIDs that were looked up.
    looked_up: Mutex<HashSet<Multihash>>,
}

impl fmt::Debug for Routers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.urls.iter().map(display_url).collect();
        f.debug_struct("Routers").field("urls", &names).finish_non_exhaustive()
    }
}

impl Routers {
    /// `http` and `public_http` send no login.
    pub(in crate::protocols::ipfs) fn new(
        urls: Vec<Url>,
        format: BlockFormat,
        http: &Arc<Http>,
        public_http: &Arc<Http>,
    ) -> Self {
        let (http, public_http) = (Arc::clone(http), Arc::clone(public_http));
        Self { urls, http, public_http, format, looked_up: Mutex::default() }
    }

    /// The gateways that provide `cid`; none if it was looked up before.
    pub(super) async fn providers(&self, cid: &Cid, errors: &mut Vec<Error>) -> Vec<Arc<Gateway>> {
        let mut found = Vec::new();
        {
            let mut looked_up = self.looked_up.lock();
            let has_room = looked_up.len() < MAX_LOOKUPS;
            if !has_room || !looked_up.insert(cid.hash().detached()) {
                return found;
            }
        }
        for router in &self.urls {
            match self.providers_of(router, cid).await {
                Ok(gateways) => {
                    let count = gateways.len();
                    tracing::info!("{}: {count} gateways for {cid}", display_url(router));
                    found.extend(gateways);
                }
                Err(e) => {
                    tracing::debug!("{}", e.report());
                    // Without an answer a later lookup may find more.
                    self.looked_up.lock().remove(cid.hash());
                    errors.push(e);
                }
            }
        }
        found
    }

    async fn providers_of(&self, router: &Url, cid: &Cid) -> Result<Vec<Arc<Gateway>>> {
        let path = format!("routing/v1/providers/{}", cid.to_version_1());
        let mut url = join(router, &path)?;
        url.query_pairs_mut().extend_pairs([
            ("filter-addrs", "https,tls,http"),
            ("filter-protocols", "transport-ipfs-gateway-http,unknown"),
        ]);
        let response = self.http.request(PlainRequest::get(&url, PROVIDERS)).await?;
        match response.status.as_u16() {
            200 => {}
            404 => return Ok(Vec::new()),
            _ => return Err(response.status_error()),
        }
        let body = response.read(MAX_ANSWER).await?;
        // A router of the public network must not lead to services of this machine or its network.
        let http = if is_local(router) { &self.http } else { &self.public_http };
        let gateways = provider::gateways(&body).into_iter();
        Ok(gateways
            .filter_map(|url| Gateway::new(url.as_str(), self.format, http).ok().map(Arc::new))
            .collect())
    }

    /// The records of an IPNS name, and errors.
    pub(in crate::protocols::ipfs) async fn records(&self, name: &IpnsName) -> Vec<Result<Bytes>> {
        let mut records = Vec::new();
        for router in &self.urls {
            records.push(self.record_of(router, name).await);
        }
        records
    }

    async fn record_of(&self, router: &Url, name: &IpnsName) -> Result<Bytes> {
        let url = join(router, &format!("routing/v1/ipns/{name}"))?;
        let response = self.http.request(PlainRequest::get(&url, IPNS_RECORD)).await?;
        match response.status.as_u16() {
            200 if response.content_type() == IPNS_RECORD => response.read(MAX_RECORD).await,
            200 | 404 => {
                let text = format!("{}: no record of {name}", display_url(router));
                Err(Error::new(Kind::NotFound, text))
            }
            _ => Err(response.status_error()),
        }
    }
}

fn join(router: &Url, path: &str) -> Result<Url> {
    router.join(path).map_err(|e| {
        Error::new(Kind::InvalidInput, format!("{}: not a valid URL", display_url(router)))
            .because(e)
    })
}
