// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Makes random requests, and compares each answer with the reference's.

use std::collections::BTreeMap;
use std::time::Duration;

use arvados_fuse::fs::{Errno, Fh, FileSystem, Ino, Timestamp};
use fastrand::Rng;

mod names;
mod ranges;

use super::mount::{CALLER, Mount};
use super::reference::{Content, Key, Mtime, Reference, TOP};

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "a name\n", "\u{e9}:\\", "reserved"];
/// Where the last change of a file may begin.
const REACH: usize = 60_000;
const LONGEST: usize = 9_000;
/// More nodes are not made.
const MOST: usize = 150;

struct Open {
    fh: Fh,
    key: Key,
    /// Where it was then: that is open, too.
    parent: Option<Key>,
    writable: bool,
}

/// An open directory, and what was in it then.
struct Opendir {
    fh: Fh,
    key: Key,
    parent: Option<Key>,
    then: BTreeMap<String, Key>,
}

pub(crate) struct Driver<'m> {
    mount: &'m Mount,
    random: Rng,
    pub reference: Reference,
    open: Vec<Open>,
    opendir: Vec<Opendir>,
    frozen: bool,
    refusing: bool,
    /// Keep takes everything, and nothing is frozen.
    pub never_refuses: bool,
    /// Nobody else asks for anything.
    alone: bool,
}

impl<'m> Driver<'m> {
    pub(crate) fn new(mount: &'m Mount, reference: Reference, seed: u64, alone: bool) -> Self {
        let random = Rng::with_seed(seed);
        let (open, opendir) = (Vec::new(), Vec::new());
        let (frozen, refusing) = (false, false);
        Driver {
            mount,
            random,
            reference,
            open,
            opendir,
            frozen,
            refusing,
            never_refuses: false,
            alone,
        }
    }

    fn ino(&self, key: Key) -> Ino {
        self.reference.nodes[key].ino.expect("looked up")
    }

    /// A node that the kernel knows.
    fn known(&mut self, dir: bool) -> Option<Key> {
        let reference = &self.reference;
        let known = |key: &Key| reference.is_known(*key) && reference.is_dir(*key) == dir;
        let known: Vec<Key> = (0..reference.nodes.len()).filter(known).collect();
        self.random.choice(known)
    }

    fn dir(&mut self) -> Key {
        self.known(true).unwrap_or(TOP)
    }

    /// A name, in most cases one that is there.
    fn name(&mut self, dir: Key) -> String {
        if self.random.u8(..4) > 0
            && let Some(name) = self.random.choice(self.reference.children(dir).keys())
        {
            return name.clone();
        }
        NAMES[self.random.usize(..NAMES.len())].to_owned()
    }

    fn len(&mut self) -> usize {
        match self.random.u8(..4) {
            0 => self.random.usize(1..20),
            1 => self.random.usize(1..LONGEST),
            _ => self.random.usize(1..2000),
        }
    }

    /// Whether nothing is to be changed: EROFS then.
    fn frozen_for(&self, key: Key) -> bool {
        self.frozen && !self.reference.is_removed(key)
    }

    pub(crate) fn step(&mut self) {
        match self.random.u8(..100) {
            0..14 => self.lookup(),
            14..20 => self.create(),
            20..24 => self.mkdir(),
            24..29 => self.remove(),
            29..36 => self.rename(),
            36..42 => self.open(),
            42..46 => self.release(),
            46..57 => self.write(),
            57..66 => self.read(),
            66..69 => self.truncate(),
            69..73 => self.allocate(),
            73..76 => self.copy(),
            76..78 => self.seek(),
            78..81 => self.link(),
            81 => self.set_mtime(),
            82..87 => self.getattr(),
            87..89 => self.opendir(),
            89 => self.list_held(),
            90..97 => self.forget(),
            97 => self.sync(),
            98 => self.toggle(),
            _ => self.now_and_then(),
        }
    }

    fn lookup(&mut self) {
        let dir = self.dir();
        let name = self.name(dir);
        let found = self.mount.lookup(self.ino(dir), &name);
        let expected = self.reference.child(dir, &name);
        assert_eq!(found.as_ref().err(), expected.as_ref().err(), "{name:?}");
        if let (Ok(attr), Ok(key)) = (found, expected) {
            self.referenced(key, &attr);
        }
    }

    fn referenced(&mut self, key: Key, attr: &arvados_fuse::fs::Attr) {
        self.reference.nodes[key].refs += 1;
        self.reference.check(key, attr);
    }

