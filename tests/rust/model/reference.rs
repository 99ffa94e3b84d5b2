// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The plain model: a tree of objects, and who has which.
//!
//! An object is what keeps one inode number for its life. What was removed while somebody has it stays
//! as it was; once nobody has it, it is gone. Nothing here knows how the file system keeps it.

use std::collections::{BTreeMap, HashMap};

use arvados_fuse::fs::{Attr, Errno};

use super::blocks::{Content, Version};
use super::world::Event;

pub(crate) type Id = usize;
/// The root of the mount.
pub(crate) const ROOT: Id = 0;

/// How a collection's directory is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Unloaded,
    Tree,
    Objects,
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// What a file contains; None for a directory.
    pub content: Option<Content>,
    /// What a directory lists, in order.
    pub entries: Vec<(String, Id)>,
    /// A part of a collection.
    pub of_collection: bool,
    /// Served from a tree.
    pub native: bool,
    /// Which collection it shows, and how.
    pub shows: Option<(usize, Served)>,
    pub parent: Option<Id>,
    pub mtime: i128,
    /// Nobody can have it any more.
    pub gone: bool,
    /// Its number, once that was told.
    pub ino: Option<u64>,
    /// How often it was looked up, and in use for handles.
    pub refs: u64,
    pub uses: u64,
}

/// See the [module](self).
pub(crate) struct Reference {
    pub objects: Vec<Object>,
    by_key: HashMap<u64, Id>,
    by_ino: HashMap<u64, Id>,
}

/// Names in a directory of a version, with what files contain.
fn names(version: &Version, path: &str) -> BTreeMap<String, Option<Content>> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut found = BTreeMap::new();
    for (path, content) in version.files() {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        match rest.split_once('/') {
            Some((dir, _)) => found.insert(dir.to_owned(), None),
            None => found.insert(rest.to_owned(), Some(content)),
        };
    }
    found
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

impl Reference {
    pub(crate) fn new(root_key: u64) -> Self {
        let mut reference =
            Reference { objects: Vec::new(), by_key: HashMap::new(), by_ino: HashMap::new() };
        let root = reference.add_object(None, None, 0);
        reference.objects[root].parent = Some(ROOT);
        reference.objects[root].refs = 1;
        reference.by_key.insert(root_key, root);
        reference.bind(root, 1).expect("the first");
        reference
    }

    fn add_object(&mut self, content: Option<Content>, parent: Option<Id>, mtime: i128) -> Id {
        self.objects.push(Object {
            content,
            entries: Vec::new(),
            of_collection: false,
            native: false,
            shows: None,
            parent,
            mtime,
            gone: false,
            ino: None,
            refs: 0,
            uses: 0,
        });
        self.objects.len() - 1
    }

    /// The layer above adds an entry to a directory.
    pub(crate) fn add(
        &mut self,
        dir: Id,
        name: &str,
        content: Option<Content>,
        shows: Option<usize>,
        key: u64,
    ) {
        let id = self.add_object(content, Some(dir), 0);
        self.objects[id].shows = shows.map(|collection| (collection, Served::Unloaded));
        self.objects[dir].entries.push((name.to_owned(), id));
        self.by_key.insert(key, id);
    }

    /// The layer above removes an entry; answers whether it was there.
    pub(crate) fn remove(&mut self, dir: Id, name: &str) -> bool {
        let Some(at) = self.objects[dir].entries.iter().position(|(n, _)| n == name) else {
            return false;
        };
        let (_, id) = self.objects[dir].entries.swap_remove(at);
        self.objects[id].parent = None;
        true
    }

    /// The layer above moves an entry; answers whether it was there.
    pub(crate) fn rename(&mut self, dir: Id, name: &str, target: Id, new_name: &str) -> bool {
        let Some(id) = self.child(dir, name) else { return false };
        if self.child(target, new_name) == Some(id) {
            return true;
        }
        self.remove(target, new_name);
        self.remove(dir, name);
        self.objects[id].parent = Some(target);
        self.objects[target].entries.push((new_name.to_owned(), id));
        true
    }

    /// Whether `id` is `other` or somewhere below it.
    pub(crate) fn is_below(&self, id: Id, other: Id) -> bool {
        id == other || self.objects[id].parent.is_some_and(|p| p != id && self.is_below(p, other))
    }

    pub(crate) fn is_dir(&self, id: Id) -> bool {
        self.objects[id].content.is_none()
    }

    /// A directory in which the layer above changes entries.
    pub(crate) fn is_plain_dir(&self, id: Id) -> bool {
        let object = &self.objects[id];
        self.is_dir(id) && !object.of_collection && object.shows.is_none()
    }

    /// What a name stands for at present.
    pub(crate) fn child(&self, dir: Id, name: &str) -> Option<Id> {
        let entries = &self.objects[dir].entries;
        let (_, id) = entries.iter().find(|(other, _)| other == name)?;
        (!self.objects[*id].gone).then_some(*id)
    }

    /// What looking up a name has to find.
    pub(crate) fn lookup(&self, dir: Id, name: &str) -> Result<Id, Errno> {
        match name {
            "." => Ok(dir),
            ".." => self.objects[dir].parent.ok_or(Errno::ENOENT),
            name => self.child(dir, name).ok_or(Errno::ENOENT),
        }
    }

    /// The object of that number.
    pub(crate) fn of_ino(&self, ino: u64) -> Option<Id> {
        self.by_ino.get(&ino).copied()
    }

