//! Errors as `application/problem+json` (RFC 9457).

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::error::{Error, Kind};

/// An error as an answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    error: Error,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
struct Body {
    /// No page describes the errors further.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// The schema of an error.
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Body>()
}

impl Problem {
    /// An error with another status than that of its kind.
    pub fn with_status(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.kind().http_status());
        let status = match error.kind() {
            // The client itself is refused, not our request to a storage.
            Kind::PermissionDenied => StatusCode::FORBIDDEN,
            _ => status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        Self { status, error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        if status.is_server_error() {
            tracing::warn!(error = %error.report(), "a request failed");
        }
        let body = Body {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: error.report(),
            kind: error.kind(),
            hint: error.hint_text(),
        };
        let mut response = (status, Json(body)).into_response();
        // For dialects that show errors in another form.
        response.extensions_mut().insert(error.clone());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = error.requested_wait().map_or(5, |wait| wait.as_secs().max(1));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
