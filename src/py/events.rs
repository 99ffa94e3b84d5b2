// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `EventBus`: the event bus for a mount, whose thread calls Python for what the mount knows alone.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyConnectionError;
use pyo3::prelude::*;
use serde_json::Value;

use crate::events::{EventBus as Bus, Listener, Settings};
use crate::fs::inodes::Inodes as Table;
use crate::net::Access;
use crate::py::exceptions::log_exception;
use crate::py::gil::UpcallScope;
use crate::py::inodes::table::Inodes;
use crate::py::nodes::any_node::AnyNode;

/// Tells an object of Python.
struct ToPython {
    listener: Py<PyAny>,
    /// The entries of the mount. None: all events are told.
    table: Option<Weak<Table<AnyNode>>>,
}

impl ToPython {
    fn call(&self, name: &str, args: impl for<'py> PyCallArgs<'py>) {
        // Where Python has ended nobody is told.
        let _ = Python::try_attach(|py| {
            let _scope = UpcallScope::enter(py);
            if let Err(error) = self.listener.call_method1(py, name, args) {
                log_exception(py, "an event was not followed", error);
            }
        });
    }
}

impl Listener for ToPython {
    fn subscribed(&self, after_gap: bool) {
        self.call("subscribed", (after_gap,));
    }

    fn ended(&self) {
        self.call("ended", ());
    }

    fn concerns(&self, event: &Value) -> bool {
        let Some(table) = &self.table else { return true };
        let Some(table) = table.upgrade() else { return false };
        let known = |uuid: Option<&Value>| match uuid {
            None | Some(Value::Null) => false,
            Some(Value::String(uuid)) => table.knows_uuid(uuid),
            // What is odd is told: it is logged there.
            Some(_) => true,
        };
        let properties = event.get("properties");
        let old = properties.and_then(|properties| properties.get("old_attributes"));
        let odd =
            |part: Option<&Value>| part.is_some_and(|part| !part.is_object() && !part.is_null());
        event.get("event_type").is_none_or(|kind| !kind.is_string())
            || odd(properties)
            || odd(old)
            || known(event.get("object_uuid"))
            || known(event.get("object_owner_uuid"))
            || known(old.and_then(|old| old.get("owner_uuid")))
    }

    fn told(&self, text: &str) {
        self.call("told", (text,));
    }
}

/// Listens to the event bus, in a thread of the core, until it is closed.
#[pyclass(frozen, module = "llfuse._core")]
pub struct EventBus {
    bus: Bus,
}

#[pymethods]
impl EventBus {
    /// `url` has the token, `filters` are of events, in JSON. `listener.subscribed(after_gap)` is called where a
    /// subscription begins, `listener.ended()` where it ends, `listener.told(text)` for each event that is
    /// about an entry of `inodes`, or where that is None for each; they raise nothing.
    ///
    /// Raises `ConnectionError` where the first connection cannot be made.
    #[new]
    #[pyo3(signature = (url, listener, *, filters, insecure, ca_file, inodes))]
    fn new(
        py: Python<'_>,
        url: String,
        listener: Py<PyAny>,
        filters: String,
        insecure: bool,
        ca_file: Option<PathBuf>,
        inodes: Option<&Bound<'_, Inodes>>,
    ) -> PyResult<Self> {
        let table = inodes.map(|inodes| Arc::downgrade(&inodes.get().core));
        let access = Access { insecure, ca_file, proxies: None };
        let listener = Arc::new(ToPython { listener, table });
        py.detach(|| Bus::listen(Settings { url, filters, access }, listener))
            .map(|bus| EventBus { bus })
            .map_err(PyConnectionError::new_err)
    }

    /// Ends the subscription. Returns when its thread is done, or after a second.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.bus.close());
    }
}
