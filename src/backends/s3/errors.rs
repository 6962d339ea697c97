//! Maps the errors of S3 servers to [`Kind`]s and hints. [`verdict`] is the one table.
//!
//! The code in the answer's body says most. An answer to a HEAD has no body, so the status decides there. Messages
//! are cut to a sentence. They contain neither credentials nor signed links, because servers do not put them into
//! messages.

use std::{error::Error as StdError, fmt, sync::Arc};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{
    S3Settings,
    cause::{Answer, Cause, Form},
};
use crate::error::{Error, Kind};

/// The operation that failed. Determines the permission that the hint names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Put,
    Get,
    Head,
    Delete,
    List,
    Begin,
    Write,
    Copy,
    Finish,
    ListParts,
    ListUploads,
    Abort,
    Link,
}

impl Op {
    fn words(self) -> &'static str {
        match self {
            Self::Put => "put object",
            Self::Get => "get object",
            Self::Head => "look at object",
            Self::Delete => "delete object",
            Self::List => "list objects under",
            Self::Begin => "begin the upload of",
            Self::Write => "send a part of",
            Self::Copy => "copy to",
            Self::Finish => "finish the upload of",
            Self::ListParts => "list the parts of",
            Self::ListUploads => "list uploads under",
            Self::Abort => "give up the upload of",
            Self::Link => "link to",
        }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::Put | Self::Begin | Self::Write | Self::Finish => "s3:PutObject",
            // Without permission to list, S3 answers 403 for a missing object too.
            Self::Get | Self::Head | Self::Link => "s3:GetObject and s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
            Self::List => "s3:ListBucket",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::ListParts => "s3:ListMultipartUploadParts",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::Abort => "s3:AbortMultipartUpload",
        }
    }
}

/// The bucket and host that every error names.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// Host and port of the endpoint.
    pub(super) host: String,
}

impl Place {
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {:?} at {}", self.bucket, self.host)
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure {
    op: Op,
    subject: String,
    place: Arc<Place>,
    cause: Cause,
    seen: Seen,
}

/// What was known about the server when a call failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The clock offset was corrected while this call was in flight.
    pub(super) clock_was_wrong: bool,
    /// The server has answered as an S3 server does.
    pub(super) answered: bool,
}

