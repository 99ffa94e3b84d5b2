// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The kernel's requests to an `Operations` object.
//!
//! Three ways, tried in this order: the handler was overridden: call it; the core can answer
//! without Python: it does, in this thread, without a lock of Python's; otherwise the core answers
//! under `llfuse.lock` and the GIL, calling the nodes' methods.

use std::sync::Arc;

use pyo3::prelude::*;

use super::Overrides;
use super::exceptions::errno_of;
use crate::fs::metrics::Op;
use crate::fs::node::{Outcome, Read};
use crate::fs::operations::{Cursor, Operations as Core};
use crate::fs::{
    Attr, Caller, DirSink, Errno, Fh, FileSystem, Halt, Ino, Opened, ReadReply, Result, SetAttr,
    StatFs,
};
use crate::py::clock;
use crate::py::gil::{Company, exception};
use crate::py::llfuse::lock;
use crate::py::llfuse::python_fs::PythonFs;
use crate::py::nodes::any_node::AnyNode;

/// An `Operations` object while it is mounted.
pub struct Served {
    core: Arc<Core<AnyNode>>,
    overrides: Arc<Overrides>,
    python: PythonFs,
}

impl Served {
    /// Serves `ops`, whose core and overrides these are.
    pub fn new(
        ops: &Bound<'_, PyAny>,
        core: Arc<Core<AnyNode>>,
        overrides: Arc<Overrides>,
    ) -> Self {
        Served { core, overrides, python: PythonFs::new(ops.clone().unbind()) }
    }

    fn any_overridden(&self, ops: &[Op]) -> bool {
        ops.iter().any(|op| self.overrides.has(*op))
    }

    /// Answers without calling a handler, in Python's company only where a node needs it.
    fn native<T>(&self, op: Op, mut body: impl FnMut(&Core<AnyNode>) -> Outcome<T>) -> Result<T> {
        self.core.metrics.time(op, || match body(&self.core) {
            Ok(value) => Ok(value),
            Err(Halt::Errno(errno)) => Err(errno),
            Err(Halt::Ascend) => lock::with_llfuse_lock(|py| {
                let _company = Company::enter(py);
                if let Err(error) = clock::look(py) {
                    return Err(errno_of(py, error));
                }
                body(&self.core).map_err(|halt| match halt {
                    Halt::Errno(errno) => errno,
                    halt => errno_of(py, exception(halt)),
                })
            }),
            Err(halt) => Err(Python::attach(|py| errno_of(py, exception(halt)))),
        })
    }

    /// Whether a request has to go through Python's handlers: its own was overridden, or
    /// `getattr`, to which the shipped handler then turns for the attributes.
    fn through_python(&self, op: Op) -> bool {
        self.any_overridden(&[op, Op::Getattr])
    }
}

fn opened(fh: Fh) -> Opened {
    Opened { fh, keep_cache: true, no_flush: false }
}

impl FileSystem for Served {
    fn init(&self) {
        if let Err(error) = self.core.inodes.start_removal() {
            log::error!("no thread for removing inode entries: {error}");
        }
        self.python.init();
    }

    fn destroy(&self) {
        self.python.destroy();
        self.core.inodes.stop_removal();
        self.core.handles.clear();
    }

    fn has_readdirplus(&self) -> bool {
        true
    }

