// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Runs operations on the file system and on the reference, and compares each answer.

use std::sync::atomic::Ordering::SeqCst;

use arvados_fuse::fs::{Attr, Errno, Fh, Ino, RenameMode};

use super::blocks::{CONTENTS, Content, PATHS, Version};
use super::generators::{GIVEN, KEPT, LISTED, NAMES, Op, Pick};
use super::kernel::Kernel;
use super::memory::MemoryNode;
use super::mount::{CALLER, Mount};
use super::reference::{Id, ROOT, Reference, Served};
use super::world::Entry;

pub(crate) const COLLECTIONS: u8 = 3;
const NO_LIMIT: i64 = 1 << 40;

/// How the layer above answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Above {
    /// At once.
    Never,
    /// Each call takes its lock.
    Asked,
    /// Each call takes its lock, and calls back into the inode table.
    CallsBack,
}

pub(super) struct Handle {
    pub(super) fh: Fh,
    id: Id,
    /// What a directory listed when it was opened, `.` and `..` first.
    listing: Option<Vec<(String, Id)>>,
    /// What it keeps in use.
    uses: Vec<Id>,
    /// Where its listing has been.
    offsets: Vec<u64>,
}

/// See the [module](self).
pub(crate) struct Harness {
    pub mount: Mount,
    pub(super) reference: Reference,
    pub(super) kernel: Kernel,
    pub(super) handles: Vec<Handle>,
    mtime: i128,
}

pub(super) fn wrong<T: std::fmt::Debug, U: std::fmt::Debug>(
    what: &str,
    is: T,
    right: U,
) -> Result<(), String> {
    Err(format!("{what}: {is:?}, not {right:?}"))
}

pub(super) fn equal<T: std::fmt::Debug + PartialEq>(
    what: &str,
    is: T,
    right: T,
) -> Result<(), String> {
    if is == right { Ok(()) } else { wrong(what, is, right) }
}

/// References and uses of an entry.
pub(crate) fn counts(entry: &Entry) -> (i64, i64) {
    match entry {
        Entry::Host(node) => {
            let state = &node.0.state;
            (state.ref_count.load(SeqCst), state.use_count.load(SeqCst))
        }
        Entry::Collection(node) => {
            (node.refs().unwrap_or(0).into(), node.uses().unwrap_or(0).into())
        }
    }
}

/// The first versions of the collections.
pub(crate) fn collections() -> Vec<Version> {
    let slots = [[1, 2, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 4, 5, 6, 0, 2, 0], [0; 9]];
    slots.map(|slots| Version { slots, mtime: 1 }).to_vec()
}

impl Harness {
    /// A root with a file, a directory, and two collections.
    pub(crate) fn new(above: Above) -> Self {
        let mount = Mount::new(collections());
        mount.table.cache().set_cap(NO_LIMIT);
        let reference = Reference::new(mount.root.0.key);
        let mut harness = Harness {
            mount,
            reference,
            kernel: Kernel::default(),
            handles: Vec::new(),
            mtime: 100,
        };
        for (name, kind) in [("p", 0), ("q", 1), ("r", 2), ("s", 5)] {
            harness.add(ROOT, name, kind);
        }
        harness.mount.world.hook.enabled.store(above != Above::Never, SeqCst);
        harness.mount.world.hook.probing.store(above == Above::CallsBack, SeqCst);
        harness
    }

    /// Runs all operations, and sees that nothing is left over.
    ///
    /// # Errors
    /// What was wrong, and after which operation.
    pub(crate) fn run(above: Above, ops: &[Op]) -> Result<(), String> {
        let mut harness = Harness::new(above);
        for (at, op) in ops.iter().enumerate() {
            let done = harness.step(*op).and_then(|()| harness.settle());
            done.map_err(|wrong| format!("operation {at}, {op:?}: {wrong}"))?;
        }
        harness.finish().map_err(|wrong| format!("at the end: {wrong}"))
    }

