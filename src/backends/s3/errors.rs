//! What S3 places answer when something is wrong, as our kinds, with what to do: one table, [`verdict`].
//!
//! The code in the answer's body says most; an answer to a HEAD has no body, so the status has to do there. Texts are
//! cut to a sentence, and hold neither credentials nor signed links: servers do not put them into messages.

use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    primitives::{DateTime, DateTimeFormat},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::S3Settings;
use crate::error::{Error, Kind};

/// What was being done, and the permission it takes.
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
            // A missing object is hidden, too, from keys that may not list.
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

/// Where: what every error names.
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

/// A call that did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    op: Op,
    subject: String,
    place: Arc<Place>,
    cause: Cause,
    /// The clock was found wrong and set right while this call was under way.
    clock_was_wrong: bool,
}

#[derive(Debug)]
enum Cause {
    Answer(Answer),
    /// No answer, or not a whole one: what the server did is not known.
    Silence(String),
    Credentials(String),
    /// The request could not be made.
    Request(String),
}

/// What the server said.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    code: String,
    message: String,
    /// The region the bucket is in, where the answer says so.
    region: Option<String>,
    wait: Option<Duration>,
}

impl Failure {
    pub(super) fn new<E>(
        op: Op,
        subject: &str,
        place: &Arc<Place>,
        clock_was_wrong: bool,
        error: SdkError<E, HttpResponse>,
    ) -> Box<Self>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let cause = Cause::of(error);
        let (subject, place) = (subject.to_owned(), Arc::clone(place));
        Box::new(Self { op, subject, place, cause, clock_was_wrong })
    }

    pub(super) fn silence(op: Op, subject: &str, place: &Arc<Place>, why: String) -> Box<Self> {
        let (subject, place) = (subject.to_owned(), Arc::clone(place));
        Box::new(Self { op, subject, place, cause: Cause::Silence(why), clock_was_wrong: false })
    }

    fn answer(&self) -> Option<&Answer> {
        if let Cause::Answer(answer) = &self.cause { Some(answer) } else { None }
    }

    /// Nobody can say whether the server did it.
    pub(super) fn outcome_is_unknown(&self) -> bool {
        matches!(self.cause, Cause::Silence(_))
    }

    /// The object is not there (or, for a HEAD, perhaps its bucket: such an answer has no code).
    pub(super) fn is_missing(&self) -> bool {
        self.answer().is_some_and(|a| {
            a.status == 404 && matches!(a.code.as_str(), "" | "NoSuchKey" | "NotFound")
        })
    }

    /// The upload is not there.
    pub(super) fn is_expired(&self) -> bool {
        self.answer().is_some_and(|a| a.code == "NoSuchUpload")
    }

    /// The upload is there, but not with the parts we know of.
    pub(super) fn lost_parts(&self) -> bool {
        self.answer().is_some_and(|a| matches!(a.code.as_str(), "InvalidPart" | "InvalidPartOrder"))
    }

    /// The object ends before the range begins.
    pub(super) fn is_past_the_end(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 416 || a.code == "InvalidRange")
    }

    /// The object is not the one that the request was for.
    pub(super) fn is_changed(&self) -> bool {
        self.answer().is_some_and(|a| a.status == 412)
    }

    /// The region that the bucket is in, where the answer says that it is not in ours.
    pub(super) fn region(&self) -> Option<&str> {
        let answer = self.answer().filter(|_| self.is_elsewhere())?;
        answer.region.as_deref()
    }

    /// The bucket may be in another region.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.answer().is_some_and(|a| {
            matches!(a.status, 301 | 307 | 308 | 400) && verdict(self.op, a).0 == Kind::InvalidInput
        })
    }

    /// The server does not have this call, or answers it in a way that nobody reads: success, and not the document.
    pub(super) fn tells_nothing(&self) -> bool {
        let unread = |a: &Answer| (200..300).contains(&a.status) && a.code.is_empty();
        self.is_unsupported() || self.answer().is_some_and(unread)
    }

    /// The server does not have this call.
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
            Cause::Answer(answer) if failure.clock_was_wrong && answer.blames_the_clock() => {
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

impl Cause {
    fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let Some(raw) = error.raw_response() {
            let Some(said) = error.as_service_error().map(ProvideErrorMetadata::meta) else {
                return Self::Answer(Answer::new(raw, "", &chain(&error)));
            };
            let (code, message) = (said.code(), said.message());
            let answer = Answer::new(raw, code.unwrap_or_default(), message.unwrap_or_default());
            return Self::Answer(answer);
        }
        let why = chain(&error);
        if caused_by::<CredentialsError>(&error) {
            // The SDK lists everywhere it looked, at length.
            let none = why.contains("no credentials found") || why.contains("not loaded");
            return Self::Credentials(if none { NO_KEYS.into() } else { why });
        }
        match error {
            SdkError::ConstructionFailure(_) => Self::Request(why),
            SdkError::DispatchFailure(e) if e.is_user() => Self::Request(why),
            _ => Self::Silence(why),
        }
    }
}

