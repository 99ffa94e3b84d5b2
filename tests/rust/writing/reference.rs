// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The plain tree: what there is, and what each answer has to be.

use std::collections::BTreeMap;

use arvados_fuse::fs::{Allocation, Attr, Errno, Ino, RenameMode, Seek, Timestamp};

use super::mount::Paths;

/// A node, by its place in the list of all.
pub(crate) type Key = usize;
/// The directory at the top.
pub(crate) const TOP: Key = 0;

pub(crate) enum Content {
    File(Vec<u8>),
    Dir(BTreeMap<String, Key>),
}

/// When a node was changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mtime {
    /// As it was told.
    Known(Timestamp),
    /// Since then; it was not told when.
    Since(Timestamp),
}

pub(crate) struct Node {
    /// Directories, with the names in them; the first is what it counts as in, and what was removed has
    /// none.
    pub names: Vec<(Key, String)>,
    pub content: Content,
    /// As it was told.
    pub ino: Option<Ino>,
    pub mtime: Mtime,
    /// Lookups that the kernel has to forget.
    pub refs: u64,
    /// Handles.
    pub open: u64,
}

#[derive(Default)]
pub(crate) struct Reference {
    pub nodes: Vec<Node>,
}

fn kind_error(dir: bool) -> Errno {
    if dir { Errno::EISDIR } else { Errno::ENOTDIR }
}

impl Reference {
    /// What is at these paths, below a directory of that number.
    pub(crate) fn new(top: Ino, mtime: Mtime, paths: &Paths) -> Self {
        let mut reference = Reference::default();
        let root = reference.push(Vec::new(), None, mtime);
        reference.nodes[root].ino = Some(top);
        // A directory comes before what is in it.
        for (path, content) in paths {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let dir = reference.find(above);
            let names = vec![(dir, name.to_owned())];
            let key = reference.push(names, content.clone(), mtime);
            reference.children_mut(dir).insert(name.to_owned(), key);
        }
        reference
    }

    fn push(&mut self, names: Vec<(Key, String)>, bytes: Option<Vec<u8>>, mtime: Mtime) -> Key {
        let content = bytes.map_or_else(|| Content::Dir(BTreeMap::new()), Content::File);
        self.nodes.push(Node { names, content, ino: None, mtime, refs: 0, open: 0 });
        self.nodes.len() - 1
    }

    fn find(&self, path: &str) -> Key {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.fold(TOP, |dir, name| self.children(dir)[name])
    }

    pub(crate) fn children(&self, dir: Key) -> &BTreeMap<String, Key> {
        match &self.nodes[dir].content {
            Content::Dir(children) => children,
            Content::File(_) => panic!("a file"),
        }
    }

    fn children_mut(&mut self, dir: Key) -> &mut BTreeMap<String, Key> {
        match &mut self.nodes[dir].content {
            Content::Dir(children) => children,
            Content::File(_) => panic!("a file"),
        }
    }

    pub(crate) fn bytes_mut(&mut self, file: Key) -> &mut Vec<u8> {
        match &mut self.nodes[file].content {
            Content::File(bytes) => bytes,
            Content::Dir(_) => panic!("a directory"),
        }
    }

    pub(crate) fn is_dir(&self, key: Key) -> bool {
        matches!(self.nodes[key].content, Content::Dir(_))
    }

    pub(crate) fn is_removed(&self, key: Key) -> bool {
        key != TOP && self.nodes[key].names.is_empty()
    }

    /// Whether a kernel can ask for it.
    pub(crate) fn is_known(&self, key: Key) -> bool {
        key == TOP || self.nodes[key].refs > 0
    }

    fn parent(&self, key: Key) -> Option<Key> {
        self.nodes[key].names.first().map(|(dir, _)| *dir)
    }

    /// Whether nothing of it is left.
    pub(crate) fn is_gone(&self, key: Key) -> bool {
        self.is_removed(key) && self.nodes[key].refs == 0 && self.nodes[key].open == 0
    }

    /// Counts a handle, for what is opened and its directory, which it answers.
    pub(crate) fn opened(&mut self, key: Key) -> Option<Key> {
        self.opened_in(key, self.parent(key))
    }

    /// As that, of a file that was found in this directory.
    pub(crate) fn opened_in(&mut self, key: Key, parent: Option<Key>) -> Option<Key> {
        for key in std::iter::once(key).chain(parent) {
            self.nodes[key].open += 1;
        }
        parent
    }

    pub(crate) fn child(&self, dir: Key, name: &str) -> Result<Key, Errno> {
        self.children(dir).get(name).copied().ok_or(Errno::ENOENT)
    }

