// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! SIGTERM, SIGINT and SIGHUP end the loop, whichever thread it runs in.
//!
//! Python's own signal handlers run in the main thread only, between two bytecodes; a program whose
//! main thread waits in `join()` while another serves the mount would never hear of a signal. So the
//! signals are caught below Python, as libfuse does, and a byte goes down a pipe.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

const CAUGHT: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The end of the pipe that the handler writes to; -1 where none is installed.
static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(number: libc::c_int) {
    let fd = PIPE.load(Ordering::Relaxed);
    if fd >= 0 {
        let byte = [u8::try_from(number).unwrap_or(0)];
        // SAFETY: write(2) may be called from a signal handler (signal-safety(7)); the byte lives
        // for the call, and a descriptor closed meanwhile only makes it fail.
        #[allow(unsafe_code)]
        unsafe {
            libc::write(fd, byte.as_ptr().cast(), 1);
        }
    }
}

/// What ends the loop from outside: a signal, or `stop()`.
pub struct Wakeup {
    reader: UnixStream,
    writer: UnixStream,
}

impl Wakeup {
    /// A pipe for words from outside.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        Ok(Wakeup { reader, writer })
    }

    /// Waits for a word: the number of a signal, or 0.
    ///
    /// # Errors
    /// Where reading fails.
    pub fn wait(&self) -> io::Result<u8> {
        let mut byte = [0_u8];
        let count = (&self.reader).read(&mut byte)?;
        Ok(if count == 0 { 0 } else { byte[0] })
    }

    /// Another end to write to.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.writer.try_clone()
    }

    /// Ends the wait, for good.
    pub fn close(&self) {
        let _ = self.writer.shutdown(std::net::Shutdown::Both);
    }
}

/// The signal handlers, while they are installed.
pub struct Handlers {
    previous: Vec<(Signal, SigAction)>,
    pipe: RawFd,
}

fn ours() -> SigAction {
    SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty())
}

fn is_ours(action: &SigAction) -> bool {
    match action.handler() {
        SigHandler::Handler(function) => {
            std::ptr::fn_addr_eq(function, on_signal as extern "C" fn(libc::c_int))
        }
        _ => false,
    }
}

impl Handlers {
    /// Catches the signals and writes their numbers to `pipe`.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn install(pipe: UnixStream) -> io::Result<Self> {
        let pipe: RawFd = OwnedFd::from(pipe).into_raw_fd();
        PIPE.store(pipe, Ordering::Relaxed);
        let mut handlers = Handlers { previous: Vec::new(), pipe };
        for signal in CAUGHT {
            // SAFETY: the handler only calls write(2).
            #[allow(unsafe_code)]
            let previous = unsafe { sigaction(signal, &ours()) }?;
            handlers.previous.push((signal, previous));
        }
        Ok(handlers)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, previous) in &self.previous {
            // Whoever installed a handler after us keeps it.
            // SAFETY: what is put back is what was there before, or what was found just now.
            #[allow(unsafe_code)]
            unsafe {
                if let Ok(current) = sigaction(*signal, previous)
                    && !is_ours(&current)
                {
                    let _ = sigaction(*signal, &current);
                }
            }
        }
        PIPE.store(-1, Ordering::Relaxed);
        let _ = nix::unistd::close(self.pipe.as_raw_fd());
    }
}
