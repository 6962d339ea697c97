//! The part of OAuth 2.0 that bae uses with Google's token server.
//!
//! User tokens are requested here and not through yup-oauth2. Its flow for stored refresh tokens has Google's address
//! built in, and its other flows answer every failed refresh, even a network failure, by asking the user to sign in
//! again, which a background program cannot do. Service accounts have neither problem and use yup-oauth2.

use std::{fmt, time::Duration};

use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::errors::sign_in_again;
use crate::{
    backends::{endpoint_error::is_html_document, header::header_text},
    error::{Error, Kind, Result},
};

/// OAuth scope: only files that the app created or that the user opened with it. The narrowest scope, and one that
/// Google grants to any client without a review.
pub const SCOPE: &str = "https://www.googleapis.com/auth/drive.file";
/// Google's token server.
pub const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// Timeout of the token server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer accepted from a token server; they are a few hundred bytes long.
const MAX_RESPONSE_LEN: usize = 64 << 10;

/// An access token. A secret: it gives all access that its user has granted.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(pub(super) String);

impl AccessToken {
    /// Checks `text` and makes it a token.
    ///
    /// # Errors
    /// `InvalidInput` when a header cannot hold it.
    pub(super) fn new(text: &str) -> Result<Self> {
        let token = header_text("the access token for Google Drive", text).map(Self);
        token.map_err(|why| Error::new(Kind::InvalidInput, why))
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// The result of a grant.
pub struct Grant {
    pub access_token: AccessToken,
    /// Lifetime of the access token.
    pub lifetime: Duration,
    /// Present at the first sign-in only.
    pub refresh_token: Option<String>,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// A refusal of the token server, with an OAuth error code such as `invalid_grant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthError {
    pub code: String,
    pub description: String,
}

impl OAuthError {
    /// As an error of signing in.
    #[must_use]
    pub fn into_error(self) -> Error {
        let Self { code, description } = self;
        let text = match description.as_str() {
            "" => format!("Google sign-in was refused: {code}"),
            _ => format!("Google sign-in was refused: {code} ({description})"),
        };
        let hint = match code.as_str() {
            "invalid_client" | "unauthorized_client" => {
                "check client_id and client_secret: they must belong to one client of the type that the docs name".into()
            }
            "access_denied" => {
                "access was denied on Google's page; start again and allow it".into()
            }
            "invalid_scope" => "add the scope drive.file to the OAuth consent screen".into(),
            _ => sign_in_again(),
        };
        Error::new(Kind::Unauthenticated, text).hint(hint)
    }
}

#[derive(Deserialize)]
struct TokenResponse {
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
    error: Option<String>,
    #[serde(default)]
    error_description: String,
}

/// Requests a token from `token_uri`.
///
/// # Errors
/// `Network` or `Unavailable` when there is no usable answer, `InvalidInput` when a web page is sent or the token has
/// invalid characters. A refusal is returned as `Ok(Err(_))`, because the device flow polls until it ends.
pub async fn request_token(
    http: &reqwest::Client,
    token_uri: &Url,
    form: &[(&str, &str)],
) -> Result<Result<Grant, OAuthError>> {
    let (status, body) = post_form(http, token_uri, form).await?;
    if is_html_document(&String::from_utf8_lossy(&body)) {
        let text = format!("Google sign-in: the token server sent a web page (status {status})");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("check token_uri, and whether a proxy intercepts the request"));
    }
    let answer: TokenResponse =
        serde_json::from_slice(&body).map_err(|_| unusable_response(status))?;
    if let Some(code) = answer.error {
        return Ok(Err(OAuthError { code, description: answer.error_description }));
    }
    let access_token =
        AccessToken::new(&answer.access_token.ok_or_else(|| unusable_response(status))?)?;
    // Google sends 3599. Without a stated lifetime, five minutes are assumed.
    let lifetime = Duration::from_secs(answer.expires_in.unwrap_or(300));
    Ok(Ok(Grant { access_token, lifetime, refresh_token: answer.refresh_token }))
}

/// Posts a form and returns the status and the body. Neither is logged.
///
/// # Errors
/// `Network` when there is no answer; `Unavailable` for server errors, status 429, and an answer that is too long.
pub async fn post_form(
    http: &reqwest::Client,
    url: &Url,
    form: &[(&str, &str)],
) -> Result<(u16, Vec<u8>)> {
    let host = url.host_str().unwrap_or("the token server");
    let network_error = |e: reqwest::Error| {
        Error::new(Kind::Network, format!("sign-in at {host}")).because(e.without_url())
    };
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = http
        .post(url.clone())
        .header("content-type", "application/x-www-form-urlencoded")
        .timeout(TIMEOUT)
        .body(body);
    let mut response = request.send().await.map_err(network_error)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(network_error)? {
        body.extend_from_slice(&part);
        if body.len() > MAX_RESPONSE_LEN {
            return Err(unusable_response(status));
        }
    }
    if status >= 500 || status == 429 {
        return Err(unusable_response(status));
    }
    Ok((status, body))
}

fn unusable_response(status: u16) -> Error {
    Error::new(Kind::Unavailable, format!("Google sign-in: the token server answered {status}"))
}
