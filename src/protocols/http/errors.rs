//! What an answer or a broken connection means for the caller.

use std::{
    error::Error as StdError,
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, header::HeaderMap};
use url::Url;

use super::transport::Lost;
use crate::{
    error::{Error, Kind},
    protocols::{dial::LOGIN_HINT, place, tls},
};

/// No server's patience is waited for longer: past this the download fails with the wait in its error.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// An answer that is no success.
pub(super) fn refused(url: &Url, status: StatusCode, headers: &HeaderMap) -> Error {
    let kind = match status.as_u16() {
        401 | 407 => Kind::Unauthenticated,
        402 | 403 | 451 => Kind::PermissionDenied,
        404 | 410 => Kind::NotFound,
        408 | 425 | 429 => Kind::RateLimited,
        500..=599 => Kind::Unavailable,
        400 | 414 => Kind::InvalidInput,
        _ => Kind::Unsupported,
    };
    let words = status.canonical_reason().unwrap_or("an unusual answer");
    let error = Error::new(kind, format!("{}: {} {words}", place(url), status.as_u16()));
    let error = match status.as_u16() {
        401 => error.hint("give a user with -u NAME, or have a netrc file read with --netrc"),
        407 => error.hint(LOGIN_HINT),
        _ => error,
    };
    match wait_asked(headers) {
        Some(wait) if kind.is_retryable() => error.retry_after(wait),
        _ => error,
    }
}

/// `Retry-After`, in seconds or as a date.
fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait.min(LONGEST_WAIT))
}

/// A request without an answer, or an answer without an end.
pub(super) fn broken(url: &Url, lost: &Lost) -> Error {
    let Some(error) = lost.cause() else {
        return Error::new(Kind::Network, format!("{}: no answer in time", place(url)));
    };
    let causes = causes(error);
    let says = |words: &str| causes.iter().any(|e| e.to_string().contains(words));
    let refused = causes.iter().find_map(|e| tls::told_later(*e));
    let told = causes.iter().find_map(|e| e.downcast_ref::<Error>()).or(refused.as_ref());
    let (kind, what, hint) = if says("head is too large") || says("too many headers") {
        (Kind::Unsupported, "its headers are too large to be headers".to_owned(), None)
    } else if let Some(told) = told {
        (told.kind(), told.to_string(), told.hint_text())
    } else {
        (Kind::Network, "the connection broke".to_owned(), None)
    };
    // The innermost says what happened; the others which of our libraries was asked.
    let cause = causes.last().map(|e| tls::plain(&e.to_string())).unwrap_or_default();
    let ours = Error::new(kind, format!("{}: {what}", place(url))).because(cause);
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}

/// The error and what it came of, the innermost last.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let (mut causes, mut next) = (Vec::new(), Some(error));
    while let Some(e) = next {
        causes.push(e);
        next = e.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &str)]) -> Error {
        let url = Url::parse("https://u:hunter2@x.example:8443/a/b?signature=hunter2").unwrap();
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), value.parse().unwrap())
        });
        refused(&url, StatusCode::from_u16(status).unwrap(), &headers.collect())
    }

    #[test]
    fn a_refusal_names_the_place_and_no_secret() {
        assert_eq!(refusal(404, &[]).report(), "x.example:8443/a/b: 404 Not Found");
        let kinds = [401, 403, 410, 429, 503, 418].map(|status| refusal(status, &[]).kind());
        let wanted = [
            Kind::Unauthenticated,
            Kind::PermissionDenied,
            Kind::NotFound,
            Kind::RateLimited,
            Kind::Unavailable,
            Kind::Unsupported,
        ];
        assert_eq!(kinds, wanted);
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
        let wait = |text: &str| refusal(503, &[("retry-after", text)]).wait_asked();
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999"), Some(LONGEST_WAIT));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(wait(&soon).is_some_and(|wait| wait > Duration::from_secs(90)));
        assert_eq!(wait("soon"), None);
        assert_eq!(refusal(404, &[("retry-after", "7")]).wait_asked(), None);
    }
}
