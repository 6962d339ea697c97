//! One request to Drive and its answer: sign-in, rate limits, timeouts, and the meaning of a refusal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, header, redirect};
use serde::de::DeserializeOwned;
use url::Url;

use super::{
    super::{
        progress::Progress,
        unfit::{Unfit, is_html, is_page},
    },
    auth::TokenSource,
    errors::{NOT_DRIVE, Refusal, SIGN_IN},
    limits::{Cost, Limiter, Limits, Slower},
};
use crate::{
    config::EnvProxies,
    error::{Error, Kind, Result},
};

/// Timeout: Drive answers within seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// The slowest connection that still counts as working, in bytes per second.
const SLOWEST: u64 = 128 << 10;
/// Longest body of metadata. The largest is a page of a listing, with about 600 bytes per file.
const LONGEST_JSON: usize = 16 << 20;
/// Idle connections kept for later requests.
const KEPT_CONNECTIONS: usize = 16;

/// Timeout of a request that transfers `bytes`.
pub(super) fn time_for(bytes: u64) -> Duration {
    ANSWER + Duration::from_secs(bytes / SLOWEST)
}

/// The HTTP client for all requests. Uses HTTP/1.1, so each request in flight has its own connection: with HTTP/2,
/// Google puts all of them on one connection, whose flow-control window then slows down large bodies.
///
/// # Errors
/// `Internal` when TLS cannot be set up; `InvalidInput` when the environment names an invalid proxy.
pub fn http_client() -> Result<reqwest::Client> {
    let redirects = redirect::Policy::custom(|attempt| match attempt.status().as_u16() {
        // Drive uses 308 for "resume incomplete", without a target.
        308 => attempt.stop(),
        _ => redirect::Policy::limited(5).redirect(attempt),
    });
    let proxies = EnvProxies::of_process();
    // Checked now, because the proxy callback below cannot return an error.
    proxies.to(&hyper::Uri::from_static("https://www.googleapis.com"))?;
    let proxy = move |url: &Url| {
        let uri = url.as_str().parse().ok()?;
        proxies.to(&uri).ok().flatten().map(|proxy| proxy.url().clone())
    };
    reqwest::Client::builder()
        .no_proxy()
        .proxy(reqwest::Proxy::custom(proxy))
        .user_agent(concat!("bae/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(KEPT_CONNECTIONS)
        .redirect(redirects)
        .build()
        .map_err(|e| Error::new(Kind::Internal, "start of the HTTP client").because(e))
}

/// One request. Has no `Debug`, because the URL may be an upload session, which is a secret.
pub(super) struct Call {
    method: Method,
    to: Url,
    /// What the request does, for errors: `get of KEY`.
    what: String,
    cost: Cost,
    time: Duration,
    progress: Option<Progress>,
}

impl Call {
    pub(super) fn new(method: Method, to: Url, what: impl Into<String>, cost: Cost) -> Self {
        Self { method, to, what: what.into(), cost, time: ANSWER, progress: None }
    }

    /// Extends the timeout for a transfer of this many bytes.
    pub(super) fn moving(self, bytes: u64) -> Self {
        Self { time: time_for(bytes), ..self }
    }

    /// Replaces the timeout with an idle timeout for the request body.
    pub(super) fn sending(self) -> Self {
        Self { progress: Some(Progress::new()), ..self }
    }

    /// The progress that the body of a [`Call::sending`] call reports to.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone().unwrap_or_else(Progress::new)
    }

    /// Sends the request. `answered`: the server has answered before, so connection errors count as temporary.
    async fn answer(&self, request: RequestBuilder, answered: bool) -> Result<Response> {
        let sent = match &self.progress {
            None => request.timeout(self.time).send().await,
            Some(progress) => match progress.watch(request.send()).await {
                Some(sent) => sent,
                None => {
                    let text = format!("{} on Google Drive: nothing moves any more", self.what);
                    return Err(Error::new(Kind::Network, text));
                }
            },
        };
        sent.map_err(|e| lost(&self.what, e, answered))
    }

    /// Sets the timeout.
    pub(super) fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }
}

/// What to do with a request that is refused with 401: whether to send it again with a new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    SendAgain,
    /// Do not send it again. The caller first asks how much of it arrived.
    AskFirst,
}

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    tokens: Arc<dyn TokenSource>,
    limiter: Limiter,
    /// Whether the server has answered any request.
    answered: AtomicBool,
}

impl Client {
    pub(super) fn new(
        http: reqwest::Client,
        endpoint: Url,
        tokens: Arc<dyn TokenSource>,
        limits: Limits,
    ) -> Self {
        let (limiter, answered) = (Limiter::new(limits), AtomicBool::new(false));
        Self { http, endpoint, tokens, limiter, answered }
    }

