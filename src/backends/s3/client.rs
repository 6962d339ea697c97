//! The AWS SDK client, configured for every S3-compatible server, and the one way to call it.
//!
//! The configuration follows measurements. Checksum headers and trailers are off, because several servers refuse
//! them; the SHA-256 in the signature covers the payload instead. The SDK's retries are off, because they ignore
//! `Retry-After` and hide how often bytes are sent; `Retrying` wraps this backend. The SDK's stalled-stream
//! protection is off, because it aborts part copies that are merely slow. Calls have a timeout of their own; calls
//! with payload have an idle timeout.

use std::{
    error::Error as StdError,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_s3::{
    Client, Config,
    config::{
        AppName, BehaviorVersion, ConfigBag, Intercept, RequestChecksumCalculation,
        ResponseChecksumValidation, RuntimeComponents, SharedHttpClient,
        StalledStreamProtectionConfig,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
        },
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    primitives::{DateTime, DateTimeFormat},
};
use aws_smithy_http_client::{
    Connector, proxy::ProxyConfig, tls, tls::rustls_provider::CryptoMode,
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpResponse, Metadata},
};

use super::{
    S3Settings,
    cause::TruncatedResponse,
    credentials::{credentials_provider, region},
    endpoint,
    errors::{BucketAddress, S3Error, S3Op, ServerContext},
    quirks::Quirks,
};
use crate::{
    backends::{
        Key,
        endpoint_error::is_html_type,
        idle_timer::{IDLE_TIMEOUT, IdleTimer},
    },
    config::EnvProxies,
    error::{Error, Kind, Result},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for an answer without a large body; also the idle timeout of a body.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The SDK client, and the state that all its calls share.
#[derive(Debug)]
pub(super) struct S3Client {
    pub(super) sdk: Client,
    pub(super) bucket: String,
    /// Prefix of every object name: empty, or ends with `/`.
    pub(super) prefix: String,
    pub(super) address: Arc<BucketAddress>,
    clock: Arc<Clock>,
    /// The server has answered as an S3 server does.
    answered: AtomicBool,
    /// The server requires a checksum header for each body.
    sends_checksums: AtomicBool,
}

impl S3Client {
    /// Reads the AWS configuration for settings that are not given. Credentials are searched at the first request.
    ///
    /// # Errors
    /// `InvalidInput` when no region is found, a setting is invalid, or the environment names an invalid proxy.
    pub(super) async fn open(
        settings: &S3Settings,
        quirks: &Quirks,
        prefix: &str,
        address: &Arc<BucketAddress>,
    ) -> Result<Self> {
        let endpoint = settings.endpoint.as_ref().map(|url| endpoint::normalize(url, address));
        let endpoint = endpoint.transpose()?;
        let region = region(settings, quirks, address).await?;
        let keys = match settings.anonymous {
            true => None,
            false => Some(credentials_provider(settings, &region, address).await?),
        };
        let clock = Arc::new(Clock::default());
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .app_name(AppName::new("bae").expect("three letters are a name"))
            .region(region)
            .http_client(http_client(proxy(settings)?, &settings.authorities)?)
            .force_path_style(settings.path_style.unwrap_or(quirks.path_style))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(ClockInterceptor(Arc::clone(&clock)))
            .interceptor(RejectWebPages)
            .interceptor(RejectTruncatedListings);
        config.set_endpoint_url(endpoint);
        match keys {
            Some(keys) => config.set_credentials_provider(Some(keys)),
            None => config.set_allow_no_auth(),
        };
        Ok(Self {
            sdk: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            prefix: prefix.to_owned(),
            address: Arc::clone(address),
            clock,
            answered: AtomicBool::new(false),
            sends_checksums: AtomicBool::new(false),
        })
    }

    /// Whether bodies are sent with a checksum header.
    pub(super) fn sends_checksums(&self) -> bool {
        self.sends_checksums.load(Ordering::Relaxed)
    }

    /// Whether to repeat a failed call with a checksum. If so, all later calls send one too.
    pub(super) fn enable_checksums_if_required(&self, with_md5: bool, failure: &S3Error) -> bool {
        let enable = !with_md5 && failure.requires_checksum();
        if enable {
            self.sends_checksums.store(true, Ordering::Relaxed);
        }
        enable
    }

    /// The object's name in the bucket.
    pub(super) fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key of an object name; `None` for a name outside the prefix or one that is not a valid key.
    pub(super) fn key(&self, name: &str) -> Option<Key> {
        Key::new(name.strip_prefix(&self.prefix)?).ok()
    }

    /// The server's time, as far as it is known.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Makes one request with the timeout `limit`. Errors name `subject`.
    pub(super) async fn call<T, E>(
        &self,
        op: S3Op,
        subject: &str,
        limit: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Box<S3Error>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let before = self.clock.corrections();
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => self.check_outcome(op, subject, before, answer),
            Err(_) => Err(self.no_answer(op, subject, format!("no answer within {limit:?}"))),
        }
    }

    /// As [`S3Client::call`] for a request with payload, with an idle timeout instead of a total one.
    pub(super) async fn call_sending<T, E>(
        &self,
        op: S3Op,
        subject: &str,
        idle_timer: &IdleTimer,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Box<S3Error>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let before = self.clock.corrections();
        match idle_timer.watch(request).await {
            Some(answer) => self.check_outcome(op, subject, before, answer),
            None => Err(self.no_answer(
                op,
                subject,
                format!("stalled for {} s", IDLE_TIMEOUT.as_secs()),
            )),
        }
    }

    fn check_outcome<T, E>(
        &self,
        op: S3Op,
        subject: &str,
        corrections_before: u64,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, Box<S3Error>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let answered = self.answered.load(Ordering::Relaxed);
        let answer = answer.map_err(|error| {
            let clock_was_wrong = self.clock.corrections() != corrections_before;
            let server = ServerContext { clock_was_wrong, answered };
            S3Error::new(op, subject, &self.address, server, error)
        });
        if !answered && answer.as_ref().map_or_else(|f| f.has_error_code(), |_| true) {
            self.answered.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// The error for a call whose answer contradicts itself, so that repeating it does not help.
    pub(super) fn contradiction(&self, op: S3Op, subject: &str, why: &str) -> Box<S3Error> {
        S3Error::contradiction(op, subject, &self.address, why.to_owned())
    }

    /// The error for a call without a complete answer.
    pub(super) fn no_answer(
        &self,
        op: S3Op,
        subject: &str,
        why: impl Into<String>,
    ) -> Box<S3Error> {
        S3Error::no_answer(op, subject, &self.address, why.into())
    }
}

/// The environment's proxy for the endpoint. Requests may go to its host with the bucket's name in front.
fn proxy(settings: &S3Settings) -> Result<ProxyConfig> {
    let endpoint =
        settings.endpoint.as_ref().map_or("https://s3.amazonaws.com", |url| url.as_str());
    let bad = |e: &dyn std::fmt::Display| {
        Error::new(Kind::InvalidInput, format!("proxy for {endpoint}: {e}"))
    };
    let uri: hyper::Uri = endpoint.parse().map_err(|e| bad(&e))?;
    let proxies = EnvProxies::from_process();
    let Some(proxy) = proxies.for_uri(&uri)? else { return Ok(ProxyConfig::disabled()) };
    if !matches!(proxy.url().scheme(), "http" | "https") {
        let text = format!("the proxy {proxy} of the environment is not supported for S3");
        return Err(Error::new(Kind::InvalidInput, text)
            .hint("set an http proxy, or name the endpoint's host in NO_PROXY"));
    }
    let url = proxy.url().as_str();
    let config = match uri.scheme_str() {
        Some("http") => ProxyConfig::http(url),
        _ => ProxyConfig::https(url),
    };
    Ok(config.map_err(|e| bad(&e))?.no_proxy(proxies.no_proxy()))
}

/// rustls with aws-lc-rs, as in the rest of bae, and with proxy support, which the SDK's default client lacks.
fn http_client(proxy: ProxyConfig, authorities: &[String]) -> Result<SharedHttpClient> {
    let trusted = tls::TrustStore::default();
    let trusted =
        authorities.iter().fold(trusted, |all, pem| all.with_pem_certificate(pem.as_str()));
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|e| Error::new(Kind::Internal, "start of TLS").because(e))?;
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let connector = Connector::builder()
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .connector_settings(settings)
        .proxy_config(proxy)
        .build();
    // Shared by all requests, because it holds the connection pool.
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

/// Offset of the server's clock from this machine's. The SDK corrects its signatures from the time in earlier
/// answers, but does not expose the offset. It is needed here to recognise a refusal caused by the clock, and to sign
/// links.
#[derive(Debug, Default)]
struct Clock {
    /// Seconds that the server's clock is ahead.
    offset: AtomicI64,
    corrections: AtomicU64,
}

/// Seconds. Less than the offset that servers refuse (minutes), more than an answer takes.
const CLOCK_TOLERANCE: u64 = 60;

impl Clock {
    fn now(&self) -> SystemTime {
        shifted(SystemTime::now(), self.offset.load(Ordering::Acquire))
    }

    fn corrections(&self) -> u64 {
        self.corrections.load(Ordering::Acquire)
    }

    /// Takes over the server's time when this machine's clock is wrong.
    fn observe(&self, server: SystemTime) {
        let seconds = |t: SystemTime| {
            t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
        };
        let offset = seconds(server) - seconds(SystemTime::now());
        if offset.abs_diff(self.offset.load(Ordering::Acquire)) > CLOCK_TOLERANCE {
            self.offset.store(offset, Ordering::Release);
            self.corrections.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) }.unwrap_or(time)
}

#[derive(Debug)]
struct ClockInterceptor(Arc<Clock>);

impl Intercept for ClockInterceptor {
    fn name(&self) -> &'static str {
        "ClockInterceptor"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let header = |name| context.response().headers().get(name);
        // An answer with an `Age` header is from a cache, and its date is when it was cached.
        let date = header("date").filter(|_| header("age").is_none());
        let date = date.and_then(|d| DateTime::from_str(d, DateTimeFormat::HttpDate).ok());
        if let Some(time) = date.and_then(|d| SystemTime::try_from(d).ok()) {
            self.0.observe(time);
        }
        Ok(())
    }
}

/// Fails a modifying call that is answered with a web page and a success status: a firewall, a router or a web
/// console answered, and nothing was done. Reading calls check for pages themselves.
#[derive(Debug)]
struct RejectWebPages;

impl Intercept for RejectWebPages {
    fn name(&self) -> &'static str {
        "RejectWebPages"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let is_page = is_html_type(answer.headers().get("content-type"));
        let call = config.load::<Metadata>().map_or("", |call| call.name());
        let is_read = ["Get", "Head", "List"].iter().any(|verb| call.starts_with(verb));
        match is_page && answer.status().is_success() && !is_read {
            true => Err("the server sent a web page".into()),
            false => Ok(()),
        }
    }
}