    fn lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        if self.through_python(Op::Lookup) {
            return self.python.lookup(caller, parent, name);
        }
        self.native(Op::Lookup, |core| core.lookup(parent, name))
    }

    fn forget(&self, batch: &[(Ino, u64)]) {
        if self.overrides.has(Op::Forget) {
            return self.python.forget(batch);
        }
        for (ino, nlookup) in batch {
            let _ = self.native(Op::Forget, |core| core.forget_one(*ino, *nlookup));
        }
    }

    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        if self.overrides.has(Op::Getattr) {
            return self.python.getattr(caller, ino);
        }
        self.native(Op::Getattr, |core| core.getattr(ino))
    }

    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Result<Attr> {
        if self.through_python(Op::Setattr) {
            return self.python.setattr(caller, ino, set, fh);
        }
        self.native(Op::Setattr, |core| core.setattr(ino, set, fh))
    }

    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.python.readlink(caller, ino)
    }

    fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        if self.through_python(Op::Mknod) {
            return self.python.mknod(caller, parent, name, mode, rdev);
        }
        self.native(Op::Mknod, |core| core.mknod(parent, name, mode))
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr> {
        if self.through_python(Op::Mkdir) {
            return self.python.mkdir(caller, parent, name, mode);
        }
        self.native(Op::Mkdir, |core| core.mkdir(parent, name))
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        if self.overrides.has(Op::Unlink) {
            return self.python.unlink(caller, parent, name);
        }
        self.native(Op::Unlink, |core| core.unlink(parent, name))
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        if self.overrides.has(Op::Rmdir) {
            return self.python.rmdir(caller, parent, name);
        }
        self.native(Op::Rmdir, |core| core.rmdir(parent, name))
    }

    fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        if self.overrides.has(Op::Symlink) {
            return self.python.symlink(caller, parent, name, target);
        }
        self.native(Op::Symlink, |core| core.unsupported(Errno::EPERM))
    }

    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
    ) -> Result<()> {
        if self.overrides.has(Op::Rename) {
            return self.python.rename(caller, parent, name, new_parent, new_name);
        }
        self.native(Op::Rename, |core| core.rename(parent, name, new_parent, new_name))
    }

    fn link(&self, caller: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        if self.overrides.has(Op::Link) {
            return self.python.link(caller, ino, new_parent, new_name);
        }
        self.native(Op::Link, |core| core.unsupported(Errno::EPERM))
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        if self.overrides.has(Op::Open) {
            return self.python.open(caller, ino, flags);
        }
        let opened = self.native(Op::Open, |core| core.open(ino, flags)).map(opened)?;
        let no_flush = !self.overrides.has(Op::Flush) && self.core.only_reads(opened.fh);
        Ok(Opened { no_flush, ..opened })
    }

    fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32, reply: ReadReply) {
        if self.overrides.has(Op::Read) {
            return self.python.read(ino, fh, offset, size, reply);
        }
        match self.native(Op::Read, |core| core.read(fh, offset, size)) {
            Ok(Read::Now(data)) => reply(Ok(data.bytes())),
            Ok(Read::Later(start)) => start(Box::new(move |result| match result {
                Ok(data) => reply(Ok(data.bytes())),
                Err(errno) => reply(Err(errno)),
            })),
            Err(errno) => reply(Err(errno)),
        }
    }

    fn write(&self, ino: Ino, fh: Fh, offset: u64, data: &[u8]) -> Result<u32> {
        if self.overrides.has(Op::Write) {
            return self.python.write(ino, fh, offset, data);
        }
        self.native(Op::Write, |core| core.write(fh, offset, data))
    }

    fn flush(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.overrides.has(Op::Flush) {
            return self.python.flush(ino, fh);
        }
        self.native(Op::Flush, |core| core.flush(fh))
    }

    fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.overrides.has(Op::Release) {
            return self.python.release(ino, fh);
        }
        self.native(Op::Release, |core| core.release(fh))
    }

    fn fsync(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        if self.overrides.has(Op::Fsync) {
            return self.python.fsync(ino, fh, datasync);
        }
        self.native(Op::Fsync, |core| core.fsync(fh))
    }

    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<Opened> {
        if self.overrides.has(Op::Opendir) {
            return self.python.opendir(caller, ino);
        }
        self.native(Op::Opendir, |core| core.opendir(ino)).map(opened)
    }

    fn readdir(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        if self.through_python(Op::Readdir) {
            return self.python.readdir(ino, fh, offset, sink);
        }
        let mut cursor = Cursor::at(offset);
        self.native(Op::Readdir, |core| core.list(fh, &mut cursor, false, sink))
    }

    fn readdirplus(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        if self.any_overridden(&[Op::Readdir, Op::Lookup, Op::Getattr]) {
            return self.python.readdirplus(ino, fh, offset, sink);
        }
        let mut cursor = Cursor::at(offset);
        self.native(Op::Readdir, |core| core.list(fh, &mut cursor, true, sink))
    }

    fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.any_overridden(&[Op::Releasedir, Op::Release]) {
            return self.python.releasedir(ino, fh);
        }
        self.native(Op::Release, |core| core.release(fh))
    }

    fn fsyncdir(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        if self.overrides.has(Op::Fsyncdir) {
            return self.python.fsyncdir(ino, fh, datasync);
        }
        self.native(Op::Fsyncdir, |core| core.fsync(fh))
    }

    fn statfs(&self, caller: &Caller) -> Result<StatFs> {
        if self.overrides.has(Op::Statfs) {
            return self.python.statfs(caller);
        }
        self.native(Op::Statfs, |core| Ok(core.statfs()))
    }

    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if self.overrides.has(Op::Setxattr) || name == b"fuse_stacktrace" {
            return self.python.setxattr(caller, ino, name, value, flags);
        }
        self.native(Op::Setxattr, |core| core.unsupported(Errno::ENOTSUP))
    }

    fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if self.overrides.has(Op::Getxattr) {
            return self.python.getxattr(caller, ino, name);
        }
        Err(Errno::ENOSYS)
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        if self.overrides.has(Op::Listxattr) {
            return self.python.listxattr(caller, ino);
        }
        Err(Errno::ENOSYS)
    }

    fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        if self.overrides.has(Op::Removexattr) {
            return self.python.removexattr(caller, ino, name);
        }
        self.native(Op::Removexattr, |core| core.unsupported(Errno::ENOTSUP))
    }

    fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        if self.overrides.has(Op::Access) {
            return self.python.access(caller, ino, mask);
        }
        self.native(Op::Access, |core| core.access(mask))
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened)> {
        if self.through_python(Op::Create) {
            return self.python.create(caller, parent, name, mode, flags);
        }
        let (attr, fh) = self.native(Op::Create, |core| core.create(parent, name))?;
        Ok((attr, opened(fh)))
    }
}
