//! Sends requests: follows redirects, logs in, and decides which headers and credentials a host receives.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use parking_lot::Mutex;
use url::{Origin, Url};

use super::{
    auth::{Challenge, strongest_challenge},
    cookies::Cookies,
    errors::{LOGIN_UNSENT, response_error, unauthorized_error},
    transport::{HttpResponse, Transport},
};
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    protocols::{
        FetchOptions, Login, MagnetLink, RangeRequest, RemoteFile, Validator, display_url,
    },
};

/// Maximum number of redirects of one request. Browsers allow about twice as many; a longer chain is taken for a loop.
const MAX_REDIRECTS: usize = 10;
/// Maximum number of remembered servers without support for `If-Range`.
const MAX_REMEMBERED_SERVERS: usize = 1000;
/// Headers that the user cannot set: another value of them would change which bytes of the file a response has.
const RESERVED_HEADERS: [&str; 3] = ["range", "if-range", "accept-encoding"];
const USER_AGENT: &str = concat!("bae/", env!("CARGO_PKG_VERSION"));
/// Ranges of at least this many bytes use a connection of their own. HTTP/2 splits data into small frames, and parallel
/// streams would share one flow control window.
const OWN_CONNECTION_LEN: u64 = 1 << 20;

/// One request: a GET of bytes of a file, or another request.
#[derive(Debug, Clone)]
pub(super) struct RequestSpec<'a> {
    /// The user's login and headers are sent to the host of this URL only.
    pub(super) requested_url: &'a Url,
    pub(super) url: &'a Url,
    pub(super) range: Option<RangeRequest>,
    /// Requests this many bytes at the end of the file, instead of `range`.
    pub(super) suffix_len: Option<u64>,
    /// The version that the range must belong to.
    pub(super) validator: Option<&'a Validator>,
    pub(super) other: Option<OtherRequest>,
}

/// A request for something else than bytes of a file.
#[derive(Debug, Clone)]
pub(super) struct OtherRequest {
    pub(super) method: Method,
    /// They replace those of the user.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: &'static str,
    /// Whether the answer is long, so that it should not share a connection.
    pub(super) is_long: bool,
}

impl<'a> RequestSpec<'a> {
    /// The first request for `url`, of which nothing is known yet.
    pub(super) fn first(url: &'a Url, range: Option<RangeRequest>) -> Self {
        Self { requested_url: url, url, range, suffix_len: None, validator: None, other: None }
    }

    fn method(&self) -> Method {
        self.other.as_ref().map_or(Method::GET, |other| other.method.clone())
    }
}

/// State that all requests share.
#[derive(Debug)]
pub(super) struct HttpClient {
    transport: Transport,
    options: Arc<FetchOptions>,
    /// The value of `User-Agent`.
    user_agent: HeaderValue,
    headers: HeaderMap,
    cookies: Arc<Cookies>,
    /// The last challenge of each server that requires a login. Later requests send the login at once.
    challenges: Mutex<HashMap<Origin, Challenge>>,
    /// Servers that answer `If-Range` with the whole file although the version is unchanged.
    without_if_range: Mutex<HashSet<Origin>>,
}

impl HttpClient {
    pub(super) fn new(options: Arc<FetchOptions>) -> Result<Self> {
        let cookies = match &options.cookies {
            Some(path) => Cookies::read(path)?,
            None => Cookies::default(),
        };
        Ok(Self {
            transport: Transport::new(&options)?,
            user_agent: header_value(
                options.user_agent.as_deref().unwrap_or(USER_AGENT),
                "the user agent",
            )?,
            headers: user_headers(&options)?,
            cookies: Arc::new(cookies),
            challenges: Mutex::default(),
            without_if_range: Mutex::default(),
            options,
        })
    }

    /// A client with `options` that shares the cookies of this one.
    pub(super) fn with_shared_cookies(&self, options: Arc<FetchOptions>) -> Result<Self> {
        Ok(Self {
            transport: Transport::new(&options)?,
            user_agent: self.user_agent.clone(),
            headers: self.headers.clone(),
            cookies: Arc::clone(&self.cookies),
            challenges: Mutex::default(),
            without_if_range: Mutex::default(),
            options,
        })
    }

