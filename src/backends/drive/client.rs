//! One request to Drive and its answer: sign-in, pace, time limits, and what a refusal means.

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
use crate::error::{Error, Kind, Result};

/// Drive answers within seconds; what takes longer is lost.
const ANSWER: Duration = Duration::from_secs(30);
/// The slowest line that still counts as working, in bytes a second.
const SLOWEST: u64 = 128 << 10;
/// Of a body that is metadata; the largest, a page of a listing, has about 600 bytes a file.
const LONGEST_JSON: usize = 16 << 20;
/// Connections that are kept for the next request.
const KEPT_CONNECTIONS: usize = 16;

/// How long a request may take that moves `bytes`.
pub(super) fn time_for(bytes: u64) -> Duration {
    ANSWER + Duration::from_secs(bytes / SLOWEST)
}

/// The client all requests go through. HTTP/1.1 and so a connection for each request under way: on HTTP/2 Google puts
/// all of them on one connection, whose window then holds up large bodies.
///
/// # Errors
/// `Internal` when there is no TLS.
pub fn http_client() -> Result<reqwest::Client> {
    let redirects = redirect::Policy::custom(|attempt| match attempt.status().as_u16() {
        // To Drive it means "resume incomplete", and goes nowhere.
        308 => attempt.stop(),
        _ => redirect::Policy::limited(5).redirect(attempt),
    });
    reqwest::Client::builder()
        .user_agent(concat!("bae/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .connect_timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(KEPT_CONNECTIONS)
        .redirect(redirects)
        .build()
        .map_err(|e| Error::new(Kind::Internal, "start of the HTTP client").because(e))
}

/// What is asked of Drive. Never shown whole: the address may be an upload session, which is a secret.
pub(super) struct Call {
    method: Method,
    to: Url,
    /// As in `get of KEY`, for errors.
    what: String,
    cost: Cost,
    time: Duration,
    progress: Option<Progress>,
}

impl Call {
    pub(super) fn new(method: Method, to: Url, what: impl Into<String>, cost: Cost) -> Self {
        Self { method, to, what: what.into(), cost, time: ANSWER, progress: None }
    }

    /// With time to move so many bytes.
    pub(super) fn moving(self, bytes: u64) -> Self {
        Self { time: time_for(bytes), ..self }
    }

    /// For as long as its body moves.
    pub(super) fn sending(self) -> Self {
        Self { progress: Some(Progress::new()), ..self }
    }

    /// What the body of a call that is [`Call::sending`] tells of its pieces.
    pub(super) fn progress(&self) -> Progress {
        self.progress.clone().unwrap_or_else(Progress::new)
    }

    /// `answered`: the server has answered before, so that whatever is wrong may pass.
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

    /// With this much time.
    pub(super) fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }
}

/// Whether a request that was refused for its sign-in is sent again with a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    SendAgain,
    /// No: how much of it arrived has to be asked first.
    AskFirst,
}

#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    tokens: Arc<dyn TokenSource>,
    limiter: Limiter,
    /// It has answered.
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

    /// The address of `path` at the endpoint, with what every call says.
    pub(super) fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        // Without it a file in a shared drive is not found.
        url.query_pairs_mut().append_pair("supportsAllDrives", "true").extend_pairs(query);
        url
    }

    /// Sends a call that `shape` gave its body and returns whatever answer there is.
    ///
    /// # Errors
    /// `Network` when there is none, `Unauthenticated` when the sign-in is refused twice.
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
            // A session may live at another address. It needs no token, and none goes anywhere else.
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

    /// As [`Client::exchange`]; any answer but a success is an error.
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

    /// As [`Client::send`], for an answer that is JSON.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<T> {
        decode(call, self.send(call, shape).await?).await
    }

    /// A call went through that was not sent by [`Client::send`].
    pub(super) fn accepted(&self, cost: Cost) {
        self.limiter.accepted(cost);
    }

    /// The error of a refusal, whose wait is everybody's.
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

/// The JSON of an answer.
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

/// The body of an answer, up to `most` bytes.
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

/// The error of a request without an answer. Its URL is left out: an upload session's is a secret.
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
    // Google sends seconds; a day is as long as any limit of theirs.
    text.trim().parse().ok().map(|secs: u64| Duration::from_secs(secs.min(86_400)))
}