impl Answer {
    fn new(raw: &HttpResponse, code: &str, message: &str) -> Self {
        let header = |name| raw.headers().get(name);
        let body = raw.body().bytes().and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default();
        let region = header("x-amz-bucket-region").or_else(|| element(body, "Region"));
        let wait = header("retry-after").and_then(|text| wait(text, SystemTime::now()));
        Self {
            status: raw.status().as_u16(),
            // Some servers' errors are not parsed where a success was expected.
            code: some_of(code).or_else(|| element(body, "Code")).map(sentence).unwrap_or_default(),
            message: some_of(message)
                .or_else(|| element(body, "Message"))
                .map(sentence)
                .unwrap_or_default(),
            region: region.filter(|r| is_region(r)).map(str::to_owned),
            wait,
        }
    }

    /// Refused in a way that a wrong time in the signature can be the reason of. (To a HEAD a server cannot say more.)
    fn blames_the_clock(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => write!(f, "answered {}", self.status),
            (code, "") => write!(f, "answered {} {code}", self.status),
            (code, message) => write!(f, "answered {} {code}: {message}", self.status),
        }
    }
}

/// How a user gives keys.
const NO_KEYS: &str = "no keys were found, in the storage or where AWS tools keep them";
const KEYS: &str = "set access_key_id and secret_access_key of the storage, or AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws";

/// The table: what an answer means, and what to do about it.
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
        _ if is_full(answer) => say(Kind::NoSpace, "free some room, or raise the quota"),
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
        "BandwidthLimitExceeded"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests" => plain(Kind::RateLimited),
        // The bytes were damaged on their way: what we sent was hashed before.
        "BadDigest"
        | "ConditionalRequestConflict"
        | "IncompleteBody"
        | "InternalError"
        | "InvalidDigest"
        | "OperationAborted"
        | "RequestTimeTooSkewed"
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
        _ => by_status(answer, region, may_not),
    }
}

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
        // Nonsense with a good status: a proxy between us, or an answer cut short.
        200..=299 | 408 | 409 | 425 | 500 | 502..=504 | 520..=529 => plain(Kind::Unavailable),
        _ => plain(Kind::Internal),
    }
}

/// No room, or no more of it for this account. Backblaze says it in words alone.
fn is_full(answer: &Answer) -> bool {
    let code = answer.code.as_str();
    answer.status == 507
        || code.contains("QuotaExceeded")
        || code.contains("StorageFull")
        || code.contains("StorageLimit")
        || code.contains("InsufficientStorage")
        || answer.message.to_ascii_lowercase().contains("storage cap exceeded")
}

fn region_hint(answer: &Answer) -> String {
    match &answer.region {
        Some(region) => format!("the bucket is in another region: set region={region}"),
        None => "check the region and the endpoint of the storage".to_owned(),
    }
}

/// The text of an XML element. Enough for the flat error documents of S3.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

fn some_of(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

/// Short enough to show, and on one line: it comes from elsewhere.
fn sentence(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(300).collect::<String>().trim().to_owned()
}

fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// `Retry-After`: seconds, or the time from when on it may be tried again.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTime::from_str(text.trim(), DateTimeFormat::HttpDate).ok()?;
    SystemTime::try_from(then).ok()?.duration_since(now).ok()
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    // The outermost says only that a dispatch failed.
    let causes = std::iter::successors(error.source(), |&e| e.source());
    let mut out = String::new();
    for cause in causes {
        let text = sentence(&cause.to_string());
        if !out.contains(&text) {
            out.push_str(if out.is_empty() { "" } else { ": " });
            out.push_str(&text);
        }
    }
    if out.is_empty() { error.to_string() } else { out }
}

fn caused_by<T: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |&e| e.source()).any(|e| e.is::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: code.into(), ..Answer::default() }
    }

    fn error(op: Op, answer: Answer, clock_was_wrong: bool) -> Error {
        let place = Arc::new(Place { bucket: "music".into(), host: "s3.example:9000".into() });
        let cause = Cause::Answer(answer);
        Error::from(Box::new(Failure { op, subject: "ab/c".into(), place, cause, clock_was_wrong }))
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
            (403, "RequestTimeTooSkewed", Kind::Unavailable),
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
        let body =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(element(body, "Region"), Some("eu-west-1"));
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
    fn a_wait_is_seconds_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        assert_eq!(wait("7", now), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:09 GMT", now), Some(Duration::from_secs(9)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:27:00 GMT", now), None);
        assert_eq!(wait("soon", now), None);
    }

    #[test]
    fn what_a_server_says_is_kept_short_and_on_one_line() {
        let long = format!("a\nb{}", "c".repeat(1000));
        let said = sentence(&long);
        assert!(said.len() == 300 && said.starts_with("a bc"), "{said}");
    }
}