    pub(super) fn options(&self) -> &FetchOptions {
        &self.options
    }

    /// Whether range requests for `remote` contain `If-Range`.
    pub(super) fn uses_if_range(&self, remote: &RemoteFile) -> bool {
        remote.validator.as_ref().is_some_and(|validator| if_range(validator).is_some())
            && !self.without_if_range.lock().contains(&remote.url.origin())
    }

    /// Remembers that the server of `remote` does not support `If-Range`.
    pub(super) fn disable_if_range(&self, remote: &RemoteFile) {
        let mut known = self.without_if_range.lock();
        if known.len() < MAX_REMEMBERED_SERVERS {
            known.insert(remote.url.origin());
        }
    }

    /// Follows redirects, and logs in if the server requires it. Any other response than a 401 is returned, whatever
    /// its status, together with the URL that it came from.
    pub(super) async fn send_following_redirects(
        &self,
        spec: RequestSpec<'_>,
    ) -> Result<(Url, HttpResponse)> {
        let mut at = strip_login(spec.url);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_with_login(&spec, &at).await?;
            let status = response.status();
            let location = response.headers().get("location");
            let Some(location) = location.filter(|_| status.is_redirection()) else {
                return Ok((at, response));
            };
            at = redirect_target(&at, location)?;
        }
        let text = format!("{}: more than {MAX_REDIRECTS} redirects", display_url(spec.url));
        Err(Error::new(Kind::Unsupported, text))
    }

    /// Sends one request, and repeats it with a login if the server requires one and a login is configured.
    async fn send_with_login(&self, spec: &RequestSpec<'_>, at: &Url) -> Result<HttpResponse> {
        let same_origin = at.origin() == spec.requested_url.origin();
        let known = self.challenges.lock().get(&at.origin()).cloned();
        let login = match same_origin {
            true => self.options.login_for(spec.requested_url),
            // A prompt appears only for the host that the user named.
            false => self.options.netrc_login_for(at).filter(|login| login.password.is_some()),
        };
        let Some(login) = login else {
            let response = self.send(spec, at, same_origin, None).await?;
            return match response.status() {
                StatusCode::UNAUTHORIZED => Err(unauthorized_error(at, response.headers(), None)),
                _ => Ok(response),
            };
        };
        let method = spec.method();
        let authorization = match known {
            Some(challenge) => {
                let login = self.with_password(&login, at).await?;
                Some(login_header(&challenge, &login, &method, at)?)
            }
            None => None,
        };
        let login_sent = authorization.is_some();
        let mut response = self.send(spec, at, same_origin, authorization).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            if !login_sent {
                response.headers_mut().insert(LOGIN_UNSENT, HeaderValue::from_static("true"));
            }
            return Ok(response);
        }
        let strongest = strongest_challenge(response.headers());
        // A second 401 for the same login is final, unless the nonce of a digest was stale.
        let Some(challenge) = strongest.filter(|c| !login_sent || c.is_stale()) else {
            return Err(unauthorized_error(at, response.headers(), Some(&login.user)));
        };
        let login = self.with_password(&login, at).await?;
        let authorization = login_header(&challenge, &login, &method, at)?;
        self.challenges.lock().insert(at.origin(), challenge);
        let response = self.send(spec, at, same_origin, Some(authorization)).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => {
                Err(unauthorized_error(at, response.headers(), Some(&login.user)))
            }
            _ => Ok(response),
        }
    }

    /// Adds the password, from a prompt if necessary. Called only when a server requires a login.
    async fn with_password(&self, login: &Login, at: &Url) -> Result<Login> {
        if login.password.is_some() {
            return Ok(login.clone());
        }
        let host = at.host_str().unwrap_or_default();
        let password = self.options.passwords.password_for(&login.user, host).await;
        let password = password.map_err(|e| e.with_context(display_url(at)))?;
        Ok(Login { user: login.user.clone(), password: Some(Secret::Text(password)) })
    }

    async fn send(
        &self,
        spec: &RequestSpec<'_>,
        at: &Url,
        same_origin: bool,
        authorization: Option<HeaderValue>,
    ) -> Result<HttpResponse> {
        let needs_own_connection =
            |range: RangeRequest| range.len().is_none_or(|len| len >= OWN_CONNECTION_LEN);
        let own_connection = match &spec.other {
            Some(other) => other.is_long,
            None => spec.suffix_len.is_none() && spec.range.is_none_or(needs_own_connection),
        };
        let mut headers = if same_origin { self.headers.clone() } else { HeaderMap::new() };
        headers.entry("accept").or_insert(HeaderValue::from_static("*/*"));
        headers.insert("accept-encoding", HeaderValue::from_static("identity"));
        if let Some(value) = authorization {
            headers.insert("authorization", value);
        }
        headers.entry("user-agent").or_insert_with(|| self.user_agent.clone());
        if let Some(cookies) = self.cookies.header_for(at, headers.get("cookie")) {
            headers.insert("cookie", cookies);
        }
        if let Some(range) = spec.range {
            headers.insert("range", range_value(range)?);
            if let Some(validator) = spec.validator.and_then(if_range) {
                headers.insert("if-range", validator);
            }
        }
        if let Some(len) = spec.suffix_len {
            headers.insert("range", header_value(&format!("bytes=-{len}"), "the range")?);
        }
        let mut body = Full::default();
        if let Some(other) = &spec.other {
            for (name, value) in &other.headers {
                headers.insert(name.clone(), value.clone());
            }
            body = Full::from(other.body);
        }
        let mut request = Request::new(body);
        *request.method_mut() = spec.method();
        *request.uri_mut() = to_uri(at)?;
        *request.headers_mut() = headers;
        let sent = self.transport.send(request, own_connection).await;
        let response = sent.map_err(|failure| response_error(at, &failure))?;
        self.cookies.store_from_response(at, response.headers());
        Ok(response)
    }
}

