//! The layers around all calls: their form, their client, their deadline, and refusals as a status.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Version, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::time::Instant;

use super::status;
use crate::{
    daemon::{
        access::{Peer, Role},
        problem::Problem,
        state::ApiState,
    },
    error::{Error, Kind},
};

/// Methods that a token for reading may call. Commands of a control stream are checked one by one.
const READING: &[&str] =
    &["GetDownload", "ListDownloads", "StreamProgress", "Control", "ServerReflectionInfo"];

/// When the client stops waiting for the call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// Layer around the whole API: a call that any other layer refuses gets a status of gRPC instead of a problem.
pub(in crate::daemon) async fn translate_refusals(request: Request, next: Next) -> Response {
    let is_call = request.version() == Version::HTTP_2 && is_grpc(request.headers());
    let response = next.run(request).await;
    if !is_call || is_grpc(response.headers()) {
        return response;
    }
    let error = response.extensions().get::<Error>();
    status::refusal(response.status(), error).into_http::<Body>()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let rest = given.and_then(|given| given.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Layer: refuses requests that are no calls.
pub(super) async fn only_grpc(request: Request, next: Next) -> Response {
    let is_call = request.version() == Version::HTTP_2
        && *request.method() == Method::POST
        && is_grpc(request.headers());
    if is_call {
        return next.run(request).await;
    }
    let text = "a call is a POST of HTTP/2 with the type application/grpc";
    let error = Error::new(Kind::InvalidInput, text);
    Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error).into_response()
}

/// Layer: a client without a token is refused, and one that may only read for a method that writes. Calls find the
/// [`Role`] in their extensions.
pub(super) async fn require(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = Peer::of(&request);
    let role = match state.access().role_of(&peer, request.headers(), None) {
        Ok(Some(role)) => role,
        Ok(None) => {
            let error = Error::new(Kind::Unauthenticated, "the call has no valid token")
                .hint("send the metadata authorization: Bearer TOKEN");
            return Problem::with_status(StatusCode::UNAUTHORIZED, error).into_response();
        }
        Err(error) => {
            return Problem::with_status(StatusCode::TOO_MANY_REQUESTS, error).into_response();
        }
    };
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    if !READING.contains(&method)
        && let Err(error) = check_writes(role)
    {
        return Problem::from(error).into_response();
    }
    request.extensions_mut().insert(role);
    next.run(request).await
}

/// # Errors
/// `PermissionDenied` for a token that may only read.
pub(super) fn check_writes(role: Role) -> Result<(), Error> {
    match role >= Role::Admin {
        true => Ok(()),
        false => Err(Error::new(Kind::PermissionDenied, "the token may only read")),
    }
}

/// Layer: ends a call at the client's deadline. Streams find the [`Deadline`] in their extensions.
pub(super) async fn limit_time(mut request: Request, next: Next) -> Response {
    let Some(timeout) = timeout_of(request.headers()) else { return next.run(request).await };
    let Some(deadline) = Instant::now().checked_add(timeout) else {
        return next.run(request).await;
    };
    request.extensions_mut().insert(Deadline(deadline));
    match tokio::time::timeout_at(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => tonic::Status::deadline_exceeded("the deadline of the call has passed")
            .into_http::<Body>(),
    }
}

/// The value of `grpc-timeout`: at most 8 digits and a unit. Clients check it too, so that a malformed one is ignored.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_deadline_is_read_in_each_unit() {
        let timeout = |text: &str| timeout_of(&headers("grpc-timeout", text));
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(timeout("5m"), Some(Duration::from_millis(5)));
        assert_eq!(timeout("5u"), Some(Duration::from_micros(5)));
        assert_eq!(timeout("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "S", "5", "5x", "-5S", "+5S", "123456789S", "5 S"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_types_of_grpc_are_calls() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers("content-type", text)), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
