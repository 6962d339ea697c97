//! One gateway: its address, its requests, and the experience with it.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    Method,
    header::{AUTHORIZATION, HeaderValue},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::{
    super::{
        content::{MAX_BLOCK, car::CarReader, cid::Cid},
        names::{ipns_name::IpnsName, ipns_record::MAX_RECORD},
    },
    answer::{BODY_START, Verdict, judge},
    health::{Format, Health, Outcome},
};
use crate::{
    config::BlockFormat,
    error::{Error, Kind, Result},
    protocols::{
        Login, display_url, has_private_host,
        http::{Http, PlainRequest, PlainResponse},
        url_paths::with_trailing_slash,
    },
};

const RAW_BLOCK: &str = "application/vnd.ipld.raw";
const CAR: &str = "application/vnd.ipld.car";
const CAR_ACCEPTED: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=y";
const IPNS_RECORD: &str = "application/vnd.ipfs.ipns-record";

/// How blocks are requested.
#[derive(Debug, Clone)]
enum Interface {
    /// A trustless gateway.
    Gateway,
    /// The RPC interface of Kubo, with the login that the user gave for it.
    Rpc(Option<Login>),
}

/// A source of blocks.
pub(in crate::protocols::ipfs) struct Gateway {
    /// With a slash at the end.
    url: Url,
    interface: Interface,
    format: BlockFormat,
    http: Arc<Http>,
    health: Mutex<Health>,
    /// Why the gateway is not used again.
    ban: Mutex<Option<Error>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("url", &self.name()).finish_non_exhaustive()
    }
}

/// Why a gateway did not send what was requested.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    pub(super) error: Error,
}

impl From<Error> for Refusal {
    /// The error of a connection.
    fn from(error: Error) -> Self {
        let outcome = match error.kind() {
            // Every request would be refused.
            Kind::Unauthenticated | Kind::PermissionDenied | Kind::InvalidInput => Outcome::Useless,
            _ => Outcome::Failed,
        };
        Self { outcome, error }
    }
}

/// A request in flight. When it is dropped without an outcome, it counts as given up.
struct Attempt<'a> {
    gateway: &'a Gateway,
    format: Format,
    started_at: Instant,
    outcome: Option<Outcome>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let (now, elapsed) = (Instant::now(), self.started_at.elapsed());
        self.gateway.health.lock().end(self.format, self.outcome, elapsed, now);
    }
}

/// The range of a file to request as a CAR.
#[derive(Debug, Clone, Copy)]
pub(in crate::protocols::ipfs) struct CarRange {
    pub(in crate::protocols::ipfs) start: u64,
    /// Exclusive; more than `start`.
    pub(in crate::protocols::ipfs) end: u64,
}

impl Gateway {
    /// # Errors
    /// `InvalidInput` for a URL that is not that of a gateway, or not encrypted although its host is not local.
    pub(in crate::protocols::ipfs) fn new(
        text: &str,
        format: BlockFormat,
        http: &Arc<Http>,
    ) -> Result<Self> {
        let url = checked_url(text, "IPFS gateway", "ipfs")?;
        Ok(Self::at(url, Interface::Gateway, format, http))
    }

    /// The RPC interface at `text`.
    ///
    /// # Errors
    /// As [`Gateway::new`].
    pub(in crate::protocols::ipfs) fn rpc(
        text: &str,
        login: impl FnOnce(&Url) -> Option<Login>,
        http: &Arc<Http>,
    ) -> Result<Self> {
        let url = checked_url(text, "IPFS RPC interface", "api/v0")?;
        let login = login(&url);
        Ok(Self::at(url, Interface::Rpc(login), BlockFormat::Raw, http))
    }

    fn at(url: Url, interface: Interface, format: BlockFormat, http: &Arc<Http>) -> Self {
        let (health, ban) = (Mutex::default(), Mutex::default());
        Self { url, interface, format, http: Arc::clone(http), health, ban }
    }

    /// The address for messages, without login and scheme.
    pub(in crate::protocols::ipfs) fn name(&self) -> String {
        display_url(&self.url).trim_end_matches('/').to_owned()
    }

