// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A request to the API, with all its attempts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use log::Level;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::connection::{Connection, Connections};
use super::trouble::Trouble;
use super::wait::Wait;
use crate::cluster_clock;
use crate::net::Access;
use crate::report::report;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How many redirects are followed, at most.
const REDIRECTS: usize = 5;
/// Statuses below 500 that may be another one at the next attempt.
const TEMPORARY: [u16; 4] = [408, 409, 423, 429];
/// Of an answer that is none so much is told.
const TOLD: usize = 60;
/// Where a record has another hash than expected: precondition failed.
const ANOTHER: u16 = 412;

/// Settings of an [`Api`]. No `Debug`: it holds the token.
#[derive(Clone)]
pub struct Config {
    /// API token, sent as `Authorization: Bearer` to the host of each request, and to no other.
    pub token: String,
    /// How the API is reached.
    pub access: Access,
    /// How long a request may take, all its attempts included; a long body may take longer.
    pub time_limit: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            token: String::new(),
            access: Access::default(),
            time_limit: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// With its query.
    pub url: String,
    /// What is sent, and its type.
    pub body: Option<(Bytes, String)>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// How often it is asked again where that may help.
    pub num_retries: u32,
    /// The portable data hash that the record has to have where the request is made once more: what fails may have
    /// been done all the same. Where it has another one the answer is 412.
    pub if_hash: Option<String>,
}

impl Request {
    /// Its id, for a line of a log: the servers' logs have it, too.
    fn id_told(&self) -> String {
        let id = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
        id.map_or_else(String::new, |(_, id)| format!(" ({id})"))
    }
}

/// What came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status: what is no success is an answer, too.
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// With a status of 200 an object in JSON, as far as its first and last character tell.
    pub body: Bytes,
}

impl Answer {
    /// What a header says: nothing where it is not there.
    fn header(&self, name: &HeaderName) -> &str {
        let found = self.headers.iter().find(|(header, _)| *header == name.as_str());
        found.map_or("", |(_, value)| value)
    }
}

/// Why there is no answer: text that names the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// Asks the API. Starts no thread; whoever asks waits. Can be shared by all threads.
///
/// ```no_run
/// use arvados_fuse::api::{Api, Config, Request};
///
/// let api = Api::new(Config { token: "v2/...".into(), ..Config::default() })?;
/// let url = "https://api.example.org/arvados/v1/users/current".to_string();
/// let answer = api.ask(&Request { method: "GET".into(), url, ..Request::default() })?;
/// assert_eq!(answer.status, 200);
/// # Ok::<(), arvados_fuse::api::Failure>(())
/// ```
pub struct Api {
    headers: HeaderMap,
    connections: Connections,
    time_limit: Duration,
    reached: AtomicBool,
}

