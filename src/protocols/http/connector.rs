//! Connects to servers, directly or through a proxy, with or without TLS.
//!
//! An HTTP proxy receives requests for `http` URLs itself and forwards them. For other URLs it opens a tunnel
//! (`CONNECT`). The system's certificates are loaded for the first TLS connection, because that takes time and memory.
//! With a `cacert` they are loaded at once, so that an unusable file is reported early.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{
    Uri,
    header::HeaderValue,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OnceCell,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use crate::{
    config::{EnvProxies, Proxy},
    error::{Error, Kind, Result},
    protocols::{
        FetchOptions,
        dial::{dial, dial_direct, dial_proxy, open_tunnel, proxy_authorization},
        has_private_host,
        timeouts::Timeouts,
        tls,
    },
};

/// The ALPN names of HTTP/1.1 and HTTP/2.
const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_HTTP2: &[u8] = b"h2";

/// State that all connections share.
#[derive(Debug)]
pub(super) struct Dialer {
    options: Arc<FetchOptions>,
    proxies: Proxies,
    timeouts: Timeouts,
    tls: OnceCell<Tls>,
}

#[derive(Debug)]
struct Tls {
    /// Offers HTTP/1.1 only: for requests with a connection of their own, and for proxies.
    http1_only: Arc<ClientConfig>,
    http1_and_2: Arc<ClientConfig>,
}

impl Dialer {
    /// # Errors
    /// `InvalidInput` for certificates that cannot be used.
    pub(super) fn new(options: &Arc<FetchOptions>) -> Result<Arc<Self>> {
        let tls = match &options.cacert {
            // An unusable file is reported before anything is fetched.
            Some(_) => OnceCell::new_with(Some(Tls::new(options)?)),
            None => OnceCell::new(),
        };
        let (options, timeouts) = (Arc::clone(options), Timeouts::from_options(options));
        Ok(Arc::new(Self { proxies: Proxies::from_options(&options), options, timeouts, tls }))
    }

    /// The value of `Proxy-Authorization` for a request to `uri` that a proxy forwards.
    pub(super) fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        // An unusable proxy setting is reported when the connection is opened.
        let proxy = self.proxies.proxy_for(uri).ok()??;
        let login = proxy_authorization(&proxy).filter(|_| proxy_forwards(&proxy, uri))?;
        let mut value = HeaderValue::from_str(&login).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    async fn connect(&self, uri: &Uri, offer_http2: bool) -> Result<HttpConnection> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        self.reject_private_host(uri)?;
        let proxy = self.proxies.proxy_for(uri)?;
        let stream: Box<dyn Stream> = match &proxy {
            None => Box::new(dial_direct(host, port, &self.options.outgoing).await?),
            Some(proxy) => {
                self.connect_through_proxy(host, port, proxy, proxy_forwards(proxy, uri)).await?
            }
        };
        if !secure {
            let forwards = proxy.is_some_and(|proxy| proxy_forwards(&proxy, uri));
            return Ok(HttpConnection { io: TokioIo::new(stream), is_http2: false, forwards });
        }
        let tls = self.tls().await?;
        let stream =
            connect_tls(if offer_http2 { &tls.http1_and_2 } else { &tls.http1_only }, host, stream)
                .await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
        Ok(HttpConnection { io: TokioIo::new(Box::new(stream)), is_http2, forwards: false })
    }

    /// With `only_public`, refuses a URL that names a private host: a proxy would connect to it. Names are not
    /// resolved.
    fn reject_private_host(&self, uri: &Uri) -> Result<()> {
        let is_private =
            || url::Url::parse(&uri.to_string()).is_ok_and(|url| has_private_host(&url));
        if !self.options.outgoing.only_public || !is_private() {
            return Ok(());
        }
        let text = format!("{} is not a public host", uri.host().unwrap_or_default());
        Err(Error::new(Kind::PermissionDenied, text))
    }

    async fn connect_through_proxy(
        &self,
        host: &str,
        port: u16,
        proxy: &Proxy,
        forwards: bool,
    ) -> Result<Box<dyn Stream>> {
        let (scheme, outgoing) = (proxy.url().scheme(), &self.options.outgoing);
        if scheme == "https" {
            let stream = Box::new(dial_proxy(proxy, outgoing).await?);
            let name = proxy.url().host_str().unwrap_or_default().trim_matches(['[', ']']);
            let stream = connect_tls(&self.tls().await?.http1_only, name, stream).await;
            let stream = stream.map_err(|e| e.with_context(format!("proxy {proxy}")))?;
            return match forwards {
                true => Ok(Box::new(stream)),
                false => Ok(Box::new(open_tunnel(stream, host, port, proxy).await?)),
            };
        }
        Ok(Box::new(match forwards {
            true => dial_proxy(proxy, outgoing).await?,
            false => dial(host, port, Some(proxy), outgoing).await?,
        }))
    }

    async fn tls(&self) -> Result<&Tls> {
        self.tls.get_or_try_init(|| async { Tls::new(&self.options) }).await
    }
}

impl Tls {
    fn new(options: &FetchOptions) -> Result<Self> {
        let config = tls::client_config(options.cacert.as_deref())?;
        Ok(Self {
            http1_only: tls::with_alpn(&config, &[ALPN_HTTP1]),
            http1_and_2: tls::with_alpn(&config, &[ALPN_HTTP2, ALPN_HTTP1]),
        })
    }
}

async fn connect_tls(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: Box<dyn Stream>,
) -> Result<TlsStream<Box<dyn Stream>>> {
    let invalid_host = |e| Error::new(Kind::InvalidInput, "invalid host name").because(e);
    let name = ServerName::try_from(host.to_owned()).map_err(invalid_host)?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    connected.map_err(|e| tls::handshake_error(&e))
}

/// Whether the proxy receives a request for `uri` itself, instead of opening a tunnel to the server.
fn proxy_forwards(proxy: &Proxy, uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && matches!(proxy.url().scheme(), "http" | "https")
}

/// The proxy of the options, or the proxies of the environment.
#[derive(Debug)]
enum Proxies {
    Configured(Proxy),
    Environment(Box<EnvProxies>),
}

impl Proxies {
    fn from_options(options: &FetchOptions) -> Self {
        match &options.proxy {
            Some(proxy) => Self::Configured(proxy.clone()),
            None => Self::Environment(Box::new(EnvProxies::from_process())),
        }
    }

    /// The proxy for `uri`.
    fn proxy_for(&self, uri: &Uri) -> Result<Option<Proxy>> {
        match self {
            Self::Configured(proxy) => Ok(Some(proxy.clone())),
            Self::Environment(proxies) => proxies.for_uri(uri),
        }
    }
}

/// Opens the connections of one hyper client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) dialer: Arc<Dialer>,
    /// Whether HTTP/2 is offered.
    pub(super) offer_http2: bool,
}

impl Service<Uri> for Connector {
    type Response = HttpConnection;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpConnection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, offer_http2 } = self.clone();
        Box::pin(async move {
            let connecting = dialer.connect(&uri, offer_http2);
            dialer.timeouts.run_connect(|| "connection failed".to_owned(), connecting).await
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection in the form that hyper requires.
pub(super) struct HttpConnection {
    io: TokioIo<Box<dyn Stream>>,
    /// HTTP/2 was negotiated.
    is_http2: bool,
    /// The peer is a forwarding proxy, so requests contain the whole URL.
    forwards: bool,
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection").field("is_http2", &self.is_http2).finish_non_exhaustive()
    }
}

impl Connection for HttpConnection {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.forwards);
        if self.is_http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for HttpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for HttpConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
