// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Connections: straight or through a proxy, with TLS where the URI says so.

use super::proxy::{Proxies, Proxy, Scheme};
use super::tls::Tls;
use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// As the SDK asks of its sockets.
const KEEPALIVE: Duration = Duration::from_secs(75);

/// Makes connections for the HTTP client.
#[derive(Clone)]
pub(super) struct Connector {
    dial: Dial,
    proxies: Proxies,
    /// For everything: name, connection, proxy, TLS.
    patience: Duration,
}

/// Why there is no connection, for a log.
#[derive(Debug)]
pub(super) enum ConnectError {
    TimedOut(Duration),
    Failed(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::TimedOut(after) => {
                write!(f, "no connection in {} s", after.as_secs_f64())
            }
            ConnectError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ConnectError {}

impl Connector {
    pub fn new(tls: Tls, proxies: Proxies, patience: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(patience));
        Connector { dial: Dial { tcp, tls }, proxies, patience }
    }

    async fn connect(self, uri: Uri) -> Result<Conn, ConnectError> {
        let patience = self.patience;
        match tokio::time::timeout(patience, self.reach(uri)).await {
            Ok(outcome) => outcome.map_err(ConnectError::Failed),
            Err(_) => Err(ConnectError::TimedOut(patience)),
        }
    }

    async fn reach(mut self, uri: Uri) -> Result<Conn, String> {
        let secure = uri.scheme_str() == Some("https");
        let proxy = self.proxies.for_uri(&uri)?;
        let absolute = !secure && proxy.as_ref().is_some_and(|proxy| proxy.scheme == Scheme::Http);
        let stream = match proxy {
            None => return self.dial.call(uri).await,
            Some(proxy) => {
                let where_from =
                    format!("proxy {}", proxy.uri.authority().map_or("", |a| a.as_str()));
                let through = self.through(proxy, uri.clone(), absolute).await;
                through.map_err(|why| format!("{where_from}: {why}"))?
            }
        };
        if !secure {
            return Ok(Conn { absolute, ..stream });
        }
        self.dial.secure(uri.host().unwrap_or_default(), stream).await
    }

    async fn through(&mut self, proxy: Proxy, uri: Uri, absolute: bool) -> Result<Conn, String> {
        let Proxy { scheme, uri: at, user } = proxy.clone();
        let dial = self.dial.clone();
        match scheme {
            Scheme::Http if absolute => self.dial.call(at).await,
            Scheme::Http => {
                let mut tunnel = Tunnel::new(at, dial);
                if let Some(value) = proxy.authorization() {
                    tunnel = tunnel.with_auth(value);
                }
                tunnel.call(uri).await.map_err(|error| told(&error))
            }
            Scheme::Socks4 { local_names } => SocksV4::new(at, dial)
                .local_dns(local_names)
                .call(uri)
                .await
                .map_err(|error| told(&error)),
            Scheme::Socks5 { local_names } => {
                let mut socks = SocksV5::new(at, dial).local_dns(local_names);
                if let Some((name, password)) = user {
                    socks = socks.with_auth(name, password);
                }
                socks.call(uri).await.map_err(|error| told(&error))
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Conn;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Connects to the very host of a URI.
#[derive(Clone)]
struct Dial {
    tcp: HttpConnector,
    tls: Tls,
}

impl Dial {
    async fn secure(&self, host: &str, stream: Conn) -> Result<Conn, String> {
        let stream = self.tls.handshake(host, stream.io.into_inner()).await?;
        Ok(Conn::new(Box::new(stream)))
    }
}

impl Service<Uri> for Dial {
    type Response = Conn;
    type Error = String;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, String>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.tcp.poll_ready(cx).map_err(|error| told(&error))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut dial = self.clone();
        Box::pin(async move {
            let connected = dial.tcp.call(uri.clone()).await.map_err(|error| told(&error))?;
            let stream = Conn::new(Box::new(connected.into_inner()));
            match uri.scheme_str() {
                Some("https") => dial.secure(uri.host().unwrap_or_default(), stream).await,
                _ => Ok(stream),
            }
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub(super) struct Conn {
    io: TokioIo<Box<dyn Io>>,
    /// To a proxy that is to be told whole URIs.
    absolute: bool,
}

impl Conn {
    fn new(io: Box<dyn Io>) -> Self {
        Conn { io: TokioIo::new(io), absolute: false }
    }
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.absolute)
    }
}

impl hyper::rt::Read for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// An error and its causes in one line, each said once.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
