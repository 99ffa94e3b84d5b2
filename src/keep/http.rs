// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! HTTP to one service: connections, TLS, time-outs, and a body that is checked as it comes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{Config, Timeouts};
use super::error::Answer;
use super::hashing::{Digesting, HashHandle};
use super::progress::Progress;
use super::storage::{Sink, Stored};
use crate::metrics;
use crate::net::{Access, Clients, reason};
use crate::types::Locator;

/// Bytes gathered before they are handed to the hashing threads.
const PIECE: usize = 256 << 10;
/// The span that bandwidth is averaged over before it counts as slow or not.
const PACE: Duration = Duration::from_secs(1);
/// Bodies received at the same time beyond their first [`UNCOUNTED`] bytes, so that memory stays
/// bounded however many reads wait.
const RECEIVING: usize = 16;
/// Bytes of a body that need no turn.
const UNCOUNTED: usize = 1 << 20;
/// A body this quiet gives up its turn.
const QUIET: Duration = Duration::from_millis(50);

/// As the SDK asks of its sockets.
const KEEPALIVE: Duration = Duration::from_secs(75);

/// Connections to the services of one client. A redirect is an answer like any other: the token
/// goes to the services that the cluster lists, and to nobody else.
pub(super) struct Http {
    headers: HeaderMap,
    maker: Clients,
    /// One pool of connections for each time to connect, with TLS and without.
    clients: Mutex<HashMap<(Duration, bool), Client>>,
    receiving: Semaphore,
    pool: HashHandle,
    pub(super) metrics: Arc<metrics::Keep>,
}

impl Http {
    /// Reads and connects to nothing. The error is text for a log.
    pub(super) fn new(
        config: &Config,
        pool: HashHandle,
        metrics: Arc<metrics::Keep>,
    ) -> Result<Self, String> {
        let mut token = HeaderValue::from_str(&format!("Bearer {}", config.token))
            .map_err(|_| "the API token has characters that HTTP does not allow".to_string())?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, token);
        headers.insert(ACCEPT, HeaderValue::from_static("application/octet-stream"));
        let access = Access {
            insecure: config.insecure,
            ca_file: config.ca_file.clone().or_else(authorities_file),
            proxies: config.proxies.clone(),
        };
        Ok(Http {
            headers,
            maker: Clients::new(access),
            clients: Mutex::default(),
            receiving: Semaphore::new(RECEIVING),
            pool,
            metrics,
        })
    }

    fn client(&self, connect: Duration, secure: bool) -> Result<Client, Answer> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&(connect, secure)) {
            return Ok(client.clone());
        }
        let client = self
            .maker
            .client(secure)
            .map_err(Answer::Broken)?
            .default_headers(self.headers.clone())
            .connect_timeout(connect)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .build()
            .map_err(|error| Answer::Broken(reason(&error)))?;
        clients.insert((connect, secure), client.clone());
        Ok(client)
    }

    /// A request to one service, yet to be sent.
    pub(super) fn request(
        &self,
        method: Method,
        root: &str,
        path: &str,
        request_id: &str,
        limits: Timeouts,
    ) -> Result<Request, Answer> {
        let not_a_url = |_| Answer::Broken("not a URL".into());
        let url: Url = format!("{root}{path}").parse().map_err(not_a_url)?;
        let proxy = self.maker.proxy_for(&url).map_err(Answer::Broken)?;
        let secure =
            [Some(&url), proxy.as_ref()].into_iter().flatten().any(|url| url.scheme() == "https");
        let client = self.client(limits.connect, secure)?;
        let builder = client.request(method, url).header("X-Request-Id", request_id);
        Ok(Request { builder, proxy, connect: limits.connect })
    }

    /// Asks one service for a block: exactly its bytes, in the sink, or what went wrong.
    pub(super) async fn get(
        &self,
        root: &str,
        locator: &Locator,
        request_id: &str,
        limits: Timeouts,
        sink: Sink,
        progress: &Progress,
    ) -> Result<Stored, Answer> {
        let request = self.request(Method::GET, root, &locator.to_string(), request_id, limits)?;
        let _under_way = self.metrics.requests.hold();
        let patience = limits.connect + limits.read;
        let Ok(response) = timeout(patience, request.send()).await else {
            return Err(no_answer(patience));
        };
        let response = response?;
        let status = response.status();
        if !status.is_success() {
            return Err(Answer::Status(status.as_u16()));
        }
        self.receive(response, locator, limits, sink, progress).await
    }

    async fn receive(
        &self,
        mut response: Response,
        locator: &Locator,
        limits: Timeouts,
        mut sink: Sink,
        progress: &Progress,
    ) -> Result<Stored, Answer> {
        let size = locator.size() as usize;
        if let Some(length) = response.content_length().filter(|length| *length != size as u64) {
            return Err(Answer::Corrupt(format!("a body of {length} bytes instead of {size}")));
        }
        let mut digesting = None;
        let begin = || Digesting::new(self.pool.clone());
        let lost = |error| Answer::Broken(format!("its bytes are lost here: {error}"));
        let mut throughput = ThroughputGuard::new(limits);
        let mut turn: Option<SemaphorePermit> = None;
        let (mut received, mut piece, mut gathered) = (0, Vec::new(), 0);
        loop {
            let quiet = if turn.is_some() { Instant::now() + QUIET } else { throughput.end() };
            let chunk = match timeout_at(quiet.min(throughput.end()), response.chunk()).await {
                Err(_) if Instant::now() >= throughput.end() => {
                    return Err(throughput.too_slow(received));
                }
                Err(_) => {
                    turn = None;
                    continue;
                }
                Ok(Err(error)) => return Err(Answer::Broken(reason(&error))),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            received += chunk.len();
            progress.moved();
            self.metrics.bytes_downloaded.add(chunk.len() as u64);
            if received > size {
                return Err(Answer::Corrupt(format!("more than {size} bytes")));
            }
            if !throughput.advance(chunk.len()) {
                return Err(throughput.too_slow(received));
            }
            if received > UNCOUNTED && turn.is_none() {
                turn = self.receiving.acquire().await.ok();
                throughput.waited();
            }
            gathered += chunk.len();
            piece.push(chunk);
            if gathered >= PIECE {
                gathered = 0;
                digesting.get_or_insert_with(begin).push(piece.clone()).await;
                sink.push(std::mem::take(&mut piece)).await.map_err(lost)?;
                throughput.waited();
            }
        }
        drop(turn);
        if received < size {
            return Err(Answer::Corrupt(format!("{received} bytes instead of {size}")));
        }
        let digesting = digesting.unwrap_or_else(begin);
        digesting.push(piece.clone()).await;
        sink.push(piece).await.map_err(lost)?;
        match digesting.finish().await {
            Some(md5) if md5 == locator.md5() => sink.finish().await.map_err(lost),
            Some(md5) => Err(Answer::Corrupt(format!("bytes with md5 {md5}"))),
            None => Err(Answer::Broken("hashing has ended".into())),
        }
    }
}

