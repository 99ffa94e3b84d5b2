// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The kernel's requests to an `Operations` object.
//!
//! Two ways: the handler was overridden: it is called. Otherwise the core answers, in this thread,
//! without a lock of Python's, until a node needs Python: from there on under `llfuse.lock` and the
//! GIL.

use std::sync::Arc;

use pyo3::prelude::*;

use super::handlers::Handler;
use crate::fs::filesystem::Done;
use crate::fs::operations::Operations as Core;
use crate::fs::{
    Allocation, Attr, Caller, DirSink, Fh, FileSystem, Ino, Opened, Position, Read, Refusal,
    RenameMode, Result, Seek, SetAttr, StatFs, Write,
};
use crate::metrics::Op;
use crate::py::exceptions::errno_of_any;
use crate::py::llfuse::python_fs::PythonFs;
use crate::py::nodes::any_node::AnyNode;
use crate::py::overrides::ObjectNames;
use crate::py::request::RequestScope;

/// An `Operations` object while it is mounted.
pub struct Dispatcher {
    core: Arc<Core<AnyNode>>,
    overrides: Arc<ObjectNames>,
    python: PythonFs,
}

impl Dispatcher {
    /// Serves `ops`, whose core and overrides these are.
    pub fn new(
        ops: &Bound<'_, PyAny>,
        core: Arc<Core<AnyNode>>,
        overrides: Arc<ObjectNames>,
    ) -> Self {
        Dispatcher { core, overrides, python: PythonFs::new(ops.clone().unbind(), errno_of_any) }
    }

    fn is_overridden(&self, op: Op) -> bool {
        self.overrides.overridden(Handler(op))
    }

    fn any_overridden(&self, ops: &[Op]) -> bool {
        ops.iter().any(|op| self.is_overridden(*op))
    }

    /// The core, to answer the request that `_request` begins.
    fn core(&self, _request: &RequestScope) -> &dyn FileSystem {
        &*self.core
    }

    /// Answers a request by Python's handler, and counts it.
    fn handler<T>(&self, op: Op, body: impl FnOnce(&PythonFs) -> T) -> T {
        self.core.metrics.time_handler(op, || body(&self.python))
    }

    /// A handler of flush is called, whatever there is to save.
    fn flushed(&self, opened: Opened) -> Opened {
        Opened { no_flush: opened.no_flush && !self.is_overridden(Op::Flush), ..opened }
    }

    /// Whether a request has to go through Python's handlers: its own was overridden, or
    /// `getattr`, to which the shipped handler then turns for the attributes.
    fn through_python(&self, op: Op) -> bool {
        self.any_overridden(&[op, Op::Getattr])
    }

    /// Whether Python decides what handles and files are: what it has no handler for is then answered so
    /// that programs do without.
    fn contents_overridden(&self) -> bool {
        use Op::{Create, Getattr, Open, Read, Setattr, Write};
        self.any_overridden(&[Open, Create, Read, Write, Getattr, Setattr])
    }
}

impl FileSystem for Dispatcher {
    fn init(&self) {
        FileSystem::init(&*self.core);
        self.python.init();
    }

    fn destroy(&self) {
        self.python.destroy();
        FileSystem::destroy(&*self.core);
    }

    fn has_readdirplus(&self) -> bool {
        true
    }

