// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Ranges of open files: room for them, holes in them, copies of them.

use super::{Fh, Node, Operations, Outcome};
use crate::fs::errno::Refusal;
use crate::fs::flags::{Allocation, Seek};

/// The most that one request copies, in bytes: `MAX_RW_COUNT` of the kernel's include/linux/fs.h, which the
/// answer has 32 bits for.
const MAX_COPY: u32 = 0x7fff_f000;

impl<N: Node> Operations<N> {
    /// Reserves room for a range of a file, or makes it a hole or zeros.
    ///
    /// # Errors
    /// `EROFS`, `EBADF`, `EPERM`; `EOPNOTSUPP` for a file that has no holes; what the node answers.
    pub fn allocate(&self, fh: Fh, offset: u64, len: u64, how: Allocation) -> Outcome<()> {
        let handle = self.writable_handle(fh)?;
        let node = handle.node();
        self.inodes.touch(node)?;
        node.allocate(offset, len, how)
    }

    /// The first byte from `offset` on that is data, or in a hole. The end of the file counts as one.
    ///
    /// # Errors
    /// `EBADF`; `ENXIO` where there is none, and past the end; what the node answers.
    pub fn seek(&self, fh: Fh, offset: u64, what: Seek) -> Outcome<u64> {
        let handle = self.handles.get(fh)?;
        let node = handle.node();
        if let Some(found) = node.seek(offset, what)? {
            return Ok(found);
        }
        let size = node.facts(false)?.size;
        match what {
            _ if offset >= size => Err(Refusal::NotFurther.into()),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    /// Copies up to `len` bytes from an offset in one open file to one in another; answers how many.
    ///
    /// # Errors
    /// `EROFS`, `EBADF`, `EPERM`; `EXDEV` where they have to be read and written; what the node answers.
    pub fn copy_range(&self, source: (Fh, u64), target: (Fh, u64), len: u64) -> Outcome<u32> {
        self.may_write()?;
        let (from, to) = (self.handles.get(source.0)?, self.writable_handle(target.0)?);
        let node = to.node();
        self.inodes.touch(from.node())?;
        self.inodes.touch(node)?;
        let most = len.min(u64::from(MAX_COPY));
        let copied = node.copy_range(target.1, from.node(), source.1, most)?;
        Ok(u32::try_from(copied).unwrap_or(MAX_COPY))
    }
}