/// A request, and what to say of it where there is no connection.
pub(super) struct Request {
    pub(super) builder: RequestBuilder,
    proxy: Option<Url>,
    connect: Duration,
}

impl Request {
    /// The answer, as far as its headers. Waits for it without limit, once there is a connection.
    pub(super) async fn send(self) -> Result<Response, Answer> {
        self.builder.send().await.map_err(|error| {
            if error.is_timeout() {
                let why = format!("no connection in {} s", self.connect.as_secs_f64());
                return Answer::TimedOut(why);
            }
            let through = self.proxy.filter(|_| error.is_connect()).map(|proxy| named(&proxy));
            let through = through.unwrap_or_default();
            Answer::Broken(format!("{through}{}", reason(&error)))
        })
    }
}

/// Nothing came in that time.
pub(super) fn no_answer(patience: Duration) -> Answer {
    Answer::TimedOut(format!("no answer in {} s", patience.as_secs_f64()))
}

/// Whether a transfer keeps up the minimum bandwidth: too slow is who stays below it, on
/// average, over the whole of the read time-out.
pub(super) struct ThroughputGuard {
    limits: Timeouts,
    since: Instant,
    bytes: u64,
}

impl ThroughputGuard {
    pub(super) fn new(limits: Timeouts) -> Self {
        ThroughputGuard { limits, since: Instant::now(), bytes: 0 }
    }

    /// When it will have been too slow if nothing more comes.
    pub(super) fn end(&self) -> Instant {
        self.since + self.limits.read
    }

    /// Counts bytes; false once too slow.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let span = self.since.elapsed();
        if self.bytes as f64 >= span.as_secs_f64() * self.limits.min_bandwidth as f64 {
            if span >= PACE.min(self.limits.read / 4) {
                self.waited();
            }
            return true;
        }
        span < self.limits.read
    }

    /// We made the service wait: what was before says nothing about it.
    pub(super) fn waited(&mut self) {
        (self.since, self.bytes) = (Instant::now(), 0);
    }

    pub(super) fn too_slow(&self, moved: usize) -> Answer {
        Answer::TimedOut(format!(
            "less than {} bytes a second for {} s, after {moved} bytes",
            self.limits.min_bandwidth,
            self.limits.read.as_secs_f64()
        ))
    }
}

/// A proxy, without name and password.
fn named(proxy: &Url) -> String {
    let port = proxy.port_or_known_default().unwrap_or_default();
    format!("proxy {}:{port}: ", proxy.host_str().unwrap_or_default())
}

/// Where the SDK finds its authorities.
fn authorities_file() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = [
        "/etc/arvados/ca-certificates.crt",
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ];
    named.into_iter().chain(usual.map(PathBuf::from)).find(|path| path.exists())
}