/// Fails a listing whose document is cut off. The SDK would return the objects before the cut as the whole page.
#[derive(Debug)]
struct RejectTruncatedListings;

impl Intercept for RejectTruncatedListings {
    fn name(&self) -> &'static str {
        "RejectTruncatedListings"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_listing =
            config.load::<Metadata>().is_some_and(|call| call.name().starts_with("List"));
        let answer = context.response();
        let body = answer.body().bytes().unwrap_or_default();
        match is_listing && answer.status().is_success() && !is_complete_listing(body) {
            true => Err(TruncatedResponse.into()),
            false => Ok(()),
        }
    }
}

/// Whether the XML document of a listing has its end tag (`</ListBucketResult>` and similar). An answer that is not a
/// listing passes and is checked by its reader.
fn is_complete_listing(body: &[u8]) -> bool {
    let is_listing = body.windows(5).any(|five| five == b"<List");
    let last_tag = body.trim_ascii_end().rsplit(|b| *b == b'<').next().unwrap_or_default();
    !is_listing || (last_tag.starts_with(b"/") && last_tag.ends_with(b"Result>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_without_its_end_tag_is_incomplete() {
        assert!(is_complete_listing(
            b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>\n"
        ));
        assert!(is_complete_listing(b"<html>") && is_complete_listing(b""));
        for cut in [
            "<ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key></Contents>",
            "<ListBucketResu",
        ] {
            assert!(!is_complete_listing(cut.as_bytes()), "{cut}");
        }
    }

    #[test]
    fn a_clock_offset_is_corrected_once() {
        let clock = Clock::default();
        clock.observe(SystemTime::now());
        assert_eq!(clock.corrections(), 0);
        for seconds in [1200, -1200] {
            let before = clock.corrections();
            let server = shifted(SystemTime::now(), seconds);
            clock.observe(server);
            clock.observe(server);
            assert_eq!(clock.corrections(), before + 1);
            // The offset is in whole seconds, and rounded.
            let second = Duration::from_secs(1);
            let (earliest, corrected) = (server - second, clock.now());
            let latest = shifted(SystemTime::now(), seconds) + second;
            assert!((earliest..=latest).contains(&corrected), "{corrected:?} for {server:?}");
        }
    }
}
