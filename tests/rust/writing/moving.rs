// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that move between two collections of one mount, each with a record of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arvados_fuse::collection::Tree;
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::collection::MountedCollection;
use arvados_fuse::fs::collection::root::{RootDirectory, Standalone};
use arvados_fuse::fs::node::Identity;
use arvados_fuse::fs::{Errno, Fh, Ino, RenameMode};
use fastrand::Rng;

use super::mount::{Mount, Paths, paths_in, some_files};
use super::random::requests;
use super::record::{Client, Fate, Server};
use crate::seed::seed;

/// Two collections: the root of a mount, and another directory of it.
struct Two {
    mount: Mount,
    other: RootDirectory,
    records: [Arc<Server>; 2],
    clients: [Arc<Client>; 2],
    dirs: [Ino; 2],
}

impl Two {
    /// The first with some files, the second with the manifest `of_second` makes of the first one's.
    fn new(of_second: impl Fn(&str) -> String, room: u64) -> Self {
        let (server, manifest) = some_files();
        let records = [Server::new(&manifest), Server::new(&of_second(&manifest))];
        let clients = [records[0].client(), records[1].client()];
        let mount = Mount::saving(Arc::new(server), room, Arc::clone(&clients[0]));
        let other = mount.beside(Arc::clone(&clients[1]));
        let second = other.inode().expect("a number").expect("a number");
        Two { dirs: [Ino::ROOT, Ino(second)], mount, other, records, clients }
    }

    fn collections(&self) -> [&Arc<MountedCollection<Standalone>>; 2] {
        [self.mount.collection(), self.other.collection().expect("mounted")]
    }

    /// What the record of one of them has.
    fn recorded(&self, which: usize) -> Paths {
        let tree = Tree::parse(&self.records[which].manifest()).expect("a manifest");
        paths_in(&Arc::new(tree), &self.mount)
    }

    fn rename(&self, from: (usize, &str), to: (usize, &str)) -> Result<(), Errno> {
        let (from, to) = ((self.dirs[from.0], from.1), (self.dirs[to.0], to.1));
        self.mount.rename(from, to, RenameMode::Replace)
    }

    fn write(&self, ino: Ino, fh: Fh, text: &str) {
        let written = self.mount.write(ino, fh, 0, text.as_bytes());
        assert_eq!(written, Ok(text.len() as u32));
    }

    fn read(&self, ino: Ino, fh: Fh) -> String {
        String::from_utf8(self.mount.read(ino, fh, 0, 100_000).expect("read")).expect("text")
    }

    /// Nothing of the kernel's and nothing of memory is left.
    fn end(self) {
        let table = Arc::clone(&self.mount.fs.inodes);
        table.wait_removal();
        for collection in self.collections() {
            assert!(collection.known().is_empty() && !collection.in_use());
            assert!(!collection.is_unsaved());
        }
        for collection in self.collections() {
            collection.unmount(&table);
        }
        for collection in self.collections() {
            assert!(collection.is_deserted());
        }
        table.delete(&AnyNode::Host(self.other.clone())).expect("deleted");
        table.wait_removal();
        self.mount.end();
    }
}

fn text(paths: &Paths, path: &str) -> Option<String> {
    let bytes = paths.get(path)?.clone()?;
    Some(String::from_utf8(bytes).expect("text"))
}

#[test]
fn a_file_keeps_its_number_and_who_has_it_open() {
    let two = Two::new(|_| String::new(), 1 << 20);
    let (made, fh) = two.mount.create(Ino::ROOT, "new").expect("made");
    two.write(made.ino, fh, "before");
    assert_eq!(two.rename((0, "new"), (1, "moved")), Ok(()));
    assert_eq!(text(&two.recorded(1), "moved").as_deref(), Some("before"));
    assert!(!two.recorded(0).contains_key("new"));
    assert_eq!(two.mount.lookup(Ino::ROOT, "new").err(), Some(Errno::ENOENT));
    assert_eq!(two.mount.lookup(two.dirs[1], "moved").expect("there").ino, made.ino);
    two.write(made.ino, fh, "after ");
    assert_eq!(two.read(made.ino, fh), "after ");
    assert!(two.mount.set_size(made.ino, Some(fh), 5).is_ok());
    two.mount.release(made.ino, fh);
    two.collections()[1].save().expect("saved");
    assert_eq!(text(&two.recorded(1), "moved").as_deref(), Some("after"));
    // And back.
    assert_eq!(two.rename((1, "moved"), (0, "back")), Ok(()));
    assert_eq!(two.mount.getattr(made.ino).expect("there").size, 5);
    assert_eq!(text(&two.recorded(0), "back").as_deref(), Some("after"));
    assert!(two.recorded(1).is_empty());
    two.mount.forget(made.ino, 2);
    two.end();
}

