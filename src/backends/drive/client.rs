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
        endpoint_error::{EndpointError, is_html_document, is_html_type},
        idle_timer::{IDLE_TIMEOUT, IdleTimer},
    },
    auth::TokenSource,
    errors::{DriveRefusal, NOT_DRIVE, sign_in_again},
    limits::{DriveLimits, Limiter, QuotaCost, RateLimitWait},
};
use crate::{
    config::EnvProxies,
    error::{Error, Kind, Result},
};

/// Timeout: Drive answers within seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The slowest connection that still counts as working, in bytes per second.
const MIN_RATE: u64 = 128 << 10;
/// Longest body of metadata. The largest is a page of a listing, with about 600 bytes per file.
const MAX_JSON_LEN: usize = 16 << 20;
/// Idle connections kept for later requests.
const MAX_IDLE_CONNECTIONS: usize = 16;

/// Timeout of a request that transfers `bytes`.
pub(super) fn transfer_timeout(bytes: u64) -> Duration {
    RESPONSE_TIMEOUT + Duration::from_secs(bytes / MIN_RATE)
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
    let proxies = EnvProxies::from_process();
    // Checked now, because the proxy callback below cannot return an error.
    proxies.for_uri(&hyper::Uri::from_static("https://www.googleapis.com"))?;
    let proxy = move |url: &Url| {
        let uri = url.as_str().parse().ok()?;
        proxies.for_uri(&uri).ok().flatten().map(|proxy| proxy.url().clone())
    };
    reqwest::Client::builder()
        .no_proxy()
        .proxy(reqwest::Proxy::custom(proxy))
        .user_agent(concat!("bae/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .redirect(redirects)
        .build()
        .map_err(|e| Error::new(Kind::Internal, "cannot start the HTTP client").because(e))
}

/// One request. Has no `Debug`, because the URL may be an upload session, which is a secret.
pub(super) struct DriveCall {
    method: Method,
    url: Url,
    /// What the request does, for errors: `get of KEY`.
    what: String,
    cost: QuotaCost,
    timeout: Duration,
    idle_timer: Option<IdleTimer>,
}

impl DriveCall {
    pub(super) fn new(method: Method, url: Url, what: impl Into<String>, cost: QuotaCost) -> Self {
        Self { method, url, what: what.into(), cost, timeout: RESPONSE_TIMEOUT, idle_timer: None }
    }

    /// Extends the timeout for a transfer of this many bytes.
    pub(super) fn with_transfer(self, bytes: u64) -> Self {
        Self { timeout: transfer_timeout(bytes), ..self }
    }

    /// Replaces the timeout with an idle timeout for the request body.
    pub(super) fn with_idle_timeout(self) -> Self {
        Self { idle_timer: Some(IdleTimer::new()), ..self }
    }

    /// The idle timer that the body of a [`DriveCall::with_idle_timeout`] call resets.
    pub(super) fn idle_timer(&self) -> IdleTimer {
        self.idle_timer.clone().unwrap_or_else(IdleTimer::new)
    }

    /// Sends the request. `answered`: the server has answered before, so connection errors count as temporary.
    async fn send(&self, request: RequestBuilder, answered: bool) -> Result<Response> {
        let sent = match &self.idle_timer {
            None => request.timeout(self.timeout).send().await,
            Some(idle_timer) => match idle_timer.watch(request.send()).await {
                Some(sent) => sent,
                None => {
                    let text = format!(
                        "{} on Google Drive: stalled for {} s",
                        self.what,
                        IDLE_TIMEOUT.as_secs()
                    );
                    return Err(Error::new(Kind::Network, text));
                }
            },
        };
        sent.map_err(|e| transport_error(&self.what, e, answered))
    }

    /// Sets the timeout.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// What to do with a request that is refused with 401: whether to send it again with a new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnUnauthorized {
    Resend,
    /// Do not send it again. The caller first asks how much of it arrived.
    Fail,
}

#[derive(Debug)]
pub(super) struct DriveClient {
    http: reqwest::Client,
    endpoint: Url,
    tokens: Arc<dyn TokenSource>,
    limiter: Limiter,
    /// Whether the server has answered any request.
    answered: AtomicBool,
}

impl DriveClient {
    pub(super) fn new(
        http: reqwest::Client,
        endpoint: Url,
        tokens: Arc<dyn TokenSource>,
        limits: DriveLimits,
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

    /// Sends a call whose headers and body `prepare` adds, and returns the answer of any status.
    ///
    /// # Errors
    /// `Network` when there is no answer, `Unauthenticated` when two tokens are refused.
    pub(super) async fn exchange(
        &self,
        call: &DriveCall,
        on_unauthorized: OnUnauthorized,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let mut rejected = None;
        loop {
            self.limiter.admit(call.cost).await;
            let token = self.tokens.token(rejected.as_ref()).await?;
            let mut request = prepare(self.http.request(call.method.clone(), call.url.clone()));
            // An upload session may have another origin. It needs no token, and the token is sent to no other origin.
            if call.url.origin() == self.endpoint.origin() {
                request = request.bearer_auth(&token.0);
            }
            let answered = self.answered.load(Ordering::Relaxed);
            let response = call.send(request, answered).await?;
            self.answered.store(true, Ordering::Relaxed);
            if response.status() != 401 {
                return Ok(response);
            }
            if rejected.is_some() {
                let text = format!("{} on Google Drive: the access token was rejected", call.what);
                return Err(Error::new(Kind::Unauthenticated, text).hint(sign_in_again()));
            }
            if on_unauthorized == OnUnauthorized::Fail {
                self.tokens.token(Some(&token)).await?;
                let text = format!(
                    "{} on Google Drive: the access token was rejected and has been renewed",
                    call.what
                );
                return Err(Error::new(Kind::Unavailable, text));
            }
            rejected = Some(token);
        }
    }

    /// As [`DriveClient::exchange`], but any answer without a success status is an error.
    pub(super) async fn send(
        &self,
        call: &DriveCall,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let response = self.exchange(call, OnUnauthorized::Resend, prepare).await?;
        if response.status().is_success() {
            self.limiter.record_success(call.cost);
            return Ok(response);
        }
        Err(self.refusal(call, response).await)
    }

    /// As [`DriveClient::send`], for a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: &DriveCall,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        decode_json(call, self.send(call, prepare).await?).await
    }

    /// Records the success of a call that was not sent by [`DriveClient::send`].
    pub(super) fn record_success(&self, cost: QuotaCost) {
        self.limiter.record_success(cost);
    }

    /// The error of a refused call. A rate limit delays all callers.
    pub(super) async fn refusal(&self, call: &DriveCall, response: Response) -> Error {
        let status = response.status().as_u16();
        let requested_wait = retry_after(&response);
        let body = read_body(call, response, 64 << 10).await.unwrap_or_default();
        let refusal = DriveRefusal::read(status, &body);
        if refusal.kind != Kind::RateLimited {
            let error = refusal.error(&call.what);
            return match requested_wait {
                Some(wait) if error.kind().is_retryable() => error.retry_after(wait),
                _ => error,
            };
        }
        match self.limiter.record_refusal(call.cost, requested_wait) {
            RateLimitWait::Retry(wait) => refusal.error(&call.what).retry_after(wait),
            RateLimitWait::DailyLimit => {
                let text =
                    format!("{}: Google Drive's limit of 750 GB a day is reached", call.what);
                Error::new(Kind::NoSpace, text).because(refusal.text).hint(
                    "the limit applies to the account and includes copies; bae resumes by itself tomorrow",
                )
            }
        }
    }
}

/// Parses an answer as JSON.
pub(super) async fn decode_json<T: DeserializeOwned>(
    call: &DriveCall,
    response: Response,
) -> Result<T> {
    let is_page =
        is_html_type(response.headers().get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()));
    let body = read_body(call, response, MAX_JSON_LEN).await?;
    if is_page || is_html_document(&String::from_utf8_lossy(&body)) {
        let text = format!("{}: this is not Google Drive: the server sent a web page", call.what);
        return Err(Error::new(Kind::InvalidInput, text).hint(NOT_DRIVE));
    }
    serde_json::from_slice(&body).map_err(|e| {
        let text = format!("{} on Google Drive: the response is invalid", call.what);
        Error::new(Kind::Unavailable, text).because(e)
    })
}

/// Reads the body of an answer, up to `max_len` bytes.
async fn read_body(call: &DriveCall, mut response: Response, max_len: usize) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) =
        response.chunk().await.map_err(|e| transport_error(&call.what, e, true))?
    {
        if body.len() + part.len() > max_len {
            let text = format!("{} on Google Drive: the response is too long", call.what);
            return Err(Error::new(Kind::Unavailable, text));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

/// The error of a request without an answer. The URL is left out, because that of an upload session is a secret.
pub(super) fn transport_error(what: &str, e: reqwest::Error, answered: bool) -> Error {
    let (e, what) = (e.without_url(), format!("{what} on Google Drive"));
    let transport_error = Error::new(Kind::Network, what.clone()).because(e);
    match EndpointError::from_message(&transport_error.report()) {
        None => transport_error,
        Some(endpoint_error) => {
            let kind = endpoint_error.kind_after(answered);
            Error::new(kind, what).because(endpoint_error.why).hint(endpoint_error.hint)
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    // Google sends seconds. Capped at one day, the longest of its limits.
    text.trim().parse().ok().map(|secs: u64| Duration::from_secs(secs.min(86_400)))
}
