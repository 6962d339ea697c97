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
        dial::{authorization, dial, straight, to_proxy, tunnel},
        names_private_host,
        patience::Patience,
        tls,
    },
};

/// The ALPN names of HTTP/1.1 and HTTP/2.
const FIRST: &[u8] = b"http/1.1";
const SECOND: &[u8] = b"h2";

/// State that all connections share.
#[derive(Debug)]
pub(super) struct Ways {
    options: Arc<FetchOptions>,
    proxies: Proxies,
    patience: Patience,
    tls: OnceCell<Tls>,
}

#[derive(Debug)]
struct Tls {
    /// Offers HTTP/1.1 only: for requests with a connection of their own, and for proxies.
    first: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
}

impl Ways {
    /// # Errors
    /// `InvalidInput` for certificates that cannot be used.
    pub(super) fn new(options: &Arc<FetchOptions>) -> Result<Arc<Self>> {
        let tls = match &options.cacert {
            // An unusable file is reported before anything is fetched.
            Some(_) => OnceCell::new_with(Some(Tls::new(options)?)),
            None => OnceCell::new(),
        };
        let (options, patience) = (Arc::clone(options), Patience::of(options));
        Ok(Arc::new(Self { proxies: Proxies::of(&options), options, patience, tls }))
    }

    /// The value of `Proxy-Authorization` for a request to `uri` that a proxy forwards.
    pub(super) fn login(&self, uri: &Uri) -> Option<HeaderValue> {
        // An unusable proxy setting is reported when the connection is opened.
        let proxy = self.proxies.to(uri).ok()??;
        let login = authorization(&proxy).filter(|_| forwards(&proxy, uri))?;
        let mut value = HeaderValue::from_str(&login).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    async fn connect(&self, uri: &Uri, second_too: bool) -> Result<Wired> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        self.refuse_private(uri)?;
        let proxy = self.proxies.to(uri)?;
        let stream: Box<dyn Stream> = match &proxy {
            None => Box::new(straight(host, port, &self.options.outgoing).await?),
            Some(proxy) => self.by_proxy(host, port, proxy, forwards(proxy, uri)).await?,
        };
        if !secure {
            let forwards = proxy.is_some_and(|proxy| forwards(&proxy, uri));
            return Ok(Wired { io: TokioIo::new(stream), second: false, forwards });
        }
        let tls = self.tls().await?;
        let stream = secured(if second_too { &tls.both } else { &tls.first }, host, stream).await?;
        let second = stream.get_ref().1.alpn_protocol() == Some(SECOND);
        Ok(Wired { io: TokioIo::new(Box::new(stream)), second, forwards: false })
    }

    /// With `only_public`, refuses a URL that names a private host: a proxy would connect to it. Names are not
    /// resolved.
    fn refuse_private(&self, uri: &Uri) -> Result<()> {
        let private =
            || url::Url::parse(&uri.to_string()).is_ok_and(|url| names_private_host(&url));
        if !self.options.outgoing.only_public || !private() {
            return Ok(());
        }
        let text = format!("{} is no host of the public network", uri.host().unwrap_or_default());
        Err(Error::new(Kind::PermissionDenied, text))
    }

    async fn by_proxy(
        &self,
        host: &str,
        port: u16,
        proxy: &Proxy,
        forwards: bool,
    ) -> Result<Box<dyn Stream>> {
        let (scheme, outgoing) = (proxy.url().scheme(), &self.options.outgoing);
        if scheme == "https" {
            let stream = Box::new(to_proxy(proxy, outgoing).await?);
            let name = proxy.url().host_str().unwrap_or_default().trim_matches(['[', ']']);
            let stream = secured(&self.tls().await?.first, name, stream).await;
            let stream = stream.map_err(|e| e.within(format!("proxy {proxy}")))?;
            return match forwards {
                true => Ok(Box::new(stream)),
                false => Ok(Box::new(tunnel(stream, host, port, proxy).await?)),
            };
        }
        Ok(Box::new(match forwards {
            true => to_proxy(proxy, outgoing).await?,
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
            first: tls::with_protocols(&config, &[FIRST]),
            both: tls::with_protocols(&config, &[SECOND, FIRST]),
        })
    }
}

async fn secured(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: Box<dyn Stream>,
) -> Result<TlsStream<Box<dyn Stream>>> {
    let no_host = |e| Error::new(Kind::InvalidInput, "this is no host's name").because(e);
    let name = ServerName::try_from(host.to_owned()).map_err(no_host)?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    connected.map_err(|e| tls::handshake(&e))
}

/// Whether the proxy receives a request for `uri` itself, instead of opening a tunnel to the server.
fn forwards(proxy: &Proxy, uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && matches!(proxy.url().scheme(), "http" | "https")
}

/// The proxy of the options, or the proxies of the environment.
#[derive(Debug)]
enum Proxies {
    Given(Proxy),
    Environment(Box<EnvProxies>),
}

impl Proxies {
    fn of(options: &FetchOptions) -> Self {
        match &options.proxy {
            Some(proxy) => Self::Given(proxy.clone()),
            None => Self::Environment(Box::new(EnvProxies::of_process())),
        }
    }

    /// The proxy for `uri`.
    fn to(&self, uri: &Uri) -> Result<Option<Proxy>> {
        match self {
            Self::Given(proxy) => Ok(Some(proxy.clone())),
            Self::Environment(proxies) => proxies.to(uri),
        }
    }
}

/// Opens the connections of one hyper client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) ways: Arc<Ways>,
    /// Whether HTTP/2 is offered.
    pub(super) second_too: bool,
}

impl Service<Uri> for Connector {
    type Response = Wired;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Wired>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { ways, second_too } = self.clone();
        Box::pin(async move {
            let connecting = ways.connect(&uri, second_too);
            ways.patience.connecting(|| "no connection".to_owned(), connecting).await
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection in the form that hyper requires.
pub(super) struct Wired {
    io: TokioIo<Box<dyn Stream>>,
    /// HTTP/2 was negotiated.
    second: bool,
    /// The peer is a forwarding proxy, so requests contain the whole URL.
    forwards: bool,
}

impl fmt::Debug for Wired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wired").field("second", &self.second).finish_non_exhaustive()
    }
}

impl Connection for Wired {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.forwards);
        if self.second { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Wired {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Wired {
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