/// While it is saved where it goes to, what it contains is still its source's, whoever has it open since when.
#[test]
fn what_is_written_on_the_way_arrives() {
    let two = Two::new(|_| String::new(), 1 << 20);
    let (made, first) = two.mount.create(Ino::ROOT, "new").expect("made");
    two.write(made.ino, first, "before");
    assert_eq!(two.rename((0, "new"), (1, "moved")), Ok(()));
    let second = two.mount.open(made.ino, libc::O_RDWR).expect("open");
    let (is_saved, go_on) = two.clients[0].pause();
    std::thread::scope(|scope| {
        let back = scope.spawn(|| two.rename((1, "moved"), (0, "back")));
        is_saved.recv().expect("saved");
        // By a handle from before it left, and by one from where it is.
        assert_eq!(two.mount.write(made.ino, first, 6, b", first"), Ok(7));
        assert_eq!(two.mount.write(made.ino, second, 13, b", second"), Ok(8));
        go_on.send(()).expect("waited for");
        assert_eq!(back.join().expect("no panic"), Ok(()));
    });
    let expected = "before, first, second";
    assert_eq!(two.read(made.ino, first), expected);
    assert_eq!(two.read(made.ino, second), expected);
    two.mount.release(made.ino, first);
    two.mount.release(made.ino, second);
    two.collections()[0].save().expect("saved");
    assert_eq!(text(&two.recorded(0), "back").as_deref(), Some(expected));
    two.mount.forget(made.ino, 1);
    two.end();
}

#[test]
fn a_directory_goes_with_all_that_is_in_it() {
    let two = Two::new(|_| String::new(), 1 << 20);
    let before = two.recorded(0);
    let c = two.mount.lookup(Ino::ROOT, "c").expect("there");
    let d = two.mount.lookup(c.ino, "d").expect("there");
    let a = two.mount.lookup(d.ino, "a").expect("there");
    let fh = two.mount.open(a.ino, libc::O_RDWR).expect("open");
    assert_eq!(two.rename((0, "c"), (1, "g")), Ok(()));
    let (first, second) = (two.recorded(0), two.recorded(1));
    for (path, bytes) in &before {
        let moved = path.strip_prefix('c').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let is_there = moved.map(|rest| second.get(&format!("g{rest}")));
        assert_eq!(is_there.unwrap_or_else(|| first.get(path)), Some(bytes), "{path}");
    }
    assert_eq!(first.len() + second.len(), before.len());
    assert_eq!(two.mount.lookup(two.dirs[1], "g").expect("there").ino, c.ino);
    assert_eq!(two.mount.lookup(c.ino, "d").expect("there").ino, d.ino);
    // Where it is now is what is written and made in it.
    two.write(a.ino, fh, "written");
    let (made, made_fh) = two.mount.create(d.ino, "made").expect("made");
    two.mount.release(made.ino, made_fh);
    two.mount.release(a.ino, fh);
    two.collections()[1].save().expect("saved");
    let second = two.recorded(1);
    assert!(second["g/d/a"].as_ref().is_some_and(|bytes| bytes.starts_with(b"written")));
    assert!(second.contains_key("g/d/made"));
    for ino in [c.ino, c.ino, d.ino, d.ino, a.ino, made.ino] {
        two.mount.forget(ino, 1);
    }
    two.end();
}

