// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The API client against a real HTTP server on loopback, which answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arvados_fuse::api::{Answer, Api, Config, Failure, Request};
use arvados_fuse::net::Access;
use parking_lot::Mutex;

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    /// Status line and headers, and a body.
    Answer(String, String),
    /// The connection is closed instead.
    Close,
    /// So many bytes of a body that is said to be longer, then the connection is closed.
    Cut(usize),
    /// Nothing.
    Silence,
}

#[derive(Default)]
struct Script {
    replies: Vec<Reply>,
    /// Heads and bodies of requests.
    heard: Vec<(String, String)>,
    connections: usize,
}

struct Server {
    url: String,
    script: Arc<Mutex<Script>>,
}

fn ok(body: &str) -> Reply {
    status(200, body)
}

fn status(status: u16, body: &str) -> Reply {
    Reply::Answer(format!("HTTP/1.1 {status} So\r\nX-Told: yes\r\n"), body.into())
}

fn to(location: &str) -> Reply {
    Reply::Answer(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n"), String::new())
}

fn serve(connection: &TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let small = head.to_ascii_lowercase();
        let length = small.split_once("content-length: ").map_or(0, |(_, rest)| {
            rest.split("\r\n").next().and_then(|text| text.parse().ok()).unwrap_or(0)
        });
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let reply = {
            let mut script = script.lock();
            script.heard.push((head, String::from_utf8(body).expect("text")));
            if script.replies.is_empty() { Reply::Close } else { script.replies.remove(0) }
        };
        let mut to = connection;
        match reply {
            Reply::Answer(head, body) => {
                write!(to, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
            }
            Reply::Close => return Ok(()),
            Reply::Cut(sent) => {
                write!(to, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "{".repeat(sent))?;
                return Ok(());
            }
            Reply::Silence => std::thread::sleep(Duration::from_secs(3)),
        }
    }
}

impl Server {
    fn new(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://127.0.0.1:{}", listener.local_addr().expect("bound").port());
        let script = Arc::new(Mutex::new(Script { replies, ..Script::default() }));
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, script) = (connection.expect("a connection"), Arc::clone(&shared));
                script.lock().connections += 1;
                std::thread::spawn(move || drop(serve(&connection, &script)));
            }
        });
        Server { url, script }
    }

    fn request(&self, method: &str, num_retries: u32) -> Request {
        let url = format!("{}/arvados/v1/collections/x?alt=json", self.url);
        Request { method: method.into(), url, num_retries, ..Request::default() }
    }

    fn get(&self, num_retries: u32) -> Result<Answer, Failure> {
        api(Config::default()).ask(&self.request("GET", num_retries))
    }

    /// The first lines of what was asked.
    fn heard(&self) -> Vec<String> {
        let first = |(head, _): &(String, String)| head.split("\r\n").next().unwrap_or("").into();
        self.script.lock().heard.iter().map(first).collect()
    }

    /// What is behind the scheme.
    fn host(&self) -> &str {
        &self.url["http://".len()..]
    }
}

fn api(config: Config) -> Api {
    Api::new(Config { token: "v2/secret".into(), ..config }).expect("a token")
}

fn body(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).expect("text")
}

const ASKED: &str = "GET /arvados/v1/collections/x?alt=json HTTP/1.1";

