//! Maps the errors of S3 servers to [`Kind`]s and hints. [`classify`] is the one table.
//!
//! The code in the answer's body says most. An answer to a HEAD has no body, so the status decides there. Messages
//! are cut to a sentence. They contain neither credentials nor signed links, because servers do not put them into
//! messages.

use std::{error::Error as StdError, fmt, sync::Arc};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{
    S3Settings,
    cause::{Cause, ErrorResponse, ResponseForm},
};
use crate::error::{Error, Kind};

/// The operation that failed. Determines the permission that the hint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum S3Op {
    Put,
    Get,
    Head,
    Delete,
    List,
    BeginUpload,
    PutPart,
    Copy,
    FinishUpload,
    ListParts,
    ListUploads,
    AbortUpload,
    Link,
}

impl S3Op {
    fn description(self) -> &'static str {
        match self {
            Self::Put => "put object",
            Self::Get => "get object",
            Self::Head => "head object",
            Self::Delete => "delete object",
            Self::List => "list objects under",
            Self::BeginUpload => "begin the upload of",
            Self::PutPart => "upload a part of",
            Self::Copy => "copy to",
            Self::FinishUpload => "finish the upload of",
            Self::ListParts => "list the parts of",
            Self::ListUploads => "list uploads under",
            Self::AbortUpload => "abort the upload of",
            Self::Link => "link to",
        }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::Put | Self::BeginUpload | Self::PutPart | Self::FinishUpload => "s3:PutObject",
            // Without permission to list, S3 answers 403 for a missing object too.
            Self::Get | Self::Head | Self::Link => "s3:GetObject and s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
            Self::List => "s3:ListBucket",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::ListParts => "s3:ListMultipartUploadParts",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::AbortUpload => "s3:AbortMultipartUpload",
        }
    }
}

/// The bucket and host that every error names.
#[derive(Debug)]
pub(super) struct BucketAddress {
    pub(super) bucket: String,
    /// Host and port of the endpoint.
    pub(super) host: String,
}

impl BucketAddress {
    pub(super) fn of(settings: &S3Settings) -> Self {
        let host = match &settings.endpoint {
            Some(url) => match (url.host_str().unwrap_or_default(), url.port()) {
                (host, Some(port)) => format!("{host}:{port}"),
                (host, None) => host.to_owned(),
            },
            None => "AWS".to_owned(),
        };
        Self { bucket: settings.bucket.clone(), host }
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {:?} at {}", self.bucket, self.host)
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) struct S3Error {
    op: S3Op,
    subject: String,
    address: Arc<BucketAddress>,
    cause: Cause,
    server: ServerContext,
}

/// What was known about the server when a call failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerContext {
    /// The clock offset was corrected while this call was in flight.
    pub(super) clock_was_wrong: bool,
    /// The server has answered as an S3 server does.
    pub(super) answered: bool,
}