impl Failure {
    pub(super) fn new<E>(
        op: Op,
        subject: &str,
        place: &Arc<Place>,
        seen: Seen,
        error: SdkError<E, HttpResponse>,
    ) -> Box<Self>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let cause = Cause::of(error);
        let (subject, place) = (subject.to_owned(), Arc::clone(place));
        Box::new(Self { op, subject, place, cause, seen })
    }

    fn with(op: Op, subject: &str, place: &Arc<Place>, cause: Cause) -> Box<Self> {
        let (subject, place) = (subject.to_owned(), Arc::clone(place));
        Box::new(Self { op, subject, place, cause, seen: Seen::default() })
    }

    /// A call without a complete answer.
    pub(super) fn silence(op: Op, subject: &str, place: &Arc<Place>, why: String) -> Box<Self> {
        Self::with(op, subject, place, Cause::Silence(why))
    }

    /// A call that was answered with a web page.
    pub(super) fn page(op: Op, subject: &str, place: &Arc<Place>) -> Box<Self> {
        let answer = Answer { status: 200, form: Form::Page, ..Answer::default() };
        Self::with(op, subject, place, Cause::Answer(answer))
    }

    /// A call whose answer contradicts itself, so that repeating it does not help.
    pub(super) fn senseless(op: Op, subject: &str, place: &Arc<Place>, why: String) -> Box<Self> {
        Self::with(op, subject, place, Cause::Senseless(why))
    }

    pub(super) fn is_senseless(&self) -> bool {
        matches!(self.cause, Cause::Senseless(_))
    }

    fn answer(&self) -> Option<&Answer> {
        if let Cause::Answer(answer) = &self.cause { Some(answer) } else { None }
    }

    /// Whether the server may or may not have carried out the call.
    pub(super) fn outcome_is_unknown(&self) -> bool {
        matches!(self.cause, Cause::Silence(_) | Cause::Unfit(_))
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
    pub(super) fn is_past_the_end(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 416 || a.code == "InvalidRange")
    }

    /// The object is another version than the request named.
    pub(super) fn is_changed(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 412)
    }

    /// The bucket's region, when the answer says that it is not the configured one.
    pub(super) fn region(&self) -> Option<&str> {
        let answer = self.answer().filter(|_| self.is_elsewhere())?;
        answer.region.as_deref()
    }

    /// Whether the bucket may be in another region.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.answer().is_some_and(|a| {
            matches!(a.status, 301 | 307 | 308 | 400) && verdict(self.op, a).0 == Kind::InvalidInput
        })
    }

    /// Whether the server lacks this call, or answers it with a success that is not the expected document.
    pub(super) fn tells_nothing(&self) -> bool {
        let unread = |a: &Answer| (200..300).contains(&a.status) && a.code.is_empty();
        self.is_unsupported() || self.answer().is_some_and(unread)
    }

    /// Whether a web page was sent instead of a storage server's answer.
    pub(super) fn is_page(&self) -> bool {
        self.answer().is_some_and(Answer::is_page)
    }

    /// Whether the answer has an error code, as S3 servers send.
    pub(super) fn is_of_storage(&self) -> bool {
        self.answer().is_some_and(|a| !a.code.is_empty())
    }

    /// Whether the server requires a checksum header for the body. Buckets with object lock do.
    pub(super) fn wants_checksum(&self) -> bool {
        self.answer().is_some_and(|a| {
            let message = a.message.to_ascii_lowercase();
            let named = message.contains("content-md5") || message.contains("x-amz-checksum");
            a.status == 400
                && (a.code == "MissingContentMD5" || a.code == "InvalidRequest" && named)
        })
    }

    /// Whether the server refuses this copy, because it cannot copy or does not permit it.
    pub(super) fn refuses_copies(&self) -> bool {
        !self.seen.clock_was_wrong
            && self.answer().is_some_and(|a| {
                matches!(verdict(self.op, a).0, Kind::InvalidInput | Kind::PermissionDenied)
            })
    }

    /// Whether the server lacks this call.
    pub(super) fn is_unsupported(&self) -> bool {
        self.answer().is_some_and(|a| verdict(self.op, a).0 == Kind::Unsupported)
    }
}

impl From<Box<Failure>> for Error {
    fn from(failure: Box<Failure>) -> Self {
        let context = format!("{} {} in {}", failure.op.words(), failure.subject, failure.place);
        match failure.cause {
            Cause::Silence(why) => Self::new(Kind::Network, context).because(why),
            Cause::Credentials(why) => {
                Self::new(Kind::Unauthenticated, context).because(why).hint(KEYS)
            }
            Cause::Request(why) => Self::new(Kind::InvalidInput, context).because(why),
            // The request was valid and the answer contradicts itself, a case the code does not handle.
            Cause::Senseless(why) => Self::new(Kind::Internal, context).because(why),
            Cause::Unfit(unfit) => {
                let kind = unfit.kind_at(failure.seen.answered);
                Self::new(kind, context).because(unfit.why).hint(unfit.hint)
            }
            Cause::Answer(answer) if failure.seen.clock_was_wrong && answer.blames_the_clock() => {
                let why = "the clock of this machine was wrong; the server's is used from now on";
                Self::new(Kind::Unavailable, context).because(why)
            }
            Cause::Answer(answer) => {
                let (kind, hint) = verdict(failure.op, &answer);
                let error = Self::new(kind, context).because(answer.to_string());
                let error = answer.wait.into_iter().fold(error, Self::retry_after);
                hint.into_iter().fold(error, Self::hint)
            }
        }
    }
}

/// How a user sets credentials.
const KEYS: &str = "set access_key_id and secret_access_key of the storage, or AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws";

