// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `init`, `main`, `close` and `stop`: the life of the one mount that a process serves at a time.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::notify::Sender;
use super::python_fs::PythonFs;
use super::signals::{Handlers, Wakeup};
use crate::fs::FileSystem;
use crate::fuse::mount::{self, Mount, Place};
use crate::fuse::options::Options;
use crate::fuse::session::{Session, Stopper};
use crate::py::operations;

/// How many workers serve where the caller does not say.
const DEFAULT_WORKERS: usize = 30;

struct Ready {
    mount: Mount,
    options: Options,
    fs: Arc<dyn FileSystem>,
}

#[derive(Default)]
struct State {
    /// After `init`, until `main`.
    ready: Option<Ready>,
    /// While `main` runs.
    stopper: Option<Arc<Stopper>>,
    /// After `init`, until `close`.
    place: Option<Place>,
    /// The mount went while it was served: what is at its place by now is another's.
    gone: bool,
}

static STATE: Mutex<State> =
    Mutex::new(State { ready: None, stopper: None, place: None, gone: false });

/// Mounts a file system.
///
/// `ops` answers its requests: an instance of `Operations`, or an object with the same methods.
/// `options` are strings of mount.fuse(8), such as `default_options`.
///
/// # Errors
/// RuntimeError where it cannot be mounted, or another mount was not closed; TypeError where
/// `mountpoint` is no str.
#[pyfunction]
#[pyo3(signature = (ops, mountpoint, options=None))]
pub fn init(
    py: Python<'_>,
    ops: &Bound<'_, PyAny>,
    mountpoint: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    if !mountpoint.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("*mountpoint_* argument must be of type str"));
    }
    let path: PathBuf = mountpoint.extract()?;
    let mut words: Vec<String> = Vec::new();
    match options {
        Some(options) => {
            for option in options.try_iter()? {
                words.push(option?.extract()?);
            }
        }
        None => words.extend(["big_writes".into(), "default_permissions".into()]),
    }
    if STATE.lock().place.is_some() {
        return Err(PyRuntimeError::new_err("another file system is mounted: call close() first"));
    }
    let options = Options::parse(words.iter().map(String::as_str)).map_err(failed)?;
    if options.debug {
        super::logging::set_log_level("debug")?;
    }
    let fs = match operations::file_system_of(ops)? {
        Some(fs) => fs,
        None => Arc::new(PythonFs::new(ops.clone().unbind())),
    };
    let mount = py.detach(|| mount::mount_at(&path, &options)).map_err(failed)?;
    let mut state = STATE.lock();
    state.place = Some(mount.place.clone());
    state.gone = false;
    state.ready = Some(Ready { mount, options, fs });
    Ok(())
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: std::io::Error) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// Serves requests until the mount is gone, or a signal or `stop()` ends it.
///
/// `workers` threads answer requests side by side. Unless `handle_signals` is false, SIGTERM,
/// SIGINT and SIGHUP end the loop. Every thread started here has ended when this returns.
///
/// Returns the number of the signal that ended it, otherwise None.
///
/// # Errors
/// RuntimeError before `init`, or where the kernel cannot be talked to; ValueError for no workers.
#[pyfunction]
#[pyo3(signature = (workers=None, handle_signals=true))]
pub fn main(py: Python<'_>, workers: Option<usize>, handle_signals: bool) -> PyResult<Option<u8>> {
    if workers == Some(0) {
        return Err(PyValueError::new_err("workers has to be at least 1"));
    }
    let ready = STATE.lock().ready.take();
    let ready =
        ready.ok_or_else(|| PyRuntimeError::new_err("Need to call init() before main()"))?;
    let workers = workers.unwrap_or(DEFAULT_WORKERS);
    py.detach(|| serve(ready, workers, handle_signals)).map_err(failed)
}

fn serve(ready: Ready, workers: usize, handle_signals: bool) -> std::io::Result<Option<u8>> {
    let Ready { mount, options, fs } = ready;
    let place = mount.place.clone();
    keep_large_buffers_apart();
    let wakeup = Arc::new(Wakeup::new()?);
    let handlers = if handle_signals { Some(Handlers::install(wakeup.writer()?)?) } else { None };
    let session = match Session::begin(mount, &options, fs, workers) {
        // Unmounted before anybody served it.
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return Ok(None),
        session => session?,
    };
    let stopper = session.stopper();
    STATE.lock().stopper = Some(Arc::clone(&stopper));
    let sender = Sender::start(session.notifier())?;
    let listener = {
        let wakeup = Arc::clone(&wakeup);
        std::thread::Builder::new().name("fuse-stop".into()).spawn(move || match wakeup.wait() {
            Ok(signal) if signal != 0 => {
                stopper.stop();
                Some(signal)
            }
            _ => None,
        })?
    };
    let served = session.run();
    drop(sender);
    let gone = !place.is_mounted();
    {
        let mut state = STATE.lock();
        state.stopper = None;
        state.gone = gone;
    }
    drop(handlers);
    wakeup.close();
    let signal = listener.join().unwrap_or(None);
    served.map(|()| signal)
}

/// Has glibc give large buffers back to the system when they are freed.
///
/// Each worker has a request buffer of 16 MiB, of which only what a request needs is ever touched.
/// glibc by itself starts to recycle buffers of a size that was freed before, and clears the whole
/// of one that it recycles: every mount after the first would take all of that memory.
fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt(3) takes two integers and may be called at any time.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
        }
    }
}

/// Ends `main`, from another thread; the mount goes. Returns when it has ended, or when its
/// connection was cut because files were still open after two seconds.
#[pyfunction]
pub fn stop(py: Python<'_>) {
    let stopper = STATE.lock().stopper.clone();
    if let Some(stopper) = stopper {
        py.detach(|| stopper.stop());
    }
}

/// Lets go of the mount; with `unmount`, takes it out of the tree first. Where `main` still runs,
/// it ends.
///
/// # Errors
/// RuntimeError where nothing was mounted.
#[pyfunction]
#[pyo3(signature = (unmount=true))]
pub fn close(py: Python<'_>, unmount: bool) -> PyResult<()> {
    if unmount {
        stop(py);
    }
    let (place, ready, gone) = {
        let mut state = STATE.lock();
        (state.place.take(), state.ready.take(), state.gone)
    };
    let Some(place) = place else {
        return Err(PyRuntimeError::new_err("Need to call init() before close()"));
    };
    if unmount && !gone {
        py.detach(|| place.detach());
    }
    drop(ready);
    Ok(())
}
