// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Sending a block to one service, and what it answers.
//!
//! The body is taken by the connection frame by frame, which is how its progress is seen. What
//! was taken may still be in a buffer of this machine.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, HeaderValue};
use reqwest::{Method, Response};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::Timeouts;
use super::error::Answer;
use super::http::{Http, ThroughputGuard, no_answer};
use super::pieces::{Cursor, Pieces};
use super::progress::{Flow, Meter, Progress};
use super::tally::{Receipt, confirmed};
use crate::net::reason;
use crate::types::{Locator, LocatorRef, Md5};

/// A locator is shorter; what else a service says is not read.
const MAX_ANSWER: usize = 4096;

/// A block that is to be stored.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub md5: Md5,
    pub size: u32,
    pub pieces: Pieces,
}

impl Outgoing {
    /// Its locator, without a signature.
    pub(super) fn locator(&self) -> Locator {
        LocatorRef { md5: self.md5, size: self.size, hints: "" }.to_locator()
    }
}

/// How it is asked to be stored.
#[derive(Clone)]
pub(super) struct Wishes {
    pub request_id: String,
    pub replicas: u32,
    /// Separated by commas; empty: the cluster's default.
    pub classes: String,
    pub limits: Timeouts,
}

impl Http {
    /// Has one service store a block.
    pub(super) async fn put(
        &self,
        root: &str,
        block: &Outgoing,
        wishes: &Wishes,
        progress: Arc<Progress>,
    ) -> Result<Receipt, Answer> {
        let Wishes { request_id, replicas, classes, limits } = wishes;
        let path = block.md5.to_string();
        let mut request = self.request(Method::PUT, root, &path, request_id, *limits)?;
        let flow = Flow::new(progress);
        let upload = Upload::new(block, *limits, flow.meter());
        let mut builder = request.builder;
        builder = builder.header(ACCEPT, HeaderValue::from_static("*/*"));
        // Of the empty block, too.
        builder = builder.header(CONTENT_LENGTH, block.size);
        builder = builder.header("X-Keep-Desired-Replicas", *replicas);
        if !classes.is_empty() {
            builder = builder.header("X-Keep-Storage-Classes", classes);
        }
        request.builder = builder.body(reqwest::Body::wrap(upload.body()));
        let _under_way = self.metrics.requests.hold();
        let response = upload.watch(request.send()).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(Answer::Status(status.as_u16()));
        }
        self.metrics.bytes_uploaded.add(u64::from(block.size));
        match timeout(limits.read, receipt(response, block)).await {
            Ok(Ok(receipt)) => {
                flow.settle();
                Ok(receipt)
            }
            Ok(Err(answer)) => Err(answer),
            Err(_) => Err(no_answer(limits.read)),
        }
    }
}

/// Reads what a service says that it has stored.
async fn receipt(mut response: Response, block: &Outgoing) -> Result<Receipt, Answer> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let copies = header("X-Keep-Replicas-Stored").and_then(|copies| copies.trim().parse().ok());
    let classes = header("X-Keep-Storage-Classes-Confirmed").and_then(confirmed);
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| Answer::Broken(reason(&error)))?
    {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(Answer::Corrupt("an answer that is no locator".into()));
        }
    }
    let locator = std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse().ok());
    let locator: Locator =
        locator.ok_or_else(|| Answer::Corrupt("an answer that is no locator".into()))?;
    if (locator.md5(), locator.size()) != (block.md5, block.size) {
        let other = locator.stripped();
        return Err(Answer::Corrupt(format!("the locator of another block: {other}")));
    }
    Ok(Receipt { locator, copies: copies.unwrap_or(1), classes })
}

/// A body on its way, seen by who sends it. Dropped, it lets go of the block: the connection, which may
/// go on for a while, gets no more of it.
struct Upload {
    shared: Arc<Mutex<State>>,
    limits: Timeouts,
    /// When it is over if the connection has taken nothing by then.
    begins: Instant,
}

struct State {
    /// `None` once nothing more is to be sent.
    cursor: Option<Cursor>,
    left: u64,
    sent: usize,
    throughput: Option<ThroughputGuard>,
    limits: Timeouts,
    meter: Meter,
}

/// What the connection takes from.
struct Body(Arc<Mutex<State>>);

impl Upload {
    fn new(block: &Outgoing, limits: Timeouts, meter: Meter) -> Self {
        let state = State {
            cursor: Some(block.pieces.cursor()),
            left: u64::from(block.size),
            sent: 0,
            throughput: None,
            limits,
            meter,
        };
        let begins = Instant::now() + limits.connect + limits.read;
        Upload { shared: Arc::new(Mutex::new(state)), limits, begins }
    }

    fn body(&self) -> Body {
        Body(self.shared.clone())
    }

    /// The answer, unless the body is not taken in time, or nothing is answered to it.
    async fn watch(
        &self,
        answer: impl Future<Output = Result<Response, Answer>>,
    ) -> Result<Response, Answer> {
        let mut answer = std::pin::pin!(answer);
        loop {
            // The end may come nearer than it is now, when the first bytes are taken.
            let look = self.end().min(Instant::now() + self.limits.read);
            match timeout_at(look, &mut answer).await {
                Ok(outcome) => return outcome,
                Err(_) if self.end() <= Instant::now() => return Err(self.too_slow()),
                Err(_) => {}
            }
        }
    }

    fn end(&self) -> Instant {
        let state = self.shared.lock();
        state.throughput.as_ref().map_or(self.begins, ThroughputGuard::end)
    }

    fn too_slow(&self) -> Answer {
        let state = self.shared.lock();
        match &state.throughput {
            None => no_answer(self.limits.connect + self.limits.read),
            Some(_) if state.left == 0 => no_answer(self.limits.read),
            Some(throughput) => throughput.too_slow(state.sent),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.shared.lock().cursor = None;
    }
}

impl State {
    fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        if self.left == 0 {
            return None;
        }
        let Some(cursor) = &mut self.cursor else {
            return Some(Err(io::Error::other("answered before all of it was sent")));
        };
        let frame = cursor.frame();
        // Time to connect does not count as time to send.
        let begin = || ThroughputGuard::new(self.limits);
        self.throughput.get_or_insert_with(begin).advance(frame.len());
        self.sent += frame.len();
        self.left = self.left.saturating_sub(frame.len() as u64);
        self.meter.moved();
        Some(Ok(Frame::data(frame)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.lock().next())
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.lock().left)
    }
}