/// The table: the kind of an answer, and a hint for the user.
fn verdict(op: Op, answer: &Answer) -> (Kind, Option<String>) {
    let plain = |kind| (kind, None);
    let say = |kind, hint: &str| (kind, Some(hint.to_owned()));
    let region = || (Kind::InvalidInput, Some(region_hint(answer)));
    let may_not = || {
        let needed = op.permission();
        (Kind::PermissionDenied, Some(format!("the access key needs {needed} on this bucket")))
    };
    let too_often = matches!(answer.status, 429);
    match answer.code.as_str() {
        _ if is_capped(answer) => say(Kind::NoSpace, CAP),
        _ if is_full(answer) => say(Kind::NoSpace, "free some room, or raise the quota"),
        "" if answer.is_foreign() => (Kind::InvalidInput, Some(NOT_S3.to_owned())),
        "" if answer.is_page() && answer.status == 403 => say(Kind::PermissionDenied, WALL),
        "NoSuchBucket" => say(Kind::NotFound, "create the bucket, or check its name and endpoint"),
        "NoSuchKey" => plain(Kind::NotFound),
        "NoSuchUpload" | "InvalidPart" | "InvalidPartOrder" => plain(Kind::SessionExpired),
        "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "InvalidRegion"
        | "PermanentRedirect"
        | "TemporaryRedirect" => region(),
        "ExpiredToken" | "TokenRefreshRequired" => {
            say(Kind::Unauthenticated, "the session token has expired: sign in again")
        }
        "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "InvalidToken"
        | "MissingSecurityHeader"
        | "SignatureDoesNotMatch" => say(Kind::Unauthenticated, KEYS),
        "AccessDenied" | "AllAccessDisabled" => may_not(),
        // Only when the server's time could not be learned; otherwise requests are signed with it (see `Seen`).
        "RequestTimeTooSkewed" => say(Kind::Unauthenticated, CLOCK),
        "BandwidthLimitExceeded"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests" => plain(Kind::RateLimited),
        // For the digest errors: the bytes were damaged on the way, because they were hashed before they were sent.
        "BadDigest"
        | "ConditionalRequestConflict"
        | "IncompleteBody"
        | "InternalError"
        | "InvalidDigest"
        | "OperationAborted"
        | "RequestTimeout"
        | "ServiceUnavailable"
        | "XAmzContentSHA256Mismatch" => plain(Kind::Unavailable),
        "InvalidRange" => plain(Kind::Corrupt),
        "InvalidObjectState" => say(
            Kind::Unsupported,
            "the object is archived: restore it, and try again when that is done",
        ),
        "NotImplemented" | "MethodNotAllowed" => plain(Kind::Unsupported),
        "PreconditionFailed" => plain(Kind::AlreadyExists),
        _ if too_often => plain(Kind::RateLimited),
        // An S3 server names what is missing, object or bucket. A 404 without a code is from another server.
        "" if answer.status == 404 && !matches!(op, Op::Get | Op::Head) => {
            say(Kind::NotFound, NOT_S3)
        }
        _ => by_status(answer, region, may_not),
    }
}

/// Hint for a put that was acknowledged although the object does not exist.
pub(super) const NOT_STORED: &str =
    "something between here and the storage answers in its place: a firewall or a proxy";
const NOT_S3: &str =
    "is the endpoint the address of the S3 API, with its port and path? A web console has another";
const WALL: &str = "something between here and the storage refuses it: a firewall or a proxy";
const CLOCK: &str = "the clock of this machine is off: set it, by NTP best";
const CAP: &str = "raise the cap in the settings of the account (at Backblaze: Caps & Alerts), or wait until it is reset";

fn by_status(
    answer: &Answer,
    region: impl Fn() -> (Kind, Option<String>),
    may_not: impl Fn() -> (Kind, Option<String>),
) -> (Kind, Option<String>) {
    let plain = |kind| (kind, None);
    match answer.status {
        301 | 307 | 308 => region(),
        400 if answer.code.is_empty() || answer.region.is_some() => region(),
        401 => (Kind::Unauthenticated, Some(KEYS.to_owned())),
        403 => may_not(),
        404 => plain(Kind::NotFound),
        405 | 501 => plain(Kind::Unsupported),
        416 => plain(Kind::Corrupt),
        400 | 411..=414 => plain(Kind::InvalidInput),
        // A success status without a valid answer: from a proxy in between, or cut off.
        200..=299 | 408 | 409 | 425 | 500 | 502..=504 | 520..=529 => plain(Kind::Unavailable),
        _ => plain(Kind::Internal),
    }
}

/// Whether the disk is full or the account's quota is used up.
fn is_full(answer: &Answer) -> bool {
    let code = answer.code.as_str();
    answer.status == 507
        || code.contains("QuotaExceeded")
        || code.contains("StorageFull")
        || code.contains("StorageLimit")
        || code.contains("InsufficientStorage")
}

/// Whether a spending limit of the account is reached. Backblaze says so only in the message; the code is
/// `AccessDenied`.
fn is_capped(answer: &Answer) -> bool {
    answer.message.to_ascii_lowercase().contains("cap exceeded")
}

