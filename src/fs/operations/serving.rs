// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The kernel's requests, answered by [`Operations`] alone.

use std::sync::Arc;
use std::time::Instant;

use super::Operations;
use crate::fs::attr::{Attr, Caller, Fh, Ino, SetAttr, StatFs};
use crate::fs::errno::Refusal;
use crate::fs::filesystem::{DirSink, Done, FileSystem, Opened, Result};
use crate::fs::flags::{Allocation, Position, RenameMode, Seek};
use crate::fs::node::{Halt, Node, Outcome, Read, Write};
use crate::metrics::Op;

impl<N: Node> Operations<N> {
    /// Answers one request, and counts it.
    pub(super) fn answer<T>(&self, op: Op, body: impl FnOnce() -> Outcome<T>) -> Result<T> {
        self.metrics.time(op, || self.result(body()))
    }

    pub(super) fn result<T>(&self, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|halt| match halt {
            Halt::Errno(errno) => errno,
            halt @ Halt::Upcall(_) => self.inodes.upcalls().errno_of(halt),
        })
    }
}

impl<N: Node> FileSystem for Operations<N> {
    fn init(&self) {
        if let Err(error) = self.inodes.start_removal() {
            log::error!("no thread for removing inode entries: {error}");
        }
    }

    fn destroy(&self) {
        self.inodes.stop_removal();
        self.handles.clear();
    }

    fn has_readdirplus(&self) -> bool {
        true
    }

    fn lookup(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        self.answer(Op::Lookup, || Operations::lookup(self, parent, name))
    }

    fn forget(&self, batch: &[(Ino, u64)]) {
        for (ino, nlookup) in batch {
            // The kernel takes no answer; what failed was told in the log.
            let _ = self.answer(Op::Forget, || self.forget_one(*ino, *nlookup));
        }
    }

    fn getattr(&self, _caller: &Caller, ino: Ino) -> Result<Attr> {
        self.answer(Op::Getattr, || Operations::getattr(self, ino))
    }

