//! Transmission's RPC interface (version 17, of Transmission 4.0), at `/transmission/rpc`.
//!
//! The path of a request: a token as the password of Basic, or 401; then the id of the session in
//! `X-Transmission-Session-Id`, or 409 with the id to send. A page of a stranger cannot read that answer, so it cannot
//! send a request that counts. Then `envelope.rs` parses the call, and a room of methods (`torrent_get.rs`,
//! `torrent_add.rs`, `torrent_set.rs`, `actions.rs`, `session.rs`) turns it into calls of the queue. `fields.rs` is the
//! pure mapping of a download; the id of a torrent is the number of a download.
//!
//! Labels are the category and the tags. Downloads from URLs are listed, too; their hash is made from their id.
//!
//! Refused: paths of this machine in `filename`; every folder but the names of storages and categories
//! (`daemon/folders.rs`); moves to another storage; programs in settings; bodies over [`MAX_BODY`] bytes.

mod actions;
mod envelope;
mod fields;
mod ids;
mod labels;
mod recent;
mod session;
mod torrent_add;
mod torrent_get;
mod torrent_set;

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::WWW_AUTHENTICATE},
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::Value;

use self::{
    envelope::{Call, answer},
    recent::Recent,
};
use super::{
    access::{Peer, Role, guard},
    content::Contents,
    problem::Problem,
    state::ApiState,
};
use crate::{
    error::{Error, Kind, Result},
    queue::DownloadId,
};

/// Longest body: a torrent of 24 MiB in base64.
const MAX_BODY: usize = 32 << 20;
const SESSION_HEADER: &str = "x-transmission-session-id";

/// The routes of the dialect.
pub(super) fn router(state: &ApiState) -> Router {
    let rpc = get(handle).post(handle);
    Router::new()
        .route("/transmission/rpc", rpc.clone())
        .route("/transmission/rpc/", rpc)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(state.clone(), guard::check_origin))
        .with_state(Transmission::new(state))
}

/// What all requests of the dialect share.
#[derive(Debug, Clone)]
struct Transmission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: ApiState,
    contents: Contents,
    recent: Recent,
    /// New with each start.
    session_id: String,
}

impl Transmission {
    fn new(state: &ApiState) -> Self {
        let part = || DownloadId::random().map_or_else(|_| "0".repeat(16), |id| id.to_string());
        Self(Arc::new(Shared {
            state: state.clone(),
            contents: Contents::default(),
            recent: Recent::new(Instant::now(), *state.queue().subscribe().borrow()),
            session_id: format!("{}{}{}", part(), part(), part()),
        }))
    }

    fn state(&self) -> &ApiState {
        &self.0.state
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        headers.get(SESSION_HEADER).is_some_and(|id| id.as_bytes() == self.0.session_id.as_bytes())
    }
}

async fn handle(State(transmission): State<Transmission>, request: Request) -> Response {
    let peer = Peer::of(&request);
    let role = match transmission.state().access().role_of(&peer, request.headers(), None) {
        Ok(Some(role)) => role,
        Ok(None) => return unauthorized(),
        Err(error) => {
            return Problem::with_status(StatusCode::TOO_MANY_REQUESTS, error).into_response();
        }
    };
    if !transmission.has_session(request.headers()) {
        return transmission.conflict();
    }
    // A GET request only gets the id of the session.
    let body = match *request.method() {
        Method::POST => request.into_body(),
        _ => Body::empty(),
    };
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        let text = format!("the body is longer than {MAX_BODY} bytes, or was cut off");
        let error = Error::new(Kind::InvalidInput, text);
        return Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, error).into_response();
    };
    let (tag, result) = match envelope::parse(&body) {
        Ok(call) => (call.tag.clone(), transmission.call(role, call).await),
        Err(error) => (None, Err(error)),
    };
    let mut response = Json(answer(tag, result)).into_response();
    if let Ok(id) = HeaderValue::from_str(&transmission.0.session_id) {
        response.headers_mut().insert(SESSION_HEADER, id);
    }
    response
}

fn unauthorized() -> Response {
    let error = Error::new(Kind::Unauthenticated, "the request has no valid token")
        .hint("the token is the password; the user name may be any");
    let mut response = Problem::with_status(StatusCode::UNAUTHORIZED, error).into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"Transmission\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

impl Transmission {
    /// Names the id of the session.
    fn conflict(&self) -> Response {
        let id = &self.0.session_id;
        // Some clients read the id from the text.
        let text = format!(
            "<h1>409: Conflict</h1><p>The request needs the header of the session.</p>\
             <p><code>X-Transmission-Session-Id: {id}</code></p>"
        );
        let kind = (axum::http::header::CONTENT_TYPE, "text/html; charset=utf-8");
        let mut response = (StatusCode::CONFLICT, [kind], text).into_response();
        if let Ok(id) = HeaderValue::from_str(id) {
            response.headers_mut().insert(SESSION_HEADER, id);
        }
        response
    }

    async fn call(&self, role: Role, call: Call) -> Result<Value> {
        let only_reads = matches!(
            call.method.as_str(),
            "torrent-get" | "session-get" | "session-stats" | "free-space" | "group-get"
        );
        if role < Role::Admin && !only_reads {
            return Err(Error::new(Kind::PermissionDenied, "the token may only read"));
        }
        let arguments = &call.arguments;
        match call.method.as_str() {
            "torrent-get" => self.torrent_get(arguments).await,
            "torrent-add" => self.torrent_add(arguments).await,
            "torrent-set" => self.torrent_set(arguments).await,
            "torrent-start" => self.start(arguments, false).await,
            "torrent-start-now" => self.start(arguments, true).await,
            "torrent-stop" => self.stop(arguments).await,
            "torrent-verify" => self.verify(arguments).await,
            "torrent-remove" => self.remove(arguments).await,
            "torrent-set-location" => self.set_location(arguments).await,
            "queue-move-top" => self.move_to(arguments, crate::queue::Move::First).await,
            "queue-move-up" => self.move_to(arguments, crate::queue::Move::Earlier).await,
            "queue-move-down" => self.move_to(arguments, crate::queue::Move::Later).await,
            "queue-move-bottom" => self.move_to(arguments, crate::queue::Move::Last).await,
            "session-get" => Ok(self.session_get(arguments)),
            "session-set" => self.session_set(arguments).await,
            "session-stats" => Ok(self.session_stats()),
            "free-space" => self.free_space(arguments),
            "group-get" => Ok(serde_json::json!({ "group": [] })),
            "torrent-reannounce"
            | "torrent-rename-path"
            | "group-set"
            | "port-test"
            | "blocklist-update"
            | "session-close" => {
                Err(Error::new(Kind::Unsupported, format!("{} is not supported", call.method)))
            }
            _ => Err(Error::new(Kind::NotFound, "method name not recognized")),
        }
    }
}
