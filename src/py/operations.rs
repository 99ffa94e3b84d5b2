// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `Operations`: our file system, as Python sees it and as the FUSE loop serves it.
//!
//! The Python class `arvados_fuse.Operations` is a thin one over [`Operations`]: its methods are
//! Python functions (so that suites can patch them with `autospec`) which call in here. A request
//! from the kernel skips them, unless one was overridden or replaced: then it is called.

pub mod dispatcher;
pub mod handlers;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};

use self::handlers::{HANDLERS, Handler};
use super::inodes::table::Inodes;
use super::llfuse::attributes::{from_attr, to_set_attr};
use super::llfuse::errors::fuse_error;
use super::llfuse::lock;
use super::nodes::any_node::AnyNode;
use super::overrides::ObjectNames;
use super::request::{for_python, with_python};
use crate::fs::handles::{Handle, Listed};
use crate::fs::node::{Read, Write};
use crate::fs::operations::{Codec, Operations as Core, Utf8};
use crate::fs::{Attr, Fh, FileSystem, Ino, Outcome, Position, Refusal, RenameMode};
use crate::metrics::Op;
use crate::py::metrics::Counter;

/// Adds the classes and functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Operations>()?;
    Ok(())
}

/// File names in any encoding of Python's codec registry.
struct PythonCodec(String);

impl Codec for PythonCodec {
    fn decode<'n>(&self, name: &'n [u8]) -> Outcome<Cow<'n, str>> {
        convert(|py| PyBytes::new(py, name).call_method1("decode", (&self.0,))?.extract())
            .map(Cow::Owned)
    }

    fn encode<'n>(&self, name: &'n str) -> Outcome<Cow<'n, [u8]>> {
        convert(|py| name.into_pyobject(py)?.call_method1("encode", (&self.0,))?.extract())
            .map(Cow::Owned)
    }
}

fn convert<T>(body: impl FnOnce(Python<'_>) -> PyResult<T>) -> Outcome<T> {
    with_python(|py| match body(py) {
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyUnicodeError>(py) => Ok(None),
        result => result.map(Some),
    })?
    .ok_or_else(|| Refusal::NotText.into())
}

struct Mounted {
    core: Arc<Core<AnyNode>>,
    inodes: Py<Inodes>,
}

/// What [`Operations::_handle`] tells of one.
type Described = (Py<PyAny>, Option<Py<PyAny>>, bool, Option<Vec<(String, Py<PyAny>)>>);

/// The Rust side of `arvados_fuse.Operations`.
#[pyclass(subclass, frozen, weakref, dict, module = "llfuse._core")]
pub struct Operations {
    mounted: OnceLock<Mounted>,
    overrides: Arc<ObjectNames>,
}

impl Operations {
    fn mounted(&self) -> PyResult<&Mounted> {
        self.mounted.get().ok_or_else(|| {
            PyRuntimeError::new_err("Operations.__init__() was not called by the subclass")
        })
    }

    fn core(&self) -> PyResult<&Arc<Core<AnyNode>>> {
        Ok(&self.mounted()?.core)
    }

    fn run<T>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&Core<AnyNode>) -> Outcome<T>,
    ) -> PyResult<T> {
        let core = self.core()?;
        for_python(py, || body(core))
    }

    fn attr<'py>(
        &self,
        py: Python<'py>,
        body: impl FnOnce(&Core<AnyNode>) -> Outcome<Attr>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let attr = self.run(py, body)?;
        Ok(from_attr(py, &attr)?.into_any())
    }
}

