// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Connections that need no thread of their own: they move only while somebody waits for an answer, in that
//! thread.
//!
//! A process may so ask the API, and fork afterwards; in the child all begin anew.

use std::net::ToSocketAddrs;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::runtime::Runtime;

use super::trouble::{NoSuchHost, Trouble};
use crate::net::{Access, Clients, reason};

/// How many that nobody uses are kept.
const KEPT: usize = 8;
/// After how long without a request a connection is not used again.
const IDLE: Duration = Duration::from_secs(30);

/// A client with the connections that it keeps, and what moves them.
pub(super) struct Connection {
    runtime: Runtime,
    pub client: Client,
}

/// The connections that nobody uses just now.
pub(super) struct Connections {
    clients: Clients,
    connect_timeout: Duration,
    /// With the process that they are of.
    unused: Mutex<(u32, Vec<Connection>)>,
}

impl Connection {
    /// Waits, in this thread, for what needs the connection.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

impl Connections {
    pub(super) fn new(access: Access, connect_timeout: Duration) -> Self {
        let unused = Mutex::new((std::process::id(), Vec::new()));
        Connections { clients: Clients::new(access), connect_timeout, unused }
    }

    /// One for a request.
    pub(super) fn take(&self) -> Result<Connection, Trouble> {
        let unused = {
            let mut unused = self.unused.lock();
            let here = std::process::id();
            if unused.0 != here {
                // The parent's: what it is in the midst of is not ours.
                std::mem::forget(std::mem::take(&mut unused.1));
                unused.0 = here;
            }
            unused.1.pop()
        };
        match unused {
            Some(connection) => Ok(connection),
            None => self.made().map_err(|reason| Trouble::Unreachable { reason, lasting: true }),
        }
    }

    fn made(&self) -> Result<Connection, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot wait for answers: {error}"))?;
        let client = self
            .clients
            .client(true)?
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE)
            .dns_resolver(InThisThread)
            .build()
            .map_err(|error| reason(&error))?;
        Ok(Connection { runtime, client })
    }

    /// It may be used again.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut unused = self.unused.lock();
        if unused.1.len() < KEPT {
            unused.1.push(connection);
        }
    }
}

/// Looks names up as the system does, in the thread that waits: another one would be lost in a fork.
struct InThisThread;

impl Resolve for InThisThread {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (name.as_str(), 0).to_socket_addrs();
        Box::pin(async move {
            match found {
                Ok(addresses) => Ok(Box::new(addresses) as Addrs),
                Err(_) => Err(NoSuchHost.into()),
            }
        })
    }
}