    fn pick<T: Copy>(from: &[T], pick: Pick) -> Option<T> {
        (!from.is_empty()).then(|| from[usize::from(pick) % from.len()])
    }

    /// What the kernel knows.
    pub(super) fn known(&self, is: impl Fn(&Reference, Id) -> bool) -> Vec<Id> {
        let known = |id: &Id| self.reference.objects[*id].refs > 0 && is(&self.reference, *id);
        (0..self.reference.objects.len()).filter(known).collect()
    }

    fn ino(&self, id: Id) -> u64 {
        self.reference.objects[id].ino.expect("the kernel was told")
    }

    fn node(&self, id: Id) -> Result<MemoryNode, String> {
        match self.mount.table.get(self.ino(id)) {
            Some(Entry::Host(node)) => Ok(node),
            _ => Err(format!("{id} is no entry of the layer above")),
        }
    }

    pub(super) fn follow_events(&mut self) -> Result<(), String> {
        let events = std::mem::take(&mut *self.mount.world.events.lock());
        events.iter().try_for_each(|event| self.reference.apply(event))
    }

    /// Looked up once more.
    fn told(&mut self, dir: Id, name: &str, id: Id, attr: &Attr) {
        self.reference.objects[id].refs += 1;
        if name != "." && name != ".." {
            self.kernel.remember(self.ino(dir), name, attr);
        }
    }

    fn checked(&mut self, id: Id, answer: Result<Attr, Errno>) -> Result<Attr, String> {
        let attr = answer.map_err(|errno| format!("{errno:?} for object {id}"))?;
        self.reference.check_attr(id, &attr)?;
        if self.reference.objects[id].of_collection {
            self.kernel.remember_attr(&attr);
        }
        Ok(attr)
    }

