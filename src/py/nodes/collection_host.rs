// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a mounted collection needs of Python.
//!
//! Everything but a change is answered without Python, for as long as the classes that would stand
//! for the entries are the shipped ones. When Python asks for an entry, when something is to be
//! changed, or when one of those classes was patched, the collection is promoted: its directory
//! loads it as an SDK `Collection` with an object for each entry, under the same inode numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyCFunction};

use super::any_node::AnyNode;
use super::object_node::ObjectNode;
use super::overrides;
use crate::fs::collection::save::{Refused, Taken};
use crate::fs::collection::{Host, MountedCollection, Update, Written};
use crate::fs::errno::Refusal;
use crate::fs::inodes::Inodes;
use crate::fs::state::NodeState;
use crate::fs::{Outcome, Timestamp};
use crate::keep::KeepClient;
use crate::py::exceptions::{errno_of, log_exception};
use crate::py::gil::{UpcallScope, attach_for_good, may_call_python};
use crate::py::llfuse::errors::fuse_error;
use crate::py::llfuse::lock;
use crate::py::request::{self, with_python};

/// A collection that a Python directory shows.
pub type PythonCollection = MountedCollection<PythonHost>;

/// What reads the blocks of a collection's files.
pub struct Keep {
    /// The client.
    pub client: Arc<KeepClient>,
    /// Tells whether reading through the SDK's client would be the same: nothing of it was
    /// replaced. `None` where nobody can replace anything.
    pub is_real: Option<Py<PyAny>>,
}

impl Keep {
    fn is_real(&self) -> bool {
        let Some(is_real) = &self.is_real else { return true };
        attach_for_good(|py| is_real.call0(py).and_then(|real| real.is_truthy(py)).unwrap_or(false))
    }
}

/// The Python directory that shows a collection.
pub struct PythonHost {
    root: Weak<NodeState>,
    table: Weak<Inodes<AnyNode>>,
    keep: Keep,
    /// The state of the classes of nodes under which nothing was overridden.
    epoch: AtomicU64,
}

impl PythonHost {
    /// What a collection needs of the directory whose state `root` is.
    #[must_use]
    pub fn new(root: &Arc<NodeState>, table: &Arc<Inodes<AnyNode>>, keep: Keep) -> Self {
        PythonHost {
            root: Arc::downgrade(root),
            table: Arc::downgrade(table),
            keep,
            epoch: AtomicU64::new(overrides::epoch()),
        }
    }

    /// The directory.
    fn directory(&self) -> Option<ObjectNode> {
        self.successor(self.root.upgrade()?.inode()?)
    }

    /// Has the directory load the collection for Python.
    ///
    /// # Errors
    /// What that raises.
    pub fn promote(&self, py: Python<'_>) -> PyResult<()> {
        match self.directory() {
            Some(directory) => directory.object(py).call_method0(py, "_promote").map(drop),
            None => Ok(()),
        }
    }

    /// Some class of nodes was changed: one that would stand for an entry here?
    fn look_for_overrides(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        let native = match self.directory() {
            Some(directory) => {
                directory.object(py).call_method0(py, "_may_stay_native")?.is_truthy(py)?
            }
            None => true,
        };
        if native {
            self.epoch.store(epoch, Ordering::Relaxed);
            return Ok(());
        }
        self.promote(py)
    }
}

/// A callable that makes a manifest.
fn written<'py>(py: Python<'py>, whole: &Written) -> PyResult<Bound<'py, PyCFunction>> {
    let whole = Arc::clone(whole);
    PyCFunction::new_closure(py, None, None, move |args, _| {
        let py = args.py();
        py.detach(|| whole()).map_err(fuse_error)
    })
}

impl Host for PythonHost {
    type Node = ObjectNode;

    fn now(&self) -> Outcome<Timestamp> {
        request::now()
    }

    fn look(&self) -> Outcome<()> {
        let epoch = overrides::epoch();
        if self.epoch.load(Ordering::Relaxed) == epoch {
            return Ok(());
        }
        with_python(|py| self.look_for_overrides(py, epoch))
    }

    fn take_over(&self) -> Outcome<()> {
        with_python(|py| self.promote(py))
    }

    fn successor(&self, ino: u64) -> Option<ObjectNode> {
        match self.table.upgrade()?.get(ino)? {
            AnyNode::Host(node) => Some(node),
            AnyNode::Collection(_) => None,
        }
    }

    fn table(&self) -> Option<Arc<Inodes<AnyNode>>> {
        self.table.upgrade()
    }

    fn shown_by(node: &ObjectNode) -> Option<Arc<PythonCollection>> {
        node.core()?.collection()
    }

    fn keep(&self) -> Option<Arc<KeepClient>> {
        self.keep.is_real().then(|| Arc::clone(&self.keep.client))
    }

    fn store(&self) -> Arc<KeepClient> {
        Arc::clone(&self.keep.client)
    }

    fn save(&self, update: &Update) -> Result<Taken, Refused> {
        attach_for_good(|py| {
            let _scope = UpcallScope::enter(py);
            let Some(directory) = self.directory() else {
                return Err(Refused::Failed(Refusal::Lost.into()));
            };
            let saved = update.replace.iter().cloned().into_py_dict(py).and_then(|replace| {
                let segments = update.segments.iter().cloned().into_py_dict(py)?;
                let whole = written(py, &update.whole)?;
                let only_removes = update.only_removes_files;
                let args = (replace, &*update.files, segments, whole, only_removes);
                let saved = directory.object(py).call_method1(py, "_save_update", args)?;
                saved.extract::<Option<(String, f64, Option<f64>, bool)>>(py)
            });
            match saved {
                Ok(Some((hash, at, contested, told))) => {
                    let contested = contested.map(Timestamp::from_secs_f64);
                    Ok(Taken { hash, at: Timestamp::from_secs_f64(at), contested, told })
                }
                Ok(None) => Err(Refused::Outdated),
                Err(error) => Err(Refused::Failed(errno_of(py, error))),
            }
        })
    }

    fn wait(&self, wait: &mut (dyn FnMut() + Send)) {
        // Saving needs both the lock and the GIL.
        if may_call_python() || lock::is_held_by_me() {
            let released = Python::attach(|py| lock::released(py, &mut *wait));
            if let Err(error) = released {
                log::error!("waiting for a save: {error}");
            }
        } else {
            wait();
        }
    }

    fn renew(&self) -> bool {
        lock::with_llfuse_lock(|py| {
            let _scope = UpcallScope::enter(py);
            let Some(directory) = self.directory() else { return false };
            match directory.object(py).call_method0(py, "_renew_signatures") {
                Ok(renewed) => renewed.is_truthy(py).unwrap_or(false),
                Err(error) => {
                    log_exception(py, "block signatures could not be renewed", error);
                    false
                }
            }
        })
    }
}
