//! Connections to one destination, for both protocols: TCP, a Unix socket or a proxy, with TLS on top where the
//! endpoint says so. Names are looked up at every connection, and every address is tried.

use std::{
    future::poll_fn,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Uri};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, proxy::Tunnel},
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tonic::codegen::Service;

use super::trust;
use crate::config::{Destination, Endpoint, Protocol};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, BoxError>> + Send>>;

/// Makes connections to one destination.
#[derive(Clone)]
pub(super) struct Connector {
    to: To,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<Intercept>,
}

#[derive(Clone)]
enum To {
    Host(Uri),
    Socket(PathBuf),
}

impl Connector {
    /// By the settings of a destination. `http_proxy`, `https_proxy` and `no_proxy` count for HTTP only, as
    /// [`Self::proxy_for`] says of them.
    pub(super) fn new(settings: &Destination, tls: Option<Arc<ClientConfig>>) -> Self {
        let to = match &settings.endpoint {
            Endpoint::Http(uri) | Endpoint::Https(uri) => To::Host(uri.clone()),
            Endpoint::Unix(path) => To::Socket(path.clone()),
        };
        let proxy = match (&to, settings.protocol) {
            (To::Host(uri), Protocol::HttpProtobuf) => Matcher::from_env().intercept(uri),
            _ => None,
        };
        Self { to, tls, proxy }
    }

    /// What a proxy wants to know of who asks, where requests themselves are sent to it: not through a tunnel.
    pub(super) fn proxy_authorization(&self) -> Option<HeaderValue> {
        let proxy = self.proxy.as_ref().filter(|_| self.tls.is_none())?;
        proxy.basic_auth().cloned()
    }

    pub(super) async fn connect(self) -> Result<Stream, BoxError> {
        let uri = match self.to {
            To::Socket(path) => return Ok(Stream::new(UnixStream::connect(path).await?)),
            To::Host(uri) => uri,
        };
        let stream = match (self.proxy, &self.tls) {
            (None, _) => tcp(&uri).await?,
            (Some(proxy), None) => Stream { proxied: true, ..ToProxy::connect(proxy.uri().clone()).await? },
            (Some(proxy), Some(_)) => tunnel(&proxy, &uri).await?,
        };
        match self.tls {
            Some(config) => encrypt(config, &uri, stream).await,
            None => Ok(stream),
        }
    }
}

/// Every connection of a connector goes to the same destination, so what it is called with does not matter.
impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await.map(TokioIo::new) })
    }
}

async fn tcp(uri: &Uri) -> Result<Stream, BoxError> {
    let host = host(uri);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let unreachable = |error: io::Error| io::Error::new(error.kind(), format!("{host}:{port}: {error}"));
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    // A request is one write, which must not wait for the answer to an earlier one.
    stream.set_nodelay(true)?;
    Ok(Stream::new(stream))
}

fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

async fn encrypt(config: Arc<ClientConfig>, uri: &Uri, stream: Stream) -> Result<Stream, BoxError> {
    let name = ServerName::try_from(host(uri).to_owned())?;
    let wants_http2 = config.alpn_protocols.iter().any(|protocol| protocol == b"h2");
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    if wants_http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(
            "the server does not offer HTTP/2, which gRPC needs; is protocol: http/protobuf meant?".into()
        );
    }
    Ok(Stream::new(stream))
}

/// A connection through a proxy that passes on what it cannot read (`CONNECT`).
async fn tunnel(proxy: &Intercept, uri: &Uri) -> Result<Stream, BoxError> {
    let mut tunnel = Tunnel::new(proxy.uri().clone(), ToProxy);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    poll_fn(|context| tunnel.poll_ready(context)).await?;
    Ok(tunnel.call(uri.clone()).await?.into_inner())
}

/// Connections to a proxy itself, which may be reached by TLS too.
#[derive(Clone)]
struct ToProxy;

impl ToProxy {
    async fn connect(uri: Uri) -> Result<Stream, BoxError> {
        let stream = tcp(&uri).await.map_err(|error| format!("proxy {error}"))?;
        match uri.scheme_str() {
            Some("http") => Ok(stream),
            Some("https") => encrypt(Arc::new(trust::of_the_system()?), &uri, stream).await,
            other => Err(format!("proxy: {} is no proxy over HTTP", other.unwrap_or_default()).into()),
        }
    }
}

impl Service<Uri> for ToProxy {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        Box::pin(async move { Self::connect(uri).await.map(TokioIo::new) })
    }
}

/// What TCP, Unix sockets and TLS have in common.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub(super) struct Stream {
    io: Box<dyn Io>,
    /// Whether a proxy reads the requests, which then name the whole address.
    proxied: bool,
}

impl Stream {
    fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), proxied: false }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, from)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, from)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
