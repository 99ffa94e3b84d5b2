// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a signal handler may do: system calls that signal-safety(7) allows, on what was prepared.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for a path with its NUL, as the system takes it.
const PATH: usize = 4097;

/// A path that the handler may read. It is written before its length is, which is 0 meanwhile.
struct Prepared {
    length: AtomicUsize,
    bytes: UnsafeCell<[u8; PATH]>,
}

// SAFETY: written by `set` only, which is called with the signals held, and by one thread at a time
// (a process makes one mount at a time); read where `length` says that there is something.
#[allow(unsafe_code)]
unsafe impl Sync for Prepared {}

impl Prepared {
    const fn new() -> Self {
        Prepared { length: AtomicUsize::new(0), bytes: UnsafeCell::new([0; PATH]) }
    }

    fn set(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        self.length.store(0, Ordering::SeqCst);
        if path.len() < PATH {
            // SAFETY: nobody reads while the length is 0.
            #[allow(unsafe_code)]
            let bytes = unsafe { &mut *self.bytes.get() };
            bytes[..path.len()].copy_from_slice(path);
            bytes[path.len()] = 0;
            self.length.store(path.len(), Ordering::SeqCst);
        }
    }

    fn get(&self) -> Option<&CStr> {
        let length = self.length.load(Ordering::SeqCst);
        // SAFETY: nobody writes while the length is not 0.
        #[allow(unsafe_code)]
        let bytes = unsafe { &*self.bytes.get() };
        bytes.get(..=length).filter(|_| length > 0).and_then(|b| CStr::from_bytes_with_nul(b).ok())
    }
}

static MOUNT_POINT: Prepared = Prepared::new();
static HELPER: Prepared = Prepared::new();

/// Prepares for [`detach`]: where something is about to be mounted.
pub fn prepare(mount_point: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&path)
        .flat_map(|folder| ["fusermount3", "fusermount"].map(|name| folder.join(name)))
        .find(|file| file.is_file());
    HELPER.set(helper.as_deref().unwrap_or(Path::new("")));
    MOUNT_POINT.set(mount_point);
}

/// There is nothing to detach any more.
pub fn forget() {
    MOUNT_POINT.set(Path::new(""));
}

/// Takes the mount that was prepared for out of the tree, by the helper where the system asks for it.
#[allow(unsafe_code)]
pub fn detach() {
    let Some(path) = MOUNT_POINT.get() else { return };
    // SAFETY: a path that ends with a NUL.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {
        return;
    }
    let Some(helper) = HELPER.get() else { return };
    // SAFETY: fork(2) without the handlers that the C library runs around it, which may wait for a
    // lock that this thread holds; the child calls execve(2) and _exit(2) only.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        if child == 0 {
            let arguments = [
                helper.as_ptr(),
                c"-u".as_ptr(),
                c"-q".as_ptr(),
                c"-z".as_ptr(),
                c"--".as_ptr(),
                path.as_ptr(),
                std::ptr::null(),
            ];
            let environment = [std::ptr::null::<libc::c_char>()];
            libc::execve(helper.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
        if let Ok(child) = libc::pid_t::try_from(child)
            && child > 0
        {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}

/// Ends the process, without a look at anything else in it.
pub fn exit(status: i32) -> ! {
    // SAFETY: may be called at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(status)
    }
}

/// Does what the signal does where nobody handles it.
pub fn default_action(number: i32) {
    // SAFETY: system calls on numbers; the signal, blocked while its handler runs, takes effect when
    // the handler returns.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::kill(libc::getpid(), number);
    }
}

/// The number of this process.
#[must_use]
pub fn process_id() -> i32 {
    // SAFETY: may be called at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::getpid()
    }
}

/// Sends a signal to another process.
pub fn send(process: i32, number: i32) {
    if process > 0 {
        // SAFETY: may be called at any time.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(process, number);
        }
    }
}

/// Has SIGALRM come in so many seconds.
pub fn alarm(seconds: u32) {
    // SAFETY: may be called at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::alarm(seconds);
    }
}

/// Writes one byte, if that is possible without waiting.
pub fn write_byte(fd: i32, byte: u8) {
    if fd >= 0 {
        let bytes = [byte];
        // SAFETY: the byte lives for the call; a descriptor closed meanwhile only makes it fail.
        #[allow(unsafe_code)]
        unsafe {
            libc::write(fd, bytes.as_ptr().cast(), 1);
        }
    }
}

/// Has a function called when a signal comes. With `unless_ignored`, not where whoever started the
/// process has it ignored.
///
/// # Errors
/// Where the system refuses.
pub fn catch(
    number: i32,
    handler: extern "C" fn(libc::c_int),
    unless_ignored: bool,
) -> io::Result<()> {
    // SAFETY: both structures live for the calls, and are valid when zeroed; the handler keeps to
    // signal-safety(7).
    #[allow(unsafe_code)]
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        let mut result = libc::sigaction(number, &raw const action, &raw mut previous);
        if result == 0 && unless_ignored && previous.sa_sigaction == libc::SIG_IGN {
            result = libc::sigaction(number, &raw const previous, std::ptr::null_mut());
        }
        result
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