impl S3Error {
    pub(super) fn new<E>(
        op: S3Op,
        subject: &str,
        address: &Arc<BucketAddress>,
        server: ServerContext,
        error: SdkError<E, HttpResponse>,
    ) -> Box<Self>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let cause = Cause::of(error);
        let (subject, address) = (subject.to_owned(), Arc::clone(address));
        Box::new(Self { op, subject, address, cause, server })
    }

    fn with(op: S3Op, subject: &str, address: &Arc<BucketAddress>, cause: Cause) -> Box<Self> {
        let (subject, address) = (subject.to_owned(), Arc::clone(address));
        Box::new(Self { op, subject, address, cause, server: ServerContext::default() })
    }

    /// A call without a complete answer.
    pub(super) fn no_answer(
        op: S3Op,
        subject: &str,
        address: &Arc<BucketAddress>,
        why: String,
    ) -> Box<Self> {
        Self::with(op, subject, address, Cause::NoAnswer(why))
    }

    /// A call that was answered with a web page.
    pub(super) fn web_page(op: S3Op, subject: &str, address: &Arc<BucketAddress>) -> Box<Self> {
        let answer =
            ErrorResponse { status: 200, form: ResponseForm::WebPage, ..ErrorResponse::default() };
        Self::with(op, subject, address, Cause::Response(answer))
    }

    /// A call whose answer contradicts itself, so that repeating it does not help.
    pub(super) fn contradiction(
        op: S3Op,
        subject: &str,
        address: &Arc<BucketAddress>,
        why: String,
    ) -> Box<Self> {
        Self::with(op, subject, address, Cause::Contradictory(why))
    }

    pub(super) fn is_contradictory(&self) -> bool {
        matches!(self.cause, Cause::Contradictory(_))
    }

    fn answer(&self) -> Option<&ErrorResponse> {
        if let Cause::Response(answer) = &self.cause { Some(answer) } else { None }
    }

    /// Whether the server may or may not have carried out the call.
    pub(super) fn outcome_is_unknown(&self) -> bool {
        matches!(self.cause, Cause::NoAnswer(_) | Cause::Endpoint(_))
    }

    /// The object does not exist. For a HEAD the bucket may be missing instead, because the answer has no code.
    pub(super) fn is_missing(&self) -> bool {
        self.answer().is_some_and(|a| {
            a.status == 404 && matches!(a.code.as_str(), "" | "NoSuchKey" | "NotFound")
        })
    }

    /// The upload does not exist.
    pub(super) fn is_expired(&self) -> bool {
        self.answer().is_some_and(|a| a.code == "NoSuchUpload")
    }

    /// The upload exists, but without the parts that were sent.
    pub(super) fn lost_parts(&self) -> bool {
        self.answer().is_some_and(|a| matches!(a.code.as_str(), "InvalidPart" | "InvalidPartOrder"))
    }

    /// The object ends before the range starts.
    pub(super) fn is_out_of_range(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 416 || a.code == "InvalidRange")
    }

    /// The object is another version than the request named.
    pub(super) fn is_changed(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 412)
    }

    /// The bucket's region, when the answer says that it is not the configured one.
    pub(super) fn suggested_region(&self) -> Option<&str> {
        let answer = self.answer().filter(|_| self.may_be_wrong_region())?;
        answer.region.as_deref()
    }

    /// Whether the bucket may be in another region.
    pub(super) fn may_be_wrong_region(&self) -> bool {
        self.answer().is_some_and(|a| {
            matches!(a.status, 301 | 307 | 308 | 400)
                && classify(self.op, a).0 == Kind::InvalidInput
        })
    }

    /// Whether the server lacks this call, or answers it with a success that is not the expected document.
    pub(super) fn is_unsupported_or_unreadable(&self) -> bool {
        let is_unreadable = |a: &ErrorResponse| (200..300).contains(&a.status) && a.code.is_empty();
        self.is_unsupported() || self.answer().is_some_and(is_unreadable)
    }

    /// Whether a web page was sent instead of a storage server's answer.
    pub(super) fn is_web_page(&self) -> bool {
        self.answer().is_some_and(ErrorResponse::is_web_page)
    }

    /// Whether the answer has an error code, as S3 servers send.
    pub(super) fn has_error_code(&self) -> bool {
        self.answer().is_some_and(|a| !a.code.is_empty())
    }

    /// Whether the server requires a checksum header for the body. Buckets with object lock do.
    pub(super) fn requires_checksum(&self) -> bool {
        self.answer().is_some_and(|a| {
            let message = a.message.to_ascii_lowercase();
            let named = message.contains("content-md5") || message.contains("x-amz-checksum");
            a.status == 400
                && (a.code == "MissingContentMD5" || a.code == "InvalidRequest" && named)
        })
    }

    /// Whether the server refuses this copy, because it cannot copy or does not permit it.
    pub(super) fn refuses_copies(&self) -> bool {
        !self.server.clock_was_wrong
            && self.answer().is_some_and(|a| {
                matches!(classify(self.op, a).0, Kind::InvalidInput | Kind::PermissionDenied)
            })
    }

    /// Whether the server lacks this call.
    pub(super) fn is_unsupported(&self) -> bool {
        self.answer().is_some_and(|a| classify(self.op, a).0 == Kind::Unsupported)
    }
}

