//! The part of OAuth 2.0 that bae uses with Google's token server.
//!
//! User tokens are requested here and not through yup-oauth2. Its flow for stored refresh tokens has Google's address
//! built in, and its other flows answer every failed refresh, even a network failure, by asking the user to sign in
//! again, which a background program cannot do. Service accounts have neither problem and use yup-oauth2.

use std::{fmt, time::Duration};

use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::errors::SIGN_IN;
use crate::{
    backends::{header::header_text, unfit::is_html},
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
const LONGEST_ANSWER: usize = 64 << 10;

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
pub struct Granted {
    pub access_token: AccessToken,
    /// Lifetime of the access token.
    pub lasts: Duration,
    /// Present at the first sign-in only.
    pub refresh_token: Option<String>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

/// A refusal of the token server, with an OAuth error code such as `invalid_grant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: String,
    pub description: String,
}

impl Refused {
    /// As an error of signing in.
    #[must_use]
    pub fn error(self) -> Error {
        let Self { code, description } = self;
        let text = match description.as_str() {
            "" => format!("Google sign-in was refused: {code}"),
            _ => format!("Google sign-in was refused: {code} ({description})"),
        };
        let hint = match code.as_str() {
            "invalid_client" | "unauthorized_client" => {
                "look at client_id and client_secret: they belong together and to the kind of client the docs say"
            }
            "access_denied" => {
                "the request was turned down on Google's page; start again to allow it"
            }
            "invalid_scope" => "the consent screen has to list the scope drive.file",
            _ => SIGN_IN,
        };
        Error::new(Kind::Unauthenticated, text).hint(hint)
    }
}

#[derive(Deserialize)]
struct Answer {
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
pub async fn grant(
    http: &reqwest::Client,
    token_uri: &Url,
    form: &[(&str, &str)],
) -> Result<Result<Granted, Refused>> {
    let (status, body) = post(http, token_uri, form).await?;
    if is_html(&String::from_utf8_lossy(&body)) {
        let text = format!("Google sign-in: a web page came, not a token (status {status})");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("is token_uri right, and is there a proxy in between?"));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| no_answer(status))?;
    if let Some(code) = answer.error {
        return Ok(Err(Refused { code, description: answer.error_description }));
    }
    let access_token = AccessToken::new(&answer.access_token.ok_or_else(|| no_answer(status))?)?;
    // Google sends 3599. Without a stated lifetime, five minutes are assumed.
    let lasts = Duration::from_secs(answer.expires_in.unwrap_or(300));
    Ok(Ok(Granted { access_token, lasts, refresh_token: answer.refresh_token }))
}

/// Posts a form and returns the status and the body. Neither is logged.
///
/// # Errors
/// `Network` when there is no answer; `Unavailable` for server errors, status 429, and an answer that is too long.
pub async fn post(
    http: &reqwest::Client,
    to: &Url,
    form: &[(&str, &str)],
) -> Result<(u16, Vec<u8>)> {
    let host = to.host_str().unwrap_or("the token server");
    let lost = |e: reqwest::Error| {
        Error::new(Kind::Network, format!("sign-in at {host}")).because(e.without_url())
    };
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = http
        .post(to.clone())
        .header("content-type", "application/x-www-form-urlencoded")
        .timeout(TIMEOUT)
        .body(body);
    let mut response = request.send().await.map_err(lost)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(lost)? {
        body.extend_from_slice(&part);
        if body.len() > LONGEST_ANSWER {
            return Err(no_answer(status));
        }
    }
    if status >= 500 || status == 429 {
        return Err(no_answer(status));
    }
    Ok((status, body))
}

fn no_answer(status: u16) -> Error {
    Error::new(Kind::Unavailable, format!("Google sign-in: the token server answered {status}"))
}
