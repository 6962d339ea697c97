//! Logins, and the caller of a request.
//!
//! A request without a valid session or token gets 403, never 401: clients take 401 for a server that is not qBittorrent,
//! and 403 for a reason to log in.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::SET_COOKIE},
    response::Response,
};

use super::{
    answer::{Answer, Refusal, done, text},
    params::Params,
};
use crate::{
    daemon::{
        access::{Peer, Role, session_in},
        state::ApiState,
    },
    error::Error,
};

/// The cookie of a session. Clients expect capitals.
const COOKIE: &str = "SID";

/// `auth/login` and `auth/logout`.
pub(super) async fn serve(api: &ApiState, action: &str, request: Request) -> Answer {
    if !matches!(action, "login" | "logout") {
        return Err(Refusal::no_endpoint());
    }
    if *request.method() != Method::POST {
        return Err(Refusal::method());
    }
    match action {
        "login" => login(api, request).await,
        _ => Ok(logout(api, request.headers())),
    }
}

async fn login(api: &ApiState, request: Request) -> Answer {
    let (peer, headers) = (Peer::of(&request), request.headers().clone());
    let params = Params::read(request).await?;
    let user = params.get("username").unwrap_or_default();
    let password = params.get("password").unwrap_or_default();
    let role = api.access().login(&peer, &headers, user, password).map_err(locked)?;
    let Some(role) = role else { return Ok(text("Fails.")) };
    let session = api.access().sessions().begin(role)?;
    let mut response = text("Ok.");
    set_cookie(&mut response, &cookie_line(session.reveal(), is_tls(api, &peer, &headers)));
    Ok(response)
}

fn logout(api: &ApiState, headers: &HeaderMap) -> Response {
    if let Some(session) = session_in(headers, COOKIE) {
        api.access().sessions().end(&session);
    }
    let mut response = done();
    set_cookie(&mut response, &format!("{}; Max-Age=0", cookie_line("", false)));
    response
}

fn cookie_line(session: &str, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{COOKIE}={session}; HttpOnly; path=/; SameSite=Strict{secure}")
}

fn set_cookie(response: &mut Response, line: &str) {
    if let Ok(line) = HeaderValue::from_str(line) {
        response.headers_mut().insert(SET_COOKIE, line);
    }
}

/// Whether the client's connection has TLS, up to a trusted proxy or up to the daemon.
fn is_tls(api: &ApiState, peer: &Peer, headers: &HeaderMap) -> bool {
    let is_proxied = peer.is_trusted_proxy(&api.options().trusted_proxies);
    let forwarded = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    matches!(peer, Peer::Tcp { tls: true, .. }) || is_proxied && forwarded == Some("https")
}

/// The role of the caller.
pub(super) fn role_of(api: &ApiState, request: &Request) -> Result<Role, Refusal> {
    let peer = Peer::of(request);
    let role = api.access().role_of(&peer, request.headers(), Some(COOKIE)).map_err(locked)?;
    role.ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "Forbidden"))
}

fn locked(error: Error) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, error.report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_out_of_reach_of_scripts_and_other_sites() {
        let line = cookie_line("x", true);
        assert_eq!(line, "SID=x; HttpOnly; path=/; SameSite=Strict; Secure");
        assert!(!cookie_line("x", false).contains("Secure"));
    }
}
