// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Each request with an entry of the layer above that fails, at each possible call.
//!
//! A failed request leaves every count, handle and table as it was; asked again it does what it does in a
//! mount whose entries never fail. What the kernel asks once only (forget, release) is done as far as
//! can be, and whatever was to be removed is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::atomic::Ordering::SeqCst;

use arvados_fuse::fs::node::Identity;
use arvados_fuse::fs::{Errno, Fh, Ino, Position, RenameMode::Replace, SetAttr};

use super::blocks::{Content, Version};
use super::memory::MemoryNode;
use super::mount::{CALLER, Mount};
use super::world::Entry;

/// References, uses, and whether it is served from a tree.
type Counts = (i64, i64, bool);

/// All that a mount keeps, by path: the numbers of inodes differ where some were handed out in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Census {
    counts: BTreeMap<String, Counts>,
    handles: Vec<String>,
    cached: BTreeMap<String, i64>,
    total: i64,
    listed: BTreeMap<String, Vec<String>>,
}

fn counts_of(entry: &Entry) -> Counts {
    match entry {
        Entry::Host(node) => {
            let state = &node.0.state;
            (state.ref_count.load(SeqCst), state.use_count.load(SeqCst), false)
        }
        Entry::Collection(node) => {
            (node.refs().unwrap_or(0).into(), node.uses().unwrap_or(0).into(), true)
        }
    }
}

fn name_all(entry: &Entry, path: &str, names: &mut BTreeMap<u64, String>) {
    let ino = entry.inode().expect("no upcall").expect("a number");
    names.insert(ino, path.to_owned());
    let below = |name: &str| format!("{path}/{name}");
    match entry {
        Entry::Host(node) => {
            let Some(directory) = node.as_dir() else { return };
            for (name, entry) in directory.entries.snapshot() {
                name_all(&entry, &below(&name), names);
            }
            if let Some(mounted) = node.mounted() {
                let snapshot = mounted.snapshot();
                for at in 1..snapshot.tree().len() {
                    let id = arvados_fuse::collection::NodeId(u32::try_from(at).unwrap());
                    names.insert(snapshot.ino(id), below(&snapshot.tree().path(id)));
                }
            }
        }
        Entry::Collection(_) => {}
    }
}

impl Mount {
    fn census(&self) -> Census {
        let mut names = BTreeMap::new();
        name_all(&Entry::Host(self.root.clone()), "", &mut names);
        let name = |ino: u64| names.get(&ino).cloned().unwrap_or_else(|| format!("? {ino}"));
        let entry = |ino: u64| self.table.get(ino).expect("it is in the table");
        let cache = self.table.cache();
        let uuids = (0..self.world.truth.lock().len()).map(|n| format!("collection {n}"));
        let inode = |node: &Entry| node.inode().expect("no upcall").unwrap_or(0);
        Census {
            counts: (self.table.numbers().into_iter())
                .map(|ino| (name(ino), counts_of(&entry(ino))))
                .collect(),
            handles: (self.served.handles.numbers().into_iter())
                .map(|fh| name(inode(self.served.handles.find(Fh(fh)).unwrap().node())))
                .collect(),
            cached: (cache.inodes().into_iter())
                .map(|ino| (name(ino), cache.counted(ino).unwrap()))
                .collect(),
            total: cache.total(),
            listed: uuids
                .map(|uuid| {
                    let found = self.table.find_by_uuid(&uuid);
                    (uuid, found.iter().map(|node| name(inode(node))).collect())
                })
                .collect(),
        }
    }
}

impl Census {
    /// Whether nothing is counted, open or listed that was not, and nothing is missing. New entries
    /// may be there, with nothing counted on them.
    fn holds_no_more_than(&self, before: &Census, after: &Census) -> Result<(), String> {
        let all: BTreeSet<&String> = self.counts.keys().chain(before.counts.keys()).collect();
        for path in all {
            let count = |census: &Census| {
                census.counts.get(path).map_or((0, 0), |(refs, uses, _)| (*refs, *uses))
            };
            if count(self) != count(before) {
                return Err(format!("{path}: {:?}, was {:?}", count(self), count(before)));
            }
        }
        let same = |what, ours: &dyn Debug, was: &dyn Debug, is: bool| {
            if is { Ok(()) } else { Err(format!("{what}: {ours:?}, was {was:?}")) }
        };
        let handles = self.handles == before.handles;
        same("handles", &self.handles, &before.handles, handles)?;
        let total: i64 = self.cached.values().sum();
        same("total", &self.total, &total, self.total == total)?;
        let known = |ino| before.cached.contains_key(ino) || after.cached.contains_key(ino);
        let cached = self.cached.keys().all(known);
        same("cached", &self.cached, &before.cached, cached)?;
        let listed = self.listed == before.listed || self.listed == after.listed;
        same("listed", &self.listed, &before.listed, listed)
    }