    pub(in crate::protocols::ipfs) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn health(&self) -> parking_lot::MutexGuard<'_, Health> {
        self.health.lock()
    }

    /// Whether a CAR of many blocks is cheaper here than many requests: when requests take long, or are limited. A
    /// gateway on this machine or network answers single blocks as fast.
    pub(super) fn prefers_cars(&self) -> bool {
        let health = self.health.lock();
        let prefers = match self.format {
            BlockFormat::Auto => !is_local(&self.url) || health.was_busy(),
            BlockFormat::Raw => false,
            BlockFormat::Car => true,
        };
        prefers && health.may_have_cars()
    }

    fn attempt(&self, format: Format) -> Attempt<'_> {
        self.health.lock().start();
        Attempt { gateway: self, format, started_at: Instant::now(), outcome: None }
    }

    /// Fetches the block of `cid` and verifies it.
    pub(super) async fn block(&self, cid: &Cid) -> Result<Bytes, Refusal> {
        let mut attempt = self.attempt(Format::Raw);
        let fetched = self.unrecorded_block(cid).await;
        attempt.outcome = Some(fetched.as_ref().err().map_or(Outcome::Sent, |r| r.outcome));
        if let Err(refusal) = &fetched {
            self.record_ban(refusal);
        }
        fetched
    }

    fn record_ban(&self, refusal: &Refusal) {
        if matches!(refusal.outcome, Outcome::Useless | Outcome::UnknownFormat) {
            self.ban.lock().get_or_insert_with(|| refusal.error.clone());
        }
    }

    /// Why the gateway is not used again, if it is not.
    pub(super) fn ban(&self) -> Option<Error> {
        self.ban.lock().clone()
    }

    async fn unrecorded_block(&self, cid: &Cid) -> Result<Bytes, Refusal> {
        let response = self.request_block(cid).await?;
        let response = self.accept(response, Format::Raw).await?;
        let content_type = response.content_type();
        let block = response.read(MAX_BLOCK).await;
        let sent_raw = content_type == RAW_BLOCK || matches!(self.interface, Interface::Rpc(_));
        let block = match block {
            Err(e) if e.kind() == Kind::Unsupported && sent_raw => {
                let text = format!("{}: block {cid} has more than 2 MiB", self.name());
                let error = Error::new(Kind::Unsupported, text);
                return Err(Refusal { outcome: Outcome::NotHere, error });
            }
            // For example the whole file in place of its first block.
            Err(e) if e.kind() == Kind::Unsupported => {
                return Err(self.not_trustless(&content_type));
            }
            block => block?,
        };
        if cid.hash().verifies(&block) {
            return Ok(block);
        }
        match sent_raw {
            true => Err(self.wrong_block(cid)),
            false => Err(self.not_trustless(&content_type)),
        }
    }

    fn wrong_block(&self, cid: &Cid) -> Refusal {
        let text = format!("{}: the block sent for {cid} has another hash", self.name());
        tracing::warn!("{text}; this gateway is not used again");
        Refusal { outcome: Outcome::Useless, error: Error::new(Kind::Corrupt, text) }
    }

    fn not_trustless(&self, content_type: &str) -> Refusal {
        let sent = if content_type.is_empty() { "something else" } else { content_type };
        let text = format!("{}: not a trustless gateway: it sends {sent} for a block", self.name());
        tracing::warn!("{text}; this gateway is not used again");
        Refusal { outcome: Outcome::Useless, error: Error::new(Kind::Corrupt, text) }
    }

    async fn request_block(&self, cid: &Cid) -> Result<PlainResponse> {
        match &self.interface {
            Interface::Gateway => {
                // Both, because some gateways honour only the one or the other.
                let url = self.join(&format!("ipfs/{cid}"), &[("format", "raw")])?;
                self.http.request(PlainRequest::get(&url, RAW_BLOCK)).await
            }
            Interface::Rpc(login) => self.call("block/get", &cid.to_string(), login).await,
        }
    }

    /// Requests the blocks of a range of the file `root` as a CAR.
    pub(super) async fn car(
        self: &Arc<Self>,
        root: &Cid,
        range: CarRange,
    ) -> Result<CarStream, Refusal> {
        let entity_bytes = format!("{}:{}", range.start, range.end - 1);
        let query = [
            ("format", "car"),
            ("dag-scope", "entity"),
            ("entity-bytes", &entity_bytes),
            ("car-order", "dfs"),
            ("car-dups", "y"),
        ];
        let mut attempt = self.attempt(Format::Car);
        let opened = async {
            let url = self.join(&format!("ipfs/{root}"), &query)?;
            let request = PlainRequest { is_long: true, ..PlainRequest::get(&url, CAR_ACCEPTED) };
            let response = self.http.request(request).await?;
            let response = self.accept(response, Format::Car).await?;
            match response.content_type() == CAR {
                true => Ok(response),
                false => {
                    let text = format!("{}: no CARs", self.name());
                    let error = Error::new(Kind::Unsupported, text);
                    Err(Refusal { outcome: Outcome::UnknownFormat, error })
                }
            }
        };
        let opened = opened.await;
        // A CAR counts as sent when it is complete.
        attempt.outcome = opened.as_ref().err().map(|refusal| refusal.outcome);
        drop(attempt);
        let (gateway, reader) = (Arc::clone(self), CarReader::default());
        Ok(CarStream { gateway, response: opened?, reader, received: 0 })
    }

    /// Requests the record of an IPNS name.
    pub(in crate::protocols::ipfs) async fn record(&self, name: &IpnsName) -> Result<Bytes> {
        let response = match &self.interface {
            Interface::Gateway => {
                let url = self.join(&format!("ipns/{name}"), &[("format", "ipns-record")])?;
                let response = self.http.request(PlainRequest::get(&url, IPNS_RECORD)).await?;
                if response.status == 200 && response.content_type() != IPNS_RECORD {
                    let text = format!("{}: no record of {name}", self.name());
                    return Err(Error::new(Kind::NotFound, text));
                }
                response
            }
            Interface::Rpc(login) => self.call("name/get", &name.to_string(), login).await?,
        };
        let response = self.accept(response, Format::Raw).await.map_err(|refusal| refusal.error)?;
        response.read(MAX_RECORD).await
    }

    /// Calls a function of the RPC interface.
    async fn call(
        &self,
        function: &str,
        argument: &str,
        login: &Option<Login>,
    ) -> Result<PlainResponse> {
        let query = [("arg", argument), ("timeout", "30s")];
        let url = self.join(&format!("api/v0/{function}"), &query)?;
        let mut headers = Vec::new();
        // Kubo answers 403 to a request without a login, so it is sent at once.
        if let Some(Login { user, password: Some(password) }) = login {
            let text = STANDARD.encode(format!("{user}:{}", password.reveal()?));
            let mut value = HeaderValue::from_str(&format!("Basic {text}"))
                .expect("base64 is valid in a header");
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        let request = PlainRequest { url: &url, method: Method::POST, headers, is_long: false };
        self.http.request(request).await
    }

    /// Accepts only an answer with content.
    async fn accept(
        &self,
        response: PlainResponse,
        format: Format,
    ) -> Result<PlainResponse, Refusal> {
        let (status, wait) = (response.status.as_u16(), response.retry_after());
        let error = response.status_error();
        let is_rpc = matches!(self.interface, Interface::Rpc(_));
        let verdict = match status {
            200 => return Ok(response),
            // Errors of the RPC interface are all 500, and most of them mean that the node lacks the block.
            500 if is_rpc => Verdict::NotHere,
            401 | 403 if is_rpc => return Err(Refusal { outcome: Outcome::Useless, error }),
            _ => judge(status, &response.read_start(BODY_START).await, wait),
        };
        let (outcome, error) = match verdict {
            Verdict::Content | Verdict::Failed => (Outcome::Failed, error),
            Verdict::NotHere => {
                let text = format!("{}: {}", self.name(), not_here_reason(status));
                (Outcome::NotHere, Error::new(Kind::NotFound, text))
            }
            Verdict::Busy(wait) => {
                (Outcome::Busy(wait), error.retry_after(wait.max(Duration::from_millis(1))))
            }
            Verdict::UnknownFormat => {
                let what = if format == Format::Raw { "raw blocks" } else { "CARs" };
                let text = format!("{}: no {what} ({status})", self.name());
                (Outcome::UnknownFormat, Error::new(Kind::Unsupported, text))
            }
        };
        Err(Refusal { outcome, error })
    }

    fn join(&self, path: &str, query: &[(&str, &str)]) -> Result<Url> {
        let mut url = self.url.join(path).map_err(|e| {
            Error::new(Kind::InvalidInput, format!("{}: not a valid URL", self.name())).because(e)
        })?;
        url.query_pairs_mut().extend_pairs(query);
        Ok(url)
    }
}

