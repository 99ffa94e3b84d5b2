// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Serving a mount from its first request to its last.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::mount::{self, Mount, Place};
use super::notifier::Notifier;
use super::options::Options;
use crate::fs::{FileSystem, KernelNotifier};

/// How long a stopped session may go on: long enough for the requests under way, and for files
/// that are closed when their users see the mount go.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Phase {
    stopping: bool,
    ended: bool,
}

/// Stops a session from another thread.
pub struct Stopper {
    place: Place,
    phase: Mutex<Phase>,
    changed: Condvar,
}

impl Stopper {
    /// Has the session end: takes the mount out of the tree, and, where requests still come after
    /// a moment, cuts the connection. Returns when the session has ended or was cut.
    pub fn stop(&self) {
        {
            let mut phase = self.phase.lock();
            if phase.stopping || phase.ended {
                return;
            }
            phase.stopping = true;
        }
        self.place.detach();
        let deadline = Instant::now() + GRACE;
        let mut phase = self.phase.lock();
        while !phase.ended {
            if self.changed.wait_until(&mut phase, deadline).timed_out() {
                drop(phase);
                log::info!(
                    "cutting the connection of {}: files are open",
                    self.place.path.display()
                );
                let aborted = match self.place.minor {
                    Some(minor) => mount::abort(minor),
                    None => Err(io::Error::other("its number is not known")),
                };
                if let Err(error) = aborted {
                    log::warn!(
                        "cannot cut the connection of {}: {error}; it ends when the files that are open in it are closed",
                        self.place.path.display()
                    );
                }
                return;
            }
        }
    }
}

/// A mount on the way to being served.
pub struct Session {
    inner: fuser::Session<Adapter>,
    stopper: Arc<Stopper>,
}

impl Session {
    /// Agrees on terms with the kernel and tells `fs` that its session begins. Serves with
    /// `workers` threads, which [`Session::run`] starts.
    ///
    /// # Errors
    /// Where the mount is gone, or the kernel's protocol is too old.
    pub fn begin(
        mount: Mount,
        options: &Options,
        fs: Arc<dyn FileSystem>,
        workers: usize,
    ) -> io::Result<Self> {
        let stopper = Arc::new(Stopper {
            place: mount.place,
            phase: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut config = fuser::Config::default();
        config.n_threads = Some(workers.max(1));
        // Who may come in is the kernel's business: it knows about allow_other.
        config.acl = fuser::SessionACL::All;
        let adapter = Adapter::new(fs, options.clone());
        let inner = fuser::Session::from_fd(adapter, mount.device, fuser::SessionACL::All, config)?;
        if let Some(bytes) = options.max_readahead {
            stopper.place.raise_read_ahead(bytes);
        }
        Ok(Session { inner, stopper })
    }

    /// The means to stop it.
    #[must_use]
    pub fn stopper(&self) -> Arc<Stopper> {
        Arc::clone(&self.stopper)
    }

    /// The means to notify the kernel.
    #[must_use]
    pub fn notifier(&self) -> Arc<dyn KernelNotifier> {
        Arc::new(Notifier(self.inner.notifier()))
    }

    /// Serves until the mount is gone, by whatever hand; all its threads have ended then.
    ///
    /// # Errors
    /// What reading from the kernel failed with.
    pub fn run(self) -> io::Result<()> {
        let Session { inner, stopper } = self;
        let result = inner.run();
        stopper.phase.lock().ended = true;
        stopper.changed.notify_all();
        match result {
            // The connection was cut while a request was being read.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ECONNABORTED)) =>
            {
                Ok(())
            }
            result => result,
        }
    }
}