#[test]
fn an_answer_is_all_of_it_and_the_connection_stays() {
    let server = Server::new(vec![ok("{}"), status(404, "nothing"), ok(r#"{"a": 1}"#)]);
    let api = api(Config::default());
    assert!(!api.was_reached());
    let answer = api.ask(&server.request("GET", 0)).expect("an answer");
    assert_eq!((answer.status, body(&answer)), (200, "{}"));
    assert!(answer.headers.contains(&("x-told".into(), "yes".into())));
    assert!(api.was_reached());
    let answer = api.ask(&server.request("GET", 3)).expect("an answer");
    assert_eq!((answer.status, body(&answer)), (404, "nothing"));
    let mut request = server.request("PUT", 0);
    request.body = Some(("{\"b\": 2}".into(), "application/json".into()));
    request.headers.push(("X-Request-Id".into(), "req-1".into()));
    let answer = std::thread::scope(|scope| {
        // Another thread has no connection of its own.
        scope.spawn(|| api.ask(&request)).join().expect("no panic")
    });
    assert_eq!(body(&answer.expect("an answer")), r#"{"a": 1}"#);
    let script = server.script.lock();
    assert_eq!(script.connections, 1);
    let (head, sent) = &script.heard[2];
    assert_eq!(sent, "{\"b\": 2}");
    let head = head.to_ascii_lowercase();
    for line in ["x-request-id: req-1", "authorization: bearer v2/secret", "json\r\n"] {
        assert!(head.contains(line), "{head}");
    }
}

#[test]
fn what_may_be_another_answer_the_next_time_is_asked_for_again() {
    let server = Server::new(vec![status(503, "busy"), status(429, "slow"), ok("{}")]);
    assert_eq!(server.get(2).expect("an answer").status, 200);
    assert_eq!(server.heard(), [ASKED; 3]);
    let server = Server::new(vec![status(503, "busy"), ok("{}")]);
    assert_eq!(server.get(0).expect("an answer").status, 503);
    let server = Server::new(vec![status(422, "no"), ok("{}")]);
    assert_eq!(server.get(5).expect("an answer").status, 422);
}

#[test]
fn who_says_when_is_asked_again_then() {
    let busy = |when: &str| {
        let head =
            format!("HTTP/1.1 503 Busy\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n{when}\r\n");
        Reply::Answer(head, "busy".into())
    };
    for (when, least) in [
        ("Retry-After: 2", 2.0),
        // By the server's clock.
        ("Retry-After: Thu, 01 Jan 2026 00:00:02 GMT", 1.0),
        ("Retry-After: Wed, 31 Dec 2025 00:00:02 GMT", 0.0),
        ("Retry-After: soon", 0.0),
    ] {
        let server = Server::new(vec![busy(when), ok("{}")]);
        let began = Instant::now();
        assert_eq!(server.get(1).expect("an answer").status, 200);
        let took = began.elapsed().as_secs_f64();
        assert!(took >= least, "{when}: {took} s");
    }
    // A program waits for that.
    let server = Server::new(vec![busy("Retry-After: 61"), ok("{}")]);
    let began = Instant::now();
    assert_eq!(server.get(1).expect("an answer").status, 503);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a_connection_that_is_closed_counts_once() {
    let server = Server::new(vec![Reply::Close, ok("{}")]);
    assert_eq!(server.get(0).expect("an answer").status, 200);
    let server = Server::new(vec![Reply::Close, Reply::Close, ok("{}")]);
    let Failure(why) = server.get(0).expect_err("closed twice");
    assert_eq!(
        why,
        format!("the API at {} cannot be reached: the connection was closed", server.host())
    );
    // As a server does with connections that nobody used for long.
    let server = Server::new(vec![ok("{}")]);
    let api = api(Config::default());
    assert_eq!(api.ask(&server.request("GET", 0)).expect("an answer").status, 200);
    server.script.lock().replies = vec![Reply::Close, ok("{}")];
    assert_eq!(api.ask(&server.request("GET", 0)).expect("an answer").status, 200);
}

#[test]
fn an_update_is_not_made_twice() {
    let mut replies = vec![Reply::Close, ok(r#"{"portable_data_hash": "new"}"#)];
    let server = Server::new(replies.clone());
    let update = |server: &Server| Request {
        if_hash: Some("old".into()),
        body: Some(("{}".into(), "application/json".into())),
        ..server.request("PUT", 0)
    };
    let asked = "GET /arvados/v1/collections/x?select=%5B%22portable_data_hash%22%5D HTTP/1.1";
    let put = ASKED.replace("GET", "PUT");
    let answer = api(Config::default()).ask(&update(&server)).expect("an answer");
    let text = "the portable data hash is new and not old";
    assert_eq!((answer.status, body(&answer)), (412, text));
    assert_eq!(server.heard(), [&put, asked]);
    // It was not made the first time.
    replies[1] = ok(r#"{"portable_data_hash": "old"}"#);
    replies.push(ok("{}"));
    let server = Server::new(replies);
    assert_eq!(api(Config::default()).ask(&update(&server)).expect("an answer").status, 200);
    assert_eq!(server.heard(), [&put, asked, &put]);
    let server = Server::new(vec![Reply::Close, status(404, "gone")]);
    assert_eq!(api(Config::default()).ask(&update(&server)).expect("an answer").status, 404);
}

#[test]
fn the_token_stays_with_the_host() {
    let other = Server::new(vec![ok("{}")]);
    let server = Server::new(vec![to(&format!("{}/there", other.url)), to("/here"), ok("{}")]);
    let Failure(why) = server.get(5).expect_err("elsewhere");
    assert!(
        why.contains(&format!("redirects GET /arvados/v1/collections/x to {}", other.url)),
        "{why}"
    );
    assert!(why.contains("is ARVADOS_API_HOST the API's own name?"), "{why}");
    assert_eq!(other.heard(), [""; 0]);
    assert_eq!(server.get(0).expect("an answer").status, 200);
    assert_eq!(server.heard()[2], "GET /here HTTP/1.1");
    server.script.lock().replies = vec![to("/again"); 9];
    let Failure(why) = server.get(0).expect_err("no end");
    assert!(why.ends_with("over and over"), "{why}");
    server.script.lock().replies = vec![to("/here")];
    let asked = api(Config::default()).ask(&server.request("POST", 0));
    assert!(asked.expect_err("it would be asked by GET").0.contains("not followed"));
}

#[test]
fn what_is_no_record_is_no_answer() {
    for (reply, told) in [
        (ok("<html>\n"), "the answer to GET /arvados/v1/collections/x is no record: b'<html>'"),
        (ok(""), "is no record: b''"),
        (Reply::Cut(7), "the answer was cut short"),
        (Reply::Answer("HTP 200\r\n".into(), String::new()), "gave no proper answer"),
    ] {
        let server = Server::new(vec![reply.clone(), ok("{}")]);
        let Failure(why) = server.get(0).expect_err("no record");
        assert!(why.contains("gave no proper answer: "), "{why}");
        assert!(why.contains(told), "{why}");
        let server = Server::new(vec![reply, ok("{}")]);
        assert_eq!(server.get(1).expect("the next is one").status, 200);
    }
}

#[test]
fn all_attempts_share_a_time() {
    let server = Server::new(vec![Reply::Silence, Reply::Silence]);
    let time_limit = Duration::from_millis(300);
    let api = api(Config { time_limit, ..Config::default() });
    let began = Instant::now();
    let mut request = server.request("GET", 9);
    request.headers.push(("X-Request-Id".into(), "req-1".into()));
    let Failure(why) = api.ask(&request).expect_err("silence");
    let (host, what) = (server.host(), "GET /arvados/v1/collections/x (req-1)");
    assert_eq!(
        why,
        format!("the API at {host} cannot be reached: no answer within 0.3 s to {what}")
    );
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn what_does_not_get_better_is_told_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://127.0.0.1:{}/x", free.local_addr().expect("bound").port());
    drop(free);
    let request = |url: &str, num_retries| {
        let (method, url) = ("GET".into(), url.into());
        api(Config::default()).ask(&Request { method, url, num_retries, ..Request::default() })
    };
    let Failure(why) = request(&url, 0).expect_err("nobody is there");
    assert!(why.ends_with("cannot be reached: Connection refused"), "{why}");
    let began = Instant::now();
    let Failure(why) = request("http://no.such.host.invalid/x", 9).expect_err("no host");
    assert_eq!(
        why,
        "the API at no.such.host.invalid cannot be reached: there is no host of that name"
    );
    let access = Access { ca_file: Some("/no/such/file".into()), ..Access::default() };
    let api = Api::new(Config { access, ..Config::default() }).expect("not read yet");
    let (method, num_retries) = ("GET".into(), 9);
    let request = Request { method, url, num_retries, ..Request::default() };
    let Failure(why) = api.ask(&request).expect_err("no certificates");
    assert!(why.contains("cannot be reached: /no/such/file: "), "{why}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(Api::new(Config { token: "a\nb".into(), ..Config::default() }).is_err());
}