impl From<Box<S3Error>> for Error {
    fn from(failure: Box<S3Error>) -> Self {
        let context =
            format!("{} {} in {}", failure.op.description(), failure.subject, failure.address);
        match failure.cause {
            Cause::NoAnswer(why) => Self::new(Kind::Network, context).because(why),
            Cause::Credentials(why) => {
                Self::new(Kind::Unauthenticated, context).because(why).hint(CREDENTIALS_HINT)
            }
            Cause::Request(why) => Self::new(Kind::InvalidInput, context).because(why),
            // The request was valid and the answer contradicts itself, a case the code does not handle.
            Cause::Contradictory(why) => Self::new(Kind::Internal, context).because(why),
            Cause::Endpoint(endpoint_error) => {
                let kind = endpoint_error.kind_after(failure.server.answered);
                Self::new(kind, context).because(endpoint_error.why).hint(endpoint_error.hint)
            }
            Cause::Response(answer)
                if failure.server.clock_was_wrong && answer.may_be_clock_error() =>
            {
                let why =
                    "the clock of this machine was wrong; the server's time is used from now on";
                Self::new(Kind::Unavailable, context).because(why)
            }
            Cause::Response(answer) => {
                let (kind, hint) = classify(failure.op, &answer);
                let error = Self::new(kind, context).because(answer.to_string());
                let error = answer.wait.into_iter().fold(error, Self::retry_after);
                hint.into_iter().fold(error, Self::hint)
            }
        }
    }
}

/// How a user sets credentials.
const CREDENTIALS_HINT: &str = "set access_key_id and secret_access_key of the storage, or AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws";

/// The table: the kind of an answer, and a hint for the user.
fn classify(op: S3Op, answer: &ErrorResponse) -> (Kind, Option<String>) {
    let without_hint = |kind| (kind, None);
    let with_hint = |kind, hint: &str| (kind, Some(hint.to_owned()));
    let region = || (Kind::InvalidInput, Some(region_hint(answer)));
    let denied = || {
        let needed = op.permission();
        (Kind::PermissionDenied, Some(format!("the access key needs {needed} on this bucket")))
    };
    let rate_limited = matches!(answer.status, 429);
    match answer.code.as_str() {
        _ if is_capped(answer) => with_hint(Kind::NoSpace, CAP_HINT),
        _ if is_full(answer) => with_hint(Kind::NoSpace, "free some space, or raise the quota"),
        "" if answer.is_foreign() => (Kind::InvalidInput, Some(NOT_S3_HINT.to_owned())),
        "" if answer.is_web_page() && answer.status == 403 => {
            with_hint(Kind::PermissionDenied, FIREWALL_HINT)
        }
        "NoSuchBucket" => {
            with_hint(Kind::NotFound, "create the bucket, or check its name and endpoint")
        }
        "NoSuchKey" => without_hint(Kind::NotFound),
        "NoSuchUpload" | "InvalidPart" | "InvalidPartOrder" => without_hint(Kind::SessionExpired),
        "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "InvalidRegion"
        | "PermanentRedirect"
        | "TemporaryRedirect" => region(),
        "ExpiredToken" | "TokenRefreshRequired" => {
            with_hint(Kind::Unauthenticated, "the session token has expired: sign in again")
        }
        "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "InvalidToken"
        | "MissingSecurityHeader"
        | "SignatureDoesNotMatch" => with_hint(Kind::Unauthenticated, CREDENTIALS_HINT),
        "AccessDenied" | "AllAccessDisabled" => denied(),
        // Only when the server's time is unknown; otherwise requests are signed with it (see `ServerContext`).
        "RequestTimeTooSkewed" => with_hint(Kind::Unauthenticated, CLOCK_HINT),
        "BandwidthLimitExceeded"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests" => without_hint(Kind::RateLimited),
        // For the digest errors: the bytes were damaged on the way, because they were hashed before they were sent.
        "BadDigest"
        | "ConditionalRequestConflict"
        | "IncompleteBody"
        | "InternalError"
        | "InvalidDigest"
        | "OperationAborted"
        | "RequestTimeout"
        | "ServiceUnavailable"
        | "XAmzContentSHA256Mismatch" => without_hint(Kind::Unavailable),
        "InvalidRange" => without_hint(Kind::Corrupt),
        "InvalidObjectState" => with_hint(
            Kind::Unsupported,
            "the object is archived: restore it, and try again when that is done",
        ),
        "NotImplemented" | "MethodNotAllowed" => without_hint(Kind::Unsupported),
        "PreconditionFailed" => without_hint(Kind::AlreadyExists),
        _ if rate_limited => without_hint(Kind::RateLimited),
        // An S3 server names what is missing, object or bucket. A 404 without a code is from another server.
        "" if answer.status == 404 && !matches!(op, S3Op::Get | S3Op::Head) => {
            with_hint(Kind::NotFound, NOT_S3_HINT)
        }
        _ => by_status(answer, region, denied),
    }
}

