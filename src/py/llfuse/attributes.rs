// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The data classes of llfuse: what handlers are given and what they answer with.

use std::convert::Infallible;
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::fs::{Attr, Caller, Ino, SetAttr, StatFs, Timestamp};

/// A whole number that may be set from anything with `__int__`: programs compute times and sizes
/// as floats, which lose their fraction here as they did before.
#[derive(Clone, Copy, Debug, Default)]
struct Whole<T>(T);

impl<'a, 'py, T> FromPyObject<'a, 'py> for Whole<T>
where
    T: for<'x> FromPyObject<'x, 'py, Error = PyErr>,
{
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let failed = match value.extract() {
            Ok(number) => return Ok(Whole(number)),
            Err(error) => error,
        };
        if !failed.is_instance_of::<PyTypeError>(value.py()) {
            return Err(failed);
        }
        match value.call_method0("__int__") {
            Ok(number) => number.extract().map(Whole),
            Err(_) => Err(failed),
        }
    }
}

impl<'py, T: IntoPyObject<'py, Error = Infallible>> IntoPyObject<'py> for Whole<T> {
    type Target = T::Target;
    type Output = T::Output;
    type Error = Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Infallible> {
        self.0.into_pyobject(py)
    }
}

/// Attributes of an inode, as stat(2) has them, and for how many seconds the kernel may keep them
/// and the name that led to them.
#[pyclass(subclass, module = "llfuse", get_all, set_all)]
#[derive(Clone, Debug)]
pub struct EntryAttributes {
    st_ino: Whole<u64>,
    generation: Whole<u64>,
    entry_timeout: f64,
    attr_timeout: f64,
    st_mode: Whole<u32>,
    st_nlink: Whole<u32>,
    st_uid: Whole<u32>,
    st_gid: Whole<u32>,
    st_rdev: Whole<u64>,
    st_size: Whole<i64>,
    st_blksize: Whole<i64>,
    st_blocks: Whole<i64>,
    st_atime_ns: Whole<i64>,
    st_mtime_ns: Whole<i64>,
    st_ctime_ns: Whole<i64>,
    st_birthtime_ns: Whole<i64>,
}

macro_rules! state {
    ($self:ident, $py:ident, [$($field:ident),*]) => {{
        let state = PyDict::new($py);
        $(state.set_item(stringify!($field), $self.$field)?;)*
        Ok(state)
    }};
}

fn restore(object: &Bound<'_, PyAny>, state: &Bound<'_, PyDict>) -> PyResult<()> {
    for (name, value) in state.iter() {
        object.setattr(name.extract::<String>()?.as_str(), value)?;
    }
    Ok(())
}

/// What copying or pickling says of an object that it cannot be done with.
pub(super) fn no_pickle(py: Python<'_>, what: &str) -> PyErr {
    let message = format!("{what} instances can't be pickled");
    match py.import("pickle").and_then(|pickle| pickle.getattr("PicklingError")?.call1((message,)))
    {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

impl Default for EntryAttributes {
    fn default() -> Self {
        EntryAttributes {
            st_ino: Whole(0),
            generation: Whole(0),
            entry_timeout: 300.0,
            attr_timeout: 300.0,
            st_mode: Whole(libc::S_IFREG),
            st_nlink: Whole(1),
            st_uid: Whole(0),
            st_gid: Whole(0),
            st_rdev: Whole(0),
            st_size: Whole(0),
            st_blksize: Whole(4096),
            st_blocks: Whole(0),
            st_atime_ns: Whole(0),
            st_mtime_ns: Whole(0),
            st_ctime_ns: Whole(0),
            st_birthtime_ns: Whole(0),
        }
    }
}

#[pymethods]
impl EntryAttributes {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn __getstate__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        state!(
            self,
            py,
            [
                st_ino,
                generation,
                entry_timeout,
                attr_timeout,
                st_mode,
                st_nlink,
                st_uid,
                st_gid,
                st_rdev,
                st_size,
                st_blksize,
                st_blocks,
                st_atime_ns,
                st_mtime_ns,
                st_ctime_ns,
                st_birthtime_ns
            ]
        )
    }

    fn __setstate__(slf: &Bound<'_, Self>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        restore(slf.as_any(), state)
    }
}

fn period(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(1e9)).unwrap_or_default()
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.0).unwrap_or(if time.0 < 0 { i64::MIN } else { i64::MAX })
}