fn not_here_reason(status: u16) -> String {
    match status {
        403 | 410 | 451 => format!("refused ({status})"),
        _ => "not found".to_owned(),
    }
}

/// A CAR that arrives, with the verified blocks in it.
#[derive(Debug)]
pub(super) struct CarStream {
    gateway: Arc<Gateway>,
    response: PlainResponse,
    reader: CarReader,
    /// Bytes of blocks so far.
    received: u64,
}

impl CarStream {
    /// The next block; `None` at the end. Every block is verified against the CID before it.
    pub(super) async fn next(&mut self, max: u64) -> Result<Option<(Cid, Bytes)>> {
        let next = self.unrecorded_next(max).await;
        let outcome = match &next {
            Ok(Some(_)) => return next.map_err(|refusal| refusal.error),
            Ok(None) => Outcome::Sent,
            Err(refusal) => refusal.outcome,
        };
        self.gateway.attempt(Format::Car).outcome = Some(outcome);
        next.map_err(|refusal| {
            if refusal.outcome == Outcome::Useless {
                self.gateway.record_ban(&refusal);
            }
            refusal.error
        })
    }

    async fn unrecorded_next(&mut self, max: u64) -> Result<Option<(Cid, Bytes)>, Refusal> {
        loop {
            if let Some((cid, block)) = self.reader.next()? {
                self.received += block.len() as u64;
                if self.received > max {
                    let text = format!("{}: the CAR has more than requested", self.gateway.name());
                    let error = Error::new(Kind::Unsupported, text);
                    return Err(Refusal { outcome: Outcome::UnknownFormat, error });
                }
                if cid.hash().check_supported().is_err() {
                    continue;
                }
                return match cid.hash().verifies(&block) {
                    true => Ok(Some((cid, block))),
                    false => Err(self.gateway.wrong_block(&cid)),
                };
            }
            match self.response.next().await {
                Some(bytes) => self.reader.push(&bytes?),
                None => {
                    self.reader.finish()?;
                    return Ok(None);
                }
            }
        }
    }