/// Hint for a put that was acknowledged although the object does not exist.
pub(super) const INTERCEPTED_HINT: &str = "a firewall or a proxy answers in place of the storage";
const NOT_S3_HINT: &str = "check that the endpoint is the address of the S3 API, with its port and path; a web console has another";
const FIREWALL_HINT: &str =
    "a firewall or a proxy between this machine and the storage refuses the request";
const CLOCK_HINT: &str = "the clock of this machine is off: set it, preferably by NTP";
const CAP_HINT: &str = "raise the cap in the settings of the account (at Backblaze: Caps & Alerts), or wait until it is reset";

fn by_status(
    answer: &ErrorResponse,
    region: impl Fn() -> (Kind, Option<String>),
    denied: impl Fn() -> (Kind, Option<String>),
) -> (Kind, Option<String>) {
    let without_hint = |kind| (kind, None);
    match answer.status {
        301 | 307 | 308 => region(),
        400 if answer.code.is_empty() || answer.region.is_some() => region(),
        401 => (Kind::Unauthenticated, Some(CREDENTIALS_HINT.to_owned())),
        403 => denied(),
        404 => without_hint(Kind::NotFound),
        405 | 501 => without_hint(Kind::Unsupported),
        416 => without_hint(Kind::Corrupt),
        400 | 411..=414 => without_hint(Kind::InvalidInput),
        // A success status without a valid answer: from a proxy in between, or cut off.
        200..=299 | 408 | 409 | 425 | 500 | 502..=504 | 520..=529 => {
            without_hint(Kind::Unavailable)
        }
        _ => without_hint(Kind::Internal),
    }
}

/// Whether the disk is full or the account's quota is used up.
fn is_full(answer: &ErrorResponse) -> bool {
    let code = answer.code.as_str();
    answer.status == 507
        || code.contains("QuotaExceeded")
        || code.contains("StorageFull")
        || code.contains("StorageLimit")
        || code.contains("InsufficientStorage")
}

/// Whether a spending limit of the account is reached. Backblaze says so only in the message; the code is
/// `AccessDenied`.
fn is_capped(answer: &ErrorResponse) -> bool {
    answer.message.to_ascii_lowercase().contains("cap exceeded")
}

