// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `init`, `main`, `close` and `stop`: the life of the one mount that a process serves at a time.
//!
//! A signal or `stop()` ends the loop and leaves the mount in the tree, as llfuse has it: whoever uses
//! it waits until `close`, which unmounts, or with `unmount=False` only lets go of it. arv-mount, which
//! wants its users to go in peace, catches its signals itself and calls `unmount`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::exceptions::errno_of_any;
use super::llfuse::notify::Sender;
use super::llfuse::python_fs::PythonFs;
use super::llfuse::signals::{self, Handlers, Phase, Wakeup};
use super::llfuse::{last_resort, lock, logging};
use super::operations;
use crate::fs::FileSystem;
use crate::fuse::mount::{Mount, MountPoint, Place, Watcher};
use crate::fuse::options::Options;
use crate::fuse::session::{Session, Stopper};

/// Largest write that handlers in Python are given, in bytes: what libfuse 2 has room for.
const MAX_WRITE: u32 = 128 << 10;

/// How long it may take until `main`, which was called, serves.
const SOON: Duration = Duration::from_secs(2);

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
    /// After `main` has left the mount, until `close`.
    left: Option<OwnedFd>,
    /// After `init` with `auto_unmount`, until `close`.
    watcher: Option<Watcher>,
    /// The process that called `init`.
    process: i32,
}

static STATE: Mutex<State> = Mutex::new(State {
    ready: None,
    stopper: None,
    place: None,
    gone: false,
    left: None,
    watcher: None,
    process: 0,
});

/// Sees to it that nothing of an earlier mount is in the way of another.
///
/// # Errors
/// `RuntimeError` where this process has one that is still there.
fn make_way() -> PyResult<()> {
    let mut state = STATE.lock();
    let process = last_resort::process_id();
    if state.process != process {
        // The mount is that of the process that this one was forked from, and so are the threads.
        let inherited = std::mem::take(&mut *state);
        drop(state);
        lock::forget_lost_owner();
        // What others hold open as well.
        drop((inherited.ready, inherited.left));
        std::mem::forget((inherited.stopper, inherited.watcher));
        return Ok(());
    }
    if let Some(place) = &state.place {
        if state.stopper.is_some() || (!state.gone && place.is_mounted()) {
            return Err(PyRuntimeError::new_err(
                "another file system is mounted: call close() first",
            ));
        }
        // It was unmounted, and nobody called `close`.
        *state = State::default();
    }
    Ok(())
}

/// Mounts a file system.
///
/// `ops` answers its requests: an instance of `Operations`, or an object with the same methods.
/// `options` are strings of mount.fuse(8), such as `default_options`.
///
/// # Errors
/// `RuntimeError` where it cannot be mounted, or another mount was not closed; `TypeError` where
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
    make_way()?;
    let mut options = Options::parse(words.iter().map(String::as_str)).map_err(failed)?;
    if options.debug {
        logging::set_log_level("debug")?;
    }
    let fs = if let Some(fs) = operations::file_system_of(ops)? {
        // A file that changed elsewhere and has the size it had is read again.
        options.auto_inval_data.get_or_insert(true);
        fs
    } else {
        options.max_write = Some(options.max_write.unwrap_or(MAX_WRITE).min(MAX_WRITE));
        Arc::new(PythonFs::new(ops.clone().unbind(), errno_of_any))
    };
    let mut mount = py.detach(|| mount_guarded(&path, &options)).map_err(failed)?;
    let mut state = STATE.lock();
    state.place = Some(mount.place.clone());
    state.gone = false;
    state.watcher = mount.watcher.take();
    state.process = last_resort::process_id();
    state.ready = Some(Ready { mount, options, fs });
    Ok(())
}