    fn create(&mut self) {
        let (dir, now) = (self.dir(), Timestamp::now());
        let name = self.name(dir);
        let is_new = self.reference.child(dir, &name).is_err();
        if self.reference.nodes.len() > MOST && is_new {
            return;
        }
        let made = self.mount.create(self.ino(dir), &name);
        let expected =
            if self.frozen { Err(Errno::EROFS) } else { self.reference.create(dir, &name, now) };
        assert_eq!(made.as_ref().err(), expected.as_ref().err(), "{name:?}");
        if let (Ok((attr, fh)), Ok(key)) = (made, expected) {
            self.referenced(key, &attr);
            let parent = self.reference.opened_in(key, Some(dir));
            self.open.push(Open { fh, key, parent, writable: true });
            self.check(dir);
        }
    }

    fn mkdir(&mut self) {
        let (dir, now) = (self.dir(), Timestamp::now());
        let name = self.name(dir);
        if self.reference.nodes.len() > MOST {
            return;
        }
        let made = self.mount.mkdir(self.ino(dir), &name);
        let expected =
            if self.frozen { Err(Errno::EROFS) } else { self.reference.mkdir(dir, &name, now) };
        assert_eq!(made.as_ref().err(), expected.as_ref().err(), "{name:?}");
        if let (Ok(attr), Ok(key)) = (made, expected) {
            self.referenced(key, &attr);
            self.check(dir);
        }
    }

    fn remove(&mut self) {
        let (dir, now, directory) = (self.dir(), Timestamp::now(), self.random.bool());
        let name = self.name(dir);
        let removed = if directory {
            self.mount.rmdir(self.ino(dir), &name)
        } else {
            self.mount.unlink(self.ino(dir), &name)
        };
        let expected = if self.frozen {
            Err(Errno::EROFS)
        } else {
            self.reference.remove(dir, &name, directory, now)
        };
        assert_eq!(removed.err(), expected.as_ref().err().copied(), "{name:?}");
        self.check(dir);
        if let Ok(key) = expected {
            self.check_removed(key);
        }
    }

    /// What was removed is there for those who have it.
    fn check_removed(&mut self, key: Key) {
        if self.reference.is_known(key) {
            self.check(key);
        } else if let Some(ino) = self.reference.nodes[key].ino
            && self.reference.is_gone(key)
        {
            self.mount.fs.inodes.wait_removal();
            assert_eq!(self.mount.getattr(ino).err(), Some(Errno::ENOENT));
        }
    }

    fn check(&mut self, key: Key) {
        let attr = self.mount.getattr(self.ino(key)).expect("known");
        self.reference.check(key, &attr);
    }

    fn getattr(&mut self) {
        let dir = self.random.bool();
        if let Some(key) = self.known(dir) {
            self.check(key);
        }
    }

    fn open(&mut self) {
        let Some(key) = self.known(false) else { return };
        let writable = self.random.u8(..3) > 0;
        let flags = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let fh = self.mount.open(self.ino(key), flags).expect("opened");
        let parent = self.reference.opened(key);
        self.open.push(Open { fh, key, parent, writable });
    }

    fn release(&mut self) {
        if !self.open.is_empty() {
            let at = self.random.usize(..self.open.len());
            let open = self.open.swap_remove(at);
            self.released(open);
        }
    }

    fn released(&mut self, Open { fh, key, parent, .. }: Open) {
        self.mount.release(self.ino(key), fh);
        self.closed(key, parent);
    }

    fn closed(&mut self, key: Key, parent: Option<Key>) {
        for key in std::iter::once(key).chain(parent) {
            self.reference.nodes[key].open -= 1;
        }
        for key in std::iter::once(key).chain(parent) {
            self.check_removed(key);
        }
    }

    fn handle(&mut self, writable: bool) -> Option<(Fh, Key)> {
        let able = self.open.iter().filter(|open| open.writable || !writable);
        let able: Vec<(Fh, Key)> = able.map(|open| (open.fh, open.key)).collect();
        self.random.choice(able)
    }