    fn sum(&self) -> i64 {
        self.counts.values().map(|(refs, uses, _)| refs + uses).sum()
    }
}

/// What the kernel does after a request that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It may ask again.
    Again,
    /// It believes the request done.
    Done,
}

/// A root with a file, a directory, and three collections: one not loaded, one served from its
/// tree, one from objects.
fn filled() -> Mount {
    let version = |slots| Version { slots, mtime: 5_000_000_000 };
    let collections = vec![
        version([1, 0, 0, 1, 0, 0, 0, 0, 0]),
        version([1, 2, 0, 1, 3, 0, 0, 1, 0]),
        version([1, 2, 0, 1, 3, 0, 0, 1, 0]),
    ];
    let mount = Mount::new(collections);
    let (root, world) = (&mount.root, &mount.world);
    let directory = MemoryNode::directory(world, 1, false);
    root.add("dir", &directory, None).unwrap();
    let file = |number| MemoryNode::file(world, Content::number(number), 1, false);
    root.add("file", &file(0), None).unwrap();
    directory.add("inner", &file(1), None).unwrap();
    directory.add("sub", &MemoryNode::directory(world, 1, false), None).unwrap();
    for (number, name) in ["unloaded", "tree", "objects"].into_iter().enumerate() {
        root.add(name, &MemoryNode::collection(world, number), None).unwrap();
    }
    mount.walk("tree/a");
    mount.walk("objects/a");
    let objects = mount.walk("objects");
    let Some(Entry::Host(objects)) = mount.table.get(objects) else { panic!("a directory") };
    objects.take_over().unwrap();
    mount.drain();
    mount
}

/// Runs `request` on what `prepare` answers, with the first upcall failing, then the second, and so
/// on, until none fails.
fn fail_each<C>(
    prepare: impl Fn(&Mount) -> C,
    then: Then,
    request: impl Fn(&Mount, &C) -> Result<(), Errno>,
) {
    let prepared = || {
        let mount = filled();
        let context = prepare(&mount);
        (mount, context)
    };
    let run = |mount: &Mount, context: &C| {
        mount.world.hook.enabled.store(true, SeqCst);
        mount.world.hook.probing.store(true, SeqCst);
        let answer = request(mount, context);
        mount.world.hook.enabled.store(false, SeqCst);
        answer
    };
    let (clean, context) = prepared();
    clean.world.fail_at(0);
    let right = run(&clean, &context);
    let calls = clean.world.fail_at(0);
    clean.drain();
    let after = clean.census();
    for at in 1..=calls {
        let (mount, context) = prepared();
        let before = mount.census();
        mount.world.fail_at(at);
        let answer = run(&mount, &context);
        let what = mount.world.failed().expect("as many calls as in the other mount");
        mount.world.fail_at(0);
        mount.drain();
        let at = format!("call {at}, {what}");
        let middle = mount.census();
        // What cannot be counted back by the entry itself stays counted.
        if what.starts_with("dec_") {
            let close =
                (middle.sum() - before.sum()).abs() <= 1 || (middle.sum() - after.sum()).abs() <= 1;
            assert!(close, "{at}: {middle:#?} was {before:#?}, becomes {after:#?}");
            continue;
        }
        if then == Then::Done {
            assert_eq!(middle, after, "{at}: it is done all the same");
            continue;
        }
        assert_eq!(answer, Err(Errno::EIO), "{at}");
        middle.holds_no_more_than(&before, &after).unwrap_or_else(|wrong| panic!("{at}: {wrong}"));
        let again = run(&mount, &context);
        mount.drain();
        // It may have failed after it had removed what it was to remove.
        assert!(again == right || again == Err(Errno::ENOENT), "{at}: {again:?}, not {right:?}");
        assert_eq!(mount.census(), after, "{at}");
    }
}

/// For each kind of file: of the layer above, served from a tree, served from an object.
const FILES: [&str; 4] = ["file", "dir/inner", "tree/d/a", "objects/d/a"];
const DIRECTORIES: [&str; 4] = ["dir", "tree", "tree/d", "objects/d"];