    fn setattr(&self, _caller: &Caller, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Result<Attr> {
        self.answer(Op::Setattr, || Operations::setattr(self, ino, set, fh))
    }

    fn mknod(
        &self,
        _caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        _rdev: u32,
    ) -> Result<Attr> {
        self.answer(Op::Mknod, || Operations::mknod(self, parent, name, mode))
    }

    fn mkdir(&self, _caller: &Caller, parent: Ino, name: &[u8], _mode: u32) -> Result<Attr> {
        self.answer(Op::Mkdir, || Operations::mkdir(self, parent, name))
    }

    fn unlink(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.answer(Op::Unlink, || Operations::unlink(self, parent, name))
    }

    fn rmdir(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        self.answer(Op::Rmdir, || Operations::rmdir(self, parent, name))
    }

    fn symlink(
        &self,
        _caller: &Caller,
        _parent: Ino,
        _name: &[u8],
        _target: &[u8],
    ) -> Result<Attr> {
        self.answer(Op::Symlink, || self.unsupported(Refusal::NotPermitted))
    }

    fn rename(
        &self,
        _caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.answer(Op::Rename, || {
            Operations::rename(self, parent, name, new_parent, new_name, mode)
        })
    }

    fn remove_later(&self, _caller: &Caller, parent: Ino, name: &[u8], dir: bool, done: Done) {
        let op = if dir { Op::Rmdir } else { Op::Unlink };
        self.change_then(op, || self.remove(parent, name, dir), done);
    }

    fn rename_later(
        &self,
        _caller: &Caller,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
        done: Done,
    ) {
        let rename = || self.rename_unsaved(parent, name, new_parent, new_name, mode);
        self.change_then(Op::Rename, rename, done);
    }

    fn link(&self, _caller: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        self.answer(Op::Link, || Operations::link(self, ino, new_parent, new_name))
    }

    fn open(&self, _caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        let (fh, refreshed) = self.answer(Op::Open, || self.open_refreshed(ino, flags))?;
        let upcalls = self.inodes.upcalls();
        if refreshed {
            upcalls.invalidate_attributes(ino);
        }
        // The kernel drops its pages when it has this answer, and not some time later.
        let keep_cache = !refreshed && !upcalls.is_invalidating(ino);
        Ok(Opened { fh, keep_cache, no_flush: self.saves_nothing(fh) })
    }

    fn read(&self, _ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Read> {
        let begin = Instant::now();
        let read = self.result(Operations::read(self, fh, offset, size));
        let Ok(Read::Later(start)) = read else {
            self.metrics.operations.observe(Op::Read, begin.elapsed());
            return read;
        };
        // It takes until there is an answer.
        let metrics = Arc::clone(&self.metrics);
        Ok(Read::Later(Box::new(move |deliver| {
            start(Box::new(move |result| {
                metrics.operations.observe(Op::Read, begin.elapsed());
                deliver(result);
            }));
        })))
    }

    fn write(&self, _ino: Ino, fh: Fh, at: Position, data: &[u8]) -> Result<Write> {
        let begin = Instant::now();
        let write = self.result(Operations::write(self, fh, at, data));
        let Ok(Write::Later(start)) = write else {
            self.metrics.operations.observe(Op::Write, begin.elapsed());
            return write;
        };
        let metrics = Arc::clone(&self.metrics);
        Ok(Write::Later(Box::new(move |tell| {
            start(Box::new(move |result| {
                metrics.operations.observe(Op::Write, begin.elapsed());
                tell(result);
            }));
        })))
    }

    fn fallocate(&self, _ino: Ino, fh: Fh, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.answer(Op::Fallocate, || self.allocate(fh, offset, len, how))
    }

    fn lseek(&self, _ino: Ino, fh: Fh, offset: u64, what: Seek) -> Result<u64> {
        self.answer(Op::Lseek, || self.seek(fh, offset, what))
    }

    fn copy_file_range(
        &self,
        (_, fh_in, offset_in): (Ino, Fh, u64),
        (_, fh_out, offset_out): (Ino, Fh, u64),
        len: u64,
    ) -> Result<u32> {
        self.answer(Op::CopyFileRange, || {
            self.copy_range((fh_in, offset_in), (fh_out, offset_out), len)
        })
    }

    fn flush(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.answer(Op::Flush, || Operations::flush(self, fh))
    }

    fn release(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.answer(Op::Release, || self.released(fh))
    }

    fn fsync(&self, _ino: Ino, fh: Fh, _datasync: bool) -> Result<()> {
        self.answer(Op::Fsync, || Operations::fsync(self, fh))
    }

    fn opendir(&self, _caller: &Caller, ino: Ino) -> Result<Opened> {
        let fh = self.answer(Op::Opendir, || Operations::opendir(self, ino))?;
        Ok(Opened { fh, keep_cache: true, no_flush: false })
    }

    fn readdir(&self, _ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        self.answer(Op::Readdir, || self.list(fh, offset, false, sink))
    }

    fn readdirplus(&self, _ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        self.answer(Op::Readdir, || self.list(fh, offset, true, sink))
    }

    fn releasedir(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.answer(Op::Release, || Operations::release(self, fh))
    }

    fn fsyncdir(&self, _ino: Ino, fh: Fh, _datasync: bool) -> Result<()> {
        self.answer(Op::Fsyncdir, || Operations::fsync(self, fh))
    }

    fn flush_later(&self, _ino: Ino, fh: Fh, done: Done) {
        self.save_then(Op::Flush, fh, false, done);
    }

    fn fsync_later(&self, _ino: Ino, fh: Fh, _datasync: bool, dir: bool, done: Done) {
        self.save_then(if dir { Op::Fsyncdir } else { Op::Fsync }, fh, true, done);
    }

    fn statfs(&self, _caller: &Caller) -> Result<StatFs> {
        self.answer(Op::Statfs, || Ok(Operations::statfs(self)))
    }

    fn setxattr(
        &self,
        _caller: &Caller,
        _ino: Ino,
        _name: &[u8],
        _value: &[u8],
        _flags: i32,
    ) -> Result<()> {
        self.answer(Op::Setxattr, || self.unsupported(Refusal::NotSupported))
    }

    fn removexattr(&self, _caller: &Caller, _ino: Ino, _name: &[u8]) -> Result<()> {
        self.answer(Op::Removexattr, || self.unsupported(Refusal::NotSupported))
    }

    fn access(&self, _caller: &Caller, _ino: Ino, mask: i32) -> Result<()> {
        self.answer(Op::Access, || Operations::access(self, mask))
    }

    fn create(
        &self,
        _caller: &Caller,
        parent: Ino,
        name: &[u8],
        _mode: u32,
        _flags: i32,
    ) -> Result<(Attr, Opened)> {
        let (attr, fh) = self.answer(Op::Create, || Operations::create(self, parent, name))?;
        Ok((attr, Opened { fh, keep_cache: true, no_flush: self.saves_nothing(fh) }))
    }
}
