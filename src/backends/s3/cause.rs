//! Classifies an SDK error: the server answered, gave no answer, or a retry cannot get one.

use std::{
    error::Error as StdError,
    fmt,
    time::{Duration, SystemTime},
};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    error::{ProvideErrorMetadata, SdkError},
    primitives::{DateTime, DateTimeFormat},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::credentials::CredentialsProblem;
use crate::backends::endpoint_error::{EndpointError, is_html_document, is_html_type};

#[derive(Debug)]
pub(super) enum Cause {
    Response(ErrorResponse),
    /// No complete answer. Whether the server carried out the call is unknown.
    NoAnswer(String),
    Credentials(String),
    /// The request could not be built.
    Request(String),
    /// No answer, and a retry would not get one either.
    Endpoint(EndpointError),
    /// An answer that contradicts itself.
    Contradictory(String),
}

/// An answer whose document is cut off, although its headers say that it is complete.
#[derive(Debug)]
pub(super) struct TruncatedResponse;

impl fmt::Display for TruncatedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response is cut off")
    }
}

impl StdError for TruncatedResponse {}

/// An answer with an error, or one that the SDK could not parse.
#[derive(Debug, Default)]
pub(super) struct ErrorResponse {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// The bucket's region, when the answer names it.
    pub(super) region: Option<String>,
    pub(super) wait: Option<Duration>,
    pub(super) form: ResponseForm,
}

/// What an answer without an error code looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ResponseForm {
    /// An S3 answer, or too little to tell.
    #[default]
    Plain,
    /// A web page.
    WebPage,
    /// A document that no S3 server sends.
    Foreign,
}

const NO_CREDENTIALS: &str =
    "no credentials found in the storage's settings or where AWS tools look";

impl Cause {
    pub(super) fn of<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if causes(&error).any(|e| e.is::<TruncatedResponse>()) {
            return Self::NoAnswer(TruncatedResponse.to_string());
        }
        if let Some(raw) = error.raw_response() {
            let Some(meta) = error.as_service_error().map(ProvideErrorMetadata::meta) else {
                return Self::Response(ErrorResponse::new(raw, "", &chain(&error)));
            };
            let (code, message) = (meta.code(), meta.message());
            let answer =
                ErrorResponse::new(raw, code.unwrap_or_default(), message.unwrap_or_default());
            return Self::Response(answer);
        }
        if let Some(problem) = causes(&error).find_map(|e| e.downcast_ref::<CredentialsProblem>()) {
            return Self::Credentials(problem.to_string());
        }
        let why = chain(&error);
        if causes(&error).any(|e| e.is::<CredentialsError>()) {
            // The SDK's own message is a long list of every provider it tried.
            let none = why.contains("no credentials found") || why.contains("not loaded");
            return Self::Credentials(if none { NO_CREDENTIALS.into() } else { why });
        }
        match error {
            SdkError::ConstructionFailure(_) => Self::Request(why),
            SdkError::DispatchFailure(e) if e.is_user() => Self::Request(why),
            _ => match EndpointError::from_message(&why) {
                Some(error) => Self::Endpoint(error),
                None => Self::NoAnswer(why),
            },
        }
    }
}

impl ErrorResponse {
    pub(super) fn new(raw: &HttpResponse, code: &str, message: &str) -> Self {
        let header = |name| raw.headers().get(name);
        let body = raw.body().bytes().and_then(|b| std::str::from_utf8(b).ok());
        let text = body.unwrap_or_default();
        let region = header("x-amz-bucket-region").or_else(|| element(text, "Region"));
        let wait =
            header("retry-after").and_then(|text| parse_retry_after(text, SystemTime::now()));
        let status = raw.status().as_u16();
        // The SDK does not parse an error document that comes with a success status, so the text is searched for the
        // code.
        let code = non_empty(code).or_else(|| element(text, "Code")).map(sentence);
        let form = match code {
            Some(_) => ResponseForm::Plain,
            None => form(status, header("content-type"), body),
        };
        let message = match form {
            ResponseForm::Plain => non_empty(message).or_else(|| element(text, "Message")),
            ResponseForm::WebPage | ResponseForm::Foreign => None,
        };
        Self {
            status,
            code: code.unwrap_or_default(),
            message: message.map(sentence).unwrap_or_default(),
            region: region.filter(|r| is_region(r)).map(str::to_owned),
            wait,
            form,
        }
    }

