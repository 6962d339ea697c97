//! `/session`: a token becomes the cookie of a session, for pages in a browser. `/tokens`: replaces the tokens.

use axum::{
    Extension, Json,
    extract::{Request, State, rejection::JsonRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header::SET_COOKIE},
    response::{IntoResponse as _, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::downloads::bad_body;
use crate::{
    daemon::{
        access::{Peer, Role, SESSION_COOKIE, session_in},
        openapi::{Routes, delete, get, post},
        problem::Problem,
        state::ApiState,
    },
    error::{Error, Kind},
};

/// Routes for clients that have no session yet.
pub(super) fn open_routes() -> Routes {
    let operations = [
        get(show, "The role of the client").gives::<SessionView>(200),
        post(begin, "Begins a session, whose cookie stands for the token")
            .body::<TokenBody>()
            .gives::<SessionView>(200),
        delete(end, "Ends the session").gives_nothing(204),
    ];
    Routes::default().at("/session", operations).open()
}

pub(super) fn routes() -> Routes {
    let rotate = post(rotate, "Replaces the tokens, and ends all sessions")
        .body::<TokenBody>()
        .gives::<NewTokens>(200);
    Routes::default().at("/tokens", [rotate])
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    token: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Session")]
struct SessionView {
    role: &'static str,
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Admin => "admin",
    }
}

fn unauthenticated(text: &str) -> Problem {
    Problem::with_status(
        StatusCode::UNAUTHORIZED,
        Error::new(Kind::Unauthenticated, text.to_owned()),
    )
}

/// Too many wrong tokens of this client.
fn limited(error: Error) -> Problem {
    Problem::with_status(StatusCode::TOO_MANY_REQUESTS, error)
}

/// The role of the client. Without a session it is no error of a page to ask, so the answer has no challenge.
async fn show(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let peer = Peer::of(&request);
    match state.access().role_of(&peer, request.headers(), Some(SESSION_COOKIE)).map_err(limited)? {
        Some(role) => Ok(Json(SessionView { role: role_name(role) }).into_response()),
        None => Ok(Json(SessionView { role: "none" }).into_response()),
    }
}

async fn begin(
    State(state): State<ApiState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Result<Json<TokenBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(TokenBody { token }) = body.map_err(bad_body)?;
    let peer = peer.map_or(Peer::Unknown, |Extension(peer)| peer);
    let role = state.access().login(&peer, &headers, "", token.trim()).map_err(limited)?;
    let Some(role) = role else { return Err(unauthenticated("the token is not valid")) };
    with_session(&state, &peer, &headers, role, Json(SessionView { role: role_name(role) }))
}

/// Adds the cookie of a new session to an answer.
fn with_session(
    state: &ApiState,
    peer: &Peer,
    headers: &HeaderMap,
    role: Role,
    answer: impl axum::response::IntoResponse,
) -> Result<Response, Problem> {
    let session = state.access().sessions().begin(role)?;
    let mut response = answer.into_response();
    set_cookie(&mut response, session.reveal(), is_secure(state, peer, headers), "");
    Ok(response)
}

/// Whether the browser's connection has TLS: to this process, or to the proxy before it.
fn is_secure(state: &ApiState, peer: &Peer, headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    let is_direct = matches!(peer, Peer::Tcp { tls: true, .. });
    let proxies = &state.options().trusted_proxies;
    is_direct || (forwarded == Some("https") && peer.is_trusted_proxy(proxies))
}

fn set_cookie(response: &mut Response, value: &str, is_secure: bool, more: &str) {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie =
        format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// Ends the session. A client without one gets the same answer.
async fn end(State(state): State<ApiState>, request: Request) -> Response {
    if let Some(session) = session_in(request.headers(), SESSION_COOKIE) {
        state.access().sessions().end(&session);
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let is_secure = is_secure(&state, &Peer::of(&request), request.headers());
    set_cookie(&mut response, "", is_secure, "; Max-Age=0");
    response
}

/// The new tokens. They are shown once.
#[derive(Serialize, JsonSchema)]
struct NewTokens {
    token: String,
    read_only_token: String,
}

/// Replaces the tokens, and ends all sessions. A session alone is not enough: the body has the present token.
async fn rotate(
    State(state): State<ApiState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Result<Json<TokenBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(TokenBody { token }) = body.map_err(bad_body)?;
    let peer = peer.map_or(Peer::Unknown, |Extension(peer)| peer);
    if state.access().login(&peer, &headers, "", token.trim()).map_err(limited)?
        != Some(Role::Admin)
    {
        let text = "the token is not the present one with all rights";
        return Err(Error::new(Kind::PermissionDenied, text).into());
    }
    state.access().rotate()?;
    let tokens = state.access().tokens();
    let new = NewTokens { token: tokens.admin(), read_only_token: tokens.reader() };
    with_session(&state, &peer, &headers, Role::Admin, Json(new))
}