#[test]
fn lookup() {
    let names = [("dir", "inner"), ("unloaded", "a"), ("tree", "d"), ("tree/d", "a")];
    let more = [("objects/d", "a"), ("dir", ".."), ("dir", "."), ("dir", "missing")];
    for (directory, name) in names.into_iter().chain(more) {
        fail_each(
            |mount| mount.walk(directory),
            Then::Again,
            |mount, ino| mount.lookup(*ino, name).map(drop),
        );
    }
}

#[test]
fn forget() {
    for path in FILES.iter().chain(&DIRECTORIES) {
        for count in [1, 2] {
            fail_each(
                |mount| {
                    let ino = mount.walk(path);
                    mount.walk(path);
                    ino
                },
                Then::Done,
                |mount, ino| {
                    mount.forget(*ino, count);
                    Ok(())
                },
            );
        }
    }
}

#[test]
fn forget_of_what_was_deleted() {
    fail_each(
        |mount| {
            let ino = mount.walk("dir/inner");
            let Some(Entry::Host(directory)) = mount.table.get(mount.walk("dir")) else { panic!() };
            directory.remove("inner").unwrap();
            mount.drain();
            ino
        },
        Then::Done,
        |mount, ino| {
            mount.forget(*ino, 1);
            Ok(())
        },
    );
}

#[test]
fn getattr() {
    for path in FILES.iter().chain(&DIRECTORIES) {
        fail_each(
            |mount| mount.walk(path),
            Then::Again,
            |mount, ino| mount.ask(|fs| fs.getattr(&CALLER, Ino(*ino)).map(drop)),
        );
    }
}

#[test]
fn setattr() {
    let set = SetAttr { size: Some(3), ..SetAttr::default() };
    for path in ["file", "objects/d/a", "objects/d"] {
        fail_each(
            |mount| mount.walk(path),
            Then::Again,
            |mount, ino| mount.ask(|fs| fs.setattr(&CALLER, Ino(*ino), &set, None).map(drop)),
        );
    }
}

#[test]
fn open() {
    for (path, flags) in FILES.map(|path| (path, libc::O_RDONLY)).into_iter().chain([
        ("file", libc::O_RDWR),
        ("objects/d/a", libc::O_RDWR),
        ("dir", libc::O_RDONLY),
    ]) {
        let request =
            |mount: &Mount, ino: &u64| mount.ask(|fs| fs.open(&CALLER, Ino(*ino), flags).map(drop));
        if path == "dir" {
            let mount = filled();
            let ino = mount.walk(path);
            assert_eq!(request(&mount, &ino), Err(Errno::EISDIR));
            continue;
        }
        fail_each(|mount| mount.walk(path), Then::Again, request);
    }
}

fn opened(path: &str, flags: i32) -> impl Fn(&Mount) -> Fh {
    move |mount| {
        let ino = Ino(mount.walk(path));
        mount.ask(|fs| fs.open(&CALLER, ino, flags)).unwrap().fh
    }
}

#[test]
fn read() {
    for path in FILES {
        fail_each(opened(path, libc::O_RDONLY), Then::Again, |mount, fh| {
            mount.read(*fh, 3, 20).map(drop)
        });
    }
}

#[test]
fn write() {
    for path in ["file", "objects/d/a"] {
        fail_each(opened(path, libc::O_RDWR), Then::Again, |mount, fh| {
            mount.ask(|fs| fs.write(Ino(0), *fh, Position::At(0), b"some").map(drop))
        });
    }
}

#[test]
fn flush() {
    for path in ["file", "objects/d/a"] {
        fail_each(opened(path, libc::O_RDWR), Then::Again, |mount, fh| {
            mount.ask(|fs| fs.flush(Ino(0), *fh))
        });
    }
}

#[test]
fn fsync() {
    for path in FILES {
        fail_each(opened(path, libc::O_RDONLY), Then::Again, |mount, fh| {
            mount.ask(|fs| fs.fsync(Ino(0), *fh, false))
        });
    }
    for path in DIRECTORIES {
        fail_each(
            |mount| mount.opendir(mount.walk(path)).unwrap(),
            Then::Again,
            |mount, fh| mount.ask(|fs| fs.fsyncdir(Ino(0), *fh, false)),
        );
    }
}

#[test]
fn release() {
    for path in FILES {
        for flags in [libc::O_RDONLY, libc::O_RDWR] {
            if flags == libc::O_RDWR && path == "tree/d/a" {
                continue;
            }
            fail_each(opened(path, flags), Then::Done, |mount, fh| mount.release(*fh));
        }
    }
    for path in DIRECTORIES {
        fail_each(
            |mount| mount.opendir(mount.walk(path)).unwrap(),
            Then::Done,
            |mount, fh| mount.release(*fh),
        );
    }
}