impl Api {
    /// Connects to nothing.
    ///
    /// # Errors
    /// Where the token has characters that HTTP does not allow.
    pub fn new(config: Config) -> Result<Self, Failure> {
        let wrong = |_| Failure("the API token has characters that HTTP does not allow".into());
        let mut token =
            HeaderValue::from_str(&format!("Bearer {}", config.token)).map_err(wrong)?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, token);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let Config { access, time_limit, connect_timeout, .. } = config;
        let connections = Connections::new(access, connect_timeout);
        Ok(Api { headers, connections, time_limit, reached: AtomicBool::new(false) })
    }

    /// Whether the API has answered anything yet.
    #[must_use]
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Asks, and asks again where that may help; waits for that.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let url: Url = request
            .url
            .parse()
            .map_err(|error| Failure(format!("{}: not a URL: {error}", request.url)))?;
        let sent = request.body.as_ref().map_or(0, |(body, _)| body.len() as u64);
        let what = format!("{} {}{}", request.method, url.path(), request.id_told());
        let mut wait = Wait::new(what, authority(&url), self.time_limit, sent);
        let (mut attempt, mut closed) = (0, false);
        loop {
            attempt += 1;
            let again = attempt > 1 || closed;
            let mut asked_pause = Duration::ZERO;
            let (reason, problem) = match self.attempt(&mut wait, request, &url, again) {
                Ok(answer) => {
                    self.reached.store(true, Ordering::Relaxed);
                    let status = answer.status;
                    if status < 500 && !TEMPORARY.contains(&status) {
                        return Ok(answer);
                    }
                    asked_pause = retry_after(&answer);
                    (format!("answered {status} to {}", wait.what), Ok(answer))
                }
                Err(Trouble::Final(message)) => return Err(Failure(message)),
                Err(Trouble::Closed) if !closed => {
                    // Most often, the connection had been closed before.
                    (attempt, closed) = (attempt - 1, true);
                    continue;
                }
                Err(trouble) => {
                    let reason = trouble.reason();
                    let failure = Failure(format!("the API at {} {reason}", wait.server));
                    if matches!(trouble, Trouble::Unreachable { lasting: true, .. })
                        && !self.was_reached()
                    {
                        return Err(failure);
                    }
                    (reason, Err(failure))
                }
            };
            let growing = Duration::from_secs(1 << (attempt - 1).min(16));
            let pause = growing.mul_f64(0.5 + fastrand::f64() / 2.0).min(LONGEST_PAUSE);
            let pause = pause.max(asked_pause);
            if attempt > request.num_retries || pause >= wait.left() {
                return problem;
            }
            let line = format!(
                "the API at {} {reason}; trying again for up to {} s",
                wait.server,
                wait.limit.as_secs_f64()
            );
            report(Level::Warn, &line);
            std::thread::sleep(pause);
        }
    }

    fn attempt(
        &self,
        wait: &mut Wait,
        request: &Request,
        url: &Url,
        again: bool,
    ) -> Result<Answer, Trouble> {
        let connection = self.connections.take()?;
        let expected = request.if_hash.as_deref().filter(|_| again);
        let answer = connection.wait(async {
            if let Some(expected) = expected
                && let Some(answer) =
                    self.is_another(&connection, wait, request, url, expected).await?
            {
                return Ok(answer);
            }
            self.follow(&connection, wait, request, url.clone()).await
        });
        // A late answer must not be taken for that to the next request.
        if answer.is_ok() {
            self.connections.give_back(connection);
        }
        answer
    }

    /// The answer to a request for a record that has another portable data hash than expected, or whose hash is
    /// not to be had.
    async fn is_another(
        &self,
        connection: &Connection,
        wait: &mut Wait,
        request: &Request,
        url: &Url,
        expected: &str,
    ) -> Result<Option<Answer>, Trouble> {
        let mut record = url.clone();
        record.query_pairs_mut().clear().append_pair("select", r#"["portable_data_hash"]"#);
        let asking = Request {
            method: "GET".into(),
            headers: request.headers.clone(),
            ..Request::default()
        };
        let answer = self.follow(connection, wait, &asking, record).await?;
        if answer.status != 200 {
            return Ok(Some(answer));
        }
        let found = match serde_json::from_slice::<Version>(&answer.body) {
            Ok(version) => version.portable_data_hash,
            Err(error) => return Err(Trouble::Improper(error.to_string())),
        };
        if found == expected {
            return Ok(None);
        }
        let text = format!("the portable data hash is {found} and not {expected}");
        Ok(Some(Answer { status: ANOTHER, headers: Vec::new(), body: text.into() }))
    }

    async fn follow(
        &self,
        connection: &Connection,
        wait: &mut Wait,
        request: &Request,
        mut url: Url,
    ) -> Result<Answer, Trouble> {
        for _ in 0..REDIRECTS {
            let answer = self.exchange(connection, wait, request, url.clone()).await?;
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                must_be_record(wait, &answer)?;
                return Ok(answer);
            }
            let target = url.join(answer.header(&LOCATION)).unwrap_or_else(|_| url.clone());
            if request.method != "GET" || target.origin() != url.origin() {
                return Err(Trouble::Final(format!(
                    "the API at {} redirects {} to {}://{}: not followed, the token would go there; \
                     is ARVADOS_API_HOST the API's own name?",
                    wait.server,
                    wait.what,
                    target.scheme(),
                    authority(&target)
                )));
            }
            url = target;
        }
        let (server, what) = (&wait.server, &wait.what);
        Err(Trouble::Final(format!("the API at {server} redirects {what} over and over")))
    }

    async fn exchange(
        &self,
        connection: &Connection,
        wait: &mut Wait,
        request: &Request,
        url: Url,
    ) -> Result<Answer, Trouble> {
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| Trouble::Final(format!("{}: not a method of HTTP", request.method)))?;
        let mut asking = connection.client.request(method, url).headers(self.headers.clone());
        for (name, value) in &request.headers {
            asking = asking.header(name, value);
        }
        if let Some((body, kind)) = &request.body {
            asking = asking.header(CONTENT_TYPE, kind).body(body.clone());
        }
        let mut response = wait.until(asking.send()).await??;
        let status = response.status().as_u16();
        if let Some(date) = response.headers().get(DATE).and_then(|date| date.to_str().ok()) {
            cluster_clock::is_told(date);
        }
        let headers = response.headers().iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let headers = headers.collect();
        let mut body = BytesMut::new();
        while let Some(chunk) = wait.until(response.chunk()).await?? {
            wait.received(chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body: body.freeze() })
    }
}

/// Host, and port where one is given.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// How long a server wants to be left alone (RFC 9110, 10.2.3); no time where it does not say.
fn retry_after(answer: &Answer) -> Duration {
    let value = answer.header(&RETRY_AFTER).trim();
    let at = || {
        let at = httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::UNIX_EPOCH);
        Some(at.ok()?.as_secs().saturating_sub(cluster_clock::now()))
    };
    Duration::from_secs(value.parse().ok().or_else(at).unwrap_or(0))
}

/// Every answer of the API is an object in JSON; what is cut or written by a proxy is not.
fn must_be_record(wait: &Wait, answer: &Answer) -> Result<(), Trouble> {
    let text = answer.body.trim_ascii();
    if answer.status != 200 || text.starts_with(b"{") && text.ends_with(b"}") {
        return Ok(());
    }
    let told = text[..text.len().min(TOLD)].escape_ascii();
    Err(Trouble::Improper(format!("the answer to {} is no record: b'{told}'", wait.what)))
}

/// What is asked of a record before an update is made once more.
#[derive(Deserialize)]
struct Version {
    portable_data_hash: String,
}
