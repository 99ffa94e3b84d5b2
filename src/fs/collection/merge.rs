// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A draft under which the collection becomes another: one that was saved from here, or one from
//! elsewhere.
//!
//! What others changed stays, what was changed here stays. Where both changed a file, ours has the name
//! and theirs stands beside it (`conflict_name`). What one removed and the other changed is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::capture::{Captured, joined};
use super::draft::{Content, DraftNode, Entry, Names, TOP, dir_in};
use super::lately::{Lately, blocks};
use super::snapshot::Snapshot;
use super::{Counts, State, counts};
use crate::collection::draft::{Contents, MAX_LEN, Piece, Pieces};
use crate::collection::{Diff, NAME_MAX, NodeId};
use crate::fs::attr::Timestamp;

/// What became of a draft under a version from elsewhere.
#[derive(Default)]
pub(super) struct Merged {
    /// Paths of files that both changed, and where theirs is.
    pub conflicts: Vec<(String, String)>,
    /// Paths of files that were saved here and replaced elsewhere at the same moment, and where ours is.
    pub replaced: Vec<(String, String)>,
    /// Nodes that are gone and that somebody has.
    pub gone: Vec<u64>,
    /// How many uses that took from the collection.
    pub uses: u32,
}

/// A version from elsewhere, and how it differs from the one that the draft is over.
pub(super) struct Theirs<'t> {
    pub next: Snapshot,
    pub difference: &'t Diff,
    /// When they changed it.
    pub at: Timestamp,
    /// Numbers for what is to be made, at least as many as the difference has nodes.
    pub numbers: Vec<u64>,
    /// What follows the name of a file of theirs that stands beside ours.
    pub suffix: String,
}

impl Theirs<'_> {
    /// Whether a node of theirs is, with all that is in it, as it was.
    fn is_same(&self, id: NodeId) -> bool {
        let tree = self.next.tree();
        self.difference.is_same(id) && tree.children(id).all(|child| self.is_same(child))
    }
}

impl State {
    /// `next` takes the place of the snapshot; what of the draft it has is no draft any more. `saved`
    /// tells how many edits of a file it has, where it has some; what somebody else changed, `is_theirs`,
    /// was changed when that says.
    pub(super) fn rebase(
        &mut self,
        mut next: Snapshot,
        saved: &HashMap<u64, u64>,
        is_theirs: impl Fn(u64, NodeId) -> bool,
    ) {
        let mut new_counts = counts(next.tree());
        let old = Arc::clone(&self.current);
        for (count, id) in self.counts.iter_mut().zip(0..).skip(1) {
            if let Some(id) = next.id(old.ino(NodeId(id))) {
                new_counts[id.0 as usize] = std::mem::take(count);
            }
        }
        // What is gone from what may be saved is gone from that, whatever is not in `next`.
        let keeps_gone = self.attempt.is_some();
        if let Some(top) = &mut self.draft.top {
            top.rebase(Some(NodeId::ROOT), &next, keeps_gone);
        }
        self.draft.top = self.draft.top.take().filter(|top| !top.changed.is_empty());
        let gauge = Arc::clone(&self.draft.gauge);
        self.draft.nodes.retain(|ino, node| {
            let Some(parent) = node.parent else { return true };
            let id = next.id(*ino).filter(|id| next.tree().is_dir(*id) == node.is_dir());
            let changed = match &mut node.content {
                Content::Dir(names, _) => {
                    names.rebase(id, &next, keeps_gone);
                    !names.changed.is_empty()
                }
                Content::File(file) => {
                    match (id, saved.get(ino)) {
                        (Some(_), Some(edits)) => file.set_saved(*edits),
                        (Some(_), None) => {}
                        (None, _) => file.set_never_saved(),
                    }
                    file.is_unsaved()
                }
            };
            let Some(id) = id else { return true };
            let moved = dir_in(&next, id) != parent || next.tree().name(id) != &*node.name;
            // A snapshot has a file for each name.
            let stays = changed || !node.others.is_empty();
            if stays || moved {
                if let (Content::File(file), false) = (&node.content, changed) {
                    let contents = Contents::of_tree(next.tree(), id).counted_by(&gauge);
                    file.set_saved(contents.edits());
                    *file.contents.lock() = contents;
                }
                return true;
            }
            new_counts[id.0 as usize] = std::mem::take(&mut node.counts);
            if !is_theirs(*ino, id) {
                next.set_mtime(id, node.mtime());
            }
            false
        });
        self.draft.gone.retain(|ino| keeps_gone || next.id(*ino).is_some());
        (self.current, self.counts) = (Arc::new(next), new_counts);
    }