#[test]
fn release_of_what_was_deleted() {
    fail_each(
        |mount| {
            let ino = mount.walk("dir/inner");
            let fh = mount.open(ino).unwrap();
            let Some(Entry::Host(directory)) = mount.table.get(mount.walk("dir")) else { panic!() };
            directory.remove("inner").unwrap();
            mount.forget(ino, 1);
            mount.drain();
            fh
        },
        Then::Done,
        |mount, fh| mount.release(*fh),
    );
}

#[test]
fn opendir() {
    for path in DIRECTORIES.into_iter().chain(["unloaded"]) {
        fail_each(
            |mount| mount.walk(path),
            Then::Again,
            |mount, ino| mount.opendir(*ino).map(drop),
        );
    }
}

#[test]
fn readdir() {
    for path in DIRECTORIES {
        fail_each(
            |mount| mount.opendir(mount.walk(path)).unwrap(),
            Then::Again,
            |mount, fh| mount.list(*fh, 0, false, 3).1,
        );
    }
}

/// What arrived before the failure counts: the kernel goes on behind it.
#[test]
fn readdirplus() {
    for path in DIRECTORIES {
        for room in [1, 3, 100] {
            fail_each(
                |mount| mount.opendir(mount.walk(path)).unwrap(),
                Then::Again,
                |mount, fh| {
                    let (taken, ended) = mount.list(*fh, 0, true, room);
                    if ended.is_err() {
                        let told = taken.iter().filter(|(name, ..)| name != "." && name != "..");
                        let enabled = mount.world.hook.enabled.swap(false, SeqCst);
                        told.for_each(|(_, attr, _)| mount.forget(attr.ino.0, 1));
                        mount.world.hook.enabled.store(enabled, SeqCst);
                    }
                    ended
                },
            );
        }
    }
}

#[test]
fn create() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| mount.ask(|fs| fs.create(&CALLER, Ino(*ino), b"new", 0o644, 0).map(drop)),
    );
}

#[test]
fn mknod() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| {
            let mode = libc::S_IFREG | 0o644;
            mount.ask(|fs| fs.mknod(&CALLER, Ino(*ino), b"new", mode, 0).map(drop))
        },
    );
}

#[test]
fn mkdir() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| mount.ask(|fs| fs.mkdir(&CALLER, Ino(*ino), b"new", 0o755).map(drop)),
    );
}

#[test]
fn unlink() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| mount.ask(|fs| fs.unlink(&CALLER, Ino(*ino), b"inner")),
    );
}

#[test]
fn rmdir() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| mount.ask(|fs| fs.rmdir(&CALLER, Ino(*ino), b"sub")),
    );
}

#[test]
fn rename() {
    fail_each(
        |mount| (mount.walk("dir"), mount.walk("dir/sub")),
        Then::Again,
        |mount, (from, to)| {
            mount.ask(|fs| fs.rename(&CALLER, Ino(*from), b"inner", Ino(*to), b"moved", Replace))
        },
    );
}

#[test]
fn access() {
    fail_each(
        |mount| mount.walk("dir"),
        Then::Again,
        |mount, ino| mount.ask(|fs| fs.access(&CALLER, Ino(*ino), libc::W_OK)),
    );
}

/// Adding an entry is the layer above's, in answer to any request; it fails as a whole.
#[test]
fn adding_an_entry() {
    fail_each(
        |_| (),
        Then::Again,
        |mount, ()| {
            let node = MemoryNode::collection(&mount.world, 0);
            let added = mount.world.request(|| mount.root.add("new", &node, None));
            added.map_err(|_| Errno::EIO)
        },
    );
}

/// What the removal thread does is done again when it is asked again.
#[test]
fn removal() {
    for path in ["dir/inner", "dir/sub", "tree", "objects"] {
        fail_each(
            |mount| {
                let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
                let directory = match directory {
                    "" => mount.root.clone(),
                    path => match mount.table.get(mount.walk(path)) {
                        Some(Entry::Host(node)) => node,
                        _ => panic!("a directory"),
                    },
                };
                let node = directory.as_dir().and_then(|dir| dir.entries.get(name)).unwrap();
                let ino = node.inode().unwrap().unwrap();
                mount.forget(ino, u64::try_from(counts_of(&node).0).unwrap());
                directory.as_dir().unwrap().entries.remove(name);
                node.set_parent_inode(None).unwrap();
                node
            },
            Then::Again,
            |mount, node| match mount.world.request(|| mount.table.remove(node)) {
                Ok(_) => Ok(()),
                Err(_) => Err(Errno::EIO),
            },
        );
    }
}
