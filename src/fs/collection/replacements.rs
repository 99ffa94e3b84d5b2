// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! In which paths the draft differs from the snapshot, and where what is there comes from.
//!
//! A path is told once: no path below another one, unless that is removed. What was moved as it was is
//! one path, whatever is in it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::State;
use super::capture::joined;
use super::draft::TOP;
use crate::collection::NodeId;

/// What has to be replaced for the snapshot to become the draft.
#[derive(Debug, Default)]
pub(super) struct Replacements {
    /// By path without the first `/`: `current/PATH`, `manifest_text/PATH`, or nothing.
    pub replace: BTreeMap<String, String>,
    /// Files with new contents, by path, and their numbers.
    pub files: Vec<(String, u64)>,
    /// Empty directories, by path.
    pub directories: Vec<String>,
}

/// By directory: what in it changed, or has something below that did.
type Touched = HashMap<u64, Vec<u64>>;

impl State {
    /// The differences.
    pub(super) fn replacements(&self) -> Replacements {
        let mut found = Replacements::default();
        let touched = self.touched();
        self.replaced_in(TOP, "", &touched, &mut found);
        found
    }

    fn touched(&self) -> Touched {
        let mut touched = Touched::new();
        let mut seen = HashSet::new();
        for ino in self.draft.nodes.keys() {
            match (self.draft_file(*ino), self.names(*ino)) {
                (Some(file), _) if file.is_unsaved() => {}
                (_, Some(names)) if !names.changed.is_empty() => {
                    touched.entry(*ino).or_default();
                }
                _ => continue,
            }
            let mut at = *ino;
            while let Some(above) = self.dir_of(at).filter(|_| seen.insert(at)) {
                touched.entry(above).or_default().push(at);
                at = above;
            }
        }
        touched
    }

    /// The path that a node has in the snapshot.
    fn saved_path(&self, ino: u64) -> Option<(NodeId, String)> {
        let id = self.current.id(ino)?;
        Some((id, self.current.tree().path(id)))
    }

    fn has_unsaved_bytes(&self, ino: u64) -> bool {
        self.current.id(ino).is_none() || self.draft_file(ino).is_some_and(|file| file.is_unsaved())
    }

    /// What changed in a directory that is where it was.
    fn replaced_in(&self, dir: u64, path: &str, touched: &Touched, found: &mut Replacements) {
        let names = self.names(dir);
        for (name, ino) in names.iter().flat_map(|names| &names.changed) {
            let base = names.and_then(|names| names.base);
            let was = base.and_then(|base| self.current.tree().child(base, name));
            match ino {
                Some(ino) => self.replaced(*ino, &joined(path, name), was, touched, found),
                None if was.is_some() => {
                    found.replace.insert(joined(path, name), String::new());
                }
                None => {}
            }
        }
        for ino in touched.get(&dir).into_iter().flatten() {
            let Some(node) = self.current.id(*ino).map(|id| self.current.tree().name(id)) else {
                continue;
            };
            // Names that lead elsewhere than before are told already.
            if names.is_some_and(|names| names.changed.contains_key(node))
                || self.find(dir, node) != Some(*ino)
            {
                continue;
            }
            let path = joined(path, node);
            if self.is_dir(*ino) == Some(true) {
                self.replaced_in(*ino, &path, touched, found);
            } else {
                found.file(path, *ino);
            }
        }
    }

    /// What a path leads to now; `was` is what it led to.
    fn replaced(
        &self,
        ino: u64,
        path: &str,
        was: Option<NodeId>,
        touched: &Touched,
        found: &mut Replacements,
    ) {
        let saved = self.saved_path(ino);
        if self.is_dir(ino) != Some(true) {
            match saved {
                Some((id, saved)) if !self.has_unsaved_bytes(ino) => {
                    // A name that leads where it did, or to what is the same.
                    let tree = self.current.tree();
                    if was.is_none_or(|was| !tree.has_same_bytes(was, id)) {
                        found.replace.insert(path.to_owned(), format!("current/{saved}"));
                    }
                }
                _ => found.file(path.to_owned(), ino),
            }
            return;
        }
        if let Some((id, saved)) = saved {
            if was == Some(id) {
                return self.replaced_in(ino, path, touched, found);
            }
            if !touched.contains_key(&ino) {
                found.replace.insert(path.to_owned(), format!("current/{saved}"));
                return;
            }
        }
        let entries = self.entries(ino);
        if entries.is_empty() {
            found.replace.insert(path.to_owned(), format!("manifest_text/{path}"));
            found.directories.push(path.to_owned());
            return;
        }
        if was.is_some() {
            found.replace.insert(path.to_owned(), String::new());
        }
        for entry in entries {
            self.replaced(entry.ino, &joined(path, &entry.name), None, touched, found);
        }
    }
}

impl Replacements {
    fn file(&mut self, path: String, ino: u64) {
        self.replace.insert(path.clone(), format!("manifest_text/{path}"));
        self.files.push((path, ino));
    }
}
