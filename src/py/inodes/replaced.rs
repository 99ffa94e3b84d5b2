// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Methods of an `InodeCache` that a program overrides: in a subclass, on the class, on the object.
//!
//! The inode table calls them where 3.2.1 did. Of what only 2017 had, `manage` is called where a new
//! entry is counted, unless `update_cache_size` is overridden; `cap_cache` where something may have to
//! be evicted, unless `evict_candidates` is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use super::cache::InodeCache;
use crate::fs::cache::Replaced;
use crate::fs::node::Outcome;
use crate::py::nodes::any_node::AnyNode;
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

impl Name {
    const ALL: [Name; 7] = [
        Name::Touch,
        Name::Update,
        Name::Manage,
        Name::Unmanage,
        Name::Clear,
        Name::Candidates,
        Name::CapCache,
    ];

    fn text(self) -> &'static str {
        match self {
            Name::Touch => "touch",
            Name::Update => "update_cache_size",
            Name::Manage => "manage",
            Name::Unmanage => "unmanage",
            Name::Clear => "clear",
            Name::Candidates => "evict_candidates",
            Name::CapCache => "cap_cache",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Which methods are overridden, as bits.
#[derive(Clone, Default)]
pub struct Overrides(Arc<AtomicU8>);

impl Overrides {
    fn has(&self, name: Name) -> bool {
        self.0.load(Ordering::Relaxed) & name.bit() != 0
    }

    /// Looks at the object and at its classes.
    ///
    /// # Errors
    /// Where they cannot be looked into.
    pub fn look(&self, cache: &Bound<'_, InodeCache>) -> PyResult<()> {
        let shipped = cache.py().get_type::<InodeCache>();
        let mut bits = 0;
        for name in Name::ALL {
            let mut overridden = match cache.getattr_opt("__dict__")? {
                Some(own) => own.contains(name.text())?,
                None => false,
            };
            for class in cache.get_type().getattr("__mro__")?.try_iter()? {
                let class = class?;
                if class.getattr("__dict__")?.contains(name.text())? {
                    overridden |= !class.is(&shipped);
                    break;
                }
            }
            if overridden {
                bits |= name.bit();
            }
        }
        self.0.store(bits, Ordering::Relaxed);
        Ok(())
    }

    /// What the inode table asks. It does not keep the object alive.
    ///
    /// # Errors
    /// Where there can be no weak reference to the object.
    pub fn of(&self, cache: &Bound<'_, InodeCache>) -> PyResult<Overridden> {
        let cache = PyWeakrefReference::new(cache)?.unbind();
        Ok(Overridden { overrides: self.clone(), cache })
    }
}

/// The overridden methods of one cache.
pub struct Overridden {
    overrides: Overrides,
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
        self.overrides.has(name).then(|| {
            with_python(|py| {
                let cache = self.cache.bind(py).call0()?;
                then(&match node {
                    Some(node) => cache.call_method1(name.text(), (node.object(py)?,))?,
                    None => cache.call_method0(name.text())?,
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
        self.overrides.has(Name::Candidates) || self.overrides.has(Name::CapCache)
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