/// The user's own headers. Their values are marked as sensitive, so that they are never shown.
fn user_headers(options: &FetchOptions) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(referer) = &options.referer {
        headers.insert("referer", header_value(referer, "the referer")?);
    }
    for (name, secret) in &options.headers {
        let invalid_name =
            || Error::new(Kind::InvalidInput, format!("{name:?} is not a valid header name"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid_name())?;
        if RESERVED_HEADERS.contains(&header.as_str()) {
            let text = format!("header {name} is reserved: bae sets it itself");
            return Err(Error::new(Kind::InvalidInput, text).hint("leave it out"));
        }
        let mut value = header_value(&secret.reveal()?, &format!("the value of header {name}"))?;
        value.set_sensitive(true);
        headers.append(header, value);
    }
    Ok(headers)
}

fn header_value(text: &str, subject: &str) -> Result<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Error::new(
            Kind::InvalidInput,
            format!("{subject} has characters that a header cannot contain"),
        )
    })
}

fn login_header(
    challenge: &Challenge,
    login: &Login,
    method: &Method,
    at: &Url,
) -> Result<HeaderValue> {
    let password = login.password.as_ref().map(Secret::reveal).transpose()?.unwrap_or_default();
    let uri = match at.query() {
        Some(query) => format!("{}?{query}", at.path()),
        None => at.path().to_owned(),
    };
    let mut value = header_value(
        &challenge.authorization(&login.user, &password, method.as_str(), &uri)?,
        "the login",
    )?;
    value.set_sensitive(true);
    Ok(value)
}

fn range_value(range: RangeRequest) -> Result<HeaderValue> {
    let last = range.end.map(|end| (end - 1).to_string()).unwrap_or_default();
    header_value(&format!("bytes={}-{last}", range.start), "the range")
}

/// The value of `If-Range`. Dates in a non-standard form are not sent: the server would take them for another version.
fn if_range(validator: &Validator) -> Option<HeaderValue> {
    let (Validator::ETag(text) | Validator::Modified(text, _)) = validator;
    let is_date = || httpdate::parse_http_date(text).is_ok();
    let is_usable = matches!(validator, Validator::ETag(_)) || is_date();
    HeaderValue::from_str(text).ok().filter(|_| is_usable)
}

fn to_uri(url: &Url) -> Result<Uri> {
    let text = || format!("{}: not a valid request URL", display_url(url));
    url.as_str().parse().map_err(|e| Error::new(Kind::InvalidInput, text()).because(e))
}