/// Attributes that a handler answered with, for the kernel.
///
/// # Errors
/// `TypeError` where it is no `EntryAttributes`.
pub fn to_attr(object: &Bound<'_, PyAny>) -> PyResult<Attr> {
    let entry = object.cast::<EntryAttributes>().map_err(|_| {
        let kind = object.get_type().name().map_or_else(|_| "?".to_owned(), |n| n.to_string());
        PyTypeError::new_err(format!(
            "the handler has to return an EntryAttributes object, not {kind}"
        ))
    })?;
    let e = entry.borrow();
    Ok(Attr {
        ino: Ino(e.st_ino.0),
        generation: e.generation.0,
        entry_timeout: period(e.entry_timeout),
        attr_timeout: period(e.attr_timeout),
        mode: e.st_mode.0,
        nlink: e.st_nlink.0,
        uid: e.st_uid.0,
        gid: e.st_gid.0,
        rdev: u32::try_from(e.st_rdev.0).unwrap_or(0),
        // Signed, as in stat(2); the kernel's protocol has them without a sign.
        size: e.st_size.0.cast_unsigned(),
        blksize: u32::try_from(e.st_blksize.0).unwrap_or(0),
        blocks: e.st_blocks.0.cast_unsigned(),
        atime: Timestamp(e.st_atime_ns.0.into()),
        mtime: Timestamp(e.st_mtime_ns.0.into()),
        ctime: Timestamp(e.st_ctime_ns.0.into()),
    })
}

/// The core's attributes, for Python.
///
/// # Errors
/// Where Python is out of memory.
pub fn from_attr<'py>(py: Python<'py>, attr: &Attr) -> PyResult<Bound<'py, EntryAttributes>> {
    let entry = EntryAttributes {
        st_ino: Whole(attr.ino.0),
        generation: Whole(attr.generation),
        entry_timeout: attr.entry_timeout.as_secs_f64(),
        attr_timeout: attr.attr_timeout.as_secs_f64(),
        st_mode: Whole(attr.mode),
        st_nlink: Whole(attr.nlink),
        st_uid: Whole(attr.uid),
        st_gid: Whole(attr.gid),
        st_rdev: Whole(attr.rdev.into()),
        st_size: Whole(attr.size.cast_signed()),
        st_blksize: Whole(attr.blksize.into()),
        st_blocks: Whole(attr.blocks.cast_signed()),
        st_atime_ns: Whole(nanos(attr.atime)),
        st_mtime_ns: Whole(nanos(attr.mtime)),
        st_ctime_ns: Whole(nanos(attr.ctime)),
        st_birthtime_ns: Whole(0),
    };
    Bound::new(py, entry)
}

/// Which attributes a setattr request changes.
#[pyclass(subclass, frozen, module = "llfuse", get_all)]
#[derive(Clone, Debug, Default)]
pub struct SetattrFields {
    update_atime: bool,
    update_mtime: bool,
    update_mode: bool,
    update_uid: bool,
    update_gid: bool,
    update_size: bool,
}

#[pymethods]
impl SetattrFields {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn __getstate__(&self, py: Python<'_>) -> PyResult<()> {
        Err(no_pickle(py, "SetattrFields"))
    }
}

/// A setattr request, for a handler in Python.
///
/// # Errors
/// Where Python is out of memory.
pub fn from_set_attr<'py>(
    py: Python<'py>,
    set: &SetAttr,
) -> PyResult<(Bound<'py, EntryAttributes>, Bound<'py, SetattrFields>)> {
    let mut entry = EntryAttributes::default();
    let fields = SetattrFields {
        update_atime: set.atime.is_some(),
        update_mtime: set.mtime.is_some(),
        update_mode: set.mode.is_some(),
        update_uid: set.uid.is_some(),
        update_gid: set.gid.is_some(),
        update_size: set.size.is_some(),
    };
    entry.st_mode = Whole(set.mode.unwrap_or(0));
    entry.st_uid = Whole(set.uid.unwrap_or(0));
    entry.st_gid = Whole(set.gid.unwrap_or(0));
    entry.st_size = Whole(set.size.unwrap_or(0).cast_signed());
    entry.st_atime_ns = Whole(set.atime.map_or(0, nanos));
    entry.st_mtime_ns = Whole(set.mtime.map_or(0, nanos));
    entry.st_ctime_ns = Whole(set.ctime.map_or(0, nanos));
    Ok((Bound::new(py, entry)?, Bound::new(py, fields)?))
}