fn region_hint(answer: &Answer) -> String {
    match &answer.region {
        Some(region) => format!("the bucket is in another region: set region={region}"),
        None => "check the region and the endpoint of the storage".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: code.into(), ..Answer::default() }
    }

    fn error(op: Op, answer: Answer, clock_was_wrong: bool) -> Error {
        let place = Arc::new(Place { bucket: "music".into(), host: "s3.example:9000".into() });
        let (cause, seen) = (Cause::Answer(answer), Seen { clock_was_wrong, answered: false });
        Error::from(Box::new(Failure { op, subject: "ab/c".into(), place, cause, seen }))
    }

    #[test]
    fn every_answer_has_a_kind() {
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
            assert_eq!(verdict(Op::Put, &answer(status, code)).0, kind, "{status} {code}");
        }
    }

    #[test]
    fn a_refusal_names_the_permission_the_place_and_the_key() {
        let e = error(Op::Delete, answer(403, "AccessDenied"), false);
        assert_eq!(
            e.report(),
            "delete object ab/c in bucket \"music\" at s3.example:9000: answered 403 AccessDenied"
        );
        assert!(e.hint_text().unwrap().contains("s3:DeleteObject"));
        let e = error(Op::Put, answer(403, "InvalidAccessKeyId"), false);
        assert!(e.hint_text().unwrap().contains("AWS_ACCESS_KEY_ID"));
    }

    #[test]
    fn a_wrong_region_is_told_with_the_right_one() {
        let told = Answer { region: Some("eu-west-1".into()), ..answer(400, "") };
        let e = error(Op::Head, told, false);
        assert_eq!(e.kind(), Kind::InvalidInput);
        assert!(e.hint_text().unwrap().contains("region=eu-west-1"));
    }

    #[test]
    fn a_refusal_while_the_clock_was_set_right_may_pass() {
        assert_eq!(error(Op::Head, answer(403, ""), true).kind(), Kind::Unavailable);
        assert_eq!(error(Op::Head, answer(404, ""), true).kind(), Kind::NotFound);
    }

    #[test]
    fn a_clock_that_stays_off_and_a_cap_have_hints_of_their_own() {
        let e = error(Op::Put, answer(403, "RequestTimeTooSkewed"), false);
        assert!(e.hint_text().unwrap().contains("clock"), "{e:?}");
        let e = error(Op::Put, answer(403, "RequestTimeTooSkewed"), true);
        assert_eq!(e.kind(), Kind::Unavailable);
        let message = "Transaction cap exceeded, see the Caps & Alerts page".to_owned();
        let e = error(Op::Put, Answer { message, ..answer(403, "AccessDenied") }, false);
        assert_eq!(e.kind(), Kind::NoSpace);
        assert!(e.hint_text().unwrap().contains("raise the cap"), "{e:?}");
    }

    #[test]
    fn a_page_is_no_storage_unless_a_gateway_says_that_it_waits() {
        let page = |status| Answer { form: Form::Page, ..answer(status, "") };
        for status in [200, 302, 400, 401, 404, 405] {
            let e = error(Op::Put, page(status), false);
            assert_eq!(e.kind(), Kind::InvalidInput, "{status}");
            assert!(e.report().contains("this is not S3"), "{}", e.report());
        }
        assert_eq!(error(Op::Put, page(502), false).kind(), Kind::Unavailable);
        let e = error(Op::Put, page(403), false);
        assert_eq!(e.kind(), Kind::PermissionDenied);
        assert!(e.hint_text().unwrap().contains("firewall"), "{e:?}");
    }

    #[test]
    fn a_checksum_that_is_asked_for_is_told_from_other_requests_that_are_wrong() {
        let place = Arc::new(Place { bucket: "b".into(), host: "h".into() });
        let asks = |status, code: &str, message: &str| {
            let answer = Answer { message: message.into(), ..answer(status, code) };
            Failure::with(Op::Put, "k", &place, Cause::Answer(answer)).wants_checksum()
        };
        let lock = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object \
                    requests with Object Lock parameters";
        assert!(asks(400, "InvalidRequest", lock) && asks(400, "MissingContentMD5", ""));
        assert!(!asks(400, "InvalidRequest", "no") && !asks(403, "InvalidRequest", lock));
    }
}
