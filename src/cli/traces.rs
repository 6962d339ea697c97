//! Spans as traces of OpenTelemetry, sent by OTLP over HTTP. Only in builds with the feature `otel`, and only when the
//! environment names a collector in `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.
//!
//! Spans of bae alone are sent, from level `info` on: those of other crates contain whole URLs, and these may contain
//! passkeys. A thread of the library sends them in batches. When its queue is full it drops spans, so that a slow collector
//! delays nothing. A failure to send is a log line.

use std::sync::OnceLock;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::error::{Error, Kind, Result};

/// Any of these switches traces on. The library reads them, and the further ones of the OpenTelemetry specification.
const SWITCHES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The provider of this process.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that sends spans; `None` when the environment names no collector.
///
/// # Errors
/// `InvalidInput` when the address of the collector is not usable.
pub(super) fn layer<S>() -> Result<Option<impl Layer<S>>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !SWITCHES.into_iter().any(is_set) {
        return Ok(None);
    }
    let provider = provider(None)?;
    Ok(Some(layer_of(PROVIDER.get_or_init(|| provider))))
}

/// Sends what is left. Called once, at the end of the process.
pub(super) fn close() {
    if let Some(provider) = PROVIDER.get() {
        // The library has logged a failure.
        let _ = provider.shutdown();
    }
}

/// `endpoint` replaces that of the environment.
fn provider(endpoint: Option<String>) -> Result<SdkTracerProvider> {
    let builder = SpanExporter::builder().with_http();
    let builder = match endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    };
    let exporter = builder.build().map_err(|e| {
        Error::new(Kind::InvalidInput, "the collector of traces")
            .because(e)
            .hint(format!("see {}", SWITCHES[0]))
    })?;
    let resource = Resource::builder();
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name("bae"),
    };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(provider.with_resource(resource.build()).build())
}

fn layer_of<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let own = Targets::new().with_target("bae", LevelFilter::INFO);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("bae")).with_filter(own)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Answers one request, and returns its head and body.
    fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_lowercase();
        let len = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let mut body = vec![0; len.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        (head, body)
    }

    #[test]
    fn spans_of_bae_are_sent_to_the_collector_and_others_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let collector = thread::spawn(move || receive(&listener));
        let provider = provider(Some(endpoint)).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer_of(&provider));
        tracing::subscriber::with_default(subscriber, || {
            let _import = tracing::info_span!("import", id = "0123abcd").entered();
            let _upload = tracing::info_span!("upload", object = "key-of-an-object").entered();
            let _foreign =
                tracing::info_span!(target: "hyper", "secret-of-another-crate").entered();
        });
        provider.shutdown().unwrap();
        let (head, body) = collector.join().unwrap();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
        let has = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
        for text in ["service.name", "import", "0123abcd", "upload", "key-of-an-object"] {
            assert!(has(text), "{text} is not in the request");
        }
        assert!(!has("secret-of-another-crate"));
    }
}
