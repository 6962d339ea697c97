//! The few words of OAuth 2.0 that bae speaks with Google's token server.
//!
//! The grants of a user are asked for here and not through yup-oauth2: its flow for stored refresh tokens has Google's
//! address built in, and its other flows answer every failed refresh, also one for lack of network, by asking the user
//! to sign in anew, which a program in the background cannot do. Service accounts have neither trouble and use it.

use std::{fmt, time::Duration};

use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::errors::SIGN_IN;
use crate::{
    backends::header::header_text,
    error::{Error, Kind, Result},
};

/// Files the app itself made or was given by the user, nothing else: the least there is, and what Google lets
/// anybody's client ask for without a review.
pub const SCOPE: &str = "https://www.googleapis.com/auth/drive.file";
/// Google's token server.
pub const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// How long the token server may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers of a token server are a few hundred bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// An access token: whoever has it may do what its user allowed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(pub(super) String);

impl AccessToken {
    /// # Errors
    /// `InvalidInput` when no header can hold it.
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

/// What a grant gave.
pub struct Granted {
    pub access_token: AccessToken,
    /// For how long.
    pub lasts: Duration,
    /// Only at the first sign-in.
    pub refresh_token: Option<String>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

/// Why the token server gave nothing: one of OAuth's codes, such as `invalid_grant`.
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

/// Asks `token_uri` for a token.
///
/// # Errors
/// `Network` or `Unavailable` when there is no answer, `InvalidInput` when it is none of a token server. A refusal is no
/// error here: the device flow lives on them.
pub async fn grant(
    http: &reqwest::Client,
    token_uri: &Url,
    form: &[(&str, &str)],
) -> Result<Result<Granted, Refused>> {
    let (status, body) = post(http, token_uri, form).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
        // A server in trouble was told from this before.
        let text = format!("Google sign-in: what answers ({status}) is no token server");
        Error::new(Kind::InvalidInput, text)
            .hint("is token_uri right, and is there a proxy in between?")
    })?;
    if let Some(code) = answer.error {
        return Ok(Err(Refused { code, description: answer.error_description }));
    }
    let access_token = AccessToken::new(&answer.access_token.ok_or_else(|| no_answer(status))?)?;
    // Google says 3599; who says nothing is asked again soon.
    let lasts = Duration::from_secs(answer.expires_in.unwrap_or(300));
    Ok(Ok(Granted { access_token, lasts, refresh_token: answer.refresh_token }))
}

/// Sends a form; returns the status and the body, of which nothing is logged.
///
/// # Errors
/// `Network` when there is no answer; `Unavailable` when the server is in trouble.
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
