// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Methods of an `InodeCache` that a program overrides: in a subclass, on the class, on the object.
//!
//! The inode table calls them where 3.2.1 did. Of what only 2017 had, `manage` is called where a new
//! entry is counted, unless `update_cache_size` is overridden; `cap_cache` where something may have to
//! be evicted, unless `evict_candidates` is.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyType, PyWeakrefReference};

use crate::fs::cache::Replaced;
use crate::fs::node::Outcome;
use crate::py::nodes::any_node::AnyNode;
use crate::py::overrides::{self, Kind, ObjectNames};
use crate::py::request::with_python;

#[derive(Clone, Copy)]
enum Name {
    Touch,
    Update,
    Manage,
    Unmanage,
    Clear,
    Candidates,
    CapCache,
}

/// As Python spells them, in the order of [`Name`].
const NAMES: [&str; 7] =
    ["touch", "update_cache_size", "manage", "unmanage", "clear", "evict_candidates", "cap_cache"];

static KIND: Kind = Kind::new(&NAMES);

impl overrides::Name for Name {
    fn kind() -> &'static Kind {
        &KIND
    }
    fn place(self) -> usize {
        self as usize
    }
}

/// Says which class defines what the core means.
pub fn ship(cache: Py<PyType>) {
    KIND.ship_classes([cache]);
}

/// Which methods of a cache are overridden.
#[derive(Clone, Default)]
pub struct Overrides(Arc<ObjectNames>);

impl Overrides {
    /// Looks at the object and at its classes.
    ///
    /// # Errors
    /// Where they cannot be looked into.
    pub fn look(&self, cache: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.look(&KIND, cache)
    }

    /// What the inode table asks. It does not keep the object alive.
    ///
    /// # Errors
    /// Where there can be no weak reference to the object.
    pub fn of(&self, cache: &Bound<'_, PyAny>) -> PyResult<Overridden> {
        let cache = PyWeakrefReference::new(cache)?.unbind();
        Ok(Overridden { overrides: Arc::clone(&self.0), cache })
    }
}

/// The overridden methods of one cache.
pub struct Overridden {
    overrides: Arc<ObjectNames>,
    cache: Py<PyWeakrefReference>,
}

impl Overridden {
    /// Calls the method, where it is overridden, and hands on what `then` makes of the answer.
    fn call<T>(
        &self,
        name: Name,
        node: Option<&AnyNode>,
        then: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> Option<Outcome<T>> {
        self.overrides.overridden(name).then(|| {
            with_python(|py| {
                let cache = self.cache.bind(py).call0()?;
                then(&match node {
                    Some(node) => cache.call_method1(NAMES[name as usize], (node.object(py)?,))?,
                    None => cache.call_method0(NAMES[name as usize])?,
                })
            })
        })
    }
}

fn nothing(_answer: &Bound<'_, PyAny>) -> PyResult<()> {
    Ok(())
}

impl Replaced<AnyNode> for Overridden {
    fn touch(&self, node: &AnyNode) -> Option<Outcome<bool>> {
        self.call(Name::Touch, Some(node), |answer| answer.is_truthy())
    }

    fn update(&self, node: &AnyNode) -> Option<Outcome<()>> {
        self.call(Name::Update, Some(node), nothing)
            .or_else(|| self.call(Name::Manage, Some(node), nothing))
    }

    fn unmanage(&self, node: &AnyNode) -> Option<Outcome<()>> {
        self.call(Name::Unmanage, Some(node), nothing)
    }

    fn clear(&self) -> Option<Outcome<()>> {
        self.call(Name::Clear, None, nothing)
    }

    fn evicts(&self) -> bool {
        self.overrides.overridden(Name::Candidates) || self.overrides.overridden(Name::CapCache)
    }

    fn evict(&self, remove: &mut dyn FnMut(&AnyNode) -> bool) -> Outcome<bool> {
        let mut freed = false;
        let chosen = self.call(Name::Candidates, None, |candidates| {
            for candidate in candidates.try_iter()? {
                freed |= remove(&AnyNode::new(&candidate?)?);
            }
            Ok(freed)
        });
        // What a cap_cache of the program's own has freed is not known here.
        let capped = || self.call(Name::CapCache, None, |_| Ok(true));
        chosen.or_else(capped).unwrap_or(Ok(false))
    }
}