/// Mounts so that no signal leaves the mount behind, from the moment on that it is there.
fn mount_guarded(path: &std::path::Path, options: &Options) -> std::io::Result<Mount> {
    let point = MountPoint::find(path, options)?;
    signals::before_mounting()?;
    last_resort::prepare(&point.path);
    let mount = point.mount(options);
    if mount.is_ok() {
        signals::enter(Phase::Mounted);
    } else {
        last_resort::forget();
        if signals::is_process() {
            signals::enter(Phase::Starting);
        } else {
            signals::restore();
        }
    }
    mount
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: std::io::Error) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// Serves requests until the mount is gone, or a signal or `stop()` ends it.
///
/// `workers` threads answer requests side by side; one is the thread that calls this. Unless
/// `handle_signals` is false, SIGTERM, SIGINT and SIGHUP end the loop, and so does every other signal
/// that would end the process and that the program does not handle; SIGUSR1 and SIGPIPE do nothing.
/// Every thread started here has ended when this returns.
///
/// Returns the number of the signal that ended it, otherwise None.
///
/// # Errors
/// `RuntimeError` before `init`, or where the kernel cannot be talked to; `ValueError` for no workers.
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
    let handlers = if handle_signals && !signals::is_process() {
        Some(Handlers::install(wakeup.writer()?)?)
    } else {
        signals::restore();
        None
    };
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
        let stopper = Arc::clone(&stopper);
        std::thread::Builder::new().name("fuse-stop".into()).spawn(move || match wakeup.wait() {
            Ok(signal) if signal != 0 => {
                leave(&stopper);
                Some(signal)
            }
            _ => None,
        })?
    };
    let served = session.run();
    drop(sender);
    let left = stopper.take_connection();
    let gone = !place.is_mounted();
    {
        let mut state = STATE.lock();
        state.stopper = None;
        // Unless `close` was called meanwhile.
        if state.place.is_some() {
            state.gone = gone;
            state.left = left;
        }
    }
    drop(handlers);
    wakeup.close();
    let signal = listener.join().unwrap_or(None);
    served.map(|()| signal)
}

fn leave(stopper: &Arc<Stopper>) {
    if let Err(error) = stopper.leave() {
        log::error!("cannot end the loop: {error}");
    }
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

/// Ends `main`, from another thread. The mount stays, as after a signal. Returns when the requests
/// under way are answered, or after a few seconds.
#[pyfunction]
pub fn stop(py: Python<'_>) {
    let stopper = STATE.lock().stopper.clone();
    if let Some(stopper) = stopper {
        py.detach(|| leave(&stopper));
    }
}

/// Ends `main`, from another thread; the mount goes. Returns when it has ended, or when its
/// connection was cut because files were still open after two seconds.
#[pyfunction]
pub fn unmount(py: Python<'_>) {
    py.detach(|| {
        let deadline = Instant::now() + SOON;
        loop {
            let (stopper, place) = {
                let state = STATE.lock();
                (state.stopper.clone(), state.place.clone().filter(|_| !state.gone))
            };
            if let Some(stopper) = stopper {
                stopper.stop();
                break;
            }
            // Nobody serves it yet: `main` is to find it gone, or to be stopped when it has begun.
            let Some(place) = place else { break };
            place.detach();
            if Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        last_resort::forget();
    });
}

/// Lets go of the mount; with `unmount`, takes it out of the tree first. Where `main` still runs,
/// it ends.
///
/// # Errors
/// `RuntimeError` where nothing was mounted.
#[pyfunction]
#[pyo3(signature = (unmount=true))]
pub fn close(py: Python<'_>, unmount: bool) -> PyResult<()> {
    let stopper = STATE.lock().stopper.clone();
    if let Some(stopper) = stopper {
        py.detach(|| if unmount { stopper.stop() } else { leave(&stopper) });
    }
    let (closed, stopper) = {
        let mut state = STATE.lock();
        let stopper = state.stopper.take();
        (std::mem::take(&mut *state), stopper)
    };
    let Some(place) = closed.place else {
        return Err(PyRuntimeError::new_err("Need to call init() before close()"));
    };
    if unmount && !closed.gone {
        py.detach(|| place.detach());
    }
    if !signals::is_process() {
        signals::restore();
    }
    last_resort::forget();
    // The connection ends with these, and with what `main` may still have.
    drop((closed.ready, closed.left, stopper.and_then(|s| s.take_connection())));
    py.detach(|| drop(closed.watcher));
    Ok(())
}

/// Adds the functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(init, m)?)?;
    m.add_function(wrap_pyfunction!(main, m)?)?;
    m.add_function(wrap_pyfunction!(close, m)?)?;
    m.add_function(wrap_pyfunction!(stop, m)?)?;
    m.add_function(wrap_pyfunction!(unmount, m)?)
}