    /// The URL of `path` at the endpoint, with the parameters that every call needs.
    pub(super) fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        // Without this parameter, files in shared drives are not found.
        url.query_pairs_mut().append_pair("supportsAllDrives", "true").extend_pairs(query);
        url
    }

    /// Sends a call whose headers and body `shape` adds, and returns the answer of any status.
    ///
    /// # Errors
    /// `Network` when there is no answer, `Unauthenticated` when two tokens are refused.
    pub(super) async fn exchange(
        &self,
        call: &Call,
        unsigned: Unsigned,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let mut refused = None;
        loop {
            self.limiter.admit(call.cost).await;
            let token = self.tokens.token(refused.as_ref()).await?;
            let mut request = shape(self.http.request(call.method.clone(), call.to.clone()));
            // An upload session may have another origin. It needs no token, and the token is sent to no other origin.
            if call.to.origin() == self.endpoint.origin() {
                request = request.bearer_auth(&token.0);
            }
            let answered = self.answered.load(Ordering::Relaxed);
            let response = call.answer(request, answered).await?;
            self.answered.store(true, Ordering::Relaxed);
            if response.status() != 401 {
                return Ok(response);
            }
            if refused.is_some() {
                let text = format!("{} on Google Drive: the sign-in is refused", call.what);
                return Err(Error::new(Kind::Unauthenticated, text).hint(SIGN_IN));
            }
            if unsigned == Unsigned::AskFirst {
                self.tokens.token(Some(&token)).await?;
                let text = format!("{} on Google Drive: the sign-in had to be renewed", call.what);
                return Err(Error::new(Kind::Unavailable, text));
            }
            refused = Some(token);
        }
    }

    /// As [`Client::exchange`], but any answer without a success status is an error.
    pub(super) async fn send(
        &self,
        call: &Call,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let response = self.exchange(call, Unsigned::SendAgain, shape).await?;
        if response.status().is_success() {
            self.limiter.accepted(call.cost);
            return Ok(response);
        }
        Err(self.refusal(call, response).await)
    }

    /// As [`Client::send`], for a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        decode(call, self.send(call, shape).await?).await
    }

    /// Records the success of a call that was not sent by [`Client::send`].
    pub(super) fn accepted(&self, cost: Cost) {
        self.limiter.accepted(cost);
    }

    /// The error of a refused call. A rate limit delays all callers.
    pub(super) async fn refusal(&self, call: &Call, response: Response) -> Error {
        let status = response.status().as_u16();
        let asked = retry_after(&response);
        let body = body(call, response, 64 << 10).await.unwrap_or_default();
        let refusal = Refusal::read(status, &body);
        if refusal.kind != Kind::RateLimited {
            let error = refusal.error(&call.what);
            return match asked {
                Some(wait) if error.kind().is_retryable() => error.retry_after(wait),
                _ => error,
            };
        }
        match self.limiter.refused(call.cost, asked) {
            Slower::Wait(wait) => refusal.error(&call.what).retry_after(wait),
            Slower::Tomorrow => {
                let text = format!("{}: Google Drive takes 750 GB a day and no more", call.what);
                Error::new(Kind::NoSpace, text).because(refusal.text).hint(
                    "the limit is the account's, copies count too; bae goes on by itself tomorrow",
                )
            }
        }
    }
}

/// Parses an answer as JSON.
pub(super) async fn decode<T: DeserializeOwned>(call: &Call, response: Response) -> Result<T> {
    let page = is_page(response.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()));
    let body = body(call, response, LONGEST_JSON).await?;
    if page || is_html(&String::from_utf8_lossy(&body)) {
        let text = format!("{}: this is not Google Drive: a web page came", call.what);
        return Err(Error::new(Kind::InvalidInput, text).hint(NOT_DRIVE));
    }
    serde_json::from_slice(&body).map_err(|e| {
        let text = format!("{} on Google Drive: the answer is not understood", call.what);
        Error::new(Kind::Unavailable, text).because(e)
    })
}

/// Reads the body of an answer, up to `most` bytes.
async fn body(call: &Call, mut response: Response, most: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|e| lost(&call.what, e, true))? {
        if body.len() + part.len() > most {
            let text = format!("{} on Google Drive: the answer is too long", call.what);
            return Err(Error::new(Kind::Unavailable, text));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// The error of a request without an answer. The URL is left out, because that of an upload session is a secret.
pub(super) fn lost(what: &str, e: reqwest::Error, answered: bool) -> Error {
    let (e, what) = (e.without_url(), format!("{what} on Google Drive"));
    let lost = Error::new(Kind::Network, what.clone()).because(e);
    match Unfit::of(&lost.report()) {
        None => lost,
        Some(unfit) => {
            let kind = unfit.kind_at(answered);
            Error::new(kind, what).because(unfit.why).hint(unfit.hint)
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    // Google sends seconds. Capped at one day, the longest of its limits.
    text.trim().parse().ok().map(|secs: u64| Duration::from_secs(secs.min(86_400)))
}
