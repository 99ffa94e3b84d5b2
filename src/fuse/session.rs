// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Serving a mount from its first request to its last.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::adapter::Adapter;
use super::desk::Desk;
use super::mount::{self, Mount, Place};
use super::notifier::Notifier;
use super::options::Options;
use super::workers;
use crate::fs::{FileSystem, KernelNotifier};

/// How long a stopped session may go on: long enough for the requests under way, and for files
/// that are closed when their users see the mount go.
const GRACE: Duration = Duration::from_secs(2);

/// How often a worker that has not heard that it is to end is told again.
const AGAIN: Duration = Duration::from_millis(20);

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
    desk: Arc<Desk>,
    /// The descriptor that the workers read requests from, and what keeps it open for as long as
    /// the session lasts, so that the number is not another file's by then.
    device: RawFd,
    open: Mutex<Option<fuser::Notifier>>,
    /// The connection, where the session ended and left the mount in the tree: its users wait until
    /// this is closed.
    left: Mutex<Option<OwnedFd>>,
}

impl Stopper {
    /// Has the session end: takes the mount out of the tree, and, where requests still come after
    /// a moment, cuts the connection. Returns when the session has ended or was cut.
    pub fn stop(&self) {
        if !self.begin() {
            return;
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

    /// Has the session end and leaves the mount where it is. Requests under way are answered, those
    /// that come later wait until [`Stopper::take_connection`]'s descriptor is closed. Returns when
    /// the session has ended, or after a moment.
    ///
    /// The workers wait for requests in read(2), which nothing ends but the end of the connection.
    /// So their descriptor is made to lead to /dev/null, where reading brings an empty request, which
    /// ends them; a signal then has them read again. The connection itself is kept.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn leave(self: &Arc<Self>) -> io::Result<()> {
        if !self.begin() {
            return Ok(());
        }
        self.desk.drain(Instant::now() + GRACE);
        let phase = self.phase.lock();
        if phase.ended {
            return Ok(());
        }
        *self.left.lock() = Some(workers::replace_by_null(self.device)?);
        self.desk.close();
        drop(phase);
        let stopper = Arc::clone(self);
        std::thread::Builder::new()
            .name("fuse-interrupt".into())
            .spawn(move || stopper.interrupt_until_ended())?;
        let deadline = Instant::now() + GRACE;
        let mut phase = self.phase.lock();
        while !phase.ended && !self.changed.wait_until(&mut phase, deadline).timed_out() {}
        Ok(())
    }

    /// However long it takes until each worker reads again: on a machine that does much else, or where
    /// a handler takes its time.
    fn interrupt_until_ended(&self) {
        let interrupter = match workers::Interrupter::install() {
            Ok(interrupter) => interrupter,
            Err(error) => return log::error!("the workers cannot be interrupted: {error}"),
        };
        let mut phase = self.phase.lock();
        while !phase.ended {
            interrupter.interrupt_workers();
            self.changed.wait_for(&mut phase, AGAIN);
        }
    }

    fn begin(&self) -> bool {
        let mut phase = self.phase.lock();
        !std::mem::replace(&mut phase.stopping, true) && !phase.ended
    }

    /// The connection, where the session ended and left the mount. Whoever uses the mount waits
    /// until it is closed, and gets errors from then on.
    pub fn take_connection(&self) -> Option<OwnedFd> {
        self.left.lock().take()
    }
}

/// A mount on the way to being served.
pub struct Session {
    inner: fuser::Session<Adapter>,
    /// A duplicate of the connection's descriptor, for as long as the session lasts.
    device: Arc<OwnedFd>,
    expires: Arc<AtomicBool>,
    stopper: Arc<Stopper>,
    desk: Arc<Desk>,
    workers: usize,
}

impl Session {
    /// Agrees on terms with the kernel and tells `fs` that its session begins. Serves with
    /// `workers` threads, which [`Session::run`] starts; a single one is the thread that calls that.
    ///
    /// # Errors
    /// Where the mount is gone, or the kernel's protocol is too old.
    pub fn begin(
        mount: Mount,
        options: &Options,
        fs: Arc<dyn FileSystem>,
        workers: usize,
    ) -> io::Result<Self> {
        let desk = Arc::new(Desk::new(workers == 1));
        let stopper = Arc::new(Stopper {
            place: mount.place,
            phase: Mutex::default(),
            changed: Condvar::new(),
            desk: Arc::clone(&desk),
            device: mount.device.as_fd().as_raw_fd(),
            open: Mutex::default(),
            left: Mutex::default(),
        });
        let mut config = fuser::Config::default();
        config.n_threads = Some(workers.max(1));
        // Who may come in is the kernel's business: it knows about allow_other.
        config.acl = fuser::SessionACL::All;
        let expires = Arc::default();
        let adapter = Adapter::new(fs, options.clone(), Arc::clone(&desk), Arc::clone(&expires));
        let device = Arc::new(mount.device.try_clone()?);
        let inner = fuser::Session::from_fd(adapter, mount.device, fuser::SessionACL::All, config)?;
        *stopper.open.lock() = Some(inner.notifier());
        if let Some(bytes) = options.max_readahead {
            stopper.place.raise_read_ahead(bytes);
        }
        Ok(Session { inner, device, expires, stopper, desk, workers })
    }

    /// The means to stop it.
    #[must_use]
    pub fn stopper(&self) -> Arc<Stopper> {
        Arc::clone(&self.stopper)
    }

    /// The means to notify the kernel.
    #[must_use]
    pub fn notifier(&self) -> Arc<dyn KernelNotifier> {
        let device = Arc::downgrade(&self.device);
        Arc::new(Notifier::new(self.inner.notifier(), device, Arc::clone(&self.expires)))
    }

    /// Serves until the mount is gone, by whatever hand, or left; all its threads have ended then.
    ///
    /// # Errors
    /// What reading from the kernel failed with.
    pub fn run(self) -> io::Result<()> {
        let Session { inner, device, stopper, desk, workers, .. } = self;
        let result = if workers == 1 {
            // fuser reads in a thread of its own, and has this one answer.
            desk.open();
            let reader = std::thread::Builder::new().name("fuse-reader".into()).spawn({
                let desk = Arc::clone(&desk);
                move || {
                    let _ended = desk.ends_with_this();
                    inner.run()
                }
            })?;
            desk.serve();
            reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
        } else {
            inner.run()
        };
        drop(device);
        {
            let mut phase = stopper.phase.lock();
            phase.ended = true;
            stopper.open.lock().take();
        }
        stopper.changed.notify_all();
        match result {
            // The connection was cut while a request was being read.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ECONNABORTED)) =>
            {
                Ok(())
            }
            // What the workers read from /dev/null.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData && stopper.left.lock().is_some() =>
            {
                Ok(())
            }
            result => result,
        }
    }
}
