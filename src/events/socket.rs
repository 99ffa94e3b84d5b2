// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A websocket: the connection is made, and upgraded, by the same client as requests are.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use reqwest::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Client, Url};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::net::reason;

/// The longest message, in bytes. An event has no manifest.
const LONGEST: usize = 1 << 20;
/// How long to wait for the connection to be a websocket.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After such a silence the server is asked for a sign of life, which it has as long to give.
const SILENCE: Duration = Duration::from_secs(20);

/// A websocket that is open.
pub(super) struct Socket {
    stream: WebSocketStream<reqwest::Upgraded>,
}

impl Socket {
    /// Connects to an `https:` address. The error is text for a log.
    pub(super) async fn connect(client: &Client, url: Url) -> Result<Self, String> {
        let key = generate_key();
        let request = client
            .get(url)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let Ok(response) = timeout(HANDSHAKE, request.send()).await else {
            return Err(format!("no answer in {} s", HANDSHAKE.as_secs()));
        };
        let response = response.map_err(|error| reason(&error))?;
        let status = response.status().as_u16();
        if status != 101 {
            return Err(format!("the server answered {status}"));
        }
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted != derive_accept_key(key.as_bytes()).as_str()) {
            return Err("the server speaks no websocket".into());
        }
        let upgraded = response.upgrade().await.map_err(|error| reason(&error))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(LONGEST))
            .max_frame_size(Some(LONGEST));
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        Ok(Socket { stream })
    }

    /// Sends a text.
    pub(super) async fn send(&mut self, text: String) -> Result<(), String> {
        self.stream.send(Message::text(text)).await.map_err(|error| told(&error))
    }

    /// The next text; else why there is none any more.
    pub(super) async fn next(&mut self) -> Result<String, String> {
        let mut asked = false;
        loop {
            let message = match timeout(SILENCE, self.stream.next()).await {
                Err(_) if asked => {
                    return Err(format!("no sign of life in {} s", 2 * SILENCE.as_secs()));
                }
                Err(_) => {
                    asked = true;
                    let ping = self.stream.send(Message::Ping(Bytes::new())).await;
                    ping.map_err(|error| told(&error))?;
                    continue;
                }
                Ok(None) => return Err("the connection was closed".into()),
                Ok(Some(message)) => message.map_err(|error| told(&error))?,
            };
            asked = false;
            match message {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                // What is no text is no event.
                Message::Binary(_) => return Ok(String::new()),
                Message::Close(_) => return Err("the connection was closed".into()),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        let _ = timeout(Duration::from_millis(300), self.stream.close(None)).await;
    }
}

fn told(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            "the connection was closed".into()
        }
        other => other.to_string(),
    }
}