    fn must_be_there(&self, dir: Key) -> Result<(), Errno> {
        if self.is_removed(dir) { Err(Errno::ENOENT) } else { Ok(()) }
    }

    fn may_name(&self, dir: Key, name: &str) -> Result<(), Errno> {
        let top = self.nodes[dir].ino == Some(Ino::ROOT);
        if top && name == "reserved" { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn changed(&mut self, key: Key, now: Timestamp) {
        self.nodes[key].mtime = Mtime::Since(now);
    }

    /// Something new of that name.
    fn make(&mut self, dir: Key, name: &str, bytes: Option<Vec<u8>>, now: Timestamp) -> Key {
        let names = vec![(dir, name.to_owned())];
        let key = self.push(names, bytes, Mtime::Since(now));
        self.children_mut(dir).insert(name.to_owned(), key);
        self.changed(dir, now);
        key
    }

    pub(crate) fn create(&mut self, dir: Key, name: &str, now: Timestamp) -> Result<Key, Errno> {
        self.may_name(dir, name)?;
        match self.child(dir, name) {
            Ok(found) if self.is_dir(found) => Err(Errno::EISDIR),
            Ok(found) => Ok(found),
            Err(_) => {
                self.must_be_there(dir)?;
                Ok(self.make(dir, name, Some(Vec::new()), now))
            }
        }
    }

    pub(crate) fn mkdir(&mut self, dir: Key, name: &str, now: Timestamp) -> Result<Key, Errno> {
        self.may_name(dir, name)?;
        if self.child(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.must_be_there(dir)?;
        Ok(self.make(dir, name, None, now))
    }

    pub(crate) fn remove(
        &mut self,
        dir: Key,
        name: &str,
        directory: bool,
        now: Timestamp,
    ) -> Result<Key, Errno> {
        let key = self.child(dir, name)?;
        if self.is_dir(key) != directory {
            return Err(kind_error(!directory));
        }
        if directory && !self.children(key).is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.children_mut(dir).remove(name);
        self.unname(key, (dir, name));
        self.changed(dir, now);
        Ok(key)
    }

    fn unname(&mut self, key: Key, (dir, name): (Key, &str)) {
        self.nodes[key].names.retain(|(at, of)| (*at, &**of) != (dir, name));
    }

    /// One of its names is another from now on.
    fn moved(&mut self, key: Key, from: (Key, &str), (dir, name): (Key, &str)) {
        let is_it = |(at, of): &&mut (Key, String)| (*at, &**of) == from;
        let old = self.nodes[key].names.iter_mut().find(is_it).expect("a name of it");
        *old = (dir, name.to_owned());
        self.children_mut(dir).insert(name.to_owned(), key);
    }

    fn is_within(&self, dir: Key, above: Key) -> bool {
        std::iter::successors(Some(dir), |at| self.parent(*at)).any(|at| at == above)
    }

    /// What was moved, and what was there.
    pub(crate) fn rename(
        &mut self,
        (from, old): (Key, &str),
        (to, new): (Key, &str),
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<(Key, Option<Key>), Errno> {
        if mode == RenameMode::Exchange {
            return self.exchange((from, old), (to, new), now);
        }
        self.may_name(to, new)?;
        let key = self.child(from, old)?;
        let replaced = self.child(to, new).ok();
        if mode == RenameMode::NoReplace && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        self.must_be_there(to)?;
        if replaced == Some(key) {
            return Ok((key, None));
        }
        if let Some(replaced) = replaced {
            if self.is_dir(replaced) != self.is_dir(key) {
                return Err(kind_error(self.is_dir(replaced)));
            }
            if self.is_dir(replaced) && !self.children(replaced).is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
        }
        if self.is_dir(key) && self.is_within(to, key) {
            return Err(Errno::EINVAL);
        }
        self.children_mut(from).remove(old);
        self.moved(key, (from, old), (to, new));
        if let Some(replaced) = replaced {
            self.unname(replaced, (to, new));
        }
        self.changed(from, now);
        self.changed(to, now);
        Ok((key, replaced))
    }

    fn exchange(
        &mut self,
        one: (Key, &str),
        other: (Key, &str),
        now: Timestamp,
    ) -> Result<(Key, Option<Key>), Errno> {
        self.may_name(one.0, one.1)?;
        self.may_name(other.0, other.1)?;
        let (here, there) = (self.child(one.0, one.1)?, self.child(other.0, other.1)?);
        if here == there {
            return Ok((here, None));
        }
        if self.is_within(other.0, here) || self.is_within(one.0, there) {
            return Err(Errno::EINVAL);
        }
        self.moved(here, one, other);
        self.moved(there, other, one);
        self.changed(one.0, now);
        self.changed(other.0, now);
        Ok((here, Some(there)))
    }

    pub(crate) fn link(
        &mut self,
        key: Key,
        (dir, name): (Key, &str),
        now: Timestamp,
    ) -> Result<(), Errno> {
        if self.is_dir(key) {
            return Err(Errno::EPERM);
        }
        self.may_name(dir, name)?;
        self.must_be_there(dir)?;
        if self.child(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        if self.is_removed(key) {
            return Err(Errno::ENOENT);
        }
        self.nodes[key].names.push((dir, name.to_owned()));
        self.children_mut(dir).insert(name.to_owned(), key);
        self.changed(dir, now);
        Ok(())
    }

    pub(crate) fn allocate(
        &mut self,
        file: Key,
        offset: usize,
        len: usize,
        how: Allocation,
        now: Timestamp,
    ) {
        let bytes = self.bytes_mut(file);
        let (begin, end) = (offset.min(bytes.len()), (offset + len).min(bytes.len()));
        let keep_size = match how {
            Allocation::Reserve { keep_size } => keep_size,
            Allocation::PunchHole => {
                bytes[begin..end].fill(0);
                true
            }
            Allocation::ZeroRange { keep_size } => {
                bytes[begin..end].fill(0);
                keep_size
            }
        };
        if !keep_size {
            bytes.resize(bytes.len().max(offset + len), 0);
        }
        self.changed(file, now);
    }

    /// How much there is to be copied.
    pub(crate) fn copy(
        &mut self,
        (source, from): (Key, usize),
        (target, to): (Key, usize),
        len: usize,
        now: Timestamp,
    ) -> Result<usize, Errno> {
        let bytes = self.bytes_mut(source);
        let (begin, end) = (from.min(bytes.len()), (from + len).min(bytes.len()));
        let data = bytes[begin..end].to_vec();
        if data.is_empty() {
            return Ok(0);
        }
        if source == target && from < to + data.len() && to < end {
            return Err(Errno::EINVAL);
        }
        self.write(target, to, &data, now);
        Ok(data.len())
    }

    /// Whether a seek may find that: what is no data is zeros.
    #[track_caller]
    pub(crate) fn check_found(&mut self, file: Key, at: usize, what: Seek, found: Option<usize>) {
        let bytes = self.bytes_mut(file);
        match (what, found) {
            (Seek::Data, None) => {
                assert!(bytes[at.min(bytes.len())..].iter().all(|byte| *byte == 0));
            }
            (Seek::Hole, None) => assert!(at >= bytes.len()),
            (Seek::Data, Some(found)) => {
                assert!(found >= at && found < bytes.len());
                assert!(bytes[at..found].iter().all(|byte| *byte == 0));
            }
            (Seek::Hole, Some(found)) => {
                assert!(at < bytes.len() && found >= at && found <= bytes.len());
                assert!(found == bytes.len() || bytes[found] == 0);
            }
        }
    }

    pub(crate) fn write(&mut self, file: Key, offset: usize, data: &[u8], now: Timestamp) {
        let bytes = self.bytes_mut(file);
        let end = offset + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset..end].copy_from_slice(data);
        self.changed(file, now);
    }

    pub(crate) fn truncate(&mut self, file: Key, size: usize, now: Timestamp) {
        self.bytes_mut(file).resize(size, 0);
        self.changed(file, now);
    }

    /// Compares what was told of a node.
    #[track_caller]
    pub(crate) fn check(&mut self, key: Key, attr: &Attr) {
        let dir = self.is_dir(key);
        let node = &mut self.nodes[key];
        assert_eq!(attr.is_dir(), dir);
        assert_eq!(*node.ino.get_or_insert(attr.ino), attr.ino, "it keeps its number");
        if let Content::File(bytes) = &node.content {
            assert_eq!(attr.size, bytes.len() as u64);
            assert_eq!(attr.nlink as usize, node.names.len(), "names");
        }
        match node.mtime {
            Mtime::Known(at) => assert_eq!(attr.mtime, at),
            Mtime::Since(at) => {
                assert!(attr.mtime >= at && attr.mtime <= Timestamp::now(), "{:?}", node.mtime);
                node.mtime = Mtime::Known(attr.mtime);
            }
        }
    }

    /// Everything, by path.
    pub(crate) fn paths(&self) -> Paths {
        let mut paths = Paths::new();
        self.walk(TOP, "", &mut paths);
        paths
    }

    fn walk(&self, dir: Key, path: &str, into: &mut Paths) {
        for (name, key) in self.children(dir) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if self.is_dir(*key) {
                self.walk(*key, &path, into);
            }
            let bytes = match &self.nodes[*key].content {
                Content::File(bytes) => Some(bytes.clone()),
                Content::Dir(_) => None,
            };
            into.insert(path, bytes);
        }
    }
}