    fn write(&mut self) {
        let Some((fh, key)) = self.handle(true) else { return };
        let end = self.reference.bytes_mut(key).len();
        let offset = if self.random.bool() { end.min(REACH) } else { self.random.usize(..REACH) };
        let data: Vec<u8> = {
            let (len, first) = (self.len(), self.random.u8(..));
            (0..len).map(|n| first.wrapping_add((n / 7) as u8)).collect()
        };
        for attempt in 0.. {
            let now = Timestamp::now();
            let written = self.mount.write(self.ino(key), fh, offset as u64, &data);
            match written {
                Ok(written) => {
                    assert!(!self.frozen_for(key));
                    assert_eq!(written as usize, data.len());
                    self.reference.write(key, offset, &data, now);
                    break;
                }
                Err(Errno::EROFS) if self.frozen_for(key) => break,
                Err(Errno::EIO) if self.refusing => break,
                // What was refused before is tried again.
                Err(Errno::EIO) if attempt < 100 => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(errno) => panic!("{errno}"),
            }
        }
        if self.reference.is_known(key) {
            self.check(key);
        }
    }

    fn read(&mut self) {
        let Some((fh, key)) = self.handle(false) else { return };
        let (offset, len) = (self.random.usize(..REACH + LONGEST), self.random.usize(..40_000));
        let read = self.mount.read(self.ino(key), fh, offset as u64, len as u32).expect("read");
        let bytes = self.reference.bytes_mut(key);
        let (begin, end) = (offset.min(bytes.len()), (offset + len).min(bytes.len()));
        assert_same(&read, &bytes[begin..end]);
    }

    fn truncate(&mut self) {
        let through = self.random.bool();
        let (fh, key) = if through {
            let Some((fh, key)) = self.handle(true) else { return };
            (Some(fh), key)
        } else {
            let Some(key) = self.known(false) else { return };
            (None, key)
        };
        let size = if self.random.u8(..4) == 0 { 0 } else { self.random.usize(..REACH) };
        let now = Timestamp::now();
        let set = self.mount.set_size(self.ino(key), fh, size as u64);
        if self.frozen_for(key) {
            assert_eq!(set.err(), Some(Errno::EROFS));
            return;
        }
        self.reference.truncate(key, size, now);
        self.reference.check(key, &set.expect("set"));
        if self.reference.is_known(key) {
            self.check(key);
        }
    }

    fn set_mtime(&mut self) {
        let dir = self.random.bool();
        let Some(key) = self.known(dir) else { return };
        let at = Timestamp(i128::from(self.random.u32(..)) * 1_000_000_001);
        let set = self.mount.set_mtime(self.ino(key), at);
        if self.frozen_for(key) {
            assert_eq!(set.err(), Some(Errno::EROFS));
        } else {
            self.reference.nodes[key].mtime = Mtime::Known(at);
            self.reference.check(key, &set.expect("set"));
        }
        self.check(key);
    }

    fn opendir(&mut self) {
        let key = self.dir();
        let ino = self.ino(key);
        let opened = FileSystem::opendir(&self.mount.fs, &CALLER, ino);
        if self.reference.is_removed(key) {
            assert_eq!(opened.err(), Some(Errno::EIO), "its directory is gone");
            return;
        }
        let fh = opened.expect("opened").fh;
        let parent = self.reference.opened(key);
        let then = self.reference.children(key).clone();
        let opendir = Opendir { fh, key, parent, then };
        if self.opendir.len() < 5 && self.random.u8(..3) == 0 {
            self.opendir.push(opendir);
        } else {
            self.list(opendir);
        }
    }

    fn list_held(&mut self) {
        if !self.opendir.is_empty() {
            let at = self.random.usize(..self.opendir.len());
            let opendir = self.opendir.swap_remove(at);
            self.list(opendir);
        }
    }

    /// What is in it as then must be listed; what has gone since may be.
    fn list(&mut self, Opendir { fh, key, parent, then }: Opendir) {
        let (ino, step, plus) = (self.ino(key), self.random.usize(1..6), self.random.bool());
        let mut listed = BTreeMap::new();
        for (name, attr) in self.mount.list(ino, fh, step, plus) {
            let of = *then.get(&name).unwrap_or_else(|| panic!("{name:?} was not there"));
            if plus {
                self.reference.nodes[of].refs += 1;
            }
            self.reference.check(of, &attr);
            assert!(listed.insert(name, of).is_none(), "listed twice");
        }
        for (name, of) in &then {
            if self.reference.child(key, name) == Ok(*of) {
                assert!(listed.contains_key(name), "{name:?} is not listed");
            }
        }
        FileSystem::releasedir(&self.mount.fs, ino, fh).expect("released");
        self.closed(key, parent);
    }

