// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Notifications to the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::INodeNo;

use crate::fs::{Errno, Ino, KernelNotifier, Result};

/// Sends notifications down the connection of a session.
pub struct Notifier(pub(super) fuser::Notifier);

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
        sent(self.0.inval_inode(INodeNo(ino.0), offset, 0))
    }

    fn invalidate_entry(&self, parent: Ino, name: &[u8]) -> Result<()> {
        sent(self.0.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)))
    }

    fn store(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        sent(self.0.store(INodeNo(ino.0), offset, data))
    }
}
