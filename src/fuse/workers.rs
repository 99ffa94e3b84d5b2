// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The threads that wait for requests, where they have to be told that none comes any more.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What fuser calls its threads.
const WORKERS: &str = "fuser-";

/// Ignored by default, so that one that comes late does no harm.
const INTERRUPT: Signal = Signal::SIGURG;

extern "C" fn do_nothing(_number: libc::c_int) {}

/// Has a descriptor lead to /dev/null, and returns one for what it led to.
///
/// # Errors
/// Where the process has no descriptors left.
pub(super) fn replace_by_null(fd: RawFd) -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: the caller's session owns `fd` for as long as it lasts; dup2(2) and fcntl(2) change
    // what it leads to, not who owns it, and what F_DUPFD_CLOEXEC returns is owned by nobody yet.
    #[allow(unsafe_code)]
    unsafe {
        let kept = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        if kept < 0 {
            return Err(io::Error::last_os_error());
        }
        let kept = OwnedFd::from_raw_fd(kept);
        if libc::dup3(null.as_raw_fd(), fd, libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(kept)
    }
}

/// Interrupts system calls of the workers; what was done about the signal before is put back when
/// this is dropped.
pub(super) struct Interrupter(SigAction);

impl Interrupter {
    /// # Errors
    /// Where the system refuses.
    pub(super) fn install() -> io::Result<Self> {
        // Without SA_RESTART: a read that it interrupts fails.
        let handler =
            SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        #[allow(unsafe_code)]
        Ok(Interrupter(unsafe { sigaction(INTERRUPT, &handler) }?))
    }

    /// Interrupts each of them once.
    pub(super) fn interrupt_workers(&self) {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
        for task in tasks.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let number = task.file_name().to_str().and_then(|n| n.parse::<libc::pid_t>().ok());
            if let (true, Some(tid)) = (name.starts_with(WORKERS), number) {
                // SAFETY: a system call that takes three numbers. A thread that has ended meanwhile,
                // or another of this process with its number, ignores the signal.
                #[allow(unsafe_code)]
                unsafe {
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, INTERRUPT as libc::c_int);
                }
            }
        }
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        // SAFETY: what was there before.
        #[allow(unsafe_code)]
        let _ = unsafe { sigaction(INTERRUPT, &self.0) };
    }
}