    fn forget(&mut self) {
        let dir = self.random.u8(..3) == 0;
        let Some(key) = self.known(dir).filter(|key| *key != TOP) else { return };
        let node = &self.reference.nodes[key];
        // What is open the kernel does not forget.
        let most = if node.open > 0 { node.refs - 1 } else { node.refs };
        if most > 0 {
            let n = if self.random.bool() { most } else { self.random.u64(1..=most) };
            self.forgotten(key, n);
        }
    }

    fn forgotten(&mut self, key: Key, n: u64) {
        self.mount.forget(self.ino(key), n);
        self.reference.nodes[key].refs -= n;
        self.check_removed(key);
    }

    fn sync(&mut self) {
        if let Some((fh, key)) = self.handle(false) {
            let ino = self.ino(key);
            FileSystem::fsync(&self.mount.fs, ino, fh, self.random.bool()).expect("synced");
        }
        self.store();
    }

    /// When the top directory was changed is what is told now.
    pub(crate) fn learn_time_of_root(&mut self) {
        let attr = self.mount.getattr(self.ino(TOP)).expect("there");
        self.reference.nodes[TOP].mtime = Mtime::Known(attr.mtime);
    }

    /// Where it answers that all is stored, all is.
    pub(crate) fn store(&mut self) {
        let stored = self.mount.collection().store().is_ok();
        if self.alone {
            let left = self.mount.buffer.gauge().bytes();
            assert_eq!(stored, left == 0, "{left} bytes are not stored");
        }
        assert!(stored || self.refusing, "stored");
    }

    fn toggle(&mut self) {
        if !self.alone {
            return;
        }
        if self.never_refuses {
            return;
        }
        if self.random.bool() {
            self.frozen = !self.frozen && self.random.u8(..4) == 0;
            self.mount.collection().freeze(self.frozen);
        } else {
            let refuse = !self.refusing && self.random.bool();
            if self.refusing && !refuse {
                // What is on its way may still be refused.
                self.mount.refuse(false);
                let _ = self.mount.collection().store();
            }
            self.refusing = refuse;
            self.mount.refuse(refuse);
        }
    }

    fn now_and_then(&mut self) {
        match self.random.u8(..8) {
            0 => self.mount.keep.clear_cache(),
            1 if self.alone && !self.refusing => self.compare_saved(),
            _ => {}
        }
    }

    pub(crate) fn compare_saved(&mut self) {
        let (saved, paths) = (self.mount.saved(), self.reference.paths());
        assert!(saved.keys().eq(paths.keys()), "{:?}\n{:?}", saved.keys(), paths.keys());
        for (path, content) in &paths {
            match (content, &saved[path]) {
                (Some(bytes), Some(saved)) => assert_same(saved, bytes),
                (None, None) => {}
                _ => panic!("{path:?} is something else"),
            }
        }
    }

    /// Looks at everything, and lets it go.
    pub(crate) fn end(&mut self) {
        if self.alone {
            self.mount.refuse(false);
            let _ = self.mount.collection().store();
            self.mount.collection().freeze(false);
        }
        (self.frozen, self.refusing) = (false, false);
        self.store();
        self.compare_all(TOP);
        for opendir in std::mem::take(&mut self.opendir) {
            self.list(opendir);
        }
        for open in std::mem::take(&mut self.open) {
            self.released(open);
        }
        for key in 1..self.reference.nodes.len() {
            let refs = self.reference.nodes[key].refs;
            if refs > 0 {
                self.forgotten(key, refs);
            }
        }
    }

    fn compare_all(&mut self, dir: Key) {
        for (name, key) in self.reference.children(dir).clone() {
            let attr = self.mount.lookup(self.ino(dir), &name).expect("there");
            self.referenced(key, &attr);
            if let Content::File(bytes) = &self.reference.nodes[key].content {
                let fh = self.mount.open(attr.ino, libc::O_RDONLY).expect("opened");
                let read = self.mount.read(attr.ino, fh, 0, 1 << 20).expect("read");
                assert_same(&read, bytes);
                self.mount.release(attr.ino, fh);
            } else {
                self.compare_all(key);
            }
        }
    }
}

/// Says where they differ, and not all that they are.
#[track_caller]
pub(crate) fn assert_same(read: &[u8], bytes: &[u8]) {
    if read != bytes {
        let differ = read.iter().zip(bytes).position(|(one, other)| one != other);
        panic!("{} bytes are to be {}; {differ:?}", read.len(), bytes.len());
    }
}