    fn step(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Lookup { dir, name, anywhere } => {
                let dirs = self.known(|reference, id| anywhere || reference.is_dir(id));
                let Some(dir) = Self::pick(&dirs, dir) else { return Ok(()) };
                let listed: Vec<String> =
                    self.reference.objects[dir].entries.iter().map(|(n, _)| n.clone()).collect();
                let name = match name.checked_sub(LISTED) {
                    None if !listed.is_empty() => listed[usize::from(name) % listed.len()].clone(),
                    other => NAMES[usize::from(other.unwrap_or(name)) % NAMES.len()].to_owned(),
                };
                let name = name.as_str();
                let answer = self.mount.lookup(self.ino(dir), name);
                self.follow_events()?;
                match self.reference.lookup(dir, name) {
                    Ok(id) => {
                        let attr = self.checked(id, answer)?;
                        self.told(dir, name, id, &attr);
                        Ok(())
                    }
                    Err(errno) => equal("lookup", answer.map(drop), Err(errno)),
                }
            }
            Op::Getattr { of } => {
                let Some(id) = Self::pick(&self.known(|_, _| true), of) else { return Ok(()) };
                let ino = Ino(self.ino(id));
                let answer = self.mount.ask(|fs| fs.getattr(&CALLER, ino));
                self.follow_events()?;
                self.checked(id, answer).map(drop)
            }
            Op::Forget { of, all } => {
                let closed =
                    |id: &Id| *id != ROOT && !self.handles.iter().any(|open| open.id == *id);
                let known: Vec<Id> = self.known(|_, _| true).into_iter().filter(closed).collect();
                if let Some(id) = Self::pick(&known, of) {
                    let refs = self.reference.objects[id].refs;
                    self.forget(id, if all { refs } else { 1 });
                }
                Ok(())
            }
            Op::Open { file } => {
                let files = self.known(|reference, id| !reference.is_dir(id) || id % 16 == 0);
                match Self::pick(&files, file) {
                    Some(id) => self.open(id),
                    None => Ok(()),
                }
            }
            Op::Opendir { of } => {
                let dirs = self.known(|reference, id| reference.is_dir(id) || id % 16 == 0);
                match Self::pick(&dirs, of) {
                    Some(id) => self.opendir(id),
                    None => Ok(()),
                }
            }
            Op::Read { handle, offset, size } => self.read(handle, offset, size),
            Op::List { handle, plus, room, back } => self.list(handle, plus, room, back),
            Op::Release { handle } => {
                if self.handles.is_empty() {
                    return Ok(());
                }
                let handle = self.handles.swap_remove(usize::from(handle) % self.handles.len());
                self.release(&handle)
            }
            Op::Add { .. } | Op::Remove { .. } | Op::Rename { .. } => self.change(op),
            Op::Commit { collection, slots } => {
                self.commit(usize::from(collection % COLLECTIONS), slots);
                Ok(())
            }
            Op::Follow { .. } | Op::TakeOver { .. } => self.outside(op),
            Op::Evict { given_back } => {
                if given_back {
                    self.give_back();
                }
                self.evict()
            }
        }
    }

    fn commit(&mut self, collection: usize, slots: [u8; PATHS.len()]) {
        self.mtime += 1;
        let newest = &mut self.mount.world.truth.lock()[collection];
        newest.mtime = self.mtime;
        for (slot, new) in newest.slots.iter_mut().zip(slots).filter(|(_, new)| *new != KEPT) {
            *slot = new;
        }
    }

    pub(super) fn forget(&mut self, id: Id, count: u64) {
        let ino = self.ino(id);
        self.mount.forget(ino, count);
        self.reference.objects[id].refs -= count;
        if self.reference.objects[id].refs == 0 {
            self.kernel.forget(ino);
        }
    }

    fn opened(&mut self, fh: Fh, id: Id, listing: Option<Vec<(String, Id)>>, uses: Vec<Id>) {
        for id in &uses {
            self.reference.objects[*id].uses += 1;
        }
        self.handles.push(Handle { fh, id, listing, uses, offsets: vec![0] });
    }

    fn open(&mut self, id: Id) -> Result<(), String> {
        let parent = self.reference.objects[id].parent;
        let answer = self.mount.open(self.ino(id));
        self.follow_events()?;
        if self.reference.is_dir(id) {
            return equal("open", answer.map(drop), Err(Errno::EISDIR));
        }
        let fh = answer.map_err(|errno| format!("open: {errno:?}"))?;
        // The directory that it was found in, though it may have left that by the refresh; if that is
        // gone, nobody can be told.
        let parent = parent.filter(|parent| !self.reference.objects[*parent].gone);
        let uses = std::iter::once(id).chain(parent).collect();
        self.opened(fh, id, None, uses);
        Ok(())
    }

    fn opendir(&mut self, id: Id) -> Result<(), String> {
        let answer = self.mount.opendir(self.ino(id));
        self.follow_events()?;
        let object = &self.reference.objects[id];
        let parent = match (self.reference.is_dir(id), object.parent) {
            (false, _) => return equal("opendir", answer.map(drop), Err(Errno::ENOTDIR)),
            (true, None) => return equal("opendir", answer.map(drop), Err(Errno::EIO)),
            (true, Some(parent)) => parent,
        };
        let fh = answer.map_err(|errno| format!("opendir: {errno:?}"))?;
        let mut listing = vec![(".".to_owned(), id), ("..".to_owned(), parent)];
        listing.extend(object.entries.iter().cloned());
        let mut uses = vec![id, id, parent];
        // What lists a tree keeps the directory in use, and that the tree.
        if !object.native && object.shows.is_none_or(|(_, served)| served != Served::Tree) {
            uses.extend(object.entries.iter().map(|(_, id)| *id));
        }
        self.opened(fh, id, Some(listing), uses);
        Ok(())
    }

    fn read(&mut self, handle: Pick, offset: u16, size: u16) -> Result<(), String> {
        let files: Vec<(Fh, Id)> = (self.handles.iter())
            .filter(|handle| handle.listing.is_none())
            .map(|handle| (handle.fh, handle.id))
            .collect();
        let Some((fh, id)) = Self::pick(&files, handle) else { return Ok(()) };
        let answer = self.mount.read(fh, offset.into(), size.into());
        self.follow_events()?;
        let content = self.reference.objects[id].content.clone().expect("a file");
        let right = content.read(offset.into(), size.into()).ok_or(Errno::EIO);
        if answer.is_ok() {
            self.kernel.remember_pages(self.ino(id), &content);
        }
        equal("read", answer, right)
    }

    fn list(
        &mut self,
        handle: Pick,
        plus: bool,
        room: u8,
        back: Option<Pick>,
    ) -> Result<(), String> {
        let open: Vec<usize> =
            (0..self.handles.len()).filter(|at| self.handles[*at].listing.is_some()).collect();
        let Some(at) = Self::pick(&open, handle) else { return Ok(()) };
        let handle = &self.handles[at];
        let offset = match back {
            Some(back) => Self::pick(&handle.offsets, back),
            None => handle.offsets.last().copied(),
        };
        let offset = offset.expect("it begins somewhere");
        let (fh, dir) = (handle.fh, handle.id);
        let listing = handle.listing.clone().expect("a directory");
        let (taken, ended) = self.mount.list(fh, offset, plus, room.into());
        self.follow_events()?;
        equal("listing", ended, Ok(()))?;
        let there = |(_, (_, id)): &(u64, &(String, Id))| !self.reference.objects[*id].gone;
        let right: Vec<(u64, String, Id)> = (1..)
            .zip(&listing)
            .skip(usize::try_from(offset).unwrap())
            .filter(there)
            .take(room.into())
            .map(|(next, (name, id))| (next, name.clone(), *id))
            .collect();
        let named = |(name, _, next): &(String, Attr, u64)| (*next, name.clone());
        equal(
            "entries",
            taken.iter().map(named).collect::<Vec<_>>(),
            right.iter().map(|(next, name, _)| (*next, name.clone())).collect(),
        )?;
        for ((name, attr, next), (_, _, id)) in taken.into_iter().zip(right) {
            self.checked(id, Ok(attr.clone())).map_err(|wrong| format!("{name}: {wrong}"))?;
            if plus && name != "." && name != ".." {
                self.reference.objects[id].refs += 1;
                // A listing is what the directory was when it was opened.
                if self.reference.child(dir, &name) == Some(id) {
                    self.kernel.remember(self.ino(dir), &name, &attr);
                }
            }
            self.handles[at].offsets.push(next);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, handle: &Handle) -> Result<(), String> {
        let answer = self.mount.release(handle.fh);
        for id in &handle.uses {
            self.reference.objects[*id].uses -= 1;
        }
        equal("release", answer, Ok(()))
    }

    fn add(&mut self, dir: Id, name: &str, kind: Pick) {
        let Ok(node) = self.node(dir) else { return };
        if self.reference.child(dir, name).is_some() {
            return;
        }
        let world = &self.mount.world;
        let content = Content::number(kind / 4 % CONTENTS);
        let (entry, content, shows) = match kind % 4 {
            0 => (MemoryNode::file(world, content.clone(), 0, false), Some(content), None),
            1 => (MemoryNode::directory(world, 0, false), None, None),
            _ => {
                let collection = usize::from(kind / 4 % COLLECTIONS);
                (MemoryNode::collection(world, collection), None, Some(collection))
            }
        };
        let key = entry.0.key;
        node.make(name, || entry).expect("no entry fails");
        self.reference.add(dir, name, content, shows, key);
    }

    /// The layer above adds, removes or moves an entry.
    fn change(&mut self, op: Op) -> Result<(), String> {
        // What was deleted with all that is in it is left alone, as the kernel and the layer above do.
        let dirs =
            self.known(|reference, id| reference.is_plain_dir(id) && reference.is_below(id, ROOT));
        let dir = |pick| Self::pick(&dirs, pick).expect("the root, for one");
        let name = |pick| Self::pick(&GIVEN, pick).expect("a name");
        let answer = |found| if found { Ok(()) } else { Err(Errno::ENOENT) };
        let known = |outcome: Result<bool, _>| match outcome {
            Ok(found) => answer(found),
            Err::<_, arvados_fuse::fs::Halt>(_) => Err(Errno::EIO),
        };
        match op {
            Op::Add { dir: at, name: called, kind } => self.add(dir(at), name(called), kind),
            Op::Remove { dir: at, name: called, asked } => {
                let (dir, name) = (dir(at), name(called));
                let is = if asked {
                    let (ino, name) = (Ino(self.ino(dir)), name.as_bytes());
                    self.mount.ask(|fs| fs.unlink(&CALLER, ino, name))
                } else {
                    known(self.node(dir)?.remove(name))
                };
                equal("removal", is, answer(self.reference.remove(dir, name)))?;
            }
            Op::Rename { dir: at, name: called, to, new_name, asked } => {
                let (from, old, to, new) = (dir(at), name(called), dir(to), name(new_name));
                let cycle =
                    |id: Option<Id>, dir| id.is_some_and(|id| self.reference.is_below(dir, id));
                let (moved, over) =
                    (self.reference.child(from, old), self.reference.child(to, new));
                if cycle(moved, to) || cycle(over, from) {
                    return Ok(());
                }
                let is = if asked {
                    let (from, to) = (Ino(self.ino(from)), Ino(self.ino(to)));
                    self.mount.ask(|fs| {
                        fs.rename(
                            &CALLER,
                            from,
                            old.as_bytes(),
                            to,
                            new.as_bytes(),
                            RenameMode::Replace,
                        )
                    })
                } else {
                    known(self.node(from)?.move_to(old, &self.node(to)?, new))
                };
                equal("rename", is, answer(self.reference.rename(from, old, to, new)))?;
            }
            _ => {}
        }
        self.follow_events()
    }

    /// A collection's directory is told something from outside.
    fn outside(&mut self, op: Op) -> Result<(), String> {
        let showing = self.known(|reference, id| reference.objects[id].shows.is_some());
        let (Op::Follow { of, .. } | Op::TakeOver { of }) = op else { return Ok(()) };
        let Some(id) = Self::pick(&showing, of) else { return Ok(()) };
        let node = self.node(id)?;
        let loaded = self.reference.objects[id].shows.map(|shows| shows.1);
        if let (Op::Follow { slots, .. }, Some((collection, _))) =
            (op, self.reference.objects[id].shows)
        {
            self.commit(collection, slots);
        }
        let done = match op {
            Op::TakeOver { .. } => node.take_over(),
            Op::Follow { at_once: true, .. } if loaded != Some(Served::Unloaded) => {
                node.show_newest()
            }
            _ => {
                node.0.state.mark_stale(true);
                Ok(())
            }
        };
        done.map_err(|halt| format!("{halt:?}"))?;
        self.follow_events()
    }

    /// The kernel forgets the collections' directories that nobody has open.
    fn give_back(&mut self) {
        for id in self.known(|reference, id| reference.objects[id].shows.is_some()) {
            if !self.handles.iter().any(|handle| handle.id == id) {
                self.forget(id, self.reference.objects[id].refs);
            }
        }
    }

    pub(super) fn evict(&mut self) -> Result<(), String> {
        self.mount.table.cache().set_cap(0);
        self.mount.table.cap_cache();
        self.mount.drain();
        self.mount.table.cache().set_cap(NO_LIMIT);
        self.follow_events()?;
        for object in &self.reference.objects {
            let loaded = object.shows.is_some_and(|(_, served)| served != Served::Unloaded);
            let id = object.ino.and_then(|ino| self.reference.of_ino(ino));
            if loaded && !object.gone && id.is_some_and(|id| !self.reference.in_use(id)) {
                equal("references of what was not evicted", object.refs > 0, true)?;
            }
        }
        Ok(())
    }
}