    /// The draft's files are saved as they were captured.
    pub(super) fn note_saved(&self, captured: &Captured) {
        for (ino, edits) in captured.edits() {
            if let Some(file) = self.draft_file(ino) {
                file.set_saved(edits);
            }
        }
    }

    /// The draft becomes one over `theirs`, which take the place of the snapshot. Nodes that are gone and
    /// are not the draft's `leave`.
    pub(super) fn merge(
        &mut self,
        theirs: Theirs<'_>,
        mut leave: impl FnMut(&mut State, NodeId),
    ) -> Merged {
        let alike = self.directories_alike(&theirs.next);
        let mut merge = Merge { state: self, theirs, merged: Merged::default() };
        merge.names_of(TOP);
        let mut drafted: Vec<u64> = merge.state.draft.nodes.keys().copied().collect();
        drafted.sort_unstable();
        for ino in &drafted {
            merge.names_of(*ino);
        }
        for ino in &drafted {
            merge.file(*ino);
            merge.moved_directory(*ino);
        }
        merge.keep_what_nobody_saw();
        merge.keep_directories();
        merge.drop_what_is_gone();
        let Merge { theirs, merged, .. } = merge;
        for id in theirs.difference.removed() {
            if !self.draft.nodes.contains_key(&self.current.ino(*id)) {
                leave(self, *id);
            }
        }
        let Theirs { next, difference, .. } = theirs;
        self.rebase(next, &HashMap::new(), |ino, id| {
            !difference.is_same(id) && !alike.contains(&ino)
        });
        merged
    }
}

impl State {
    /// Directories of the draft that have the same names there.
    fn directories_alike(&self, next: &Snapshot) -> HashSet<u64> {
        let drafted = self.draft.nodes.iter().filter(|(_, node)| node.is_dir());
        let alike = drafted.filter(|(ino, _)| {
            let Some(id) = next.id(**ino) else { return false };
            let (ours, tree) = (self.entries(**ino), next.tree());
            let theirs = tree.children(id);
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|(ours, id)| *ours.name == *tree.name(id))
        });
        alike.map(|(ino, _)| *ino).collect()
    }
}

impl Names {
    /// The directory is `base` in `next`: what leads where that does is not changed any more, except (where
    /// that says) names that are gone.
    fn rebase(&mut self, base: Option<NodeId>, next: &Snapshot, keeps_gone: bool) {
        self.base = base;
        self.changed.retain(|name, ino| {
            let there = base.and_then(|base| next.tree().child(base, name));
            keeps_gone && ino.is_none() || there.map(|id| next.ino(id)) != *ino
        });
    }
}

struct Merge<'s, 't> {
    state: &'s mut State,
    theirs: Theirs<'t>,
    merged: Merged,
}

impl Merge<'_, '_> {
    fn theirs_of(&self, ino: u64) -> Option<NodeId> {
        if ino == TOP { Some(NodeId::ROOT) } else { self.theirs.next.id(ino) }
    }

    fn ours(&self, ino: u64) -> Option<&DraftNode> {
        self.state.draft.nodes.get(&ino).filter(|node| node.parent.is_some())
    }

    /// Names that were changed here, and lead elsewhere in theirs, too.
    fn names_of(&mut self, dir: u64) {
        if dir != TOP && self.ours(dir).is_none() {
            return;
        }
        let Some(names) = self.state.names(dir) else { return };
        let (base, changed) = (names.base, names.changed.clone());
        let (Some(base), Some(new_base)) = (base, self.theirs_of(dir)) else { return };
        for (name, ours) in changed {
            let tree = self.theirs.next.tree();
            let Some(id) = tree.child(new_base, &name) else { continue };
            let was = self.state.current.tree().child(base, &name);
            if was.is_some() && self.theirs.difference.old_of(id) == was && self.theirs.is_same(id)
            {
                continue;
            }
            match ours {
                // It was moved, not removed.
                None if self.is_moved_here(id) => {}
                // What was removed here and changed there is there.
                None => self.import_changed(id, dir, &name),
                Some(ours) => self.both(dir, &name, ours, id),
            }
        }
    }

