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
        oauth::{self, Granted, Refused, SCOPE, TOKEN_URI},
    },
    config::{DriveProfile, Profile, ProfileKind, Secret},
    error::{Error, Kind, Result},
};

/// The OAuth flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginWay {
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
const PATIENCE: Duration = Duration::from_secs(600);
/// The polling interval of RFC 8628 when the server gives none, and the increment for `slow_down`.
const POLL: Duration = Duration::from_secs(5);
/// Maximum length of a request from the browser. A request with code and state is far shorter.
const LONGEST_REQUEST: usize = 16 << 10;

/// Signs in to the storage of `profile` and returns the refresh token. `tell` is called with each action of the user.
///
/// # Errors
/// `Unsupported` for a storage without sign-in; `InvalidInput` when the profile has no OAuth client; `Unauthenticated`
/// when the user or Google denies it, or the user does not sign in within ten minutes.
pub async fn login(
    profile: &Profile,
    way: LoginWay,
    tell: impl Fn(LoginStep<'_>) + Send,
) -> Result<Secret> {
    let place = |e: Error| e.within(format!("storage {:?}", profile.canonical()));
    let ProfileKind::Drive(drive) = &profile.kind else {
        let error = Error::new(Kind::Unsupported, "only a storage of type drive is signed in to");
        return Err(place(error.hint("other types have their keys in the config file")));
    };
    let flow = Flow::new(drive).map_err(place)?;
    let granted = match way {
        LoginWay::Browser => flow.browser(tell).await,
        LoginWay::Device => flow.device(tell).await,
    };
    let refresh_token = granted.map_err(place)?.refresh_token.ok_or_else(|| {
        place(Error::new(Kind::Unauthenticated, "Google gave no refresh token").hint(
            "take the app back at https://myaccount.google.com/connections and sign in again",
        ))
    })?;
    Ok(Secret::Text(refresh_token))
}

/// The OAuth client, and the addresses of the server.
struct Flow {
    http: reqwest::Client,
    client_id: String,
    client_secret: String,
    auth_uri: Url,
    device_uri: Url,
    token_uri: Url,
}

impl Flow {
    fn new(drive: &DriveProfile) -> Result<Self> {
        let missing = |key: &str| {
            Error::new(Kind::InvalidInput, format!("has no {key}"))
                .hint("make an OAuth client of your own first: docs/storage/drive.md says how")
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

    async fn grant(&self, form: &[(&str, &str)]) -> Result<Result<Granted, Refused>> {
        let mut form = form.to_vec();
        form.extend([("client_id", self.client_id.as_str())]);
        form.extend([("client_secret", self.client_secret.as_str())]);
        oauth::grant(&self.http, &self.token_uri, &form).await
    }

    async fn browser(&self, tell: impl Fn(LoginStep<'_>) + Send) -> Result<Granted> {
        let port = |e| Error::io("a port on 127.0.0.1 for the browser to come back to", e);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(port)?;
        let redirect = format!("http://{}", listener.local_addr().map_err(port)?);
        // PKCE: the returned code can be redeemed only with the verifier.
        let (verifier, state) = (random()?, random()?);
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
        tell(LoginStep::Open { url: page.as_str() });
        let code = wait_for_code(&listener, &state).await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect.as_str()),
            ("code_verifier", verifier.as_str()),
        ];
        self.grant(&form).await?.map_err(Refused::error)
    }

    async fn device(&self, tell: impl Fn(LoginStep<'_>) + Send) -> Result<Granted> {
        let form = [("client_id", self.client_id.as_str()), ("scope", SCOPE)];
        let (status, body) = oauth::post(&self.http, &self.device_uri, &form).await?;
        let device = DeviceCode::read(status, &body)?;
        tell(LoginStep::Enter { url: &device.verification_url, code: &device.user_code });
        let deadline = Instant::now() + device.expires_in.map_or(PATIENCE, Duration::from_secs);
        let mut pause = device.interval.map_or(POLL, Duration::from_secs);
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", device.device_code.as_str()),
        ];
        while Instant::now() + pause < deadline {
            sleep(pause).await;
            match self.grant(&form).await {
                Ok(Ok(granted)) => return Ok(granted),
                Ok(Err(refused)) if refused.code == "authorization_pending" => {}
                Ok(Err(refused)) if refused.code == "slow_down" => pause += POLL,
                Ok(Err(refused)) if refused.code == "expired_token" => break,
                Ok(Err(refused)) => return Err(refused.error()),
                // RFC 8628: poll less often after a connection error.
                Err(e) if e.kind().is_retryable() => pause = pause.saturating_mul(2),
                Err(e) => return Err(e),
            }
        }
        Err(nobody_came())
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
            return Err(Refused { code, description }.error());
        }
        serde_json::from_slice(body).map_err(|_| {
            let text = format!("Google sign-in: the device server answered {status}");
            Error::new(Kind::Unavailable, text)
        })
    }
}

fn nobody_came() -> Error {
    Error::new(Kind::Unauthenticated, "nobody signed in in time").hint("run it again")
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Internal, "random bytes for a sign-in").because(e.to_string())
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Waits until the browser is redirected here with a code. Other requests (for an icon, or with a guessed state) are
/// answered and ignored.
async fn wait_for_code(listener: &TcpListener, state: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let accepted = timeout_at(deadline, listener.accept()).await.map_err(|_| nobody_came())?;
        let Ok((mut stream, _)) = accepted else { continue };
        let soon = deadline.min(Instant::now() + Duration::from_secs(10));
        let Ok(Some(line)) = timeout_at(soon, request_line(&mut stream)).await else { continue };
        let returned = Returned::read(&line, state);
        let (status, text) = match &returned {
            Some(Ok(_)) => ("200 OK", "Signed in. You can close this page and go back to bae."),
            Some(Err(_)) => ("200 OK", "Not signed in. bae says more."),
            None => ("404 Not Found", "Nothing is here."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{text}",
            text.len()
        );
        // The code is valid even if the browser does not wait for the answer.
        let _ = timeout_at(soon, stream.write_all(answer.as_bytes())).await;
        match returned {
            Some(Ok(code)) => return Ok(code),
            Some(Err(refused)) => return Err(refused.error()),
            None => {}
        }
    }
}

/// Reads a request and returns its first line. The headers are discarded.
async fn request_line(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > LONGEST_REQUEST || stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(request).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Parser of the redirected request.
struct Returned;

impl Returned {
    /// The code or the error; `None` for a request without our `state`.
    fn read(line: &str, state: &str) -> Option<Result<String, Refused>> {
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
            (_, Some(code)) => Some(Err(Refused { code, description: String::new() })),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_request_with_our_state_counts() {
        let read = |line: &str| Returned::read(line, "s");
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