#[test]
fn where_it_cannot_be_saved_all_is_as_it_was() {
    let two = Two::new(str::to_owned, 1 << 20);
    let (before, saved) = ([two.recorded(0), two.recorded(1)], two.mount.saved());
    for (from, to) in [("a", "b"), ("a", "new"), ("c", "e"), ("c", "new"), ("c/d", "e")] {
        // What is replaced is open, and empty directories are no others than files.
        let replaced = two.mount.lookup(two.dirs[1], to).ok();
        let (dir, name) = match from.split_once('/') {
            Some((dir, name)) => (two.mount.lookup(Ino::ROOT, dir).expect("there").ino, name),
            None => (Ino::ROOT, from),
        };
        two.clients[1].fate(Fate::Refused);
        let renamed = two.mount.rename((dir, name), (two.dirs[1], to), RenameMode::Replace);
        two.clients[1].fate(Fate::Made);
        assert_eq!(renamed, Err(Errno::EACCES), "{from} to {to}");
        assert_eq!([two.recorded(0), two.recorded(1)], before, "{from} to {to}");
        assert_eq!(two.mount.saved(), saved, "{from} to {to}");
        let again = two.mount.lookup(two.dirs[1], to);
        assert_eq!(again.as_ref().ok().map(|attr| attr.ino), replaced.as_ref().map(|a| a.ino));
        if let Some(replaced) = replaced {
            two.mount.forget(replaced.ino, 2);
        }
        if dir != Ino::ROOT {
            two.mount.forget(dir, 1);
        }
        assert!(!two.collections()[1].is_unsaved());
    }
    // Where only its own collection cannot be saved, it is in both of the records, and that is told.
    two.clients[0].fate(Fate::Refused);
    assert_eq!(two.rename((0, "a"), (1, "new")), Err(Errno::EACCES));
    two.clients[0].fate(Fate::Made);
    assert!(two.recorded(0).contains_key("a") && two.recorded(1).contains_key("new"));
    assert!(two.collections()[0].is_unsaved());
    two.collections()[0].save().expect("saved");
    assert!(!two.recorded(0).contains_key("a"));
    two.end();
}

#[test]
fn what_cannot_be_named_so_stays() {
    let two = Two::new(str::to_owned, 1 << 20);
    let refused = [
        (("a", "c"), Errno::EISDIR),
        (("c", "a"), Errno::ENOTDIR),
        (("c", "f"), Errno::ENOTEMPTY),
        (("none", "a"), Errno::ENOENT),
        (("a", "reserved"), Errno::EPERM),
    ];
    for ((from, to), errno) in refused {
        assert_eq!(two.rename((0, from), (1, to)), Err(errno), "{from} to {to}");
    }
    let to = (two.dirs[1], "b");
    let kept = two.mount.rename((Ino::ROOT, "a"), to, RenameMode::NoReplace);
    assert_eq!(kept, Err(Errno::EEXIST));
    // A file of several names is one of each elsewhere: mv(1) copies then.
    let a = two.mount.lookup(Ino::ROOT, "a").expect("there");
    two.mount.link(a.ino, (Ino::ROOT, "link")).expect("linked");
    assert_eq!(two.rename((0, "a"), (1, "a")), Err(Errno::EXDEV));
    two.mount.forget(a.ino, 2);
    two.collections()[0].save().expect("saved");
    two.end();
}

/// By collection and path, what is in a file.
type Model = BTreeMap<(usize, String), Vec<u8>>;

/// An open file, and where it is; None for one that was replaced or removed.
struct Open {
    ino: Ino,
    fh: Fh,
    place: Option<(usize, String)>,
    bytes: Vec<u8>,
}

#[test]
fn random_moves_lose_nothing() {
    let seed = seed();
    for (n, room) in (0..).zip([60_000, 100 << 20]) {
        let mut random = Rng::with_seed(seed.wrapping_add(n));
        let two = Two::new(str::to_owned, room);
        let mut model: Model = (0..2)
            .flat_map(|which| {
                let files = two.recorded(which).into_iter();
                files.filter_map(move |(path, bytes)| Some(((which, path), bytes?)))
            })
            .filter(|((_, path), _)| !path.contains('/'))
            .collect();
        let mut open: Vec<Open> = Vec::new();
        for _ in 0..requests(2_000) / 2 {
            step(&two, &mut random, &mut model, &mut open);
        }
        for file in open {
            two.mount.release(file.ino, file.fh);
            two.mount.forget(file.ino, 1);
        }
        for (which, collection) in two.collections().into_iter().enumerate() {
            collection.save().expect("saved");
            let recorded = two.recorded(which);
            let files =
                recorded.iter().filter(|(path, bytes)| !path.contains('/') && bytes.is_some());
            let files: Model =
                files.map(|(p, b)| ((which, p.clone()), b.clone().unwrap_or_default())).collect();
            let mut ours = model.clone();
            ours.retain(|(at, _), _| *at == which);
            assert_eq!(files, ours);
        }
        two.end();
    }
}