    pub(super) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }
}

/// Parses the URL of a gateway. `suffix` is a path that belongs to its requests and may have been given as well.
fn checked_url(text: &str, what: &str, suffix: &str) -> Result<Url> {
    // The text may contain a login, so errors do not repeat it.
    let invalid = |reason: &str| {
        Error::new(Kind::InvalidInput, format!("{what}: {reason}"))
            .hint("write it as https://HOST, or http://HOST:PORT for this machine or network")
    };
    let mut url = Url::parse(text.trim()).map_err(|_| invalid("not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid("its scheme is neither http nor https"));
    }
    if url.scheme() == "http" && !is_local(&url) {
        let host = url.host_str().unwrap_or_default();
        return Err(invalid(&format!("http is only for local hosts, not for {host}")));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix(&format!("/{suffix}")).unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(with_trailing_slash(&url))
}

/// Whether the host is this machine, or a name of the local network.
pub(in crate::protocols::ipfs) fn is_local(url: &Url) -> bool {
    const LOCAL: [&str; 4] = [".local", ".lan", ".internal", ".home.arpa"];
    let host = url.domain().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let is_local_name =
        !host.is_empty() && (!host.contains('.') || LOCAL.iter().any(|end| host.ends_with(end)));
    has_private_host(url) || is_local_name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::FetchOptions;

    fn url(text: &str) -> Result<String> {
        checked_url(text, "gateway", "ipfs").map(Into::into)
    }

    #[test]
    fn the_url_of_a_gateway_has_a_slash_at_its_end_and_no_query() {
        for (given, wanted) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://gw.example/ipfs/", "https://gw.example/"),
            ("https://u:p@gw.example/sub/?x=1#y", "https://u:p@gw.example/sub/"),
            (" http://nas:8080 ", "http://nas:8080/"),
            ("http://nas.local/", "http://nas.local/"),
            ("http://[::1]:1/", "http://[::1]:1/"),
        ] {
            assert_eq!(url(given).unwrap(), wanted, "{given}");
        }
    }

    #[test]
    fn unencrypted_gateways_are_only_local_and_errors_show_no_login() {
        for given in ["http://u:hunter2@gw.example", "ftp://h/", "hunter2", "http://1.1.1.1/", ""] {
            let error = url(given).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput, "{given}");
            assert!(!error.report().contains("hunter2"), "{}", error.report());
        }
    }

    #[test]
    fn a_gateway_is_shown_without_its_login() {
        let http = Arc::new(Http::new(&Arc::new(FetchOptions::default())).unwrap());
        let gateway =
            Gateway::new("https://u:hunter2@gw.example:8443/x/", BlockFormat::Auto, &http).unwrap();
        assert_eq!(gateway.name(), "gw.example:8443/x");
        assert!(!format!("{gateway:?}").contains("hunter2"));
        assert!(gateway.prefers_cars());
        for (format, prefers) in
            [(BlockFormat::Auto, false), (BlockFormat::Raw, false), (BlockFormat::Car, true)]
        {
            let local = Gateway::new("http://127.0.0.1:1", format, &http).unwrap();
            assert_eq!(local.prefers_cars(), prefers, "{format:?}");
        }
    }
}
