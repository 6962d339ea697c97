//! Sign-in to Google, for a refresh token that is valid until it is revoked.
//!
//! Two OAuth 2.0 flows: a browser on this machine, which is redirected to a port on loopback; or a code that the user
//! enters on another device. Both use the user's own OAuth client.

use std::{net::Ipv4Addr, time::Duration};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout_at},
};
use url::Url;

use crate::{
    backends::drive::{
        http_client,
        oauth::{self, Grant, OAuthError, SCOPE, TOKEN_URI},
    },
    config::{DriveProfile, Profile, ProfileKind, Secret},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// The OAuth flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginFlow {
    /// A browser on this machine.
    Browser,
    /// A browser on any device, and a code.
    Device,
}

/// The next action of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStep<'a> {
    Open { url: &'a str },
    Enter { url: &'a str, code: &'a str },
}

/// Deadline for the user: Google's sign-in page expires after this time.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(600);
/// The polling interval of RFC 8628 when the server gives none, and the increment for `slow_down`.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum length of a request from the browser. A request with code and state is far shorter.
const MAX_REQUEST_LEN: usize = 16 << 10;

/// Signs in to the storage of `profile` and returns the refresh token. `prompt` is called with each action of the user.
///
/// # Errors
/// `Unsupported` for a storage without sign-in; `InvalidInput` when the profile has no OAuth client; `Unauthenticated`
/// when the user or Google denies it, or the user does not sign in within ten minutes.
pub async fn login(
    profile: &Profile,
    flow: LoginFlow,
    prompt: impl Fn(LoginStep<'_>) + Send,
) -> Result<Secret> {
    let with_context = |e: Error| e.with_context(format!("storage {:?}", profile.canonical_name()));
    let ProfileKind::Drive(drive) = &profile.kind else {
        let error = Error::new(Kind::Unsupported, "only a storage of type drive has a sign-in");
        return Err(with_context(error.hint("the keys of other types are in the config file")));
    };
    let client = OAuthClient::new(drive).map_err(with_context)?;
    let granted = match flow {
        LoginFlow::Browser => client.browser(prompt).await,
        LoginFlow::Device => client.device(prompt).await,
    };
    let refresh_token = granted.map_err(with_context)?.refresh_token.ok_or_else(|| {
        with_context(
            Error::new(Kind::Unauthenticated, "Google returned no refresh token")
                .hint("remove bae at https://myaccount.google.com/connections and sign in again"),
        )
    })?;
    Ok(Secret::Text(refresh_token))
}

/// The OAuth client, and the addresses of the server.
struct OAuthClient {
    http: reqwest::Client,
    client_id: String,
    client_secret: String,
    auth_uri: Url,
    device_uri: Url,
    token_uri: Url,
}

impl OAuthClient {
    fn new(drive: &DriveProfile) -> Result<Self> {
        let missing = |key: &str| {
            Error::new(Kind::InvalidInput, format!("has no {key}"))
                .hint("create an OAuth client first: see docs/storage/drive.md")
        };
        let client_id = drive.client_id.clone().ok_or_else(|| missing("client_id"))?;
        let client_secret = drive.client_secret.as_ref().ok_or_else(|| missing("client_secret"))?;
        // A test server that replaces the token server also replaces the other two.
        let address = |google: &str, path: &str| {
            let address = match &drive.token_uri {
                Some(given) => given.join(path),
                None => Url::parse(google),
            };
            address.map_err(|e| Error::new(Kind::InvalidInput, "token_uri").because(e))
        };
        Ok(Self {
            http: http_client()?,
            client_id,
            client_secret: client_secret.reveal()?,
            auth_uri: address("https://accounts.google.com/o/oauth2/v2/auth", "/o/oauth2/v2/auth")?,
            device_uri: address("https://oauth2.googleapis.com/device/code", "/device/code")?,
            token_uri: match &drive.token_uri {
                Some(given) => given.clone(),
                None => address(TOKEN_URI, "/token")?,
            },
        })
    }

    async fn grant(&self, form: &[(&str, &str)]) -> Result<Result<Grant, OAuthError>> {
        let mut form = form.to_vec();
        form.extend([("client_id", self.client_id.as_str())]);
        form.extend([("client_secret", self.client_secret.as_str())]);
        oauth::request_token(&self.http, &self.token_uri, &form).await
    }

    async fn browser(&self, prompt: impl Fn(LoginStep<'_>) + Send) -> Result<Grant> {
        let io_error = |e| Error::io("cannot listen on 127.0.0.1 for the browser's redirect", e);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(io_error)?;
        let redirect = format!("http://{}", listener.local_addr().map_err(io_error)?);
        // PKCE: the returned code can be redeemed only with the verifier.
        let (verifier, state) = (random_text()?, random_text()?);
        let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
        let mut page = self.auth_uri.clone();
        page.query_pairs_mut()
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &redirect)
            .append_pair("response_type", "code")
            .append_pair("scope", SCOPE)
            .append_pair("state", &state)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(hash))
            .append_pair("code_challenge_method", "S256")
            // Without these two parameters Google returns a refresh token only the first time, or never.
            .append_pair("access_type", "offline")
            .append_pair("prompt", "consent");
        prompt(LoginStep::Open { url: page.as_str() });
        let code = wait_for_code(&listener, &state).await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect.as_str()),
            ("code_verifier", verifier.as_str()),
        ];
        self.grant(&form).await?.map_err(OAuthError::into_error)
    }

    async fn device(&self, prompt: impl Fn(LoginStep<'_>) + Send) -> Result<Grant> {
        let form = [("client_id", self.client_id.as_str()), ("scope", SCOPE)];
        let (status, body) = oauth::post_form(&self.http, &self.device_uri, &form).await?;
        let device = DeviceCode::read(status, &body)?;
        prompt(LoginStep::Enter { url: &device.verification_url, code: &device.user_code });
        let deadline =
            Instant::now() + device.expires_in.map_or(SIGN_IN_TIMEOUT, Duration::from_secs);
        let mut pause = device.interval.map_or(POLL_INTERVAL, Duration::from_secs);
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device.device_code.as_str()),
        ];
        while Instant::now() + pause < deadline {
            sleep(pause).await;
            match self.grant(&form).await {
                Ok(Ok(granted)) => return Ok(granted),
                Ok(Err(refused)) if refused.code == "authorization_pending" => {}
                Ok(Err(refused)) if refused.code == "slow_down" => pause += POLL_INTERVAL,
                Ok(Err(refused)) if refused.code == "expired_token" => break,
                Ok(Err(refused)) => return Err(refused.into_error()),
                // RFC 8628: poll less often after a connection error.
                Err(e) if e.kind().is_retryable() => pause = pause.saturating_mul(2),
                Err(e) => return Err(e),
            }
        }
        Err(sign_in_timeout())
    }
}