/// A setattr request that comes from Python. Without `fields` (as before llfuse 0.42) the size is
/// changed where one is given.
///
/// # Errors
/// Where an attribute is missing or no number.
pub fn to_set_attr(
    attr: &Bound<'_, PyAny>,
    fields: Option<&Bound<'_, PyAny>>,
) -> PyResult<SetAttr> {
    let Some(fields) = fields.filter(|f| !f.is_none()) else {
        let size = attr.getattr("st_size")?;
        return Ok(SetAttr { size: size.extract()?, ..SetAttr::default() });
    };
    let wanted = |field: &str| fields.getattr(field)?.is_truthy();
    let number = |field: &str, name: &str| -> PyResult<Option<u32>> {
        if wanted(field)? { attr.getattr(name)?.extract().map(Some) } else { Ok(None) }
    };
    let time = |field: &str, name: &str| -> PyResult<Option<Timestamp>> {
        if !wanted(field)? {
            return Ok(None);
        }
        let nanos: i64 = attr.getattr(name)?.extract()?;
        Ok(Some(Timestamp(nanos.into())))
    };
    Ok(SetAttr {
        mode: number("update_mode", "st_mode")?,
        uid: number("update_uid", "st_uid")?,
        gid: number("update_gid", "st_gid")?,
        size: if wanted("update_size")? { Some(attr.getattr("st_size")?.extract()?) } else { None },
        atime: time("update_atime", "st_atime_ns")?,
        mtime: time("update_mtime", "st_mtime_ns")?,
        ctime: None,
    })
}

/// The process on whose behalf a request came.
#[pyclass(subclass, frozen, module = "llfuse", get_all)]
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    uid: u32,
    gid: u32,
    pid: u32,
    umask: u32,
}

#[pymethods]
impl RequestContext {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn __getstate__(&self, py: Python<'_>) -> PyResult<()> {
        Err(no_pickle(py, "RequestContext"))
    }
}

impl From<&Caller> for RequestContext {
    fn from(caller: &Caller) -> Self {
        RequestContext { uid: caller.uid, gid: caller.gid, pid: caller.pid, umask: caller.umask }
    }
}

/// What statvfs(3) tells; block counts in units of `f_frsize` bytes.
#[pyclass(subclass, module = "llfuse", get_all, set_all)]
#[derive(Clone, Debug, Default)]
pub struct StatvfsData {
    f_bsize: Whole<u64>,
    f_frsize: Whole<u64>,
    f_blocks: Whole<u64>,
    f_bfree: Whole<u64>,
    f_bavail: Whole<u64>,
    f_files: Whole<u64>,
    f_ffree: Whole<u64>,
    f_favail: Whole<u64>,
    f_namemax: Whole<u64>,
}

#[pymethods]
impl StatvfsData {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self::default()
    }

    fn __getstate__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        state!(
            self,
            py,
            [f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail, f_namemax]
        )
    }

    fn __setstate__(slf: &Bound<'_, Self>, state: &Bound<'_, PyDict>) -> PyResult<()> {
        restore(slf.as_any(), state)
    }
}

/// What a statfs handler answered with, for the kernel.
///
/// # Errors
/// `TypeError` where it is no `StatvfsData`.
pub fn to_statfs(object: &Bound<'_, PyAny>) -> PyResult<StatFs> {
    let data = object
        .cast::<StatvfsData>()
        .map_err(|_| PyTypeError::new_err("the handler has to return a StatvfsData object"))?;
    let s = data.borrow();
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(StatFs {
        bsize: small(s.f_bsize.0),
        frsize: small(s.f_frsize.0),
        blocks: s.f_blocks.0,
        bfree: s.f_bfree.0,
        bavail: s.f_bavail.0,
        files: s.f_files.0,
        ffree: s.f_ffree.0,
        namemax: small(s.f_namemax.0),
    })
}
