//! Turns responses and broken connections into errors for the caller.

use std::{
    error::Error as StdError,
    time::{Duration, SystemTime},
};

use hyper::{StatusCode, header::HeaderMap};
use url::Url;

use super::{
    auth::{challenges, offered},
    transport::Lost,
};
use crate::{
    error::{Error, Kind},
    protocols::{date, dial::LOGIN_HINT, place, tls},
};

/// Upper bound of a `Retry-After`, against absurd values. `downloads` has its own, lower limit, above which it fails.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Internal marker in the headers of a response: a login is configured, but was not sent because the server did not
/// require one.
pub(super) const LOGIN_UNSENT: &str = "bae-login-unsent";

/// The error of a response whose status is not a success.
pub(super) fn refused(url: &Url, status: StatusCode, headers: &HeaderMap) -> Error {
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
        _ => "an answer that says nothing of a file",
    });
    let wait = wait_asked(headers).filter(|_| kind.is_retryable());
    let asks = wait.map(|wait| format!(", and the server asks to wait {}", spoken(wait)));
    let text = format!("{}: {} {words}{}", place(url), status.as_u16(), asks.unwrap_or_default());
    let error = Error::new(kind, text);
    let error = match status.as_u16() {
        401 => error.hint("give a user with -u NAME, or have a netrc file read with --netrc"),
        407 => error.hint(LOGIN_HINT),
        403 | 404 if headers.contains_key(LOGIN_UNSENT) => error.hint(
            "the login was not sent, since the server asked for none: \
             --header 'Authorization: env:VARIABLE' sends one unasked",
        ),
        _ => error,
    };
    match wait {
        Some(wait) => error.retry_after(wait),
        None => error,
    }
}

/// Formats a wait as `45 s`, `20 min` or `3 h`. Minutes and hours are rounded up.
fn spoken(wait: Duration) -> String {
    match wait.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// The error of a final 401. `user` is the user of the configured login, whether or not the login was sent.
pub(super) fn unauthorized(url: &Url, headers: &HeaderMap, user: Option<&str>) -> Error {
    let place = place(url);
    let error =
        |why: &str| Error::new(Kind::Unauthenticated, format!("{place}: 401 Unauthorized{why}"));
    let known = challenges(headers).is_some();
    let ways = offered(headers).join(", ");
    match user {
        Some(user) if known => error(&format!(": the login of {user:?} is refused"))
            .hint("check the user and the password"),
        _ if !known && !ways.is_empty() => {
            let error =
                error(&format!(": the server wants a login by {ways}, which is not spoken"));
            match ways.to_ascii_lowercase().contains("bearer") {
                true => error.hint("give a token with --header 'Authorization: env:VARIABLE'"),
                false => error,
            }
        }
        Some(_) => error(", without saying how to log in")
            .hint("give what it wants with --header 'Authorization: env:VARIABLE'"),
        None => refused(url, StatusCode::UNAUTHORIZED, headers),
    }
}

/// The wait in `Retry-After`, which is given in seconds or as a date.
pub(super) fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => date::parse(text)?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait.min(LONGEST_WAIT))
}

/// The error of a request without a response, or of a response that breaks off.
pub(super) fn broken(url: &Url, lost: &Lost) -> Error {
    let Some(error) = lost.cause() else {
        let what = match lost {
            Lost::Reset => "the server reset the stream before its end",
            _ => "no answer in time",
        };
        return Error::new(Kind::Network, format!("{}: {what}", place(url)));
    };
    let causes = causes(error);
    let says = |words: &str| causes.iter().any(|e| e.to_string().contains(words));
    let refused = causes.iter().find_map(|e| tls::told_later(*e));
    let told = causes.iter().find_map(|e| e.downcast_ref::<Error>()).or(refused.as_ref());
    let is_parse = |e: &hyper::Error| e.is_parse();
    let unread = causes.iter().filter_map(|e| e.downcast_ref()).any(is_parse);
    let (kind, what, hint) = if says("head is too large") || says("too many headers") {
        (Kind::Unsupported, "its headers are too large to be headers".to_owned(), None)
    } else if unread {
        (Kind::Unsupported, "the server's answer is not HTTP that can be read".to_owned(), None)
    } else if let Some(told) = told {
        (told.kind(), told.to_string(), told.hint_text())
    } else {
        (Kind::Network, "the connection broke".to_owned(), None)
    };
    // The innermost cause tells what happened; the outer ones only name libraries.
    let cause = causes.last().map(|e| tls::plain(&e.to_string())).unwrap_or_default();
    let ours = Error::new(kind, format!("{}: {what}", place(url))).because(cause);
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}

/// The error and its chain of sources, innermost last.
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
    fn a_login_that_is_refused_is_told_from_one_that_is_not_spoken() {
        let url = Url::parse("https://x.example/a").unwrap();
        let of = |offer: &str, user: Option<&str>| {
            let headers =
                HeaderMap::from_iter([(hyper::header::WWW_AUTHENTICATE, offer.parse().unwrap())]);
            unauthorized(&url, &headers, user)
        };
        let wrong = of("Basic realm=\"x\"", Some("bob"));
        assert!(wrong.report().ends_with("the login of \"bob\" is refused"), "{}", wrong.report());
        assert!(!wrong.hint_text().unwrap().contains("-u"));
        let none = of("Basic realm=\"x\"", None);
        assert!(none.hint_text().unwrap().contains("-u"));
        for user in [None, Some("bob")] {
            let other = of("NTLM", user);
            assert!(other.report().contains("NTLM, which is not spoken"), "{}", other.report());
        }
        let token = of("Bearer realm=\"x\"", None);
        assert!(token.hint_text().unwrap().contains("--header"));
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
        let said = refusal(429, &[("retry-after", "1200")]).report();
        assert!(
            said.ends_with("429 Too Many Requests, and the server asks to wait 20 min"),
            "{said}"
        );
    }
}
