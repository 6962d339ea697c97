//! Turns responses and broken connections into errors for the caller.

use std::{
    error::Error as StdError,
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, header::HeaderMap};
use url::Url;

use super::{
    auth::{offered_methods, strongest_challenge},
    transport::ResponseFailure,
};
use crate::{
    error::{Error, Kind},
    hints::{Setting, hint},
    protocols::{date, dial::proxy_login_hint, display_url, tls},
};

/// Upper bound of a `Retry-After`, against absurd values. `downloads` has its own, lower limit, above which it fails.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Internal marker in the headers of a response: a login is configured, but was not sent because the server did not
/// require one.
pub(super) const LOGIN_UNSENT: &str = "bae-login-unsent";

/// The error of a response whose status is not a success.
pub(super) fn status_error(url: &Url, status: StatusCode, headers: &HeaderMap) -> Error {
    let kind = match status.as_u16() {
        401 | 407 => Kind::Unauthenticated,
        403 => Kind::PermissionDenied,
        404 | 410 => Kind::NotFound,
        408 | 425 | 429 => Kind::RateLimited,
        500..=599 => Kind::Unavailable,
        _ => Kind::Unsupported,
    };
    let words = status.canonical_reason().unwrap_or(match status.as_u16() {
        500.. => "server error",
        400..500 => "refused",
        _ => "unexpected answer",
    });
    let wait = retry_after(headers).filter(|_| kind.is_retryable());
    let delay = wait.map(|wait| format!(", retry after {}", format_wait(wait)));
    let text =
        format!("{}: {} {words}{}", display_url(url), status.as_u16(), delay.unwrap_or_default());
    let error = Error::new(kind, text);
    let error = match status.as_u16() {
        401 => error.hint(hint![
            "set a user with ",
            Setting::User.with("NAME"),
            ", or use a netrc file (",
            Setting::Netrc,
            ")",
        ]),
        407 => error.hint(proxy_login_hint()),
        403 | 404 if headers.contains_key(LOGIN_UNSENT) => error.hint(hint![
            "the login was not sent, because the server did not request one: ",
            Setting::AuthorizationHeader,
            " always sends one",
        ]),
        _ => error,
    };
    match wait {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// Formats a wait as `45 s`, `20 min` or `3 h`. Minutes and hours are rounded up.
fn format_wait(wait: Duration) -> String {
    match wait.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// The error of a final 401. `user` is the user of the configured login, whether or not the login was sent.
pub(super) fn unauthorized_error(url: &Url, headers: &HeaderMap, user: Option<&str>) -> Error {
    let location = display_url(url);
    let error = |reason: &str| {
        Error::new(Kind::Unauthenticated, format!("{location}: 401 Unauthorized{reason}"))
    };
    let is_supported = strongest_challenge(headers).is_some();
    let methods = offered_methods(headers).join(", ");
    match user {
        Some(user) if is_supported => error(&format!(": the login of {user:?} is refused"))
            .hint("check the user and the password"),
        _ if !is_supported && !methods.is_empty() => {
            let error = error(&format!(
                ": the server requires a login by {methods}, which is not supported"
            ));
            match methods.to_ascii_lowercase().contains("bearer") {
                true => error.hint(hint!["pass a token with ", Setting::AuthorizationHeader]),
                false => error,
            }
        }
        Some(_) => error(", without a login method")
            .hint(hint!["pass the credentials with ", Setting::AuthorizationHeader]),
        None => status_error(url, StatusCode::UNAUTHORIZED, headers),
    }
}

/// The wait in `Retry-After`, which is given in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => date::parse(text)?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The error of a request without a response, or of a response that breaks off.
pub(super) fn response_error(url: &Url, failure: &ResponseFailure) -> Error {
    let Some(error) = failure.cause() else {
        let text = match failure {
            ResponseFailure::StreamReset => "the server reset the stream before its end",
            _ => "no answer within the idle timeout",
        };
        return Error::new(Kind::Network, format!("{}: {text}", display_url(url)));
    };
    let causes = error_chain(error);
    let says = |words: &str| causes.iter().any(|e| e.to_string().contains(words));
    let tls_error = causes.iter().find_map(|e| tls::permanent_alert_error(*e));
    let known_error = causes.iter().find_map(|e| e.downcast_ref::<Error>()).or(tls_error.as_ref());
    let is_parse = |e: &hyper::Error| e.is_parse();
    let is_unparsable = causes.iter().filter_map(|e| e.downcast_ref()).any(is_parse);
    let (kind, text, hint) = if says("head is too large") || says("too many headers") {
        (Kind::Unsupported, "the headers of the answer are too large".to_owned(), None)
    } else if is_unparsable {
        (Kind::Unsupported, "the server's answer is not valid HTTP".to_owned(), None)
    } else if let Some(known) = known_error {
        (known.kind(), known.to_string(), known.typed_hint())
    } else {
        (Kind::Network, "the connection was lost".to_owned(), None)
    };
    // The innermost cause tells what happened; the outer ones only name libraries.
    let cause = causes.last().map(|e| tls::readable_io_error(&e.to_string())).unwrap_or_default();
    let error = Error::new(kind, format!("{}: {text}", display_url(url))).because(cause);
    match hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    }
}

/// The error and its chain of sources, innermost last.
fn error_chain<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
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
        status_error(&url, StatusCode::from_u16(status).unwrap(), &headers.collect())
    }

    #[test]
    fn a_refusal_names_the_url_without_secrets() {
        assert_eq!(refusal(404, &[]).report(), "x.example:8443/a/b: 404 Not Found");
        assert_eq!(refusal(520, &[]).report(), "x.example:8443/a/b: 520 server error");
        let unsent = refusal(404, &[(LOGIN_UNSENT, "true")]);
        assert!(unsent.hint_text().unwrap().contains("was not sent"));
        assert_eq!(refusal(404, &[]).hint_text(), None);
        for (status, code) in [(400, 1), (402, 1), (414, 1), (451, 1), (401, 24), (403, 24)] {
            assert_eq!(refusal(status, &[]).kind().exit_code(), code, "{status}");
        }
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
    fn a_rejected_login_and_an_unsupported_method_have_different_errors() {
        let url = Url::parse("https://x.example/a").unwrap();
        let of = |offer: &str, user: Option<&str>| {
            let headers =
                HeaderMap::from_iter([(hyper::header::WWW_AUTHENTICATE, offer.parse().unwrap())]);
            unauthorized_error(&url, &headers, user)
        };
        let wrong = of("Basic realm=\"x\"", Some("bob"));
        assert!(wrong.report().ends_with("the login of \"bob\" is refused"), "{}", wrong.report());
        assert!(!wrong.typed_hint().unwrap().names_setting(Setting::User));
        let none = of("Basic realm=\"x\"", None);
        assert!(none.typed_hint().unwrap().names_setting(Setting::User));
        for user in [None, Some("bob")] {
            let other = of("NTLM", user);
            assert!(other.report().contains("NTLM, which is not supported"), "{}", other.report());
        }
        let token = of("Bearer realm=\"x\"", None);
        assert!(token.typed_hint().unwrap().names_setting(Setting::AuthorizationHeader));
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        let wait = |text: &str| refusal(503, &[("retry-after", text)]).requested_wait();
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999"), Some(MAX_RETRY_AFTER));
        // Some of the hour has passed when the date is read.
        let hour = Duration::from_secs(3600);
        let later = httpdate::fmt_http_date(SystemTime::now() + hour);
        assert!(wait(&later).is_some_and(|wait| wait > hour / 2 && wait <= hour));
        assert_eq!(wait("soon"), None);
        assert_eq!(refusal(404, &[("retry-after", "7")]).requested_wait(), None);
        let report = refusal(429, &[("retry-after", "1200")]).report();
        assert!(report.ends_with("429 Too Many Requests, retry after 20 min"), "{report}");
    }
}
