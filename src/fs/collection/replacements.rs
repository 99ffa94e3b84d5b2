// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! In which paths a collection differs from what is saved of it, and where what is there comes from.
//!
//! A path is told once: no path below another one, unless that is removed. What was moved as it was is
//! one path, whatever is in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::State;
use super::capture::joined;
use super::draft::{Draft, Names, TOP, View};

/// What has to be replaced for what is saved to become what is there.
#[derive(Debug, Default)]
pub(super) struct Replacements {
    /// By path without the first `/`: `current/PATH`, `manifest_text/PATH`, or nothing.
    pub replace: BTreeMap<String, String>,
    /// Files with new contents, by path, and their numbers.
    pub files: Vec<(String, u64)>,
    /// Empty directories, by path.
    pub directories: Vec<String>,
    /// Something else than a file is removed.
    removes_directories: bool,
}

/// By directory: what in it changed, or has something below that did.
type Touched = HashMap<u64, Vec<u64>>;

impl State {
    /// How it differs from what is saved.
    pub(super) fn replacements(&self) -> Replacements {
        let saved = self.saved.as_ref().map(|saved| saved.view());
        let plain = Draft::default();
        let saved = saved.unwrap_or(View { current: &self.current, draft: &plain });
        let comparison = Comparison { saved, now: self.view() };
        let mut found = Replacements::default();
        comparison.replaced_in(TOP, "", &comparison.touched(), &mut found);
        found
    }
}

/// A collection as it is saved, and as it is.
struct Comparison<'v> {
    saved: View<'v>,
    now: View<'v>,
}

impl<'v> Comparison<'v> {
    fn touched(&self) -> Touched {
        let mut touched = Touched::new();
        let mut seen = HashSet::new();
        for ino in self.now.draft.nodes.keys() {
            match (self.now.draft_file(*ino), self.now.names(*ino)) {
                (Some(file), _) if file.is_unsaved() => {}
                (_, Some(names)) if self.has_other_names(*ino, names) => {
                    touched.entry(*ino).or_default();
                }
                _ => continue,
            }
            let mut at = *ino;
            while let Some(above) = self.now.dir_of(at).filter(|_| seen.insert(at)) {
                touched.entry(above).or_default().push(at);
                at = above;
            }
        }
        touched
    }

    fn has_other_names(&self, dir: u64, names: &Names) -> bool {
        match self.saved.names(dir) {
            Some(saved) => saved.changed != names.changed,
            None => !names.changed.is_empty(),
        }
    }

    /// The path that a node is saved at.
    fn saved_path(&self, ino: u64) -> Option<String> {
        self.saved.is_dir(ino)?;
        self.saved.path(ino)
    }

    fn has_unsaved_bytes(&self, ino: u64) -> bool {
        self.now.draft_file(ino).is_some_and(|file| file.is_unsaved())
    }

    /// Whether two files are saved with the same bytes, as far as that is easily told.
    fn has_same_bytes(&self, one: u64, other: u64) -> bool {
        let node =
            |ino| self.saved.in_snapshot(ino).filter(|_| self.saved.draft_file(ino).is_none());
        let tree = self.saved.current.tree();
        one == other
            || matches!((node(one), node(other)), (Some(one), Some(other)) if tree.has_same_bytes(one, other))
    }

    /// The names in a directory that do not lead where those of the snapshot do, now or as it is saved.
    fn changed_names(&self, dir: u64) -> BTreeSet<&'v str> {
        let views = [self.saved, self.now];
        let names = views.into_iter().filter_map(|view| view.names(dir));
        names.flat_map(|names| names.changed.keys()).map(|name| &**name).collect()
    }

    /// What changed in a directory that is where it was.
    fn replaced_in(&self, dir: u64, path: &str, touched: &Touched, found: &mut Replacements) {
        let names = self.changed_names(dir);
        for name in &names {
            let was = self.saved.find(dir, name);
            match self.now.find(dir, name) {
                Some(ino) => self.replaced(ino, &joined(path, name), was, touched, found),
                None => {
                    if let Some(was) = was {
                        found.replace.insert(joined(path, name), String::new());
                        found.removes_directories |= self.saved.is_dir(was) != Some(false);
                    }
                }
            }
        }
        for ino in touched.get(&dir).into_iter().flatten() {
            let current = self.now.current;
            let Some(name) = current.id(*ino).map(|id| current.tree().name(id)) else {
                continue;
            };
            // Names that lead elsewhere than in the snapshot are told already.
            if names.contains(name) || self.now.find(dir, name) != Some(*ino) {
                continue;
            }
            let path = joined(path, name);
            if self.now.is_dir(*ino) == Some(true) {
                self.replaced_in(*ino, &path, touched, found);
            } else {
                found.file(path, *ino);
            }
        }
    }

    /// What a path leads to now; `was` is what it is saved as.
    fn replaced(
        &self,
        ino: u64,
        path: &str,
        was: Option<u64>,
        touched: &Touched,
        found: &mut Replacements,
    ) {
        let saved = self.saved_path(ino);
        if self.now.is_dir(ino) != Some(true) {
            match saved {
                Some(saved) if !self.has_unsaved_bytes(ino) => {
                    // A name that leads where it did, or to what is the same.
                    if was.is_none_or(|was| !self.has_same_bytes(was, ino)) {
                        found.replace.insert(path.to_owned(), format!("current/{saved}"));
                    }
                }
                _ => found.file(path.to_owned(), ino),
            }
            return;
        }
        if let Some(saved) = saved {
            if was == Some(ino) {
                return self.replaced_in(ino, path, touched, found);
            }
            if !touched.contains_key(&ino) {
                found.replace.insert(path.to_owned(), format!("current/{saved}"));
                return;
            }
        }
        let entries = self.now.entries(ino);
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
    /// Whether all that happens is that names of files are gone.
    pub(super) fn only_removes_files(&self) -> bool {
        !self.removes_directories && self.replace.values().all(String::is_empty)
    }

    fn file(&mut self, path: String, ino: u64) {
        self.replace.insert(path.clone(), format!("manifest_text/{path}"));
        self.files.push((path, ino));
    }
}