    /// Makes what theirs changed or added one of the draft. What they did not change was removed here, or
    /// moved.
    fn import_changed(&mut self, id: NodeId, dir: u64, name: &str) {
        let tree = Arc::clone(self.theirs.next.tree());
        let contents = (!tree.is_dir(id)).then(|| Contents::of_tree(&tree, id));
        if let Some(ino) = self.make(dir, name, contents) {
            for child in tree.children(id) {
                if !self.is_moved_here(child) && !self.theirs.is_same(child) {
                    self.import_changed(child, ino, tree.name(child));
                }
            }
        }
    }

    /// A name leads to `ours` here and to `id` there.
    fn both(&mut self, dir: u64, name: &str, ours: u64, id: NodeId) {
        let tree = Arc::clone(self.theirs.next.tree());
        match (self.state.is_dir(ours), tree.is_dir(id)) {
            (Some(true), true) => {
                for child in tree.children(id) {
                    let name = tree.name(child);
                    if self.theirs.is_same(child) || self.is_moved_here(child) {
                        continue;
                    }
                    match self.state.find(ours, name) {
                        Some(ours_below) => self.both(ours, name, ours_below, child),
                        // Somebody gave that name to something in the directory that was moved.
                        None if self.theirs_of(ours) != Some(id)
                            && self.theirs_have(ours, name) =>
                        {
                            self.beside(ours, name, child);
                        }
                        None => self.import_changed(child, ours, name),
                    }
                }
            }
            (Some(false), false) if self.is_alike(ours, id) => {}
            _ => self.beside(dir, name, id),
        }
    }

    /// Whether a node of theirs is one that is somewhere else here.
    fn is_moved_here(&self, id: NodeId) -> bool {
        self.ours(self.theirs.next.ino(id)).is_some()
    }

    /// Whether a file of the draft is, in the end, what that of theirs is.
    fn is_alike(&self, ours: u64, id: NodeId) -> bool {
        let Some(file) = self.state.draft_file(ours) else { return false };
        let of_theirs = |id| Contents::of_tree(self.theirs.next.tree(), id).pieces(0, MAX_LEN);
        // What was moved here, and not written, becomes what it is there.
        let ours = match self.theirs_of(ours).filter(|_| !file.is_unsaved()) {
            Some(there) => of_theirs(there),
            None => file.contents.lock().pieces(0, MAX_LEN),
        };
        is_alike(&ours, &of_theirs(id))
    }

    /// What is theirs stands beside ours, under another name.
    fn beside(&mut self, dir: u64, name: &str, id: NodeId) {
        let free = self.free_name(dir, name);
        let paths = self.paths(dir, name, &free);
        self.merged.conflicts.push(paths);
        self.import_changed(id, dir, &free);
    }

    /// A name for what stands beside another.
    fn free_name(&self, dir: u64, name: &str) -> String {
        let mut free = with_suffix(name, &self.theirs.suffix);
        let mut number = 1;
        while self.state.find(dir, &free).is_some() || self.theirs_have(dir, &free) {
            number += 1;
            free = with_suffix(name, &format!("{}-{number}", self.theirs.suffix));
        }
        free
    }

    fn theirs_have(&self, dir: u64, name: &str) -> bool {
        let dir = self.theirs_of(dir);
        dir.is_some_and(|dir| self.theirs.next.tree().child(dir, name).is_some())
    }

    /// The paths of two names in a directory.
    fn paths(&self, dir: u64, one: &str, other: &str) -> (String, String) {
        let path = self.path(dir);
        (joined(&path, one), joined(&path, other))
    }

    fn path(&self, dir: u64) -> String {
        let mut names = Vec::new();
        let mut at = dir;
        while let Some(above) = self.state.dir_of(at) {
            let Some(name) = self.state.name_of(at) else { break };
            names.push(name);
            at = above;
        }
        names.reverse();
        names.join("/")
    }

    /// Makes a file of those contents, or without any an empty directory. Answers its number.
    fn make(&mut self, dir: u64, name: &str, contents: Option<Contents>) -> Option<u64> {
        let ino = self.theirs.numbers.pop();
        debug_assert!(ino.is_some(), "there are numbers for what is made");
        let ino = ino?;
        let contents = contents.map(|contents| contents.counted_by(&self.state.draft.gauge));
        self.state.add(dir, name, ino, contents, self.theirs.at).ok().map(|()| ino)
    }

