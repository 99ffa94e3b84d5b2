// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Any `llfuse.Operations` object as a file system: one method called per request.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyTuple};

use super::attributes::{RequestContext, from_set_attr, to_attr, to_statfs};
use super::errors::{fuse_errno, fuse_error};
use super::{lock, notify};
use crate::fs::{
    Attr, Bytes, Caller, DirSink, Errno, Fh, FileSystem, Ino, Opened, Position, Read, ReadData,
    RenameMode, Result, SetAttr, StatFs, Write,
};
use crate::py::gil::UpcallScope;

/// Extended attribute of the root: setting it logs the stack of every Python thread.
const STACKTRACE: &[u8] = b"fuse_stacktrace";

/// Tells the errno of an exception that the handler of that name raised, and logs what is to be logged.
pub type ErrnoOf = fn(Python<'_>, &str, PyErr) -> Errno;

/// A file system whose handlers are methods of a Python object.
pub struct PythonFs {
    operations: Py<PyAny>,
    errno_of: ErrnoOf,
}

impl PythonFs {
    /// Calls the methods of `operations`.
    #[must_use]
    pub fn new(operations: Py<PyAny>, errno_of: ErrnoOf) -> Self {
        PythonFs { operations, errno_of }
    }

    /// Runs `body` under the lock; an exception becomes an errno.
    fn run<T>(
        &self,
        operation: &str,
        body: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T> {
        lock::with_llfuse_lock(|py| {
            let _scope = UpcallScope::enter(py);
            let answer = body(self.operations.bind(py));
            answer.map_err(|error| (self.errno_of)(py, operation, error))
        })
    }

    /// Calls the handler of that name with `arguments` and hands on what `then` makes of the answer.
    fn call<T, A>(
        &self,
        operation: &str,
        arguments: impl FnOnce(Python<'_>) -> PyResult<A>,
        then: impl FnOnce(Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Result<T>
    where
        A: for<'py> IntoPyObject<
                'py,
                Target = PyTuple,
                Output = Bound<'py, PyTuple>,
                Error = PyErr,
            >,
    {
        self.run(operation, |ops| {
            let arguments = arguments(ops.py())?.into_pyobject(ops.py())?;
            then(ops.call_method1(operation, arguments)?)
        })
    }
}

fn name_of(py: Python<'_>, name: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, name).unbind()
}

fn nothing(_answer: Bound<'_, PyAny>) -> PyResult<()> {
    Ok(())
}

/// Whether what was asked for is there: it is not where the handler fails with ENOATTR.
fn exists(py: Python<'_>, answer: PyResult<Bound<'_, PyAny>>) -> PyResult<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if fuse_errno(py, &error) == Some(Errno::ENODATA) => Ok(false),
        Err(error) => Err(error),
    }
}

fn attr(answer: Bound<'_, PyAny>) -> PyResult<Attr> {
    to_attr(&answer)
}

fn handle(answer: Bound<'_, PyAny>) -> PyResult<Opened> {
    Ok(Opened { fh: Fh(answer.extract()?), keep_cache: true, no_flush: false })
}

/// The kernel drops its pages of a file now where it is to be told so anyway.
fn opened(ino: Ino, opened: Opened) -> Opened {
    Opened { keep_cache: opened.keep_cache && !notify::is_invalidating(ino), ..opened }
}

fn bytes(answer: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    if answer.is_instance_of::<PyBytes>() {
        answer.extract::<PyBackedBytes>().map_err(PyErr::from)
    } else {
        answer.py().get_type::<PyBytes>().call1((answer,))?.extract().map_err(PyErr::from)
    }
}

/// What a handler's `read` answered.
struct Answered(PyBackedBytes);

impl Bytes for Answered {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FileSystem for PythonFs {
    fn init(&self) {
        let _ = self.run("init", |ops| ops.call_method0("init").map(drop));
    }

    fn destroy(&self) {
        let _ = self.run("destroy", |ops| ops.call_method0("destroy").map(drop));
    }

    fn lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call("lookup", |py| Ok((parent.0, name_of(py, name), Py::new(py, ctx)?)), attr)
    }

    fn forget(&self, batch: &[(Ino, u64)]) {
        let list: Vec<(u64, u64)> = batch.iter().map(|(ino, n)| (ino.0, *n)).collect();
        let _ = self.call("forget", |_| Ok((list,)), nothing);
    }

    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call("getattr", |py| Ok((ino.0, Py::new(py, ctx)?)), attr)
    }

    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call(
            "setattr",
            |py| {
                let (entry, fields) = from_set_attr(py, set)?;
                entry.setattr("st_ino", ino.0)?;
                Ok((ino.0, entry.unbind(), fields.unbind(), fh.map(|fh| fh.0), Py::new(py, ctx)?))
            },
            attr,
        )
    }

    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        let ctx = RequestContext::from(caller);
        self.call(
            "readlink",
            |py| Ok((ino.0, Py::new(py, ctx)?)),
            |answer| Ok(bytes(&answer)?.to_vec()),
        )
    }

    fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call(
            "mknod",
            |py| Ok((parent.0, name_of(py, name), mode, rdev, Py::new(py, ctx)?)),
            attr,
        )
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        let mode = (mode & !libc::S_IFMT) | libc::S_IFDIR;
        self.call("mkdir", |py| Ok((parent.0, name_of(py, name), mode, Py::new(py, ctx)?)), attr)
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        let ctx = RequestContext::from(caller);
        self.call("unlink", |py| Ok((parent.0, name_of(py, name), Py::new(py, ctx)?)), nothing)
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        let ctx = RequestContext::from(caller);
        self.call("rmdir", |py| Ok((parent.0, name_of(py, name), Py::new(py, ctx)?)), nothing)
    }

    fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call(
            "symlink",
            |py| Ok((parent.0, name_of(py, name), name_of(py, target), Py::new(py, ctx)?)),
            attr,
        )
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
        // The handler is not told, as by the real llfuse.
        if mode != RenameMode::Replace {
            return Err(Errno::EINVAL);
        }
        let ctx = RequestContext::from(caller);
        self.call(
            "rename",
            |py| {
                Ok((
                    parent.0,
                    name_of(py, name),
                    new_parent.0,
                    name_of(py, new_name),
                    Py::new(py, ctx)?,
                ))
            },
            nothing,
        )
    }

    fn link(&self, caller: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        let ctx = RequestContext::from(caller);
        self.call(
            "link",
            |py| Ok((ino.0, new_parent.0, name_of(py, new_name), Py::new(py, ctx)?)),
            attr,
        )
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        let ctx = RequestContext::from(caller);
        let handle = self.call("open", |py| Ok((ino.0, flags, Py::new(py, ctx)?)), handle)?;
        Ok(opened(ino, handle))
    }

    fn read(&self, _ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Read> {
        let data = self.call("read", |_| Ok((fh.0, offset, size)), |answer| bytes(&answer))?;
        Ok(Read::Now(ReadData::Shared(Box::new(Answered(data)))))
    }

    fn write(&self, _ino: Ino, fh: Fh, at: Position, data: &[u8]) -> Result<Write> {
        let written = |answer: Bound<'_, PyAny>| answer.extract().map(Write::Now);
        self.call("write", |py| Ok((fh.0, at.offset(), name_of(py, data))), written)
    }

    fn flush(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.call("flush", |_| Ok((fh.0,)), nothing)
    }

    fn release(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.call("release", |_| Ok((fh.0,)), nothing)
    }

    fn fsync(&self, _ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        self.call("fsync", |_| Ok((fh.0, datasync)), nothing)
    }

    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<Opened> {
        let ctx = RequestContext::from(caller);
        self.call("opendir", |py| Ok((ino.0, Py::new(py, ctx)?)), handle)
    }

    fn readdir(&self, _ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        self.call(
            "readdir",
            |_| Ok((fh.0, offset)),
            |listing| {
                for entry in listing.try_iter()? {
                    let entry = entry?;
                    let entry = entry.cast::<PyTuple>().map_err(|_| {
                        PyTypeError::new_err(
                            "readdir has to yield tuples of name, attributes and next offset",
                        )
                    })?;
                    let (name, next) = (bytes(&entry.get_item(0)?)?, entry.get_item(2)?.extract()?);
                    if sink(&name, &to_attr(&entry.get_item(1)?)?, next).is_err() {
                        break;
                    }
                }
                Ok(())
            },
        )
    }

    /// From `readdir` and `lookup`: each entry handed out has to count as looked up.
    fn readdirplus(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        let mut listed = Vec::new();
        self.readdir(ino, fh, offset, &mut |name, attr, next| {
            listed.push((name.to_vec(), attr.clone(), next));
            if listed.len() < 256 { Ok(()) } else { Err(crate::fs::SinkFull) }
        })?;
        let caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
        for (name, attr, next) in listed {
            if name == b"." || name == b".." {
                if sink(&name, &attr, next).is_err() {
                    break;
                }
                continue;
            }
            let found = match self.lookup(&caller, ino, &name) {
                Ok(found) => found,
                // Gone since it was listed.
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            };
            if sink(&name, &found, next).is_err() {
                self.forget(&[(found.ino, 1)]);
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, _ino: Ino, fh: Fh) -> Result<()> {
        self.call("releasedir", |_| Ok((fh.0,)), nothing)
    }

    fn fsyncdir(&self, _ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        self.call("fsyncdir", |_| Ok((fh.0, datasync)), nothing)
    }

    fn statfs(&self, caller: &Caller) -> Result<StatFs> {
        let ctx = RequestContext::from(caller);
        self.call("statfs", |py| Ok((Py::new(py, ctx)?,)), |answer| to_statfs(&answer))
    }

    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if name == STACKTRACE && ino == Ino::ROOT {
            return self.run("stacktrace", |ops| ops.call_method0("stacktrace").map(drop));
        }
        let ctx = RequestContext::from(caller);
        self.run("setxattr", |ops| {
            let py = ops.py();
            let (name, ctx) = (name_of(py, name), Py::new(py, ctx)?);
            // The handler is not told the flags: what they ask for is looked up first, in the same
            // hold of the lock.
            if flags & (libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
                let there = exists(py, ops.call_method1("getxattr", (ino.0, &name, &ctx)))?;
                let create = flags & libc::XATTR_CREATE != 0;
                if create && there {
                    return Err(fuse_error(Errno::EEXIST));
                }
                if !create && !there {
                    return Err(fuse_error(Errno::ENODATA));
                }
            }
            nothing(ops.call_method1("setxattr", (ino.0, name, name_of(py, value), ctx))?)
        })
    }

    fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let ctx = RequestContext::from(caller);
        self.call(
            "getxattr",
            |py| Ok((ino.0, name_of(py, name), Py::new(py, ctx)?)),
            |answer| Ok(bytes(&answer)?.to_vec()),
        )
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let ctx = RequestContext::from(caller);
        self.call(
            "listxattr",
            |py| Ok((ino.0, Py::new(py, ctx)?)),
            |answer| answer.try_iter()?.map(|name| Ok(bytes(&name?)?.to_vec())).collect(),
        )
    }

    fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        let ctx = RequestContext::from(caller);
        self.call("removexattr", |py| Ok((ino.0, name_of(py, name), Py::new(py, ctx)?)), nothing)
    }

    fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        let ctx = RequestContext::from(caller);
        let allowed = self.call(
            "access",
            |py| Ok((ino.0, mask, Py::new(py, ctx)?)),
            |answer| answer.is_truthy(),
        )?;
        if allowed { Ok(()) } else { Err(Errno::EACCES) }
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened)> {
        let ctx = RequestContext::from(caller);
        self.call(
            "create",
            |py| Ok((parent.0, name_of(py, name), mode, flags, Py::new(py, ctx)?)),
            |answer| {
                let (fh, entry): (u64, Bound<'_, PyAny>) = answer.extract()?;
                Ok((to_attr(&entry)?, Opened { fh: Fh(fh), keep_cache: true, no_flush: false }))
            },
        )
    }
}