fn strip_login(url: &Url) -> Url {
    let mut url = url.clone();
    // Fails only for URLs without a host, which have no login.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// Percent-encodes the non-ASCII bytes of a `Location`, in whatever encoding they are. The server receives the same
/// bytes.
fn percent_encode_non_ascii(location: &[u8]) -> String {
    use std::fmt::Write as _;
    location.iter().fold(String::new(), |mut text, byte| {
        match byte.is_ascii() {
            true => text.push(char::from(*byte)),
            false => write!(text, "%{byte:02X}").expect("a String takes all text"),
        }
        text
    })
}

/// The target of a redirect.
fn redirect_target(from: &Url, location: &HeaderValue) -> Result<Url> {
    let refused = |kind, target: &str| {
        Error::new(kind, format!("{}: a redirect {target}", display_url(from)))
    };
    let text = percent_encode_non_ascii(location.as_bytes());
    let to = from.join(&text).map_err(|_| refused(Kind::Unsupported, "to an invalid URL"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err(refused(Kind::Unsupported, "from https to http")
            .hint("use the http URL itself if you trust it")),
        (_, "magnet") => {
            Err(refused(Kind::Unsupported, "to a magnet link").because(MagnetLink(to.into())).hint(
                hint![Operation::Import, " accepts magnet links, and URLs that redirect to them",],
            ))
        }
        (_, "http" | "https") if to.has_host() => Ok(strip_login(&to)),
        _ => Err(refused(Kind::Unsupported, &format!("to scheme {:?}", to.scheme()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(from: &str, location: &str) -> Result<String> {
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        redirect_target(&from.parse().unwrap(), &location).map(Into::into)
    }

    #[test]
    fn a_redirect_may_be_relative_but_never_leave_tls() {
        assert_eq!(to("http://x/a/b?q", "../c").unwrap(), "http://x/c");
        assert_eq!(to("http://x/a", "https://u:p@y/c").unwrap(), "https://y/c");
        assert_eq!(to("http://x/a", "/ü.bin").unwrap(), "http://x/%C3%BC.bin");
        let latin1 = HeaderValue::from_bytes(b"/\xfc.bin").unwrap();
        let at = redirect_target(&"http://x/a".parse().unwrap(), &latin1).unwrap();
        assert_eq!(at.as_str(), "http://x/%FC.bin");
        for (from, location) in [
            ("https://x/", "http://x/"),
            ("http://x/", "file:///etc/passwd"),
            ("http://x/", "http://"),
        ] {
            assert!(to(from, location).is_err(), "{location}");
        }
    }

    #[test]
    fn a_redirect_to_a_magnet_link_has_the_link_as_its_cause() {
        let link = "magnet:?xt=urn:btih:ab&tr=http://t/passkey";
        let e = to("https://x/", link).unwrap_err();
        assert_eq!(e.report(), "x/: a redirect to a magnet link");
        let cause = std::error::Error::source(&e).and_then(|e| e.downcast_ref::<MagnetLink>());
        assert_eq!(cause, Some(&MagnetLink(link.to_owned())));
    }

    #[test]
    fn a_range_is_written_with_both_ends_included() {
        let text = |range: RangeRequest| range_value(range).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text((0..1).into()), "bytes=0-0");
        assert_eq!(text(RangeRequest { start: 5, end: None }), "bytes=5-");
    }

    #[test]
    fn an_invalid_header_is_refused_without_its_value() {
        let secret = || Secret::Text("hunter2\n".repeat(2));
        let options = FetchOptions { headers: vec![("X".into(), secret())], ..Default::default() };
        let e = user_headers(&options).unwrap_err();
        assert!(!e.report().contains("hunter2"), "{}", e.report());
        let options =
            FetchOptions { headers: vec![("a b".into(), secret())], ..Default::default() };
        assert_eq!(user_headers(&options).unwrap_err().kind(), Kind::InvalidInput);
    }

    #[test]
    fn a_reserved_header_is_refused_by_name() {
        for name in ["Range", "if-range", "Accept-Encoding"] {
            let headers = vec![(name.to_owned(), Secret::Text("bytes=0-9".into()))];
            let options = FetchOptions { headers, ..Default::default() };
            let error = user_headers(&options).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidInput);
            assert!(error.report().contains(name), "{}", error.report());
        }
    }
}
