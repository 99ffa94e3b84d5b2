// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a signal does while there is a mount to think of.
//!
//! Python's own signal handlers run in the main thread only, between two bytecodes, and what they
//! raise can be swallowed there: a program whose main thread waits in `join()`, or for a server, would
//! not hear of a signal. And one that nobody handles ends the process, with a dead mount left behind.
//! So signals are caught below Python. The handler looks at the phase that the process is in, and
//! only calls what signal-safety(7) allows.
//!
//! A program that calls `init` and `main` has its signals caught as llfuse documents, and nothing
//! else of it is touched; arv-mount ([`super::process`]) has all of them caught from its first line on.

use std::io::{self, Read};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use parking_lot::Mutex;

use super::last_resort;

/// What a signal does.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Phase {
    /// What it does by default.
    Default,
    /// Ends the process at once: nothing is mounted, and nothing has to be cleaned up.
    Starting,
    /// Waits for the next phase, which is near.
    Held,
    /// Takes the mount out of the tree and ends the process.
    Mounted,
    /// Is a byte in the pipe.
    Served,
    /// Is sent on to a child.
    Forwarded,
}

static PHASE: AtomicI32 = AtomicI32::new(Phase::Default as i32);
/// The process whose signals these are: a fork inherits the handlers, not the mount.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The signal that came while they were held; 0 for none.
static PENDING: AtomicI32 = AtomicI32::new(0);
/// The end of the pipe that the handler writes to; -1 where there is none.
static PIPE: AtomicI32 = AtomicI32::new(-1);
/// The child that signals are sent on to.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// All signals are ours, for the life of the process: it is arv-mount.
static PROCESS: AtomicBool = AtomicBool::new(false);
/// The signal that asked for an end, which has to come within [`LIMIT`]; 0 for none.
static ENDING: AtomicI32 = AtomicI32::new(0);
/// Where the process ends before anything is done with the mount, that is no success.
static COMMAND: AtomicBool = AtomicBool::new(false);
/// The exit status if it does not.
static STATUS: AtomicI32 = AtomicI32::new(1);

/// In how many seconds arv-mount ends after it was told to.
const LIMIT: u32 = 5;

fn phase_is(phase: Phase) -> bool {
    PHASE.load(Ordering::SeqCst) == phase as i32
}

/// What ends a mount: who sends it means that, or else the process would end.
fn ends(number: i32) -> bool {
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGXCPU].contains(&number)
}

extern "C" fn on_signal(number: libc::c_int) {
    // SAFETY: the address of this thread's errno, valid as long as the thread.
    #[allow(unsafe_code)]
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let saved = unsafe { *errno };
    handle(number);
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe {
        *errno = saved;
    }
}

fn handle(number: i32) {
    if OWNER.load(Ordering::SeqCst) != last_resort::process_id() || phase_is(Phase::Default) {
        return last_resort::default_action(number);
    }
    let process = PROCESS.load(Ordering::SeqCst);
    if process && number == libc::SIGALRM && asked_to_end() != 0 {
        last_resort::detach();
        last_resort::exit(STATUS.load(Ordering::SeqCst));
    }
    if phase_is(Phase::Held) {
        if !process || ends(number) || number == libc::SIGHUP {
            PENDING.store(number, Ordering::SeqCst);
        }
    } else if phase_is(Phase::Starting) {
        if ends(number) || number == libc::SIGHUP {
            last_resort::exit(128 + number);
        }
    } else if phase_is(Phase::Mounted) {
        if !process {
            last_resort::detach();
            last_resort::default_action(number);
        } else if ends(number) || number == libc::SIGHUP {
            last_resort::detach();
            last_resort::exit(if COMMAND.load(Ordering::SeqCst) { 128 + number } else { 0 });
        }
    } else if phase_is(Phase::Forwarded) && ends(number) {
        last_resort::send(CHILD.load(Ordering::SeqCst), number);
    } else {
        let first =
            || ENDING.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if process && ends(number) && first() {
            last_resort::alarm(LIMIT);
        }
        last_resort::write_byte(PIPE.load(Ordering::SeqCst), u8::try_from(number).unwrap_or(0));
    }
}

/// Whether this process is arv-mount, which has all signals caught from its start on.
pub fn is_process() -> bool {
    PROCESS.load(Ordering::SeqCst) && OWNER.load(Ordering::SeqCst) == last_resort::process_id()
}

/// Goes on to another phase; a signal that was held back does what it does there.
pub fn enter(phase: Phase) {
    PHASE.store(phase as i32, Ordering::SeqCst);
    if phase != Phase::Held {
        let number = PENDING.swap(0, Ordering::SeqCst);
        if number != 0 {
            handle(number);
        }
    }
}

/// The signal that asked for an end since signals are served; 0 for none.
pub fn asked_to_end() -> i32 {
    ENDING.load(Ordering::SeqCst)
}

/// This process is the one whose signals are handled, as a fork that goes on with the mount is.
pub fn own() {
    OWNER.store(last_resort::process_id(), Ordering::SeqCst);
}

/// Sends signals that end a mount on to a child instead.
pub fn forward(child: i32) {
    CHILD.store(child, Ordering::SeqCst);
    enter(Phase::Forwarded);
}

/// The mount is made for a command: a signal before that runs is told by the exit status.
pub fn command_follows() {
    COMMAND.store(true, Ordering::SeqCst);
}