    /// Whether a wrong time in the signature can be the reason. A HEAD gives only the status.
    pub(super) fn may_be_clock_error(&self) -> bool {
        matches!(self.status, 400 | 401 | 403)
    }

    pub(super) fn is_web_page(&self) -> bool {
        self.form == ResponseForm::WebPage
    }

    /// Whether the answer is not from a storage server. Error pages of a gateway before a storage that is down or
    /// refuses do not count.
    pub(super) fn is_foreign(&self) -> bool {
        let is_conclusive =
            matches!(self.status, 200..=399 | 400 | 401 | 404 | 405 | 406 | 411..=415);
        self.form != ResponseForm::Plain && is_conclusive
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            _ if self.is_foreign() && self.is_web_page() => {
                write!(f, "this is not S3: the server sent a web page (status {})", self.status)
            }
            _ if self.is_foreign() => {
                write!(
                    f,
                    "this is not S3: the server sent another document (status {})",
                    self.status
                )
            }
            ("", "") if self.is_web_page() => write!(f, "answered {} with a web page", self.status),
            ("", "") => write!(f, "answered {}", self.status),
            (code, "") => write!(f, "answered {} {code}", self.status),
            (code, message) => write!(f, "answered {} {code}: {message}", self.status),
        }
    }
}

/// Classifies an answer without an error code.
fn form(status: u16, content_type: Option<&str>, body: Option<&str>) -> ResponseForm {
    let start: String = body.unwrap_or_default().trim_start().chars().take(16).collect();
    let start = start.to_ascii_lowercase();
    if is_html_type(content_type) || is_html_document(&start) {
        return ResponseForm::WebPage;
    }
    // Answers to a list or a begin are XML. XML that was cut off still counts as S3.
    let text = !start.is_empty() && !start.starts_with('<') && !start.starts_with('\u{feff}');
    let redirect = matches!(status, 302 | 303);
    if text && status < 300 || redirect { ResponseForm::Foreign } else { ResponseForm::Plain }
}

/// The text of an XML element. Sufficient for the flat error documents of S3.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

/// Cuts foreign text to 300 characters and one line, for display.
fn sentence(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(300).collect::<String>().trim().to_owned()
}

fn is_region(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Parses `Retry-After`: seconds, or an HTTP date.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::from_str(text.trim(), DateTimeFormat::HttpDate).ok()?;
    SystemTime::try_from(date).ok()?.duration_since(now).ok()
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut out = String::new();
    // The outermost error only says that the dispatch failed.
    for cause in causes(error).skip(1) {
        let text = sentence(&cause.to_string());
        if !out.contains(&text) {
            out.push_str(if out.is_empty() { "" } else { ": " });
            out.push_str(&text);
        }
    }
    if out.is_empty() { error.to_string() } else { out }
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_web_page_is_recognised_by_its_type_or_its_start() {
        let of = |kind: Option<&str>, body: &str| form(200, kind, Some(body));
        assert_eq!(of(Some("text/html; charset=utf-8"), ""), ResponseForm::WebPage);
        assert_eq!(of(None, "\n<!DOCTYPE html><title>Router</title>"), ResponseForm::WebPage);
        assert_eq!(of(Some("application/json"), "{\"error\":1}"), ResponseForm::Foreign);
        assert_eq!(of(None, "404 page not found"), ResponseForm::Foreign);
        assert_eq!(form(404, None, Some("404 page not found")), ResponseForm::Plain);
        assert_eq!(of(Some("application/xml"), "<ListBucketResult>"), ResponseForm::Plain);
        assert_eq!(form(302, None, None), ResponseForm::Foreign);
    }

    #[test]
    fn elements_are_found_in_flat_xml_documents() {
        let body =
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(element(body, "Region"), Some("eu-west-1"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        assert_eq!(parse_retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(
            parse_retry_after("Wed, 21 Oct 2015 07:28:09 GMT", now),
            Some(Duration::from_secs(9))
        );
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:27:00 GMT", now), None);
        assert_eq!(parse_retry_after("soon", now), None);
    }

    #[test]
    fn server_messages_are_shortened_to_one_line() {
        let long = format!("a\nb{}", "c".repeat(1000));
        let text = sentence(&long);
        assert!(text.len() == 300 && text.starts_with("a bc"), "{text}");
    }
}
