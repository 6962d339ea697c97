//! Errors as the status of a call. The details of a status are a `bae.v1.Error`.

use axum::http::StatusCode;
use prost::Message as _;
use tonic::{Code, Status};

use super::pb;
use crate::{
    error::{Error, Kind},
    queue::Failure,
};

/// Longest text in a status: it is sent in headers, and clients accept 8 KiB of them.
const MAX_TEXT: usize = 1024;

/// The message in the details of a status, `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct StatusDetails {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The status of a call that failed.
pub(super) fn status(error: &Error) -> Status {
    with_code(Code::from(error.kind().grpc_code()), error)
}

/// The status of a request that a layer refused with a status of HTTP, and the layer's error if it had one.
pub(super) fn refusal(refused: StatusCode, error: Option<&Error>) -> Status {
    let code = match refused {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Some(Code::Unimplemented),
        StatusCode::REQUEST_TIMEOUT => Some(Code::DeadlineExceeded),
        _ => None,
    };
    match (error, code) {
        (Some(error), Some(code)) => with_code(code, error),
        (Some(error), None) => status(error),
        (None, code) => Status::new(code.unwrap_or(Code::Unknown), refused.to_string()),
    }
}

fn with_code(code: Code, error: &Error) -> Status {
    if error.kind() == Kind::Internal {
        tracing::warn!(error = %error.report(), "a call failed");
    }
    let error = pb::Error::from(error);
    let value = error.encode_to_vec();
    let details = StatusDetails {
        code: i32::from(code),
        message: error.message.clone(),
        details: vec![AnyMessage { type_url: "type.googleapis.com/bae.v1.Error".into(), value }],
    };
    Status::with_details(code, error.message, details.encode_to_vec().into())
}

impl From<&Error> for pb::Error {
    fn from(error: &Error) -> Self {
        let retry_after = error.requested_wait().map(|wait| wait.as_millis());
        Self {
            kind: pb::Kind::from(error.kind()).into(),
            message: shortened(error.report()),
            hint: error.hint_text().map(shortened),
            retry_after_ms: retry_after.map(|wait| u64::try_from(wait).unwrap_or(u64::MAX)),
        }
    }
}

impl From<&Failure> for pb::Error {
    fn from(failure: &Failure) -> Self {
        Self {
            kind: pb::Kind::from(failure.kind).into(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
            retry_after_ms: None,
        }
    }
}

impl From<Kind> for pb::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::AlreadyExists => Self::AlreadyExists,
            Kind::InvalidInput => Self::InvalidInput,
            Kind::Unauthenticated => Self::Unauthenticated,
            Kind::PermissionDenied => Self::PermissionDenied,
            Kind::RateLimited => Self::RateLimited,
            Kind::Unavailable => Self::Unavailable,
            Kind::Network => Self::Network,
            Kind::Corrupt => Self::Corrupt,
            Kind::Changed => Self::Changed,
            Kind::NoSpace => Self::NoSpace,
            Kind::SessionExpired => Self::SessionExpired,
            Kind::Unsupported => Self::Unsupported,
            Kind::Cancelled => Self::Cancelled,
            Kind::Internal => Self::Internal,
        }
    }
}

/// Cuts a text that names what the client sent.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_error_in_its_details() {
        let error = Error::new(Kind::NotFound, "no download \"x\"").hint("list them");
        let status = status(&error);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no download \"x\""));
        let details = StatusDetails::decode(status.details()).unwrap();
        assert_eq!((details.code, details.details.len()), (5, 1));
        let decoded = pb::Error::decode(details.details[0].value.as_slice()).unwrap();
        assert_eq!(decoded.kind(), pb::Kind::NotFound);
        assert_eq!(decoded.hint.as_deref(), Some("list them"));
    }

    #[test]
    fn a_status_fits_into_the_headers_that_clients_accept() {
        let status = status(&Error::new(Kind::InvalidInput, "é".repeat(100_000)));
        let headers = status.into_http::<axum::body::Body>().headers().clone();
        let len: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(len < 8 << 10, "{len}");
    }

    #[test]
    fn refusals_of_the_layers_have_codes_of_grpc() {
        let error = |kind| Error::new(kind, "refused");
        for (http, kind, code) in [
            (StatusCode::UNAUTHORIZED, Kind::Unauthenticated, Code::Unauthenticated),
            (StatusCode::TOO_MANY_REQUESTS, Kind::RateLimited, Code::ResourceExhausted),
            (StatusCode::MISDIRECTED_REQUEST, Kind::PermissionDenied, Code::PermissionDenied),
            (StatusCode::NOT_FOUND, Kind::NotFound, Code::Unimplemented),
            (StatusCode::REQUEST_TIMEOUT, Kind::Network, Code::DeadlineExceeded),
        ] {
            assert_eq!(refusal(http, Some(&error(kind))).code(), code, "{http}");
        }
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, None).code(), Code::Unknown);
    }
}