    fn lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        if self.through_python(Op::Lookup) {
            return self.handler(Op::Lookup, |python| python.lookup(caller, parent, name));
        }
        self.core(&RequestScope::begin()).lookup(caller, parent, name)
    }

    fn forget(&self, batch: &[(Ino, u64)]) {
        if self.is_overridden(Op::Forget) {
            return self.handler(Op::Forget, |python| python.forget(batch));
        }
        // One request for each: others may have Python's lock in between.
        for forgotten in batch {
            self.core(&RequestScope::begin()).forget(std::slice::from_ref(forgotten));
        }
    }

    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        if self.is_overridden(Op::Getattr) {
            return self.handler(Op::Getattr, |python| python.getattr(caller, ino));
        }
        self.core(&RequestScope::begin()).getattr(caller, ino)
    }

    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Result<Attr> {
        if self.through_python(Op::Setattr) {
            return self.handler(Op::Setattr, |python| python.setattr(caller, ino, set, fh));
        }
        self.core(&RequestScope::begin()).setattr(caller, ino, set, fh)
    }

    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.handler(Op::Readlink, |python| python.readlink(caller, ino))
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
            return self
                .handler(Op::Mknod, |python| python.mknod(caller, parent, name, mode, rdev));
        }
        self.core(&RequestScope::begin()).mknod(caller, parent, name, mode, rdev)
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr> {
        if self.through_python(Op::Mkdir) {
            return self.handler(Op::Mkdir, |python| python.mkdir(caller, parent, name, mode));
        }
        self.core(&RequestScope::begin()).mkdir(caller, parent, name, mode)
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        if self.is_overridden(Op::Unlink) {
            return self.handler(Op::Unlink, |python| python.unlink(caller, parent, name));
        }
        self.core(&RequestScope::begin()).unlink(caller, parent, name)
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        if self.is_overridden(Op::Rmdir) {
            return self.handler(Op::Rmdir, |python| python.rmdir(caller, parent, name));
        }
        self.core(&RequestScope::begin()).rmdir(caller, parent, name)
    }

    fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        if self.is_overridden(Op::Symlink) {
            return self
                .handler(Op::Symlink, |python| python.symlink(caller, parent, name, target));
        }
        self.core(&RequestScope::begin()).symlink(caller, parent, name, target)
    }

    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        if self.is_overridden(Op::Rename) {
            return self.handler(Op::Rename, |python| {
                python.rename(caller, parent, name, new_parent, new_name, mode)
            });
        }
        self.core(&RequestScope::begin()).rename(caller, parent, name, new_parent, new_name, mode)
    }

    fn remove_later(&self, caller: &Caller, parent: Ino, name: &[u8], dir: bool, done: Done) {
        if self.is_overridden(if dir { Op::Rmdir } else { Op::Unlink }) {
            let remove = if dir { Self::rmdir } else { Self::unlink };
            return done(remove(self, caller, parent, name));
        }
        self.core(&RequestScope::begin()).remove_later(caller, parent, name, dir, done);
    }

    fn rename_later(
        &self,
        caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        done: Done,
    ) {
        if self.is_overridden(Op::Rename) {
            return done(self.rename(caller, from.0, from.1, to.0, to.1, mode));
        }
        self.core(&RequestScope::begin()).rename_later(caller, from, to, mode, done);
    }

    fn link(&self, caller: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        if self.through_python(Op::Link) {
            return self.handler(Op::Link, |python| python.link(caller, ino, new_parent, new_name));
        }
        self.core(&RequestScope::begin()).link(caller, ino, new_parent, new_name)
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        if self.is_overridden(Op::Open) {
            return self.handler(Op::Open, |python| python.open(caller, ino, flags));
        }
        self.core(&RequestScope::begin())
            .open(caller, ino, flags)
            .map(|opened| self.flushed(opened))
    }

    fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Read> {
        if self.is_overridden(Op::Read) {
            return self.handler(Op::Read, |python| python.read(ino, fh, offset, size));
        }
        self.core(&RequestScope::begin()).read(ino, fh, offset, size)
    }

    fn write(&self, ino: Ino, fh: Fh, at: Position, data: &[u8]) -> Result<Write> {
        if self.is_overridden(Op::Write) {
            return self.handler(Op::Write, |python| python.write(ino, fh, at, data));
        }
        self.core(&RequestScope::begin()).write(ino, fh, at, data)
    }

    fn fallocate(&self, ino: Ino, fh: Fh, offset: u64, len: u64, how: Allocation) -> Result<()> {
        if self.contents_overridden() {
            return Err(Refusal::NotSupported.errno());
        }
        self.core(&RequestScope::begin()).fallocate(ino, fh, offset, len, how)
    }

    fn lseek(&self, ino: Ino, fh: Fh, offset: u64, what: Seek) -> Result<u64> {
        if self.contents_overridden() {
            return Err(Refusal::NotImplemented.errno());
        }
        self.core(&RequestScope::begin()).lseek(ino, fh, offset, what)
    }

    fn copy_file_range(
        &self,
        source: (Ino, Fh, u64),
        target: (Ino, Fh, u64),
        len: u64,
    ) -> Result<u32> {
        if self.contents_overridden() {
            return Err(Refusal::CrossCollection.errno());
        }
        self.core(&RequestScope::begin()).copy_file_range(source, target, len)
    }

    fn flush(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.is_overridden(Op::Flush) {
            return self.handler(Op::Flush, |python| python.flush(ino, fh));
        }
        self.core(&RequestScope::begin()).flush(ino, fh)
    }

    fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.is_overridden(Op::Release) {
            return self.handler(Op::Release, |python| python.release(ino, fh));
        }
        self.core(&RequestScope::begin()).release(ino, fh)
    }

    fn fsync(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        if self.is_overridden(Op::Fsync) {
            return self.handler(Op::Fsync, |python| python.fsync(ino, fh, datasync));
        }
        self.core(&RequestScope::begin()).fsync(ino, fh, datasync)
    }

    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<Opened> {
        if self.is_overridden(Op::Opendir) {
            return self.handler(Op::Opendir, |python| python.opendir(caller, ino));
        }
        self.core(&RequestScope::begin()).opendir(caller, ino)
    }

    fn readdir(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        if self.through_python(Op::Readdir) {
            return self.handler(Op::Readdir, |python| python.readdir(ino, fh, offset, sink));
        }
        self.core(&RequestScope::begin()).readdir(ino, fh, offset, sink)
    }

    fn readdirplus(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        if self.any_overridden(&[Op::Readdir, Op::Lookup, Op::Getattr]) {
            return self.handler(Op::Readdir, |python| python.readdirplus(ino, fh, offset, sink));
        }
        self.core(&RequestScope::begin()).readdirplus(ino, fh, offset, sink)
    }

    fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        if self.any_overridden(&[Op::Releasedir, Op::Release]) {
            return self.handler(Op::Release, |python| python.releasedir(ino, fh));
        }
        self.core(&RequestScope::begin()).releasedir(ino, fh)
    }

    fn fsyncdir(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        if self.is_overridden(Op::Fsyncdir) {
            return self.handler(Op::Fsyncdir, |python| python.fsyncdir(ino, fh, datasync));
        }
        self.core(&RequestScope::begin()).fsyncdir(ino, fh, datasync)
    }

    fn flush_later(&self, ino: Ino, fh: Fh, done: Done) {
        if self.is_overridden(Op::Flush) {
            return done(self.flush(ino, fh));
        }
        self.core(&RequestScope::begin()).flush_later(ino, fh, done);
    }

    fn fsync_later(&self, ino: Ino, fh: Fh, datasync: bool, dir: bool, done: Done) {
        if self.is_overridden(if dir { Op::Fsyncdir } else { Op::Fsync }) {
            let synced = if dir { Self::fsyncdir } else { Self::fsync };
            return done(synced(self, ino, fh, datasync));
        }
        self.core(&RequestScope::begin()).fsync_later(ino, fh, datasync, dir, done);
    }

    fn statfs(&self, caller: &Caller) -> Result<StatFs> {
        if self.is_overridden(Op::Statfs) {
            return self.handler(Op::Statfs, |python| python.statfs(caller));
        }
        self.core(&RequestScope::begin()).statfs(caller)
    }

    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if self.is_overridden(Op::Setxattr) || name == b"fuse_stacktrace" {
            return self
                .handler(Op::Setxattr, |python| python.setxattr(caller, ino, name, value, flags));
        }
        self.core(&RequestScope::begin()).setxattr(caller, ino, name, value, flags)
    }

    fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if self.is_overridden(Op::Getxattr) {
            return self.handler(Op::Getxattr, |python| python.getxattr(caller, ino, name));
        }
        Err(Refusal::NotImplemented.errno())
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        if self.is_overridden(Op::Listxattr) {
            return self.handler(Op::Listxattr, |python| python.listxattr(caller, ino));
        }
        Err(Refusal::NotImplemented.errno())
    }

    fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        if self.is_overridden(Op::Removexattr) {
            return self.handler(Op::Removexattr, |python| python.removexattr(caller, ino, name));
        }
        self.core(&RequestScope::begin()).removexattr(caller, ino, name)
    }

    fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        if self.is_overridden(Op::Access) {
            return self.handler(Op::Access, |python| python.access(caller, ino, mask));
        }
        self.core(&RequestScope::begin()).access(caller, ino, mask)
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
            return self
                .handler(Op::Create, |python| python.create(caller, parent, name, mode, flags));
        }
        let made = self.core(&RequestScope::begin()).create(caller, parent, name, mode, flags);
        made.map(|(attr, opened)| (attr, self.flushed(opened)))
    }
}
