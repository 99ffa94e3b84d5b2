// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Notifications to the kernel.
//!
//! Two of them fuser does not have; they are written here as `include/uapi/linux/fuse.h` has them.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fuser::INodeNo;
use nix::sys::uio::writev;

use crate::fs::{Errno, Ino, KernelNotifier, Result};

const FUSE_NOTIFY_INVAL_ENTRY: i32 = 3;
const FUSE_NOTIFY_PRUNE: i32 = 9;
/// Flag of `fuse_notify_inval_entry_out`: the name is asked for again, but stays where it is.
const FUSE_EXPIRE_ONLY: u32 = 1;
/// How many inodes are named in one message; any number is allowed.
const PRUNED_AT_ONCE: usize = 512;

/// Sends notifications down the connection of a session.
pub struct Notifier {
    fuser: fuser::Notifier,
    /// Nobody keeps the connection open for the sake of notifications.
    device: Weak<OwnedFd>,
    /// Whether the kernel knows [`FUSE_EXPIRE_ONLY`] (since 6.2), as it said when the session began.
    expires: Arc<AtomicBool>,
    /// Whether it knows [`FUSE_NOTIFY_PRUNE`] (since 6.18), as far as is known.
    prunes: AtomicBool,
}

impl Notifier {
    /// Sends through `device`, the descriptor of the session or a duplicate of it.
    pub(super) fn new(
        fuser: fuser::Notifier,
        device: Weak<OwnedFd>,
        expires: Arc<AtomicBool>,
    ) -> Self {
        Notifier { fuser, device, expires, prunes: AtomicBool::new(true) }
    }

    /// Writes one notification: `struct fuse_out_header`, in which the code stands where a reply has
    /// its error and the request's number is 0, and what belongs to the code.
    fn write(&self, code: i32, parts: &[&[u8]]) -> Result<()> {
        let device = self.device.upgrade().ok_or(Errno::ENOTCONN)?;
        let header = size_of::<u32>() + size_of::<i32>() + size_of::<u64>();
        let length = header + parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).map_err(|_| Errno::EINVAL)?;
        let mut head = length.to_ne_bytes().to_vec();
        head.extend(code.to_ne_bytes());
        head.extend(0_u64.to_ne_bytes());
        let mut slices = vec![IoSlice::new(&head)];
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        sent(writev(&device, &slices).map(drop).map_err(std::io::Error::from))
    }
}

fn sent(result: std::io::Result<()>) -> Result<()> {
    match result {
        // The kernel does not know the inode: there is nothing to forget.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map_err(Errno::from),
    }
}

impl KernelNotifier for Notifier {
    fn invalidate_inode(&self, ino: Ino, attr_only: bool) -> Result<()> {
        // fuse_reverse_inval_inode() in the kernel's fs/fuse/inode.c: a negative offset leaves the
        // pages alone.
        let offset = if attr_only { -1 } else { 0 };
        sent(self.fuser.inval_inode(INodeNo(ino.0), offset, 0))
    }

    fn invalidate_entry(&self, parent: Ino, name: &[u8]) -> Result<()> {
        sent(self.fuser.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)))
    }

    fn expire_entry(&self, parent: Ino, name: &[u8]) -> Result<()> {
        if !self.expires.load(Ordering::Relaxed) {
            return Err(Errno::ENOSYS);
        }
        let length = u32::try_from(name.len()).map_err(|_| Errno::EINVAL)?;
        // struct fuse_notify_inval_entry_out, then the name and a zero that its length leaves out.
        let mut out = parent.0.to_ne_bytes().to_vec();
        out.extend(length.to_ne_bytes());
        out.extend(FUSE_EXPIRE_ONLY.to_ne_bytes());
        self.write(FUSE_NOTIFY_INVAL_ENTRY, &[&out, name, &[0]])
    }

    fn prune(&self, inos: &[Ino]) -> Result<()> {
        if !self.prunes.load(Ordering::Relaxed) {
            return Err(Errno::ENOSYS);
        }
        for some in inos.chunks(PRUNED_AT_ONCE) {
            // struct fuse_notify_prune_out: how many, padding, a spare number; then the inodes.
            let mut out = u32::try_from(some.len()).unwrap_or_default().to_ne_bytes().to_vec();
            out.extend([0; 12]);
            out.extend(some.iter().flat_map(|ino| ino.0.to_ne_bytes()));
            match self.write(FUSE_NOTIFY_PRUNE, &[&out]) {
                Err(Errno::EINVAL) => {
                    self.prunes.store(false, Ordering::Relaxed);
                    return Err(Errno::ENOSYS);
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn store(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        sent(self.fuser.store(INodeNo(ino.0), offset, data))
    }
}
