// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a name leads to, with all that is below, on its way into another collection.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::names::Dentry;
use super::{Content, DraftFile, DraftNode, NEVER, Names};
use crate::collection::draft::{Contents, MAX_LEN, Piece};
use crate::fs::attr::Timestamp;
use crate::fs::collection::merge::is_alike;
use crate::fs::collection::reader::expires_soon;
use crate::fs::collection::{Counts, State, add};
use crate::fs::errno::Refusal;

/// A file or directory of it.
struct Part {
    ino: u64,
    /// The directory of the subtree that it is in; None for the top.
    above: Option<u64>,
    name: Box<str>,
    mtime: Timestamp,
    /// None for a directory.
    contents: Option<Contents>,
}

impl Part {
    fn is_same(&self, other: &Part) -> bool {
        let contents = match (&self.contents, &other.contents) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                one.len() == other.len()
                    && is_alike(&one.pieces(0, MAX_LEN), &other.pieces(0, MAX_LEN))
            }
            _ => false,
        };
        contents && (self.ino, self.above, &self.name) == (other.ino, other.above, &other.name)
    }
}

/// What a name led to at one moment: a directory before what is in it.
pub(in crate::fs::collection) struct Subtree {
    parts: Vec<Part>,
}

impl Subtree {
    /// The number of what the name led to.
    pub(in crate::fs::collection) fn top(&self) -> u64 {
        self.parts[0].ino
    }

    fn is_dir(&self) -> bool {
        self.parts[0].contents.is_none()
    }

    /// The numbers of all that is in it.
    pub(in crate::fs::collection) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().map(|part| part.ino)
    }

    fn contents(&self) -> impl Iterator<Item = &Contents> {
        self.parts.iter().filter_map(|part| part.contents.as_ref())
    }

    /// Whether all that was written is stored.
    pub(in crate::fs::collection) fn is_stored(&self) -> bool {
        self.contents().flat_map(Contents::chunks).all(|chunk| chunk.is_stored())
    }

    /// Whether a signature of a block is not worth showing to a server.
    pub(in crate::fs::collection) fn expires_soon(&self) -> bool {
        self.contents().any(|contents| {
            contents.pieces(0, MAX_LEN).iter().any(|piece| match piece {
                Piece::Stored { block, .. } => expires_soon(block.locator().expires_at()),
                Piece::Buffered(_) | Piece::Hole(_) => false,
            })
        })
    }

    /// Whether it is what another is.
    pub(in crate::fs::collection) fn is_same(&self, other: &Subtree) -> bool {
        self.parts.len() == other.parts.len()
            && self.parts.iter().zip(&other.parts).all(|(one, other)| one.is_same(other))
    }
}

/// What a name led to that leads to a subtree now: put back where that has to leave again.
pub(in crate::fs::collection) struct SetAside {
    ino: u64,
    names: Names,
    /// It was the last name.
    left: bool,
}

impl State {
    /// What `ino` is and what is below it.
    ///
    /// # Errors
    /// `EXDEV` where a file of it has several names.
    pub(in crate::fs::collection) fn subtree(&self, ino: u64) -> Result<Subtree, Refusal> {
        let mut parts = Vec::new();
        self.gather(ino, None, "", &mut parts)?;
        Ok(Subtree { parts })
    }

    fn gather(
        &self,
        ino: u64,
        above: Option<u64>,
        name: &str,
        parts: &mut Vec<Part>,
    ) -> Result<(), Refusal> {
        let is_dir = self.is_dir(ino).ok_or(Refusal::NotFound)?;
        let (mtime, contents) = match (self.draft.nodes.get(&ino), self.current.id(ino)) {
            (Some(node), _) => match &node.content {
                Content::File(_) if !node.others.is_empty() => {
                    return Err(Refusal::CrossCollection);
                }
                Content::File(file) => (file.mtime.load(), Some(file.contents.lock().clone())),
                Content::Dir(_, mtime) => (*mtime, None),
            },
            (None, Some(id)) => {
                let contents = || Contents::of_tree(self.current.tree(), id);
                (self.current.mtime(id), (!is_dir).then(contents))
            }
            (None, None) => return Err(Refusal::NotFound),
        };
        parts.push(Part { ino, above, name: name.into(), mtime, contents });
        if is_dir {
            for entry in self.entries(ino) {
                self.gather(entry.ino, Some(ino), &entry.name, parts)?;
            }
        }
        Ok(())
    }

    /// Has a name lead to a subtree of another collection, under the numbers that it has there. Answers
    /// what it led to before, and how many uses that takes from the collection.
    ///
    /// # Errors
    /// `EEXIST` where it leads somewhere that is not to be replaced; as [`State::rename`].
    pub(in crate::fs::collection) fn adopt(
        &mut self,
        (dir, name): Dentry<'_>,
        subtree: &Subtree,
        replace: bool,
        now: Timestamp,
    ) -> Result<(Option<SetAside>, u32), Refusal> {
        self.must_be_there(dir)?;
        let replaced = self.find(dir, name);
        if let Some(replaced) = replaced {
            if !replace {
                return Err(Refusal::Exists);
            }
            self.may_replace(replaced, subtree.is_dir())?;
        }
        self.lead(dir, name, Some(subtree.top()), now)?;
        let (aside, uses) = match replaced.and_then(|ino| self.set_aside(ino, (dir, name))) {
            Some((aside, uses)) => (Some(aside), uses),
            None => (None, 0),
        };
        self.add_subtree((dir, name), subtree);
        Ok((aside, uses))
    }

