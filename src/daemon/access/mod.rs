//! Who may do what: tokens, sessions, logins.
//!
//! The first start makes two random tokens in the data folder, readable by its owner only: `api-token` for everything, and
//! `api-token-read-only` for reading. A client proves one of them in `Authorization: Bearer`, as the password of HTTP's
//! Basic or of a dialect's login (with any user name), or has a session that such a login began. A connection to the unix
//! socket needs none: the permissions of the socket are the proof.

pub mod cors;
pub mod guard;
mod logins;
mod peer;
mod sessions;
mod token;

use std::{net::IpAddr, path::Path};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use self::logins::Logins;
pub use self::{
    peer::Peer,
    sessions::{SessionId, Sessions},
    token::Tokens,
};
use super::{problem::Problem, state::ApiState};
use crate::{
    config::ApiOptions,
    error::{Error, Kind, Result},
};

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read everything but secrets.
    Reader,
    /// Everything.
    Admin,
}

/// The keeper of tokens and sessions.
#[derive(Debug)]
pub struct Access {
    tokens: Tokens,
    sessions: Sessions,
    logins: Logins,
    trusted_proxies: Vec<IpAddr>,
}

impl Access {
    pub(super) fn open(data_dir: &Path, options: &ApiOptions) -> Result<Self> {
        Ok(Self {
            tokens: Tokens::open(data_dir)?,
            sessions: Sessions::default(),
            logins: Logins::default(),
            trusted_proxies: options.trusted_proxies.clone(),
        })
    }

    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Replaces the tokens. All sessions end, and with them their sockets.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn rotate(&self) -> Result<()> {
        self.tokens.rotate()?;
        self.sessions.end_all();
        Ok(())
    }

    /// The role of the client of a request; `None` without a valid token or session. `cookie` is the name of the
    /// dialect's session cookie.
    ///
    /// # Errors
    /// `RateLimited` after too many wrong tokens of this client.
    pub fn role_of(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        cookie: Option<&str>,
    ) -> Result<Option<Role>> {
        if peer.is_unix_socket() {
            return Ok(Some(Role::Admin));
        }
        if let Some(token) = bearer(headers) {
            return self.check(peer, headers, token);
        }
        let session = cookie.and_then(|name| session_in(headers, name));
        if let Some(role) = session.and_then(|session| self.sessions.role(&session)) {
            return Ok(Some(role));
        }
        match basic(headers) {
            Some((_, password)) => self.check(peer, headers, &password),
            None => Ok(None),
        }
    }

    /// The role of a user with a password. The password is a token; the name may be any.
    ///
    /// # Errors
    /// `RateLimited` after too many failures of this client.
    pub fn login(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        _user: &str,
        password: &str,
    ) -> Result<Option<Role>> {
        self.check(peer, headers, password)
    }

    fn check(&self, peer: &Peer, headers: &HeaderMap, secret: &str) -> Result<Option<Role>> {
        let client = peer.client_ip(headers, &self.trusted_proxies);
        self.logins.check(client)?;
        let role = self.tokens.role_of(secret);
        if role.is_none() {
            self.logins.failed(client);
        }
        Ok(role)
    }
}

/// The token of `Authorization: Bearer`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// User and password of `Authorization: Basic`.
#[must_use]
pub fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// The value of a cookie. Lenient: some clients send whole `Set-Cookie` lines back, with their attributes.
#[must_use]
pub fn session_in(headers: &HeaderMap, name: &str) -> Option<SessionId> {
    let lines = headers.get_all(hyper::header::COOKIE);
    let lines = lines.iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split([';', ',']));
    pairs.find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| SessionId::from_client(value))
    })
}

/// The name of the cookie of the REST API and the page.
pub const SESSION_COOKIE: &str = "bae_session";

/// Layer: a client without a token gets 401, and one that may only read gets 403 for a method that writes. Handlers find
/// the [`Role`] in the extensions of the request.
pub async fn require(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let peer = Peer::of(&request);
    let role = state.access().role_of(&peer, request.headers(), Some(SESSION_COOKIE));
    let role = match role {
        Ok(Some(role)) => role,
        Ok(None) => {
            let error = Error::new(Kind::Unauthenticated, "the request has no valid token")
                .hint("send the header Authorization: Bearer TOKEN");
            let mut response =
                Problem::with_status(StatusCode::UNAUTHORIZED, error).into_response();
            let challenge = hyper::header::HeaderValue::from_static("Bearer realm=\"bae\"");
            response.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, challenge);
            return response;
        }
        Err(error) => {
            return Problem::with_status(StatusCode::TOO_MANY_REQUESTS, error).into_response();
        }
    };
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if role < Role::Admin && !only_reads {
        let error = Error::new(Kind::PermissionDenied, "the token may only read");
        return Problem::from(error).into_response();
    }
    request.extensions_mut().insert(role);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn credentials_are_read_from_each_header() {
        assert_eq!(bearer(&headers("authorization", "bearer  abc ")), Some("abc"));
        assert_eq!(bearer(&headers("authorization", "Basic abc")), None);
        let basic_header = headers("authorization", "Basic dTpwOnE=");
        assert_eq!(basic(&basic_header), Some(("u".to_owned(), "p:q".to_owned())));
        assert_eq!(basic(&headers("authorization", "Basic ???")), None);
        for line in ["a=1; SID=x", "sid=x; HttpOnly; path=/", "b=2, SID=x"] {
            let found = session_in(&headers("cookie", line), "SID");
            assert_eq!(found, Some(SessionId::from_client("x")), "{line}");
        }
        assert_eq!(session_in(&headers("cookie", "SIDE=x"), "SID"), None);
    }
}
