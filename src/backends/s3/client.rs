//! The client of the AWS SDK, set up for every place that speaks S3, and one way to call it.
//!
//! Set up by what was measured: checksum headers and trailers off (several places refuse them; what is sent is covered
//! by its SHA-256 in the signature instead), the SDK's retries off (it ignores `Retry-After` and hides how often bytes
//! are sent; `Retrying` is around us), its stalled-stream watch off (it ends part copies that are merely slow), and
//! limits of our own: a time for answers, and for what carries payload that it moves.

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
    cause::CutShort,
    errors::{Failure, Op, Place, Seen},
    keys::{keys, region},
    quirks::Quirks,
    route,
};
use crate::{
    backends::{Key, progress::Progress, unfit::is_page},
    config::EnvProxies,
    error::{Error, Kind, Result},
};

const CONNECT: Duration = Duration::from_secs(5);
/// For an answer without a body to speak of; also how long a body may pause.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A client, and what all calls through it share.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) client: Client,
    pub(super) bucket: String,
    /// What comes before every key: empty, or ends with `/`.
    pub(super) prefix: String,
    pub(super) place: Arc<Place>,
    clock: Arc<Clock>,
    /// It has answered as an S3 server does.
    answered: AtomicBool,
    /// It wants a checksum of what is sent in a header.
    wants_checksums: AtomicBool,
}

impl Wire {
    /// Reads the AWS configuration for what the settings leave open. Keys are looked for at the first request.
    ///
    /// # Errors
    /// `InvalidInput` when no region is to be found, something cannot be what it is given for, or the environment names a
    /// proxy that is none.
    pub(super) async fn open(
        settings: &S3Settings,
        quirks: &Quirks,
        prefix: &str,
        place: &Arc<Place>,
    ) -> Result<Self> {
        let endpoint = settings.endpoint.as_ref().map(|url| route::endpoint(url, place));
        let endpoint = endpoint.transpose()?;
        let region = region(settings, quirks, place).await?;
        let keys = match settings.anonymous {
            true => None,
            false => Some(keys(settings, &region, place).await?),
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
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(WatchClock(Arc::clone(&clock)))
            .interceptor(RefusePages)
            .interceptor(RefuseCutListings);
        config.set_endpoint_url(endpoint);
        match keys {
            Some(keys) => config.set_credentials_provider(Some(keys)),
            None => config.set_allow_no_auth(),
        };
        Ok(Self {
            client: Client::from_conf(config.build()),
            bucket: settings.bucket.clone(),
            prefix: prefix.to_owned(),
            place: Arc::clone(place),
            clock,
            answered: AtomicBool::new(false),
            wants_checksums: AtomicBool::new(false),
        })
    }

    /// Whether what is sent has its checksum in a header.
    pub(super) fn wants_checksums(&self) -> bool {
        self.wants_checksums.load(Ordering::Relaxed)
    }

    /// Whether a call that was made without checksums and failed is to be made again with them, as all from now on.
    pub(super) fn learns_checksums(&self, summed: bool, failure: &Failure) -> bool {
        let learns = !summed && failure.wants_checksum();
        if learns {
            self.wants_checksums.store(true, Ordering::Relaxed);
        }
        learns
    }

    /// The name of an object in the bucket.
    pub(super) fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The key of an object in the bucket; `None` for what is no object of ours.
    pub(super) fn key(&self, name: &str) -> Option<Key> {
        Key::new(name.strip_prefix(&self.prefix)?).ok()
    }

    /// The time by the server's clock, as far as it is known.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// One request, within its time. `subject` is what the error names.
    pub(super) async fn call<T, E>(
        &self,
        op: Op,
        subject: &str,
        limit: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Box<Failure>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let before = self.clock.corrections();
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => self.judge(op, subject, before, answer),
            Err(_) => Err(self.silence(op, subject, format!("no answer within {limit:?}"))),
        }
    }

    /// As [`Wire::call`] for a request that carries payload: for as long as it moves.
    pub(super) async fn call_sending<T, E>(
        &self,
        op: Op,
        subject: &str,
        progress: &Progress,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Box<Failure>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let before = self.clock.corrections();
        match progress.watch(request).await {
            Some(answer) => self.judge(op, subject, before, answer),
            None => Err(self.silence(op, subject, "nothing moves any more")),
        }
    }

