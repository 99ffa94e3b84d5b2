// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Lays out what was gathered: breadth first, children by name, files of one name joined.

use std::cmp::Ordering;

use super::super::tree::{Extent, FILE, Node};
use super::{Gathered, Name};
use crate::manifest::{ManifestError, Reason};

/// The longest name that Linux shows, in bytes: `NAME_MAX` of limits.h. readdir(3) has no room for a longer
/// one.
pub const NAME_MAX: usize = 255;

/// What the tree is made of, in the order of its nodes.
pub(super) struct Layout {
    pub names: String,
    pub nodes: Vec<Node>,
    pub extents: Vec<Extent>,
    pub files: u32,
    pub odd_names: bool,
}

impl Layout {
    /// Lays out the tree.
    ///
    /// # Errors
    /// A name that is a file and a directory, or a file that is too large.
    pub(super) fn of(gathered: &Gathered) -> Result<Self, ManifestError> {
        let dirs = Grouped::new(
            gathered.dirs.len(),
            gathered.dirs.iter().enumerate().skip(1).map(|(id, dir)| (id, dir.parent)),
            |id| gathered.text(gathered.dirs[id].name),
        );
        let parts = Grouped::new(
            gathered.dirs.len(),
            gathered.parts.iter().enumerate().map(|(id, part)| (id, part.dir)),
            |id| gathered.text(gathered.parts[id].name),
        );
        let mut layout = Self {
            names: String::with_capacity(gathered.names.len()),
            nodes: Vec::with_capacity(gathered.dirs.len() + gathered.parts.len()),
            extents: Vec::with_capacity(gathered.extents.len()),
            files: 0,
            odd_names: false,
        };
        layout.add_directory(0, "", 0);
        let mut at = 0;
        // The nodes are their own queue: each directory's children follow all that stands there.
        while at < layout.nodes.len() {
            if layout.nodes[at].count_and_kind & FILE == 0 {
                // Until now it named the gathered directory.
                let dir = layout.nodes[at].first as usize;
                let first = layout.nodes.len();
                layout.add_children(gathered, at as u32, dirs.of(dir), parts.of(dir))?;
                layout.nodes[at].first = first as u32;
                layout.nodes[at].count_and_kind = (layout.nodes.len() - first) as u32;
            }
            at += 1;
        }
        Ok(layout)
    }

    fn add_children(
        &mut self,
        gathered: &Gathered,
        parent: u32,
        mut dirs: &[u32],
        mut parts: &[u32],
    ) -> Result<(), ManifestError> {
        loop {
            let dir = dirs.first().map(|id| &gathered.dirs[*id as usize]);
            let part = parts.first().map(|id| &gathered.parts[*id as usize]);
            let order = match (dir, part) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(dir), Some(part)) => gathered.text(dir.name).cmp(gathered.text(part.name)),
            };
            match (order, dir, part) {
                (Ordering::Less, Some(dir), _) => {
                    self.add_directory(parent, gathered.text(dir.name), dirs[0]);
                    dirs = &dirs[1..];
                }
                (Ordering::Greater, _, Some(part)) => {
                    let name = gathered.text(part.name);
                    let same =
                        |id: &&u32| gathered.text(gathered.parts[**id as usize].name) == name;
                    let (own, rest) = parts.split_at(parts.iter().take_while(same).count());
                    self.add_file(gathered, parent, name, own)?;
                    parts = rest;
                }
                (_, Some(dir), Some(part)) => {
                    let path = gathered.path(part.dir, part.name);
                    let line = dir.line.max(part.line) as usize;
                    return Err(ManifestError { line, reason: Reason::FileAndDirectory(path) });
                }
                // The order says which of the two is there.
                (_, _, _) => return Ok(()),
            }
        }
    }

    fn add_directory(&mut self, parent: u32, name: &str, gathered: u32) {
        let node =
            Node { name: self.names.len() as u32, parent, first: gathered, count_and_kind: 0 };
        self.nodes.push(node);
        self.add_name(name);
    }

    fn add_file(
        &mut self,
        gathered: &Gathered,
        parent: u32,
        name: &str,
        parts: &[u32],
    ) -> Result<(), ManifestError> {
        let first = self.extents.len();
        let mut end = 0u64;
        for id in parts {
            for extent in gathered.spans_of(*id as usize) {
                end += extent.length;
                if i64::try_from(end).is_err() {
                    let part = &gathered.parts[*id as usize];
                    let path = gathered.path(part.dir, part.name);
                    let reason = Reason::FileTooLarge(path);
                    return Err(ManifestError { line: part.line as usize, reason });
                }
                self.extents.push(Extent { end, position: extent.position });
            }
        }
        self.nodes.push(Node {
            name: self.names.len() as u32,
            parent,
            first: first as u32,
            count_and_kind: FILE | (self.extents.len() - first) as u32,
        });
        self.files += 1;
        self.add_name(name);
        Ok(())
    }

    fn add_name(&mut self, name: &str) {
        self.odd_names |=
            matches!(name, "." | "..") || name.len() > NAME_MAX || name.as_bytes().contains(&0);
        self.names.push_str(name);
    }
}

/// Numbered items by the group that each is in, and by name within a group; items of one name stay
/// in their order.
struct Grouped {
    ends: Vec<u32>,
    items: Vec<u32>,
}

impl Grouped {
    fn new<'n>(
        groups: usize,
        items: impl Iterator<Item = (usize, u32)> + Clone,
        name: impl Fn(usize) -> &'n str,
    ) -> Self {
        let mut next = vec![0u32; groups + 1];
        for (_, group) in items.clone() {
            next[group as usize + 1] += 1;
        }
        for group in 0..groups {
            next[group + 1] += next[group];
        }
        let mut sorted = vec![0u32; next[groups] as usize];
        for (item, group) in items {
            let at = &mut next[group as usize];
            sorted[*at as usize] = item as u32;
            *at += 1;
        }
        // By now each group's first position has moved to its end.
        next.pop();
        let mut grouped = Self { ends: next, items: sorted };
        for group in 0..groups {
            let range = grouped.range(group);
            // Stable, and quick where the names are in order already.
            grouped.items[range].sort_by(|a, b| name(*a as usize).cmp(name(*b as usize)));
        }
        grouped
    }

    fn range(&self, group: usize) -> std::ops::Range<usize> {
        let begin = group.checked_sub(1).map_or(0, |before| self.ends[before]);
        begin as usize..self.ends[group] as usize
    }

    fn of(&self, group: usize) -> &[u32] {
        &self.items[self.range(group)]
    }
}

impl Gathered<'_> {
    fn spans_of(&self, part: usize) -> &[super::RawSpan] {
        let end =
            self.parts.get(part + 1).map_or(self.extents.len(), |next| next.first_span as usize);
        &self.extents[self.parts[part].first_span as usize..end]
    }

    /// The path of a name in a directory, for a message.
    fn path(&self, mut dir: u32, name: Name) -> String {
        let mut names = vec![self.text(name)];
        while dir != 0 {
            let super::Directory { parent, name, .. } = &self.dirs[dir as usize];
            names.push(self.text(*name));
            dir = *parent;
        }
        names.reverse();
        crate::manifest::shown(&names.join("/"))
    }
}