    /// That object was told to have that number.
    pub(crate) fn bind(&mut self, id: Id, ino: u64) -> Result<(), String> {
        match (self.objects[id].ino, self.by_ino.get(&ino)) {
            (None, None) => {
                self.objects[id].ino = Some(ino);
                self.by_ino.insert(ino, id);
                Ok(())
            }
            (Some(before), _) if before == ino => Ok(()),
            (before, other) => Err(format!(
                "object {id} has number {ino}, before {before:?}; the number was that of {other:?}"
            )),
        }
    }

    /// Whether attributes are those of an object.
    pub(crate) fn check_attr(&mut self, id: Id, attr: &Attr) -> Result<(), String> {
        self.bind(id, attr.ino.0)?;
        let object = &self.objects[id];
        let writable = match &object.content {
            _ if object.native => false,
            Some(_) => true,
            None => self.is_plain_dir(id),
        };
        let mut mode = match &object.content {
            Some(_) => libc::S_IFREG | 0o444 | if object.of_collection { 0o111 } else { 0 },
            None => libc::S_IFDIR | 0o555,
        };
        mode |= if writable { 0o222 } else { 0 };
        let size = object.content.as_ref().map_or(0, Content::size);
        let right = (mode, size, object.mtime);
        let told = (attr.mode, attr.size, attr.mtime.0);
        if told == right { Ok(()) } else { Err(format!("attributes {told:?}, not {right:?}")) }
    }

    /// Whether it, or anything below it, is in use.
    pub(crate) fn in_use(&self, id: Id) -> bool {
        let object = &self.objects[id];
        object.uses > 0 || object.entries.iter().any(|(_, child)| self.in_use(*child))
    }

    /// What is in nobody's hands any more is gone.
    pub(crate) fn sweep(&mut self) {
        loop {
            let free = |id: &Id| {
                let object = &self.objects[*id];
                let deserted = object.parent.is_none() && object.refs == 0 && !object.gone;
                let used = if object.native { object.uses > 0 } else { self.in_use(*id) };
                deserted && !used
            };
            let Some(id) = (1..self.objects.len()).find(free) else { return };
            self.objects[id].gone = true;
        }
    }

    fn leave(&mut self, id: Id) {
        self.objects[id].parent = None;
        if self.objects[id].native {
            let object = &mut self.objects[id];
            object.gone = object.refs == 0 && object.uses == 0;
            for (_, child) in self.objects[id].entries.clone() {
                self.leave(child);
            }
        }
    }

    /// The layer above did something: may it, and what becomes of it?
    pub(crate) fn apply(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Loaded { dir, version } => {
                let id = self.by_key[dir];
                match &mut self.objects[id].shows {
                    Some((_, served @ Served::Unloaded)) => *served = Served::Tree,
                    other => return Err(format!("loaded, while it was {other:?}")),
                }
                self.follow(id, "", version, true);
                self.objects[id].mtime = version.mtime;
            }
            Event::Followed { dir, version, made } => {
                let id = self.by_key[dir];
                let served = self.objects[id].shows.map(|(_, served)| served);
                self.follow(id, "", version, served == Some(Served::Tree));
                self.objects[id].mtime = version.mtime;
                self.name_made(id, made)?;
            }
            Event::TakenOver { dir, made } => {
                let id = self.by_key[dir];
                match &mut self.objects[id].shows {
                    Some((_, served @ Served::Tree)) => *served = Served::Objects,
                    other => return Err(format!("taken over, while it was {other:?}")),
                }
                self.name_made(id, made)?;
            }
            Event::Cleared { dir } => {
                let id = self.by_key[dir];
                if self.objects[id].refs > 0 || self.in_use(id) {
                    let path = &self.objects[id];
                    return Err(format!("cleared, while somebody had it: {path:?}"));
                }
                for (_, child) in std::mem::take(&mut self.objects[id].entries) {
                    self.leave(child);
                }
                if let Some((_, served)) = &mut self.objects[id].shows {
                    *served = Served::Unloaded;
                }
            }
        }
        Ok(())
    }

    fn name_made(&mut self, dir: Id, made: &[(String, u64)]) -> Result<(), String> {
        for (path, key) in made {
            let found = path.split('/').try_fold(dir, |at, name| self.child(at, name));
            let id = found.ok_or_else(|| format!("nothing is at {path}"))?;
            self.objects[id].native = false;
            self.by_key.insert(*key, id);
        }
        Ok(())
    }

    /// A directory of a collection follows to a version; answers whether its listing changed.
    fn follow(&mut self, dir: Id, path: &str, version: &Version, native: bool) -> bool {
        let names = names(version, path);
        let mut changed = false;
        for (name, id) in self.objects[dir].entries.clone() {
            let stays = names.get(&name).is_some_and(|new| new.is_none() == self.is_dir(id));
            if !stays {
                self.remove(dir, &name);
                self.leave(id);
                changed = true;
            }
        }
        for (name, content) in names {
            let path = below(path, &name);
            let known = self.child(dir, &name);
            let id = known.unwrap_or_else(|| {
                changed = true;
                let id = self.add_object(content.clone(), Some(dir), version.mtime);
                self.objects[id].of_collection = true;
                self.objects[id].native = native;
                self.objects[dir].entries.push((name, id));
                id
            });
            if self.objects[id].content != content {
                self.objects[id].content = content;
                self.objects[id].mtime = version.mtime;
            }
            if self.is_dir(id) && self.follow(id, &path, version, native) {
                self.objects[id].mtime = version.mtime;
            }
        }
        if native {
            self.objects[dir].entries.sort();
        }
        changed
    }
}