    fn judge<T, E>(
        &self,
        op: Op,
        subject: &str,
        corrections_before: u64,
        answer: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, Box<Failure>>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let answered = self.answered.load(Ordering::Relaxed);
        let answer = answer.map_err(|error| {
            let clock_was_wrong = self.clock.corrections() != corrections_before;
            let seen = Seen { clock_was_wrong, answered };
            Failure::new(op, subject, &self.place, seen, error)
        });
        if !answered && answer.as_ref().map_or_else(|f| f.is_of_storage(), |_| true) {
            self.answered.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// A call whose answer cannot be gone on with, however often it is made.
    pub(super) fn senseless(&self, op: Op, subject: &str, why: &str) -> Box<Failure> {
        Failure::senseless(op, subject, &self.place, why.to_owned())
    }

    /// A call that got no answer, or not all of it.
    pub(super) fn silence(&self, op: Op, subject: &str, why: impl Into<String>) -> Box<Failure> {
        Failure::silence(op, subject, &self.place, why.into())
    }
}

/// The environment's proxy on the way to the endpoint, whose host may have the bucket's name before it.
fn proxy(settings: &S3Settings) -> Result<ProxyConfig> {
    let endpoint =
        settings.endpoint.as_ref().map_or("https://s3.amazonaws.com", |url| url.as_str());
    let bad = |e: &dyn std::fmt::Display| {
        Error::new(Kind::InvalidInput, format!("the way to {endpoint}: {e}"))
    };
    let uri: hyper::Uri = endpoint.parse().map_err(|e| bad(&e))?;
    let proxies = EnvProxies::of_process();
    let Some(proxy) = proxies.to(&uri)? else { return Ok(ProxyConfig::disabled()) };
    if !matches!(proxy.url().scheme(), "http" | "https") {
        let text = format!("S3 does not go by the proxy {proxy} of the environment");
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

/// rustls with aws-lc-rs, as everything else here, and proxies honoured, which the SDK's own client does not.
fn http_client(proxy: ProxyConfig, authorities: &[String]) -> Result<SharedHttpClient> {
    let trusted = tls::TrustStore::default();
    let trusted =
        authorities.iter().fold(trusted, |all, pem| all.with_pem_certificate(pem.as_str()));
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|e| Error::new(Kind::Internal, "start of TLS").because(e))?;
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT).build();
    let connector = Connector::builder()
        .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .connector_settings(settings)
        .proxy_config(proxy)
        .build();
    // One for all requests: the pool of connections is in it.
    let connector = SharedHttpConnector::new(connector);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

/// How far this machine's clock is off the server's. The SDK signs by the time in the answers before; what it keeps to
/// itself and is needed here: that a refusal was the clock's fault, and the time for links.
#[derive(Debug, Default)]
struct Clock {
    /// Seconds the server is ahead.
    ahead: AtomicI64,
    corrections: AtomicU64,
}

/// Less than servers mind (minutes), more than an answer takes.
const CLOCK_TOLERANCE: u64 = 60;

impl Clock {
    fn now(&self) -> SystemTime {
        shifted(SystemTime::now(), self.ahead.load(Ordering::Acquire))
    }

    fn corrections(&self) -> u64 {
        self.corrections.load(Ordering::Acquire)
    }

    /// Takes over the server's time where ours is wrong.
    fn heard(&self, server: SystemTime) {
        let seconds = |t: SystemTime| {
            t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
        };
        let ahead = seconds(server) - seconds(SystemTime::now());
        if ahead.abs_diff(self.ahead.load(Ordering::Acquire)) > CLOCK_TOLERANCE {
            self.ahead.store(ahead, Ordering::Release);
            self.corrections.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) }.unwrap_or(time)
}

#[derive(Debug)]
struct WatchClock(Arc<Clock>);

impl Intercept for WatchClock {
    fn name(&self) -> &'static str {
        "WatchClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let header = |name| context.response().headers().get(name);
        // An answer with an age comes from a cache, and its date is the day it went in.
        let date = header("date").filter(|_| header("age").is_none());
        let date = date.and_then(|d| DateTime::from_str(d, DateTimeFormat::HttpDate).ok());
        if let Some(time) = date.and_then(|d| SystemTime::try_from(d).ok()) {
            self.0.heard(time);
        }
        Ok(())
    }
}

/// Ends a call that changes something and is answered by a page for people with a good status: a firewall, a router or
/// a console did not do what it was asked. What is read is looked at where it is read.
#[derive(Debug)]
struct RefusePages;

impl Intercept for RefusePages {
    fn name(&self) -> &'static str {
        "RefusePages"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let page = is_page(answer.headers().get("content-type"));
        let call = config.load::<Metadata>().map_or("", |call| call.name());
        let reads = ["Get", "Head", "List"].iter().any(|verb| call.starts_with(verb));
        match page && answer.status().is_success() && !reads {
            true => Err("a web page came".into()),
            false => Ok(()),
        }
    }
}

/// Ends a listing whose document has no end: the SDK takes what came before for all of it.
#[derive(Debug)]
struct RefuseCutListings;

impl Intercept for RefuseCutListings {
    fn name(&self) -> &'static str {
        "RefuseCutListings"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let lists = config.load::<Metadata>().is_some_and(|call| call.name().starts_with("List"));
        let answer = context.response();
        let body = answer.body().bytes().unwrap_or_default();
        match lists && answer.status().is_success() && !is_whole_listing(body) {
            true => Err(CutShort.into()),
            false => Ok(()),
        }
    }
}

/// Whether the document that a listing is has its end: `</ListBucketResult>` and the like. What is no listing at all is
/// looked at where it is read.
fn is_whole_listing(body: &[u8]) -> bool {
    let is_listing = body.windows(5).any(|five| five == b"<List");
    let last_tag = body.trim_ascii_end().rsplit(|b| *b == b'<').next().unwrap_or_default();
    !is_listing || (last_tag.starts_with(b"/") && last_tag.ends_with(b"Result>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_without_its_end_is_not_whole() {
        assert!(is_whole_listing(b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>\n"));
        assert!(is_whole_listing(b"<html>") && is_whole_listing(b""));
        for cut in [
            "<ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key></Contents>",
            "<ListBucketResu",
        ] {
            assert!(!is_whole_listing(cut.as_bytes()), "{cut}");
        }
    }

    #[test]
    fn the_servers_time_is_taken_over_once() {
        let clock = Clock::default();
        clock.heard(SystemTime::now());
        assert_eq!(clock.corrections(), 0);
        for seconds in [1200, -1200] {
            let before = clock.corrections();
            let server = shifted(SystemTime::now(), seconds);
            clock.heard(server);
            clock.heard(server);
            assert_eq!(clock.corrections(), before + 1);
            let off = clock.now().duration_since(server).unwrap_or_else(|e| e.duration());
            assert!(off < Duration::from_secs(5), "{off:?}");
        }
    }
}