/// The exit status in case that the process does not end by itself in time.
pub fn set_status(status: i32) {
    STATUS.store(status, Ordering::SeqCst);
}

/// Catches all signals, for good, whose default is to end the process; their numbers go down `pipe`.
///
/// # Errors
/// Where the system refuses.
pub fn catch_all(pipe: UnixStream) -> io::Result<()> {
    pipe.set_nonblocking(true)?;
    PIPE.store(OwnedFd::from(pipe).into_raw_fd(), Ordering::SeqCst);
    own();
    PROCESS.store(true, Ordering::SeqCst);
    PHASE.store(Phase::Starting as i32, Ordering::SeqCst);
    let known = [STOPPING.as_slice(), ENDING_BY_DEFAULT.as_slice(), &[Signal::SIGUSR1]].concat();
    for signal in known {
        last_resort::catch(signal as i32, on_signal, signal == Signal::SIGHUP)?;
    }
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        last_resort::catch(number, on_signal, false)?;
    }
    Ok(())
}

/// End the loop, as llfuse documents.
const STOPPING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// End a process that does not handle them. With the loop running that is a dead mount; so they end
/// the loop, unless the program handles them.
const ENDING_BY_DEFAULT: [Signal; 9] = [
    Signal::SIGQUIT,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGXCPU,
    Signal::SIGPWR,
    Signal::SIGSTKFLT,
];

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

/// The handlers of a program that is not arv-mount, and what was there before.
static INSTALLED: Mutex<Vec<(Signal, SigAction)>> = Mutex::new(Vec::new());

fn handler(function: extern "C" fn(libc::c_int)) -> SigAction {
    SigAction::new(SigHandler::Handler(function), SaFlags::SA_RESTART, SigSet::empty())
}

fn is_ours(action: &SigAction) -> bool {
    match action.handler() {
        SigHandler::Handler(function) => [on_signal, do_nothing]
            .into_iter()
            .any(|ours: extern "C" fn(libc::c_int)| std::ptr::fn_addr_eq(function, ours)),
        SigHandler::SigIgn => true,
        _ => false,
    }
}

/// Has `action` done about a signal; with `only_default`, only where nobody handles it so far.
fn install(signal: Signal, action: &SigAction, only_default: bool) -> io::Result<()> {
    let mut installed = INSTALLED.lock();
    // SAFETY: what is installed is a handler that keeps to signal-safety(7), SIG_IGN, or what was
    // there before.
    #[allow(unsafe_code)]
    let previous = unsafe { sigaction(signal, action) }?;
    let known = installed.iter().any(|(s, _)| *s == signal);
    if only_default && !known && !matches!(previous.handler(), SigHandler::SigDfl) {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe { sigaction(signal, &previous) }?;
    } else if !known {
        installed.push((signal, previous));
    } else if !is_ours(&previous) {
        // The program has taken it meanwhile, and gets it back at the end.
        installed.retain(|(s, _)| *s != signal);
        installed.push((signal, previous));
    }
    Ok(())
}

/// A mount is about to be made that nobody serves yet: until somebody does, what ends the process
/// takes the mount along. SIGINT is left to Python, which makes an exception of it: the program's own
/// clean-up runs.
///
/// # Errors
/// Where the system refuses.
pub fn before_mounting() -> io::Result<()> {
    if is_process() {
        enter(Phase::Held);
        return Ok(());
    }
    own();
    enter(Phase::Held);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        install(signal, &handler(on_signal), true)?;
    }
    Ok(())
}

/// Puts back what was done about signals before.
pub fn restore() {
    if is_process() {
        return;
    }
    PHASE.store(Phase::Default as i32, Ordering::SeqCst);
    for (signal, previous) in INSTALLED.lock().drain(..) {
        // Whoever installed a handler after us keeps it.
        // SAFETY: what is put back is what was there before, or what was found just now.
        #[allow(unsafe_code)]
        unsafe {
            if let Ok(current) = sigaction(signal, &previous)
                && !is_ours(&current)
            {
                let _ = sigaction(signal, &current);
            }
        }
    }
    let pipe = PIPE.swap(-1, Ordering::SeqCst);
    if pipe >= 0 {
        let _ = nix::unistd::close(pipe);
    }
    let pending = PENDING.swap(0, Ordering::SeqCst);
    if pending != 0 {
        last_resort::send(last_resort::process_id(), pending);
    }
}

extern "C" fn do_nothing(_number: libc::c_int) {}

/// The signal handlers of llfuse, while they are installed.
pub struct Handlers(());

impl Handlers {
    /// Catches the signals that end the loop and writes their numbers to `pipe`.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn install(pipe: UnixStream) -> io::Result<Self> {
        pipe.set_nonblocking(true)?;
        own();
        PIPE.store(OwnedFd::from(pipe).into_raw_fd(), Ordering::SeqCst);
        enter(Phase::Served);
        let handlers = Handlers(());
        for signal in STOPPING {
            install(signal, &handler(on_signal), false)?;
        }
        for signal in ENDING_BY_DEFAULT {
            install(signal, &handler(on_signal), true)?;
        }
        install(Signal::SIGUSR1, &handler(do_nothing), false)?;
        let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        install(Signal::SIGPIPE, &ignored, false)?;
        Ok(handlers)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        restore();
    }
}