#[derive(Deserialize)]
struct DeviceCode {
    device_code: String,
    user_code: String,
    /// Google's name for the standard's `verification_uri`.
    #[serde(alias = "verification_uri")]
    verification_url: String,
    expires_in: Option<u64>,
    interval: Option<u64>,
}

impl DeviceCode {
    fn read(status: u16, body: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
            #[serde(default)]
            error_description: String,
        }
        if let Ok(refusal) = serde_json::from_slice::<Refusal>(body) {
            let Refusal { error: code, error_description: description } = refusal;
            return Err(OAuthError { code, description }.into_error());
        }
        serde_json::from_slice(body).map_err(|_| {
            let text = format!("Google sign-in: the device server answered {status}");
            Error::new(Kind::Unavailable, text)
        })
    }
}

fn sign_in_timeout() -> Error {
    Error::new(Kind::Unauthenticated, "no sign-in before the deadline").hint(hint![
        "run ",
        Operation::Same,
        " again"
    ])
}

fn random_text() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Internal, "no random bytes for the sign-in").because(e.to_string())
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Waits until the browser is redirected here with a code. Other requests (for an icon, or with a guessed state) are
/// answered and ignored.
async fn wait_for_code(listener: &TcpListener, state: &str) -> Result<String> {
    let deadline = Instant::now() + SIGN_IN_TIMEOUT;
    loop {
        let accepted =
            timeout_at(deadline, listener.accept()).await.map_err(|_| sign_in_timeout())?;
        let Ok((mut stream, _)) = accepted else { continue };
        let request_deadline = deadline.min(Instant::now() + Duration::from_secs(10));
        let Ok(Some(line)) = timeout_at(request_deadline, request_line(&mut stream)).await else {
            continue;
        };
        let redirect_result = Redirect::read(&line, state);
        let (status, text) = match &redirect_result {
            Some(Ok(_)) => ("200 OK", "Signed in. You can close this page."),
            Some(Err(_)) => ("200 OK", "Not signed in. See the output of bae."),
            None => ("404 Not Found", "Not found."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{text}",
            text.len()
        );
        // The code is valid even if the browser does not wait for the answer.
        let _ = timeout_at(request_deadline, stream.write_all(answer.as_bytes())).await;
        match redirect_result {
            Some(Ok(code)) => return Ok(code),
            Some(Err(refused)) => return Err(refused.into_error()),
            None => {}
        }
    }
}

/// Reads a request and returns its first line. The headers are discarded.
async fn request_line(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST_LEN || stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(request).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Parser of the redirected request.
struct Redirect;

impl Redirect {
    /// The code or the error; `None` for a request without our `state`.
    fn read(line: &str, state: &str) -> Option<Result<String, OAuthError>> {
        let path = line.strip_prefix("GET ")?.split(' ').next()?;
        let url = Url::parse("http://127.0.0.1").ok()?.join(path).ok()?;
        let find = |name: &str| {
            url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        if find("state")? != state {
            return None;
        }
        match (find("code"), find("error")) {
            (Some(code), None) => Some(Ok(code)),
            (_, Some(code)) => Some(Err(OAuthError { code, description: String::new() })),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redirect_with_our_state_is_accepted() {
        let read = |line: &str| Redirect::read(line, "s");
        assert_eq!(read("GET /?state=s&code=4%2Fab HTTP/1.1").unwrap().unwrap(), "4/ab");
        let refused = read("GET /?error=access_denied&state=s HTTP/1.1").unwrap().unwrap_err();
        assert_eq!(refused.code, "access_denied");
        for other in [
            "GET /?state=x&code=c HTTP/1.1",
            "GET /favicon.ico HTTP/1.1",
            "GET",
            "POST /?state=s&code=c HTTP/1.1",
        ] {
            assert!(read(other).is_none(), "{other}");
        }
    }
}