    fn names_mut(&mut self, dir: u64) -> Option<&mut Names> {
        if dir == TOP {
            return self.state.draft.top.as_mut();
        }
        match &mut self.state.draft.nodes.get_mut(&dir)?.content {
            Content::Dir(names, _) => Some(names),
            Content::File(_) => None,
        }
    }

    /// Where a node was in the snapshot, if that is where it is.
    fn in_place(&self, ino: u64) -> Option<(u64, String)> {
        let (old, node) = (&self.state.current, self.ours(ino)?);
        let id = old.id(ino)?;
        let (dir, name) = (dir_in(old, id), old.tree().name(id));
        (node.parent == Some(dir) && *node.name == *name).then(|| (dir, name.to_owned()))
    }

    /// A file that was written or moved here, and is another there, or gone.
    fn file(&mut self, ino: u64) {
        let Some(file) = self.ours(ino).and(self.state.draft_file(ino)).map(Arc::clone) else {
            return;
        };
        if self.state.current.id(ino).is_none() {
            // It was made here.
            return;
        }
        let in_place = self.in_place(ino);
        match self.theirs_of(ino) {
            Some(id) if self.theirs.difference.is_same(id) => {}
            Some(id) => {
                if file.is_unsaved() && !self.is_alike(ino, id) {
                    let Some(node) = self.ours(ino) else { return };
                    let (dir, name) = (node.parent.unwrap_or(TOP), node.name.to_string());
                    self.beside(dir, &name, id);
                }
            }
            None => match in_place {
                // Written here, it stays.
                Some((dir, name)) if file.is_unsaved() => {
                    self.keep(dir, &name, ino, file.mtime.load());
                }
                Some(_) => {}
                None => file.set_never_saved(),
            },
        }
    }

    /// What was saved here and replaced by somebody who cannot have seen it stands beside theirs.
    fn keep_what_nobody_saw(&mut self) {
        let at = self.theirs.at;
        let mut replaced = Vec::new();
        for (ino, mut lately) in std::mem::take(&mut self.state.lately) {
            match self.theirs.next.id(ino) {
                Some(id) if self.theirs.difference.is_same(id) => {
                    // What contested it changed something else, if this version has that.
                    lately.contested = lately.contested.filter(|contested| *contested > at);
                    self.state.lately.insert(ino, lately);
                }
                Some(id) if lately.contested.is_some() || lately.is_unseen_by(at) => {
                    replaced.push((ino, id, lately));
                }
                _ => {}
            }
        }
        replaced.sort_unstable_by_key(|(ino, ..)| *ino);
        for (ino, id, Lately { contents, made, .. }) in replaced {
            let theirs = blocks(&Contents::of_tree(self.theirs.next.tree(), id));
            let is_replaced = !self.state.draft_file(ino).is_some_and(|file| file.is_unsaved())
                && made.is_disjoint(&theirs);
            let place = self.state.dir_of(ino).zip(self.state.name_of(ino));
            if let Some((dir, name)) = place.filter(|_| is_replaced) {
                if self.theirs_have_beside(dir, &name, &contents) {
                    // Who replaced it did see it, and kept it.
                    continue;
                }
                let free = self.free_name(dir, &name);
                let paths = self.paths(dir, &name, &free);
                self.merged.replaced.push(paths);
                self.make(dir, &free, Some(contents));
            }
        }
    }

    /// Whether theirs have those contents beside a file, under a name that says so.
    fn theirs_have_beside(&self, dir: u64, name: &str, contents: &Contents) -> bool {
        let (tree, ours) = (self.theirs.next.tree(), contents.pieces(0, MAX_LEN));
        let pieces = |id| Contents::of_tree(tree, id).pieces(0, MAX_LEN);
        let beside = with_suffix(name, CONFLICT);
        self.theirs_of(dir).is_some_and(|dir| {
            let mut files = tree.children(dir).filter(|id| tree.name(*id).starts_with(&beside));
            files.any(|id| tree.size(id) == contents.len() && is_alike(&ours, &pieces(id)))
        })
    }

    /// A directory that was moved here, and is gone there: what was in it stays with it.
    fn moved_directory(&mut self, dir: u64) {
        let is_moved = self.ours(dir).is_some_and(DraftNode::is_dir)
            && self.state.current.id(dir).is_some()
            && self.in_place(dir).is_none();
        if !is_moved || self.theirs_of(dir).is_some() {
            return;
        }
        self.make_own(dir);
    }

