// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The one place that finds out what a program overrides.
//!
//! For a [`Kind`] of object (nodes, inode caches, operations) there is a list of names that the core
//! answers by itself as long as they mean what was shipped. For a class, [`ClassNames`] tells which do;
//! it is worked out when it is first asked for and again when an attribute of the class, or of a class
//! above it, is assigned ([`class_changed`], called by the metaclass `arvados_fuse.override_watch.WatchedType`).
//! For an object, [`InstanceNames`] tells which are in its own dictionary. Both are read without a lock and
//! without the GIL.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

/// A name of a kind's list.
pub trait Name: Copy {
    /// The kind.
    fn kind() -> &'static Kind;
    /// Its place in the list, from 0 to 63.
    fn place(self) -> usize;
}

fn bit(place: usize) -> u64 {
    1 << place
}

/// A kind of object whose methods somebody may override.
pub struct Kind {
    names: &'static [&'static str],
    /// A name without whose own meaning no other name has any.
    gate: Option<usize>,
    /// Tells what else is to be known of a class.
    marks: fn(&Bound<'_, PyType>) -> PyResult<bool>,
    /// The names that are heeded, as bits.
    heeded: AtomicU64,
    shipped: Mutex<Shipped>,
    /// Classes met so far, by address; the class is kept, so that no other gets its address.
    known: Mutex<Option<Known>>,
}

