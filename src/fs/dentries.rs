// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The entries table of a directory: names to nodes.

use indexmap::IndexMap;
use parking_lot::RwLock;

/// Names to nodes, listed in the order in which they were added (until one is removed: then the
/// last takes its place, so that removing costs the same in a directory of any size).
///
/// The lock is a leaf: nothing else is called, and no other lock is taken, while it is held.
#[derive(Debug)]
pub struct Dentries<T>(RwLock<IndexMap<Box<str>, T>>);

impl<T> Default for Dentries<T> {
    fn default() -> Self {
        Dentries(RwLock::new(IndexMap::new()))
    }
}

impl<T: Clone> Dentries<T> {
    /// The node of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<T> {
        self.0.read().get(name).cloned()
    }

    /// Whether there is an entry of that name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.read().contains_key(name)
    }

    /// Adds or replaces an entry; answers what was there.
    pub fn insert(&self, name: &str, node: T) -> Option<T> {
        self.0.write().insert(name.into(), node)
    }

    /// Takes an entry out.
    pub fn remove(&self, name: &str) -> Option<T> {
        self.0.write().swap_remove(name)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// A copy of the table as it stands.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Box<str>, T)> {
        self.0.read().iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Box<str>> {
        self.0.read().keys().cloned().collect()
    }

    /// The name under which a node stands for which `is` holds.
    pub fn name_of(&self, is: impl Fn(&T) -> bool) -> Option<Box<str>> {
        self.0.read().iter().find(|(_, v)| is(v)).map(|(k, _)| k.clone())
    }

    /// Whether `is` holds for any node.
    pub fn any(&self, is: impl Fn(&T) -> bool) -> bool {
        self.0.read().values().any(is)
    }

    /// Replaces the whole table; answers the old one.
    pub fn replace(&self, entries: Vec<(Box<str>, T)>) -> Vec<(Box<str>, T)> {
        let new: IndexMap<_, _> = entries.into_iter().collect();
        std::mem::replace(&mut *self.0.write(), new).into_iter().collect()
    }

    /// Calls `visit` with every node, unless another thread is changing the table just now.
    pub fn try_visit(&self, mut visit: impl FnMut(&T)) {
        if let Some(map) = self.0.try_read() {
            map.values().for_each(&mut visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Dentries;

    #[test]
    fn keeps_order_and_replaces() {
        let d = Dentries::default();
        assert_eq!(d.insert("b", 1), None);
        assert_eq!(d.insert("a", 2), None);
        assert_eq!(d.insert("b", 3), Some(1));
        assert_eq!(d.snapshot(), vec![("b".into(), 3), ("a".into(), 2)]);
        assert_eq!(d.name_of(|v| *v == 2).as_deref(), Some("a"));
        assert_eq!(d.remove("b"), Some(3));
        assert_eq!(d.remove("b"), None);
        assert_eq!(d.replace(vec![("c".into(), 9)]).len(), 1);
        assert_eq!(d.names(), vec!["c".into()]);
    }
}
