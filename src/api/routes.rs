//! Routes of the stream server: resolves paths, and builds the heads of the answers.
//!
//! `/TOKEN/` lists the imports, `/TOKEN/ID/` lists the files of one, `/TOKEN/ID.m3u` is its playlist, and
//! `/TOKEN/ID/PATH` is a file. Without the token in the path, it must be in `Authorization: Bearer TOKEN` or
//! `?token=TOKEN`.

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{
        ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        HOST, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use percent_encoding::percent_decode_str;

use super::{
    body::Body,
    file_response::file_response,
    page::{self, Links},
    token::Token,
};
use crate::{
    engine::Streams,
    error::{Error, Kind, Result},
};

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const PLAYLIST: &str = "audio/x-mpegurl; charset=utf-8";

/// The state that requests share.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) streams: Streams,
    pub(super) token: Token,
    /// `HOST:PORT` for links, when a request has no valid `Host` header.
    pub(super) authority: String,
}

/// A request with a valid token.
struct AuthorizedRequest<'a> {
    /// The path after the token, without a leading `/`.
    path: &'a str,
    links: Links,
}

impl Routes {
    pub(super) async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let answer = match self.route(request).await {
            Ok(answer) => answer,
            Err(error) => error_response(&error),
        };
        let bodyless = *request.method() == Method::HEAD;
        if bodyless { answer.map(|_| Body::Ready(Bytes::new())) } else { answer }
    }

    async fn route(&self, request: &Request<Incoming>) -> Result<Response<Body>> {
        let Some(authorized) = self.authorize(request.uri(), request.headers()) else {
            let mut refused =
                text(StatusCode::UNAUTHORIZED, TEXT, "the token is missing or wrong\n");
            set_header(&mut refused, WWW_AUTHENTICATE, "Bearer");
            return Ok(refused);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused =
                text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are allowed\n");
            set_header(&mut refused, ALLOW, "GET, HEAD");
            return Ok(refused);
        }
        let AuthorizedRequest { path, links } = &authorized;
        let (id, path) = path.split_once('/').unwrap_or((path, ""));
        if id.is_empty() && path.is_empty() {
            return Ok(self.imports(links));
        }
        if let Some(import) = id.strip_suffix(".m3u").and_then(|id| self.streams.find(id)) {
            let absolute_links =
                Links { base: self.absolute_base(&links.base, request.headers()), ..links.clone() };
            return Ok(text(StatusCode::OK, PLAYLIST, page::playlist(&import, &absolute_links)));
        }
        let import = self.streams.find(id).ok_or_else(not_found)?;
        if path.is_empty() {
            return Ok(text(StatusCode::OK, HTML, page::files(&import, links)));
        }
        let path = percent_decode_str(path).decode_utf8().map_err(|_| not_found())?;
        let found = import.files().iter().find(|file| file.path == path);
        file_response(&import, found.ok_or_else(not_found)?, request.method(), request.headers())
            .await
    }

    /// Checks the token in the path, in `Authorization`, and in the query.
    fn authorize<'a>(&self, uri: &'a Uri, headers: &HeaderMap) -> Option<AuthorizedRequest<'a>> {
        let path = uri.path().trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if self.token.matches(first) {
            let links = Links { base: format!("/{first}/"), query: String::new() };
            return Some(AuthorizedRequest { path: rest, links });
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        let base = || "/".to_owned();
        if bearer.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && self.token.matches(token.trim())
        }) {
            return Some(AuthorizedRequest {
                path,
                links: Links { base: base(), query: String::new() },
            });
        }
        let mut pairs = uri.query().unwrap_or_default().split('&');
        let token = pairs.find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
        let query = format!("?token={token}");
        self.token
            .matches(token)
            .then(|| AuthorizedRequest { path, links: Links { base: base(), query } })
    }

    /// The absolute prefix for links in playlists, with the host name of this request. Players
    /// use these links unchanged.
    fn absolute_base(&self, base: &str, headers: &HeaderMap) -> String {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.filter(|host| host.parse::<hyper::http::uri::Authority>().is_ok());
        format!("http://{}{base}", host.unwrap_or(&self.authority))
    }

    fn imports(&self, links: &Links) -> Response<Body> {
        let all = self.streams.list();
        let all: Vec<_> = all.iter().map(|i| (i.id(), i.name(), i.files().len())).collect();
        text(StatusCode::OK, HTML, page::imports(&all, links))
    }
}

fn not_found() -> Error {
    Error::new(Kind::NotFound, "no such page or file")
}

/// An error as an answer. Its text may name imports and objects, which holders of the token are allowed to know.
fn error_response(error: &Error) -> Response<Body> {
    let status = StatusCode::from_u16(error.kind().http_status())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_server_error() {
        tracing::warn!(error = %error.report(), "cannot open a stream");
    }
    let hint = error.hint_text().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    let mut answer = text(status, TEXT, format!("{}\n{hint}", error.report()));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        set_header(&mut answer, RETRY_AFTER, "5");
    }
    answer
}

fn text(status: StatusCode, kind: &str, text: impl Into<Bytes>) -> Response<Body> {
    let text = text.into();
    let len = text.len().to_string();
    let mut answer = Response::new(Body::Ready(text));
    *answer.status_mut() = status;
    set_header(&mut answer, CONTENT_TYPE, kind);
    set_header(&mut answer, CONTENT_LENGTH, &len);
    set_header(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set_header(&mut answer, CACHE_CONTROL, "no-store");
    // The URL of the page contains the token: it must not leak to other sites, and no script may run in the page.
    set_header(&mut answer, REFERRER_POLICY, "no-referrer");
    set_header(&mut answer, CONTENT_SECURITY_POLICY, "default-src 'none'");
    answer
}

pub(super) fn set_header(answer: &mut Response<Body>, name: HeaderName, value: &str) {
    // All values are ASCII: numbers, constants, and percent-encoded names.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