    /// What is in a directory is in it whatever the snapshot has.
    fn make_own(&mut self, dir: u64) {
        for Entry { name, ino, dir: is_dir } in self.state.entries(dir) {
            if self.state.take_up(ino).is_none() {
                continue;
            }
            if let Some(names) = self.names_mut(dir) {
                names.changed.insert(name, Some(ino));
            }
            if is_dir {
                self.make_own(ino);
            } else if let Some(file) = self.state.draft_file(ino) {
                file.set_never_saved();
            }
        }
    }

    /// A name leads where it did, although it does not there.
    fn keep(&mut self, dir: u64, name: &str, ino: u64, mtime: Timestamp) {
        let _ = self.state.lead(dir, name, Some(ino), mtime);
        let tree = Arc::clone(self.theirs.next.tree());
        let theirs = self.theirs_of(dir).and_then(|dir| tree.child(dir, name));
        if let Some(id) = theirs {
            self.beside(dir, name, id);
        }
    }

    /// Directories that are gone there, and have something in them that stays, stay.
    fn keep_directories(&mut self) {
        let mut staying: Vec<u64> = (self.state.draft.nodes.iter())
            .filter(|(ino, node)| node.parent.is_some() && self.stays(**ino))
            .map(|(ino, _)| *ino)
            .collect();
        staying.sort_unstable();
        for ino in staying {
            let mut at = ino;
            while let Some(above) = self.state.dir_of(at) {
                let Some(node) = self.state.take_up(at) else { break };
                let name = node.name.to_string();
                let mtime = node.mtime();
                // Otherwise the name leads there only because the snapshot has it.
                let leads = self.state.names(above).and_then(|names| names.changed.get(&*name));
                let is_kept = self.theirs_of(at).is_some() || leads == Some(&Some(at));
                if !is_kept && self.state.find(above, &name) == Some(at) {
                    self.keep(above, &name, at, mtime);
                }
                at = above;
            }
        }
    }

    /// Whether a node stays where it is whatever theirs have.
    fn stays(&self, ino: u64) -> bool {
        if self.state.current.id(ino).is_none() || self.in_place(ino).is_none() {
            return true;
        }
        match self.state.draft_file(ino) {
            Some(file) => file.is_unsaved(),
            None => false,
        }
    }

    /// What is gone there, and does not stay, leaves the draft.
    fn drop_what_is_gone(&mut self) {
        let kept: HashSet<u64> = self.kept();
        let gone: Vec<u64> = (self.state.draft.nodes.iter())
            .filter(|(ino, node)| node.parent.is_some() && !kept.contains(ino))
            .map(|(ino, _)| *ino)
            .collect();
        for ino in gone {
            let Some(node) = self.state.draft.nodes.get_mut(&ino) else { continue };
            self.merged.uses += node.counts.uses.load(std::sync::atomic::Ordering::Acquire);
            if Counts::wanted(&node.counts) {
                node.leave();
                self.merged.gone.push(ino);
            } else {
                self.state.draft.nodes.remove(&ino);
            }
        }
    }

    /// What theirs have, and what names in directories that stay lead to.
    fn kept(&self) -> HashSet<u64> {
        let mut kept: HashSet<u64> = (self.state.draft.nodes.keys().copied())
            .filter(|ino| self.theirs_of(*ino).is_some())
            .collect();
        let mut ahead: Vec<u64> = kept.iter().copied().chain([TOP]).collect();
        while let Some(dir) = ahead.pop() {
            let names = self.state.names(dir);
            for ino in names.iter().flat_map(|names| names.changed.values().flatten()) {
                if kept.insert(*ino) {
                    ahead.push(*ino);
                }
            }
        }
        kept
    }
}

/// What follows the name of a file that stands beside another, before the time.
pub(super) const CONFLICT: &str = ".conflict-";

/// A name with something after it, cut so that it is one.
fn with_suffix(name: &str, suffix: &str) -> String {
    let room = NAME_MAX.saturating_sub(suffix.len());
    let end = (0..=room.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    format!("{}{suffix}", &name[..end.unwrap_or_default()])
}

/// Whether pieces are the same bytes of the same blocks; what is not stored is like nothing.
pub(super) fn is_alike(ours: &Pieces, theirs: &Pieces) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|pair| match pair {
            (
                Piece::Stored { block, offset, len },
                Piece::Stored { block: other, offset: begin, len: length },
            ) => block.is_same(other) && offset == begin && len == length,
            _ => false,
        })
}