fn step(two: &Two, random: &mut Rng, model: &mut Model, open: &mut Vec<Open>) {
    let names = ["a", "b", "x", "y", "z"];
    let place = |random: &mut Rng| (random.usize(..2), names[random.usize(..5)].to_owned());
    match random.u8(..10) {
        0..=3 => {
            let (from, to) = (place(random), place(random));
            let refused = random.u8(..6) == 0 && from.0 != to.0;
            if refused {
                // Closing what was removed may have begun a save.
                two.clients[to.0].fate(Fate::Refused);
            }
            let renamed = two.rename((from.0, &from.1), (to.0, &to.1));
            two.clients[to.0].fate(Fate::Made);
            let there = model.get(&from).cloned();
            match there {
                None => assert_eq!(renamed, Err(Errno::ENOENT)),
                Some(_) if refused => assert_eq!(renamed, Err(Errno::EACCES)),
                Some(bytes) => {
                    assert_eq!(renamed, Ok(()));
                    if from != to {
                        model.remove(&from);
                        model.insert(to.clone(), bytes);
                        for file in open.iter_mut() {
                            if file.place.as_ref() == Some(&to) {
                                file.place = None;
                            } else if file.place.as_ref() == Some(&from) {
                                file.place = Some(to.clone());
                            }
                        }
                    }
                }
            }
        }
        4 => {
            let at = place(random);
            let Ok((made, fh)) = two.mount.create(two.dirs[at.0], &at.1) else {
                panic!("{at:?} could not be made")
            };
            let bytes = model.entry(at.clone()).or_default().clone();
            open.push(Open { ino: made.ino, fh, place: Some(at), bytes });
        }
        5..=7 if !open.is_empty() => {
            let at = random.usize(..open.len());
            let (ino, fh, place) = (open[at].ino, open[at].fh, open[at].place.clone());
            let (offset, len) = (random.usize(..3_000), random.usize(1..20_000));
            let data = vec![random.u8(..); len];
            assert_eq!(two.mount.write(ino, fh, offset as u64, &data), Ok(len as u32));
            let splice = |bytes: &mut Vec<u8>| {
                bytes.resize(bytes.len().max(offset + len), 0);
                bytes[offset..offset + len].copy_from_slice(&data);
            };
            match place {
                Some(place) => splice(model.get_mut(&place).expect("there")),
                // Several descriptors may show one that has no name any more.
                None => open.iter_mut().filter(|file| file.ino == ino).for_each(|file| {
                    splice(&mut file.bytes);
                }),
            }
            if let Some(place) = open[at].place.clone() {
                let bytes = model[&place].clone();
                open.iter_mut().filter(|file| file.ino == ino).for_each(|file| {
                    file.bytes.clone_from(&bytes);
                });
            }
        }
        8 if !open.is_empty() => {
            let file = open.swap_remove(random.usize(..open.len()));
            two.mount.release(file.ino, file.fh);
            two.mount.forget(file.ino, 1);
        }
        _ => {
            let at = place(random);
            if random.bool() {
                let removed = two.mount.unlink(two.dirs[at.0], &at.1);
                assert_eq!(removed.is_ok(), model.remove(&at).is_some());
                open.iter_mut().filter(|file| file.place.as_ref() == Some(&at)).for_each(|file| {
                    file.place = None;
                });
            }
        }
    }
    for file in open.iter() {
        let bytes = two.mount.read(file.ino, file.fh, 0, 1 << 20).expect("read");
        let ours = match &file.place {
            Some(place) => &model[place],
            None => &file.bytes,
        };
        assert!(bytes == *ours, "{:?} has another content", file.place);
    }
}
