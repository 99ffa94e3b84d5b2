// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The thread that listens: subscribes, connects again, and tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::{Condvar, Mutex};
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::socket::Socket;
use crate::net::{Access, Clients, reason};
use crate::report::report;

/// Shortest and longest pause before connecting again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// A connection that lasted as long was a good one: the next pause is the shortest again.
const GOOD: Duration = Duration::from_secs(30);
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long whoever closes waits for the thread.
const FAREWELL: Duration = Duration::from_secs(1);

/// Told of what comes, on the thread that listens.
pub trait Listener: Send + Sync {
    /// A subscription begins: from now on every change is told. `after_gap`: some may not have been.
    fn subscribed(&self, after_gap: bool);

    /// It ended.
    fn ended(&self);

    /// Whether an event is about something that is known here. False: it is not told.
    fn concerns(&self, event: &Value) -> bool;

    /// An event, or something else that is no event.
    fn told(&self, text: &str);
}

/// What to listen to.
pub struct Settings {
    /// The event bus, `wss:`, with the token.
    pub url: String,
    /// Filters of events, as JSON.
    pub filters: String,
    /// How servers are reached.
    pub access: Access,
}

struct Shared {
    /// Without the token.
    place: String,
    filters: Value,
    url: Url,
    closed: AtomicBool,
    closing: Notify,
    ended: (Mutex<bool>, Condvar),
    listener: Arc<dyn Listener>,
}

/// Listens to the event bus until it is closed.
pub struct EventBus {
    shared: Arc<Shared>,
}

impl EventBus {
    /// Connects, and listens in a thread of its own from then on.
    ///
    /// # Errors
    /// Why the first connection was not made.
    pub fn listen(settings: Settings, listener: Arc<dyn Listener>) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what} of the event bus cannot be read");
        let place = settings.url.split('?').next().unwrap_or_default().to_owned();
        let https = match settings.url.split_once("://") {
            Some(("wss", rest)) => format!("https://{rest}"),
            Some(("ws", rest)) => format!("http://{rest}"),
            _ => return Err(wrong("the address")),
        };
        let url: Url = https.parse().map_err(|_| wrong("the address"))?;
        let filters = serde_json::from_str(&settings.filters).map_err(|_| wrong("the filters"))?;
        let client = Clients::new(settings.access).client(true)?;
        let client = client.connect_timeout(CONNECT).build().map_err(|error| reason(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let socket = runtime.block_on(Socket::connect(&client, url.clone()))?;
        let ended = (Mutex::new(false), Condvar::new());
        let (closed, closing) = (AtomicBool::new(false), Notify::new());
        let shared = Arc::new(Shared { place, filters, url, closed, closing, ended, listener });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                theirs.run(&runtime, &client, socket);
                *theirs.ended.0.lock() = true;
                theirs.ended.1.notify_all();
            })
            .map_err(|error| format!("no thread to listen: {error}"))?;
        Ok(EventBus { shared })
    }

    /// Ends the subscription. Returns when the thread is done, or after a second.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.closing.notify_one();
        let mut ended = self.shared.ended.0.lock();
        let until = Instant::now() + FAREWELL;
        while !*ended && !self.shared.ended.1.wait_until(&mut ended, until).timed_out() {}
    }
}

impl Drop for EventBus {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.closing.notify_one();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn run(&self, runtime: &Runtime, client: &Client, socket: Socket) {
        let (mut pause, mut last_id, mut again) = (PAUSES.0, None, false);
        let mut socket = Some(socket);
        while let Some(open) = socket.take() {
            let began = Instant::now();
            // An event that breaks every connection is not asked for again.
            let (newest, mut reason) = runtime.block_on(self.follow(open, last_id, again));
            last_id = newest;
            if began.elapsed() > GOOD {
                pause = PAUSES.0;
            }
            again = true;
            while socket.is_none() && !self.is_closed() {
                let line = format!("event bus at {}: {reason}; connecting again", self.place);
                report(Level::Warn, &line);
                let now = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                let _ = runtime.block_on(async { timeout(now, self.closing.notified()).await });
                pause = (2 * pause).min(PAUSES.1);
                if self.is_closed() {
                    break;
                }
                match runtime.block_on(Socket::connect(client, self.url.clone())) {
                    Ok(open) => socket = Some(open),
                    Err(why) => reason = why,
                }
            }
        }
    }

    /// Subscribes, and tells what comes; answers the id of the last event that came, and why no more does.
    async fn follow(
        &self,
        mut socket: Socket,
        last_id: Option<i64>,
        again: bool,
    ) -> (Option<i64>, String) {
        let mut newest = None;
        let mut subscribe = serde_json::json!({"method": "subscribe", "filters": self.filters});
        if let Some(id) = last_id {
            subscribe["last_log_id"] = id.into();
        }
        let mut reason = socket.send(subscribe.to_string()).await.err();
        let mut subscribed = false;
        while reason.is_none() && !self.is_closed() {
            let next = tokio::select! {
                () = self.closing.notified() => break,
                next = socket.next() => next,
            };
            match next {
                Ok(text) => {
                    let event = serde_json::from_str::<Value>(&text);
                    let id = event.as_ref().ok().and_then(|event| event.get("id")?.as_i64());
                    newest = id.or(newest);
                    match event {
                        Ok(event) if event.get("status") == Some(&Value::from(200)) => {
                            subscribed = true;
                            self.listener.subscribed(again);
                        }
                        Ok(event) if event.is_object() && !self.listener.concerns(&event) => {}
                        _ => self.listener.told(&text),
                    }
                }
                Err(why) => reason = Some(why),
            }
        }
        if subscribed {
            self.listener.ended();
        }
        if self.is_closed() {
            socket.close().await;
        }
        (newest, reason.unwrap_or_else(|| "it is closed".into()))
    }
}
