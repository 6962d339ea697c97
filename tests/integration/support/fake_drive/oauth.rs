//! The token server: refresh tokens, authorization codes of a browser or a device, and service accounts.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{
    CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, TOKEN_SECRET,
    http::{Answer, Request},
};

pub(super) struct State {
    /// Access token → its expiry; `None`: it does not expire.
    valid_tokens: HashMap<String, Option<Instant>>,
    revoked: bool,
    /// Authorization code → code challenge and redirect URI of the request for it.
    codes: HashMap<String, (String, String)>,
    pub(super) device_answers: VecDeque<&'static str>,
    count: u64,
}

impl State {
    pub(super) fn new(ready: &str) -> Self {
        Self {
            valid_tokens: HashMap::from([(ready.to_owned(), None)]),
            revoked: false,
            codes: HashMap::new(),
            device_answers: VecDeque::new(),
            count: 0,
        }
    }

    pub(super) fn is_valid(&self, token: &str) -> bool {
        self.valid_tokens.get(token).is_some_and(|end| end.is_none_or(|end| end > Instant::now()))
    }

    pub(super) fn expire(&mut self) {
        self.valid_tokens.clear();
    }

    pub(super) fn revoke(&mut self) {
        self.revoked = true;
        self.expire();
    }
}

pub(super) fn route(state: &mut super::State, request: &Request, base_url: &str) -> Option<Answer> {
    let answer = match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/token") => token(state, &form(request), base_url),
        ("POST", "/device/code") => device(&form(request), base_url),
        ("GET", "/o/oauth2/v2/auth") => return Some(page(state, request)),
        _ => return None,
    };
    Some(match answer {
        Ok(value) => Answer::json(&value),
        Err(code) => {
            let mut answer = Answer::json(&json!({ "error": code, "error_description": "no" }));
            answer.status = 400;
            answer
        }
    })
}

fn form(request: &Request) -> HashMap<String, String> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

fn token(
    state: &mut super::State,
    form: &HashMap<String, String>,
    base_url: &str,
) -> Result<Value, &'static str> {
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let is_client = field("client_id") == CLIENT_ID && field("client_secret") == CLIENT_SECRET;
    let is_first_login = match field("grant_type") {
        "urn:ietf:params:oauth:grant-type:jwt-bearer" => {
            check_assertion(field("assertion"), base_url).ok_or("invalid_grant")?;
            false
        }
        _ if !is_client => return Err("invalid_client"),
        "refresh_token" => {
            if field("refresh_token") != REFRESH_TOKEN || state.oauth.revoked {
                return Err("invalid_grant");
            }
            false
        }
        "authorization_code" => {
            let (challenge, redirect) =
                state.oauth.codes.remove(field("code")).ok_or("invalid_grant")?;
            let hash = digest::digest(&digest::SHA256, field("code_verifier").as_bytes());
            if URL_SAFE_NO_PAD.encode(hash) != challenge || field("redirect_uri") != redirect {
                return Err("invalid_grant");
            }
            true
        }
        "urn:ietf:params:oauth:grant-type:device_code" if field("device_code") == "device-1" => {
            match state.oauth.device_answers.pop_front().unwrap_or_default() {
                "" => true,
                refused => return Err(refused),
            }
        }
        _ => return Err("unsupported_grant_type"),
    };
    state.oauth.count += 1;
    let token = format!("{TOKEN_SECRET}-{}", state.oauth.count);
    let life = state.rules.token_life;
    state.oauth.valid_tokens.insert(token.clone(), Some(Instant::now() + life));
    let mut answer = json!({
        "access_token": token,
        "expires_in": life.as_secs(),
        "token_type": "Bearer",
    });
    if is_first_login {
        answer["refresh_token"] = REFRESH_TOKEN.into();
    }
    Ok(answer)
}

fn device(form: &HashMap<String, String>, base_url: &str) -> Result<Value, &'static str> {
    if form.get("client_id").map(String::as_str) != Some(CLIENT_ID) {
        return Err("invalid_client");
    }
    if form.get("scope").map(String::as_str) != Some("https://www.googleapis.com/auth/drive.file") {
        return Err("invalid_scope");
    }
    Ok(json!({
        "device_code": "device-1",
        "user_code": "ABCD-EFGH",
        "verification_url": format!("{base_url}/device"),
        "expires_in": 60,
        "interval": 1,
    }))
}

/// The consent page. The user grants access at once.
fn page(state: &mut super::State, request: &Request) -> Answer {
    let param = |name: &str| request.param(name).unwrap_or_default().to_owned();
    let is_correct = param("client_id") == CLIENT_ID
        && param("response_type") == "code"
        && param("scope") == "https://www.googleapis.com/auth/drive.file"
        && param("code_challenge_method") == "S256"
        && param("access_type") == "offline"
        && param("redirect_uri").starts_with("http://127.0.0.1:")
        && param("state").len() >= 16;
    if !is_correct {
        return Answer::new(400);
    }
    state.oauth.count += 1;
    let code = format!("4/code-{}", state.oauth.count);
    let location = format!("{}/?state={}&code={code}", param("redirect_uri"), param("state"));
    state.oauth.codes.insert(code, (param("code_challenge"), param("redirect_uri")));
    Answer::new(302).with("Location", location)
}

/// Checks a service account's JWT. Of the signature only the length is checked.
fn check_assertion(assertion: &str, base_url: &str) -> Option<()> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [head, claims, signature] = parts.as_slice() else { return None };
    let decode = |part: &str| {
        let bytes = URL_SAFE.decode(part).or_else(|_| URL_SAFE_NO_PAD.decode(part)).ok()?;
        Some(bytes)
    };
    let head: Value = serde_json::from_slice(&decode(head)?).ok()?;
    let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
    let scoped = claims["scope"].as_str()?.starts_with("https://www.googleapis.com/auth/drive");
    let is_correct = head["alg"] == "RS256"
        && claims["aud"] == format!("{base_url}/token")
        && claims["iss"].as_str().is_some_and(|iss| iss.contains('@'))
        && scoped
        && decode(signature)?.len() >= 256;
    is_correct.then_some(())
}