type Known = HashMap<usize, (Py<PyType>, &'static ClassNames)>;

/// What a kind's names mean as shipped. Objects are kept, so that no other gets their address.
struct Shipped {
    /// What one of these defines.
    classes: Vec<Py<PyType>>,
    /// These functions, for one name or for any.
    functions: Vec<(Option<usize>, Py<PyAny>)>,
}

/// The kinds that have classes.
static KINDS: Mutex<Vec<&'static Kind>> = Mutex::new(Vec::new());

impl Kind {
    /// A kind with those names, 64 at most.
    ///
    /// # Panics
    /// Where there are more.
    #[must_use]
    pub const fn new(names: &'static [&'static str]) -> Self {
        assert!(names.len() <= 64, "one bit for each name");
        Kind {
            names,
            gate: None,
            marks: |_| Ok(false),
            heeded: AtomicU64::new(u64::MAX),
            shipped: Mutex::new(Shipped { classes: Vec::new(), functions: Vec::new() }),
            known: Mutex::new(None),
        }
    }

    /// Where the name at that place is overridden, any name may mean anything.
    #[must_use]
    pub const fn gated_by(mut self, place: usize) -> Self {
        self.gate = Some(place);
        self
    }

    /// Classes are marked ([`ClassNames::is_marked`]) by `marks`.
    #[must_use]
    pub const fn marked_by(mut self, marks: fn(&Bound<'_, PyType>) -> PyResult<bool>) -> Self {
        self.marks = marks;
        self
    }

    /// Names are heeded once [`Kind::ship_functions`] has said what is shipped by them.
    #[must_use]
    pub const fn shipped_by_functions(mut self) -> Self {
        self.heeded = AtomicU64::new(0);
        self
    }

    /// What these classes define is the core's own.
    pub fn ship_classes(&self, classes: impl IntoIterator<Item = Py<PyType>>) {
        self.shipped.lock().classes.extend(classes);
    }

    /// The function, by whatever name, counts as shipped.
    pub fn ship_function(&self, function: Py<PyAny>) {
        self.shipped.lock().functions.push((None, function));
    }

    /// What the class defines by the names of the list is what is shipped by them, and other names are
    /// not heeded.
    ///
    /// # Errors
    /// Where the class cannot be looked into.
    pub fn ship_functions(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let dict = class.getattr("__dict__")?;
        let (mut functions, mut heeded) = (Vec::new(), 0);
        for (place, name) in self.names.iter().enumerate() {
            if dict.contains(name)? {
                functions.push((Some(place), dict.get_item(name)?.unbind()));
                heeded |= bit(place);
            }
        }
        self.heeded.store(heeded, Ordering::Relaxed);
        let old = std::mem::replace(&mut self.shipped.lock().functions, functions);
        drop(old);
        Ok(())
    }

    /// What holds for objects of that class.
    ///
    /// # Errors
    /// Where the class cannot be looked into.
    pub fn of_class(&'static self, class: &Bound<'_, PyType>) -> PyResult<&'static ClassNames> {
        let address = class.as_ptr() as usize;
        if let Some((_, known)) = self.known.lock().get_or_insert_default().get(&address) {
            return Ok(known);
        }
        let names = ClassNames {
            kind: self,
            own: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            mark: AtomicBool::new(false),
        };
        names.look(class)?;
        {
            let mut kinds = KINDS.lock();
            if !kinds.iter().any(|kind| std::ptr::eq(*kind, self)) {
                kinds.push(self);
            }
        }
        let kept = class.clone().unbind();
        let mut known = self.known.lock();
        // For as long as the class, which is kept.
        let entry = known.get_or_insert_default().entry(address);
        Ok(entry.or_insert_with(|| (kept, Box::leak(Box::new(names)))).1)
    }

    fn known(&self, class: &Bound<'_, PyType>) -> Option<&'static ClassNames> {
        let known = self.known.lock();
        known.as_ref()?.get(&(class.as_ptr() as usize)).map(|(_, names)| *names)
    }
}

/// What the names of a kind mean for the objects of one class.
pub struct ClassNames {
    kind: &'static Kind,
    /// Names that a shipped class defines, as bits.
    own: AtomicU64,
    /// Names that lead to a function that counts as shipped.
    marked: AtomicU64,
    /// Heeded names that lead to anything else.
    foreign: AtomicU64,
    mark: AtomicBool,
}

impl ClassNames {
    /// Whether the name means exactly what the core means by it.
    pub fn own<N: Name>(&self, name: N) -> bool {
        self.own.load(Ordering::Relaxed) & bit(name.place()) != 0
    }

    /// Whether the name means that, or leads to a function that counts as shipped.
    pub fn own_or_shipped<N: Name>(&self, name: N) -> bool {
        let shipped = self.own.load(Ordering::Relaxed) | self.marked.load(Ordering::Relaxed);
        shipped & bit(name.place()) != 0
    }

    /// Whether the class is marked, see [`Kind::marked_by`].
    pub fn is_marked(&self) -> bool {
        self.mark.load(Ordering::Relaxed)
    }

    /// The names of the list that are shipped.
    pub fn names(&self) -> Vec<&'static str> {
        let shipped = self.own.load(Ordering::Relaxed) | self.marked.load(Ordering::Relaxed);
        let names = self.kind.names.iter().enumerate();
        names.filter(|(place, _)| shipped & bit(*place) != 0).map(|(_, name)| *name).collect()
    }

    fn look(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let mro: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)> = class
            .getattr("__mro__")?
            .cast_into::<PyTuple>()?
            .iter()
            .map(|c| Ok((c.getattr("__dict__")?, c)))
            .collect::<PyResult<_>>()?;
        let (classes, functions): (Vec<usize>, Vec<(Option<usize>, usize)>) = {
            let shipped = self.kind.shipped.lock();
            let functions = shipped.functions.iter();
            (
                shipped.classes.iter().map(|class| class.as_ptr() as usize).collect(),
                functions.map(|(place, f)| (*place, f.as_ptr() as usize)).collect(),
            )
        };
        let heeded = self.kind.heeded.load(Ordering::Relaxed);
        let (mut own, mut marked, mut foreign) = (0, 0, 0);
        for (place, name) in self.kind.names.iter().enumerate() {
            for (dict, definer) in &mro {
                if !dict.contains(name)? {
                    continue;
                }
                let function = dict.get_item(name)?.as_ptr() as usize;
                let is_shipped = functions
                    .iter()
                    .any(|(only, f)| *f == function && only.is_none_or(|only| only == place));
                if classes.contains(&(definer.as_ptr() as usize)) {
                    own |= bit(place);
                } else if is_shipped {
                    marked |= bit(place);
                } else {
                    foreign |= bit(place) & heeded;
                }
                break;
            }
        }
        if self.kind.gate.is_some_and(|gate| own & bit(gate) == 0) {
            (own, marked) = (0, 0);
        }
        self.own.store(own, Ordering::Relaxed);
        self.marked.store(marked, Ordering::Relaxed);
        self.foreign.store(foreign, Ordering::Relaxed);
        self.mark.store((self.kind.marks)(class)?, Ordering::Relaxed);
        Ok(())
    }
}