fn region_hint(answer: &ErrorResponse) -> String {
    match &answer.region {
        Some(region) => format!("the bucket is in another region: set region={region}"),
        None => "check the region and the endpoint of the storage".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> ErrorResponse {
        ErrorResponse { status, code: code.into(), ..ErrorResponse::default() }
    }

    fn error(op: S3Op, answer: ErrorResponse, clock_was_wrong: bool) -> Error {
        let address =
            Arc::new(BucketAddress { bucket: "music".into(), host: "s3.example:9000".into() });
        let (cause, server) =
            (Cause::Response(answer), ServerContext { clock_was_wrong, answered: false });
        Error::from(Box::new(S3Error { op, subject: "ab/c".into(), address, cause, server }))
    }

    #[test]
    fn every_error_response_has_a_kind() {
        for (status, code, kind) in [
            (404, "NoSuchBucket", Kind::NotFound),
            (404, "NoSuchKey", Kind::NotFound),
            (404, "", Kind::NotFound),
            (404, "NoSuchUpload", Kind::SessionExpired),
            (400, "InvalidPart", Kind::SessionExpired),
            (403, "AccessDenied", Kind::PermissionDenied),
            (403, "", Kind::PermissionDenied),
            (403, "InvalidAccessKeyId", Kind::Unauthenticated),
            (403, "SignatureDoesNotMatch", Kind::Unauthenticated),
            (400, "ExpiredToken", Kind::Unauthenticated),
            (401, "", Kind::Unauthenticated),
            (301, "PermanentRedirect", Kind::InvalidInput),
            (301, "", Kind::InvalidInput),
            (400, "AuthorizationHeaderMalformed", Kind::InvalidInput),
            (400, "IllegalLocationConstraintException", Kind::InvalidInput),
            (400, "InvalidBucketName", Kind::InvalidInput),
            (400, "", Kind::InvalidInput),
            (403, "QuotaExceeded", Kind::NoSpace),
            (507, "XMinioStorageFull", Kind::NoSpace),
            (403, "StorageLimitExceeded", Kind::NoSpace),
            (507, "", Kind::NoSpace),
            (503, "SlowDown", Kind::RateLimited),
            (429, "", Kind::RateLimited),
            (503, "", Kind::Unavailable),
            (503, "ServiceUnavailable", Kind::Unavailable),
            (500, "InternalError", Kind::Unavailable),
            (200, "InternalError", Kind::Unavailable),
            (200, "", Kind::Unavailable),
            (502, "", Kind::Unavailable),
            (504, "", Kind::Unavailable),
            (400, "RequestTimeout", Kind::Unavailable),
            (409, "OperationAborted", Kind::Unavailable),
            (403, "RequestTimeTooSkewed", Kind::Unauthenticated),
            (400, "BadDigest", Kind::Unavailable),
            (400, "XAmzContentSHA256Mismatch", Kind::Unavailable),
            (416, "InvalidRange", Kind::Corrupt),
            (501, "NotImplemented", Kind::Unsupported),
            (405, "MethodNotAllowed", Kind::Unsupported),
            (418, "Teapot", Kind::Internal),
        ] {
            assert_eq!(classify(S3Op::Put, &answer(status, code)).0, kind, "{status} {code}");
        }
    }

    #[test]
    fn a_permission_error_names_the_permission_the_bucket_and_the_key() {
        let e = error(S3Op::Delete, answer(403, "AccessDenied"), false);
        assert_eq!(
            e.report(),
            "delete object ab/c in bucket \"music\" at s3.example:9000: answered 403 AccessDenied"
        );
        assert!(e.hint_text().unwrap().contains("s3:DeleteObject"));
        let e = error(S3Op::Put, answer(403, "InvalidAccessKeyId"), false);
        assert!(e.hint_text().unwrap().contains("AWS_ACCESS_KEY_ID"));
    }

    #[test]
    fn a_wrong_region_error_names_the_right_region() {
        let wrong_region = ErrorResponse { region: Some("eu-west-1".into()), ..answer(400, "") };
        let e = error(S3Op::Head, wrong_region, false);
        assert_eq!(e.kind(), Kind::InvalidInput);
        assert!(e.hint_text().unwrap().contains("region=eu-west-1"));
    }

    #[test]
    fn a_refusal_during_a_clock_correction_is_retryable() {
        assert_eq!(error(S3Op::Head, answer(403, ""), true).kind(), Kind::Unavailable);
        assert_eq!(error(S3Op::Head, answer(404, ""), true).kind(), Kind::NotFound);
    }

    #[test]
    fn an_uncorrected_clock_and_a_spending_cap_have_their_own_hints() {
        let e = error(S3Op::Put, answer(403, "RequestTimeTooSkewed"), false);
        assert!(e.hint_text().unwrap().contains("clock"), "{e:?}");
        let e = error(S3Op::Put, answer(403, "RequestTimeTooSkewed"), true);
        assert_eq!(e.kind(), Kind::Unavailable);
        let message = "Transaction cap exceeded, see the Caps & Alerts page".to_owned();
        let e = error(S3Op::Put, ErrorResponse { message, ..answer(403, "AccessDenied") }, false);
        assert_eq!(e.kind(), Kind::NoSpace);
        assert!(e.hint_text().unwrap().contains("raise the cap"), "{e:?}");
    }

    #[test]
    fn a_web_page_is_not_a_storage_unless_a_gateway_sends_it() {
        let page = |status| ErrorResponse { form: ResponseForm::WebPage, ..answer(status, "") };
        for status in [200, 302, 400, 401, 404, 405] {
            let e = error(S3Op::Put, page(status), false);
            assert_eq!(e.kind(), Kind::InvalidInput, "{status}");
            assert!(e.report().contains("this is not S3"), "{}", e.report());
        }
        assert_eq!(error(S3Op::Put, page(502), false).kind(), Kind::Unavailable);
        let e = error(S3Op::Put, page(403), false);
        assert_eq!(e.kind(), Kind::PermissionDenied);
        assert!(e.hint_text().unwrap().contains("firewall"), "{e:?}");
    }

    #[test]
    fn a_required_checksum_is_distinguished_from_other_invalid_requests() {
        let address = Arc::new(BucketAddress { bucket: "b".into(), host: "h".into() });
        let requires = |status, code: &str, message: &str| {
            let answer = ErrorResponse { message: message.into(), ..answer(status, code) };
            S3Error::with(S3Op::Put, "k", &address, Cause::Response(answer)).requires_checksum()
        };
        let lock = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object \
                    requests with Object Lock parameters";
        assert!(requires(400, "InvalidRequest", lock) && requires(400, "MissingContentMD5", ""));
        assert!(!requires(400, "InvalidRequest", "no") && !requires(403, "InvalidRequest", lock));
    }
}