    /// Has the nodes of a subtree be those that another version of it has.
    pub(in crate::fs::collection) fn adopt_again(
        &mut self,
        dentry: Dentry<'_>,
        before: &Subtree,
        subtree: &Subtree,
    ) {
        self.disown(before.numbers());
        self.add_subtree(dentry, subtree);
    }

    fn add_subtree(&mut self, (dir, name): Dentry<'_>, subtree: &Subtree) {
        for part in &subtree.parts {
            let content = match &part.contents {
                Some(contents) => {
                    let contents = contents.clone().counted_by(&self.draft.gauge);
                    Content::File(DraftFile::new(contents, part.mtime, NEVER))
                }
                None => Content::Dir(Names::default(), part.mtime),
            };
            let (parent, name) = match part.above {
                Some(above) => (above, &*part.name),
                None => (dir, name),
            };
            let node = DraftNode {
                parent: Some(parent),
                name: name.into(),
                others: Vec::new(),
                counts: Counts::default(),
                content,
            };
            self.draft.gone.remove(&part.ino);
            self.draft.nodes.insert(part.ino, node);
            self.arriving.insert(part.ino);
            // A directory comes before what is in it.
            if let Some(above) = part.above
                && let Some(DraftNode { content: Content::Dir(names, _), .. }) =
                    self.draft.nodes.get_mut(&above)
            {
                names.changed.insert(name.into(), Some(part.ino));
            }
        }
    }

    /// These nodes are another collection's. Answers what was counted for them.
    pub(in crate::fs::collection) fn disown(
        &mut self,
        numbers: impl Iterator<Item = u64>,
    ) -> BTreeMap<u64, Counts> {
        let mut counted = BTreeMap::new();
        for ino in numbers {
            self.arriving.remove(&ino);
            let in_snapshot = self.current.id(ino);
            let counts = match self.draft.nodes.remove(&ino) {
                Some(node) => Some(node.counts),
                None => in_snapshot
                    .filter(|_| !self.draft.gone.contains(&ino))
                    .and_then(|id| self.counts.get_mut(id.0 as usize))
                    .map(std::mem::take),
            };
            counted.extend(counts.map(|counts| (ino, counts)));
            self.note_gone(ino);
        }
        counted
    }

    /// These nodes have arrived: they are this collection's from now on.
    pub(in crate::fs::collection) fn arrived(&mut self, numbers: impl Iterator<Item = u64>) {
        numbers.for_each(|ino| {
            self.arriving.remove(&ino);
        });
    }

    /// Adds what another collection counted; answers how many uses that brings.
    pub(in crate::fs::collection) fn take_counts(&self, counted: &BTreeMap<u64, Counts>) -> i64 {
        let mut all = 0;
        for (ino, counts) in counted {
            let Some(ours) = self.counts_of(*ino) else { continue };
            let uses = counts.uses.load(Ordering::Acquire);
            add(&ours.refs, counts.refs.load(Ordering::Acquire).into());
            add(&ours.uses, uses.into());
            all += i64::from(uses);
        }
        all
    }

    /// A name does not lead to a node any more, which stays as it is until [`State::let_go`] or
    /// [`State::put_back`]. Answers how many uses that takes from the collection, too.
    fn set_aside(&mut self, ino: u64, dentry: Dentry<'_>) -> Option<(SetAside, u32)> {
        let node = self.take_up(ino)?;
        if node.unnamed(dentry) {
            return Some((SetAside { ino, names: Names::default(), left: false }, 0));
        }
        let uses = node.counts.uses.load(Ordering::Acquire);
        add(&node.counts.uses, 1);
        let names = match &mut node.content {
            Content::Dir(names, _) => std::mem::take(names),
            Content::File(_) => Names::default(),
        };
        node.leave();
        self.note_gone(ino);
        Some((SetAside { ino, names, left: true }, uses))
    }

    /// What was set aside is gone, unless somebody has it.
    pub(in crate::fs::collection) fn let_go(&mut self, aside: &SetAside) {
        if aside.left {
            if let Some(node) = self.draft.nodes.get(&aside.ino) {
                add(&node.counts.uses, -1);
            }
            self.forget(aside.ino);
        }
    }

    /// A name leads where it did before [`State::adopt`], and the subtree is not here. Answers how many uses that brings.
    pub(in crate::fs::collection) fn put_back(
        &mut self,
        (dir, name): Dentry<'_>,
        subtree: &Subtree,
        aside: Option<SetAside>,
        now: Timestamp,
    ) -> u32 {
        let is_ours = self.find(dir, name) == Some(subtree.top());
        self.disown(subtree.numbers());
        let before = aside.as_ref().map(|aside| aside.ino);
        if is_ours {
            // The directory was there when it was found in it.
            let _ = self.lead(dir, name, before, now);
        }
        let Some(aside) = aside else { return 0 };
        if !is_ours {
            self.let_go(&aside);
            return 0;
        }
        let SetAside { ino, names, left } = aside;
        let is_saved = self.current.id(ino).is_some();
        let Some(node) = self.draft.nodes.get_mut(&ino) else { return 0 };
        if !left {
            node.others.push((dir, name.into()));
            node.count_names();
            return 0;
        }
        add(&node.counts.uses, -1);
        (node.parent, node.name) = (Some(dir), name.into());
        node.count_names();
        match &mut node.content {
            Content::Dir(empty, _) => *empty = names,
            Content::File(file) if !is_saved => file.set_never_saved(),
            Content::File(_) => {}
        }
        let uses = node.counts.uses.load(Ordering::Acquire);
        self.draft.gone.remove(&ino);
        uses
    }
}