/// An attribute of a class was assigned or deleted: looks again at the class and at every class below
/// it, and calls `each` with each.
///
/// # Errors
/// Where a class cannot be looked into.
pub fn class_changed(
    class: &Bound<'_, PyType>,
    each: &mut dyn FnMut(&Bound<'_, PyType>) -> PyResult<()>,
) -> PyResult<()> {
    each(class)?;
    let kinds = KINDS.lock().clone();
    for known in kinds.into_iter().filter_map(|kind| kind.known(class)) {
        known.look(class)?;
    }
    for below in class.call_method0("__subclasses__")?.try_iter()? {
        if let Ok(below) = below?.cast_into::<PyType>() {
            class_changed(&below, each)?;
        }
    }
    Ok(())
}

/// Names that one object has in its own dictionary, as bits.
#[derive(Debug, Default)]
pub struct InstanceNames(AtomicU64);

impl InstanceNames {
    /// Whether the object has an attribute of its own of that name.
    pub fn has<N: Name>(&self, name: N) -> bool {
        self.0.load(Ordering::Relaxed) & bit(name.place()) != 0
    }

    /// Looks whether the object has an attribute of its own at that place of the list.
    ///
    /// # Errors
    /// Where the object cannot be looked into.
    pub fn look<N: Name>(&self, object: &Bound<'_, PyAny>, name: N) -> PyResult<()> {
        let place = name.place();
        if in_dict(object, N::kind().names[place])? {
            self.0.fetch_or(bit(place), Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit(place), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn in_dict(object: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    match object.getattr_opt("__dict__")? {
        Some(dict) => dict.contains(name),
        None => Ok(false),
    }
}

/// What is overridden for one object, of whatever class it is: looked at as a whole.
#[derive(Default)]
pub struct ObjectNames {
    class: OnceLock<&'static ClassNames>,
    instance: InstanceNames,
}

impl ObjectNames {
    /// Whether the name leads to what was not shipped. Nothing does before the first [`ObjectNames::look`].
    pub fn overridden<N: Name>(&self, name: N) -> bool {
        let foreign = self.class.get().map_or(0, |class| class.foreign.load(Ordering::Relaxed));
        (foreign | self.instance.0.load(Ordering::Relaxed)) & bit(name.place()) != 0
    }

    /// Looks at the object and at its class.
    ///
    /// # Errors
    /// Where they cannot be looked into.
    pub fn look(&self, kind: &'static Kind, object: &Bound<'_, PyAny>) -> PyResult<()> {
        let names = kind.of_class(&object.get_type())?;
        names.look(&object.get_type())?;
        let first = *self.class.get_or_init(|| names);
        let mut bits = 0;
        if std::ptr::eq(first, names) {
            for (place, name) in kind.names.iter().enumerate() {
                if in_dict(object, name)? {
                    bits |= bit(place);
                }
            }
            bits &= kind.heeded.load(Ordering::Relaxed);
        } else {
            // Its class was assigned: whatever that one's names lead to is called.
            bits = u64::MAX;
        }
        self.instance.0.store(bits, Ordering::Relaxed);
        Ok(())
    }
}
