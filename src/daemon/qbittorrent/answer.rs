//! Answers: plain texts and JSON, and refusals as plain text with the status that clients know.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::error::{Error, Kind};

pub(super) type Answer = Result<Response, Refusal>;

/// Plain text, whatever the client accepts: some clients read a quoted `"Ok."` as a failure.
pub(super) fn text(text: impl Into<String>) -> Response {
    with_type(StatusCode::OK, text.into(), "text/plain; charset=utf-8")
}

/// The empty answer of most changes.
pub(super) fn done() -> Response {
    text("")
}

pub(super) fn json(value: &impl Serialize) -> Response {
    Json(value).into_response()
}

/// JSON that is text already.
pub(super) fn json_text(text: String) -> Response {
    with_type(StatusCode::OK, text, "application/json")
}

fn with_type(status: StatusCode, body: String, kind: &'static str) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "the endpoint has no such method")
    }

    pub(super) fn no_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such endpoint")
    }

    pub(super) fn no_torrent() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no torrent has this hash")
    }
}

impl From<Error> for Refusal {
    /// Never 401, which clients do not expect, and 403 only without a login: clients log in again then.
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::AlreadyExists | Kind::PermissionDenied => StatusCode::CONFLICT,
            Kind::InvalidInput | Kind::Unsupported => StatusCode::BAD_REQUEST,
            kind => StatusCode::from_u16(kind.http_status())
                .ok()
                .filter(|status| *status != StatusCode::UNAUTHORIZED)
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Self { status, text: format!("{}{hint}", error.report()) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(error = %self.text, "a request failed");
        }
        with_type(self.status, self.text, "text/plain; charset=utf-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_codes_that_clients_know() {
        for (kind, status) in [
            (Kind::NotFound, 404),
            (Kind::AlreadyExists, 409),
            (Kind::PermissionDenied, 409),
            (Kind::InvalidInput, 400),
            (Kind::Unauthenticated, 502),
        ] {
            assert_eq!(Refusal::from(Error::new(kind, "x")).status.as_u16(), status, "{kind:?}");
        }
    }
}