#[pymethods]
impl Operations {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Operations { mounted: OnceLock::new(), overrides: Arc::default() }
    }

    /// Sets up the file system over an inode table.
    fn _set_up(
        &self,
        inodes: &Bound<'_, Inodes>,
        uid: u32,
        gid: u32,
        num_retries: u32,
        enable_write: bool,
    ) -> PyResult<()> {
        let encoding = inodes.get().encoding_name();
        let plain = ["utf-8", "utf8"].contains(&encoding.to_lowercase().replace('_', "-").as_str());
        let codec: Box<dyn Codec> =
            if plain { Box::new(Utf8) } else { Box::new(PythonCodec(encoding)) };
        let core = Core::new(Arc::clone(&inodes.get().core), codec);
        core.uid.store(uid, Ordering::Relaxed);
        core.gid.store(gid, Ordering::Relaxed);
        core.num_retries.store(num_retries, Ordering::Relaxed);
        core.enable_write.store(enable_write, Ordering::Relaxed);
        let mounted = Mounted { core: Arc::new(core), inodes: inodes.clone().unbind() };
        self.mounted
            .set(mounted)
            .map_err(|_| PyRuntimeError::new_err("Operations was already set up"))
    }

    /// Declares the methods of `cls` to be the shipped handlers: where the kernel's request would
    /// lead to one of them, the core answers itself.
    #[classmethod]
    fn _declare_shipped(cls: &Bound<'_, PyType>) -> PyResult<()> {
        HANDLERS.ship_functions(cls)
    }

    /// Looks which handlers of this object are not the shipped ones.
    fn _look_for_overrides(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().overrides.look(&HANDLERS, slf.as_any())
    }

    /// Names of the handlers that the kernel's requests call in Python because they were
    /// overridden or replaced.
    #[getter]
    fn _overridden(&self) -> Vec<&'static str> {
        Op::REQUESTS
            .iter()
            .filter(|op| self.overrides.overridden(Handler(**op)))
            .map(|op| op.name())
            .collect()
    }

    fn _is_overridden(&self, name: &str) -> bool {
        let op = Op::REQUESTS.iter().find(|op| op.name() == name);
        op.is_some_and(|op| self.overrides.overridden(Handler(*op)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.mounted.get() {
            Some(mounted) => visit.call(&mounted.inodes),
            None => Ok(()),
        }
    }

    #[getter]
    fn inodes(&self, py: Python<'_>) -> PyResult<Py<Inodes>> {
        Ok(self.mounted()?.inodes.clone_ref(py))
    }
    #[getter]
    fn uid(&self) -> PyResult<u32> {
        Ok(self.core()?.uid.load(Ordering::Relaxed))
    }
    #[setter]
    fn set_uid(&self, value: u32) -> PyResult<()> {
        self.core()?.uid.store(value, Ordering::Relaxed);
        Ok(())
    }
    #[getter]
    fn gid(&self) -> PyResult<u32> {
        Ok(self.core()?.gid.load(Ordering::Relaxed))
    }
    #[setter]
    fn set_gid(&self, value: u32) -> PyResult<()> {
        self.core()?.gid.store(value, Ordering::Relaxed);
        Ok(())
    }
    #[getter]
    fn enable_write(&self) -> PyResult<bool> {
        Ok(self.core()?.enable_write.load(Ordering::Relaxed))
    }
    #[setter]
    fn set_enable_write(&self, value: bool) -> PyResult<()> {
        self.core()?.enable_write.store(value, Ordering::Relaxed);
        Ok(())
    }
    #[getter]
    fn num_retries(&self) -> PyResult<u32> {
        Ok(self.core()?.num_retries.load(Ordering::Relaxed))
    }
    #[setter]
    fn set_num_retries(&self, value: u32) -> PyResult<()> {
        self.core()?.num_retries.store(value, Ordering::Relaxed);
        Ok(())
    }
    #[getter]
    fn read_counter(&self) -> PyResult<Counter> {
        Ok(Counter::new(&self.core()?.metrics, |c| &c.read))
    }
    #[getter]
    fn write_counter(&self) -> PyResult<Counter> {
        Ok(Counter::new(&self.core()?.metrics, |c| &c.write))
    }
    #[getter]
    fn read_ops_counter(&self) -> PyResult<Counter> {
        Ok(Counter::new(&self.core()?.metrics, |c| &c.read_ops))
    }
    #[getter]
    fn write_ops_counter(&self) -> PyResult<Counter> {
        Ok(Counter::new(&self.core()?.metrics, |c| &c.write_ops))
    }

    /// Numbers of the open handles, in order.
    fn _handle_numbers(&self) -> PyResult<Vec<u64>> {
        Ok(self.core()?.handles.numbers())
    }

    /// Takes the next handle number.
    fn _next_handle(&self) -> PyResult<u64> {
        Ok(self.core()?.handles.next_number())
    }

    /// An open handle: the entry; for a file, the directory that is flushed along with it and whether
    /// closing saves; for a directory, its listing. None where no handle is open by that number.
    fn _handle(&self, py: Python<'_>, fh: u64) -> PyResult<Option<Described>> {
        let Some(handle) = self.core()?.handles.find(Fh(fh)) else { return Ok(None) };
        Ok(Some(match &*handle {
            Handle::File { node, parent, for_writing, .. } => {
                let parent = parent.as_ref().map(|p| p.object(py)).transpose()?;
                (node.object(py)?, parent, *for_writing, None)
            }
            Handle::Dir { node, .. } => {
                let list = (0..)
                    .map_while(|at| handle.listed(at))
                    .filter_map(|listed| match listed {
                        Listed::Entry(name, node) => Some((name.into_owned(), node)),
                        Listed::Gone => None,
                    })
                    .map(|(name, node)| Ok((name, node.object(py)?)));
                (node.object(py)?, None, false, Some(list.collect::<PyResult<_>>()?))
            }
        }))
    }

    /// Puts a handle, described as by `_handle`, under a number.
    fn _set_handle(
        &self,
        fh: u64,
        obj: &Bound<'_, PyAny>,
        parent: Option<&Bound<'_, PyAny>>,
        for_writing: bool,
        entries: Option<Vec<(String, Bound<'_, PyAny>)>>,
    ) -> PyResult<()> {
        let node = AnyNode::new(obj)?;
        let handle = match entries {
            None => {
                let parent = parent.map(AnyNode::new).transpose()?;
                Handle::file(node, parent, for_writing, None)
            }
            Some(entries) => {
                let listed =
                    entries.into_iter().map(|(name, o)| Ok((name.into(), AnyNode::new(&o)?)));
                let listing: Vec<(Box<str>, AnyNode)> = listed.collect::<PyResult<_>>()?;
                Handle::Dir { node, head: Vec::new(), listing: Box::new(listing) }
            }
        };
        self.core()?.handles.insert(Fh(fh), handle);
        Ok(())
    }

    /// Forgets a handle without closing it; answers whether there was one.
    fn _forget_handle(&self, fh: u64) -> PyResult<bool> {
        Ok(self.core()?.handles.forget(Fh(fh)))
    }

    /// The mount is ending: what the kernel says about inodes no longer matters.
    fn _shutting_down(&self) -> PyResult<()> {
        self.core()?.shutting_down.store(true, Ordering::Release);
        Ok(())
    }

    fn _getattr<'py>(&self, py: Python<'py>, inode: u64) -> PyResult<Bound<'py, PyAny>> {
        self.attr(py, |core| core.getattr(Ino(inode)))
    }

    fn _setattr<'py>(
        &self,
        py: Python<'py>,
        inode: u64,
        attr: &Bound<'py, PyAny>,
        fields: Option<&Bound<'py, PyAny>>,
        fh: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let set = to_set_attr(attr, fields)?;
        self.attr(py, |core| core.setattr(Ino(inode), &set, fh.map(Fh)))
    }

    fn _lookup<'py>(
        &self,
        py: Python<'py>,
        parent_inode: u64,
        name: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        self.attr(py, |core| core.lookup(Ino(parent_inode), name))
    }

    fn _forget(&self, py: Python<'_>, inodes: &Bound<'_, PyAny>) -> PyResult<()> {
        for pair in inodes.try_iter()? {
            let (inode, nlookup): (u64, u64) = pair?.extract()?;
            self.run(py, |core| core.forget_one(Ino(inode), nlookup))?;
        }
        Ok(())
    }

    fn _open(&self, py: Python<'_>, inode: u64, flags: i32) -> PyResult<u64> {
        super::clock::look(py)?;
        self.run(py, |core| core.open(Ino(inode), flags)).map(|fh| fh.0)
    }

    fn _read<'py>(
        &self,
        py: Python<'py>,
        fh: u64,
        off: u64,
        size: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = match self.run(py, |core| core.read(Fh(fh), off, size))? {
            Read::Now(data) => data,
            Read::Later(start) => {
                let (done, arrived) = std::sync::mpsc::sync_channel(1);
                start(Box::new(move |result| {
                    // Nobody may be waiting any more: then there is nobody to tell.
                    let _ = done.send(result);
                }));
                let wait = move || arrived.recv().unwrap_or(Err(Refusal::Unreadable.errno()));
                lock::released(py, wait)?.map_err(fuse_error)?
            }
        };
        Ok(PyBytes::new(py, data.bytes()))
    }

    fn _write(&self, py: Python<'_>, fh: u64, off: u64, buf: &Bound<'_, PyAny>) -> PyResult<u32> {
        let data: Vec<u8> = match buf.cast::<PyBytes>() {
            Ok(bytes) => bytes.as_bytes().to_vec(),
            Err(_) => py.get_type::<PyBytes>().call1((buf,))?.extract()?,
        };
        match self.run(py, |core| core.write(Fh(fh), Position::At(off), &data))? {
            Write::Now(written) => Ok(written),
            Write::Later(start) => {
                let (done, ended) = std::sync::mpsc::sync_channel(1);
                start(Box::new(move |result| {
                    // Nobody may be waiting any more: then there is nobody to tell.
                    let _ = done.send(result);
                }));
                let wait = move || ended.recv().unwrap_or(Err(Refusal::Unwritable.errno()));
                lock::released(py, wait)?.map_err(fuse_error)
            }
        }
    }

    fn _release(&self, py: Python<'_>, fh: u64) -> PyResult<()> {
        self.run(py, |core| core.release(Fh(fh)))
    }

    fn _opendir(&self, py: Python<'_>, inode: u64) -> PyResult<u64> {
        self.run(py, |core| core.opendir(Ino(inode))).map(|fh| fh.0)
    }

    /// The rest of a listing: tuples of name (bytes), attributes, and the offset behind it.
    fn _readdir<'py>(&self, py: Python<'py>, fh: u64, off: u64) -> PyResult<Bound<'py, PyList>> {
        let mut listed = Vec::new();
        self.run(py, |core| {
            core.list(Fh(fh), off, false, &mut |name, attr, next| {
                listed.push((name.to_vec(), attr.clone(), next));
                Ok(())
            })
        })?;
        let list = PyList::empty(py);
        for (name, attr, next) in listed {
            list.append((PyBytes::new(py, &name), from_attr(py, &attr)?, next))?;
        }
        Ok(list)
    }

    fn _create<'py>(
        &self,
        py: Python<'py>,
        parent: u64,
        name: &[u8],
    ) -> PyResult<(u64, Bound<'py, PyAny>)> {
        let (attr, fh) = self.run(py, |core| core.create(Ino(parent), name))?;
        Ok((fh.0, from_attr(py, &attr)?.into_any()))
    }

    fn _mknod<'py>(
        &self,
        py: Python<'py>,
        parent: u64,
        name: &[u8],
        mode: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.attr(py, |core| core.mknod(Ino(parent), name, mode))
    }

    /// What the file system holds, as `StatvfsData` has it: bsize, frsize, blocks, bfree, bavail, files,
    /// ffree, namemax.
    fn _statfs(&self) -> PyResult<[u64; 8]> {
        let s = self.core()?.statfs();
        let [bsize, frsize, namemax] = [s.bsize, s.frsize, s.namemax].map(u64::from);
        Ok([bsize, frsize, s.blocks, s.bfree, s.bavail, s.files, s.ffree, namemax])
    }

    fn _mkdir<'py>(
        &self,
        py: Python<'py>,
        parent: u64,
        name: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        self.attr(py, |core| core.mkdir(Ino(parent), name))
    }

    fn _unlink(&self, py: Python<'_>, parent: u64, name: &[u8]) -> PyResult<()> {
        self.run(py, |core| core.unlink(Ino(parent), name))
    }

    fn _rmdir(&self, py: Python<'_>, parent: u64, name: &[u8]) -> PyResult<()> {
        self.run(py, |core| core.rmdir(Ino(parent), name))
    }

    fn _rename(
        &self,
        py: Python<'_>,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
    ) -> PyResult<()> {
        self.run(py, |core| {
            core.rename(Ino(parent), name, Ino(new_parent), new_name, RenameMode::Replace)
        })
    }

    fn _link<'py>(
        &self,
        py: Python<'py>,
        inode: u64,
        new_parent: u64,
        new_name: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        self.attr(py, |core| core.link(Ino(inode), Ino(new_parent), new_name))
    }

    fn _flush(&self, py: Python<'_>, fh: u64) -> PyResult<()> {
        self.run(py, |core| core.flush(Fh(fh)))
    }

    fn _fsync(&self, py: Python<'_>, fh: u64) -> PyResult<()> {
        self.run(py, |core| core.fsync(Fh(fh)))
    }

    fn _access(&self, py: Python<'_>, mode: i32) -> PyResult<()> {
        self.run(py, |core| core.access(mode))
    }

    /// The directory of that number, where something may be changed in it.
    fn _check_writable(&self, py: Python<'_>, inode_parent: u64) -> PyResult<Py<PyAny>> {
        let node = self.run(py, |core| core.writable_directory(Ino(inode_parent)))?;
        node.object(py)
    }

    /// Answers a request for what Keep cannot express.
    fn _unsupported(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |core| core.unsupported(Refusal::NotPermitted))
    }
}

/// The file system that the FUSE loop serves for an `Operations` object; none where it is an
/// object of another kind.
///
/// # Errors
/// Where the object was not set up, or cannot be looked into.
pub fn file_system_of(ops: &Bound<'_, PyAny>) -> PyResult<Option<Arc<dyn FileSystem>>> {
    let Ok(operations) = ops.cast::<Operations>() else {
        return Ok(None);
    };
    super::clock::look(ops.py())?;
    Operations::_look_for_overrides(operations)?;
    let this = operations.get();
    let core = Arc::clone(this.core()?);
    Ok(Some(Arc::new(dispatcher::Dispatcher::new(ops, core, Arc::clone(&this.overrides)))))
}
