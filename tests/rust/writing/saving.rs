// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What is changed is saved, and what others change meanwhile stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use arvados_fuse::collection::Tree;
use arvados_fuse::fs::flags::RenameMode;
use arvados_fuse::fs::{Fh, FileSystem, Ino, Position, Timestamp};
use fastrand::Rng;

use super::driver::Driver;
use super::mount::{LOADED, Mount, Paths, paths_in, some_files};
use super::random::requests;
use super::record::{Client, Fate, Server};
use super::reference::{Mtime, Reference};
use super::threads::requests_in;
use crate::seed::seed;
use crate::support::{self, taking::signed};

#[test]
fn nobody_sees_that_it_is_saved() {
    let seed = seed();
    for (n, room) in (0..).zip([60_000, 300_000, 100 << 20]) {
        let (server, manifest) = some_files();
        let record = Server::new(&manifest);
        let client = record.client();
        let make = if n == 1 { Mount::repacking } else { Mount::saving };
        let mount = make(Arc::new(server), room, Arc::clone(&client));
        let paths = mount.saved();
        let reference = Reference::new(Ino::ROOT, Mtime::Known(LOADED), &paths);
        let mut driver = Driver::new(&mount, reference, seed.wrapping_add(n), true);
        // Otherwise what is saved by the way would fail, too.
        driver.never_refuses = true;
        for step in 0..requests(20_000) / 3 {
            driver.step();
            if step % 50 == 0 {
                client.fate([Fate::Made, Fate::Made, Fate::Lost][step / 50 % 3]);
                let _ = mount.collection().save();
                client.fate(Fate::Made);
                let _ = mount.collection().save().expect("saved");
                // Where an answer was lost, the record was looked at.
                driver.learn_time_of_root();
                assert!(!mount.collection().is_unsaved());
                let whole = Tree::parse(&mount.collection().manifest().expect("stored"));
                let saved = Tree::parse(&record.manifest()).expect("a manifest");
                assert_eq!(whole.expect("a manifest").stripped(), saved.stripped());
            }
        }
        driver.end();
        driver.compare_saved();
        mount.end();
    }
}

/// Four threads change directories of their own while everything is saved, and somebody else changes
/// another directory.
#[test]
fn four_threads_find_what_they_made_beside_others() {
    let seed = seed();
    for (n, room) in (0..).zip([100_000, 100 << 20]) {
        let (server, manifest) = some_files();
        let record = Server::new(&manifest);
        let client = record.client();
        let make = if n == 1 { Mount::repacking } else { Mount::saving };
        let mount = make(Arc::new(server), room, Arc::clone(&client));
        FileSystem::init(&mount.fs);
        let since = Timestamp::now();
        let names: Vec<String> = (0..4).map(|n| format!("thread {n}")).collect();
        let dirs: Vec<Ino> =
            names.iter().map(|name| mount.mkdir(Ino::ROOT, name).expect("made").ino).collect();
        let done = AtomicBool::new(false);
        let elsewhere = elsewhere(&manifest);
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| {
                while !done.load(Relaxed) {
                    mount.collection().save().expect("saved");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let others = scope.spawn(|| {
                let mut random = Rng::with_seed(seed.wrapping_add(100 + n));
                while !done.load(Relaxed) {
                    record.change(&elsewhere[random.usize(..3)], &["c".into(), "g/h".into()]);
                    if random.bool() {
                        assert!(mount.root.renewed(), "there is a newest version");
                    }
                    std::thread::sleep(Duration::from_millis(7));
                }
            });
            let threads: Vec<_> = (dirs.iter().zip(&names))
                .zip(1..)
                .map(|((dir, name), thread)| {
                    let (mount, seed) = (&mount, seed.wrapping_add(10 * n + thread));
                    scope.spawn(move || requests_in(mount, *dir, name, since, seed, true))
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
            done.store(true, Relaxed);
            saving.join().expect("saved");
            others.join().expect("changed");
            record.change(&elsewhere[0], &["c".into(), "g/h".into()]);
            mount.collection().save().expect("saved");
            assert!(mount.root.renewed());
            let (saved, last) = (mount.saved(), paths_of(&elsewhere[0], &mount));
            for paths in ended {
                for (path, bytes) in paths.expect("no difference") {
                    assert!(saved.get(&path) == Some(&bytes), "{path} has another content");
                }
            }
            for (path, bytes) in last {
                assert!(saved.get(&path) == Some(&bytes), "{path} is another than elsewhere");
            }
            let whole = Tree::parse(&mount.collection().manifest().expect("stored"));
            let theirs = Tree::parse(&record.manifest()).expect("a manifest");
            assert_eq!(whole.expect("a manifest").stripped(), theirs.stripped());
        });
        dirs.iter().for_each(|dir| mount.forget(*dir, 1));
        FileSystem::destroy(&mount.fs);
        mount.end();
    }
}

/// Three versions of directories that nobody else changes.
fn elsewhere(manifest: &str) -> [String; 3] {
    let block = manifest.split(' ').nth(1).expect("a block");
    [
        format!("./c {block} 0:10:x 5:100:y\n./g/h/i {block} 7:70:z\n"),
        format!("./c {block} 0:11:x\n./g/h {block} 7:70:i\n"),
        format!("./c/x {block} 0:12:x 9:9:y\n./g/h/i {block} 8:80:z 0:1:other\n"),
    ]
}

fn paths_of(manifest: &str, mount: &Mount) -> Paths {
    paths_in(&Arc::new(Tree::parse(manifest).expect("a manifest")), mount)
}

/// What two mounts and somebody else do to the same few names: what was saved and nobody who saw it
/// removed is somewhere.
#[test]
fn nothing_that_was_saved_is_lost() {
    let seed = seed();
    for n in 0..requests(20_000) / 400 {
        Contest::new(seed.wrapping_add(n as u64)).run(60);
    }
}

/// A directory is moved to where somebody else made one, and that has a name which somebody else gave to
/// something in the one that is moved.
#[test]
fn what_two_directories_have_that_become_one_is_kept() {
    let keep = Arc::new(support::Server::start());
    let block = support::data(1, 8);
    keep.add(&block);
    let block = signed(&block);
    let record = Server::new(&format!("./b {block} 0:8:a\n./c {block} 0:8:a\n"));
    let [ours, theirs] =
        [(); 2].map(|()| Mount::saving(Arc::clone(&keep), 1 << 20, record.client()));
    let write = |mount: &Mount, dir: Ino, token: Token| {
        let (made, fh) = mount.create(dir, "c").expect("made");
        assert_eq!(mount.write(made.ino, fh, 0, &token.to_le_bytes()), Ok(8));
        mount.release(made.ino, fh);
    };
    let (b, c) = ["b", "c"].map(|name| theirs.lookup(Ino::ROOT, name).expect("there").ino).into();
    let made = theirs.mkdir(c, "b").expect("made").ino;
    write(&theirs, made, 7);
    write(&theirs, b, 10);
    let c = ours.lookup(Ino::ROOT, "c").expect("there").ino;
    assert_eq!(ours.rename((Ino::ROOT, "b"), (c, "b"), RenameMode::Replace), Ok(()));
    ours.collection().save().expect("saved");
    let saved = ours.saved();
    let tokens: BTreeSet<Token> =
        saved.values().flatten().filter_map(|bytes| token_of(bytes)).collect();
    assert!(tokens.contains(&7) && tokens.contains(&10), "{:?}", saved.keys());
}

/// The kernel does not know yet that somebody else changed it.
#[test]
fn what_is_appended_is_at_the_end() {
    let keep = Arc::new(support::Server::start());
    let (short, long) = (support::data(1, 8), support::data(2, 100));
    keep.add(&short);
    keep.add(&long);
    let record = Server::new(&format!(". {} 0:8:a\n", signed(&short)));
    let mount = Mount::saving(keep, 1 << 20, record.client());
    let a = mount.lookup(Ino::ROOT, "a").expect("there").ino;
    let fh = mount.open(a, libc::O_WRONLY | libc::O_APPEND).expect("open");
    record.change(&format!(". {} 0:100:a\n", signed(&long)), &[]);
    assert!(mount.root.renewed());
    assert_eq!(mount.write_at(a, fh, Position::End(8), b"more"), Ok(4));
    mount.release(a, fh);
    let expected = [&long[..], b"more"].concat();
    assert_eq!(mount.saved(), [("a".into(), Some(expected))].into());
    mount.forget(a, 1);
    mount.end();
}

/// Of a large collection no version is made for a change, until somebody needs one.
#[test]
fn a_change_makes_no_whole_version() {
    let (server, manifest) = some_files();
    let record = Server::new(&manifest);
    let mount = Mount::saving(Arc::new(server), 1 << 20, record.client());
    let write = |name: &str, text: &str| {
        let (made, fh) = mount.create(Ino::ROOT, name).expect("made");
        assert_eq!(mount.write(made.ino, fh, 0, text.as_bytes()), Ok(text.len() as u32));
        mount.collection().save().expect("saved");
        mount.release(made.ino, fh);
        mount.forget(made.ino, 1);
    };
    let is_saved = || {
        let recorded = Arc::new(Tree::parse(&record.manifest()).expect("a manifest"));
        assert_eq!(mount.saved(), paths_in(&recorded, &mount));
        assert!(!mount.collection().is_unsaved());
    };
    // Of the first one the record's hash is looked at.
    write("one", "one");
    let version = mount.collection().snapshot();
    let same = || Arc::ptr_eq(&version, &mount.collection().snapshot());
    write("two", "two");
    write("three", "three");
    assert_eq!(mount.unlink(Ino::ROOT, "one"), Ok(()));
    assert_eq!(mount.rename((Ino::ROOT, "two"), (Ino::ROOT, "four"), RenameMode::Replace), Ok(()));
    mount.collection().save().expect("saved");
    assert!(same(), "it would take as long as the collection is large");
    is_saved();
    // What somebody else changes is merged with what is saved.
    record.change(&manifest.replacen(". ", "./theirs ", 1), &["four".into()]);
    assert!(mount.root.renewed());
    assert!(!same());
    is_saved();
    let there = mount.saved();
    assert!(!there.contains_key("four") && there.contains_key("three"), "{:?}", there.keys());
}

/// A save whose answer is lost was made; what it made is removed, and made anew, before anybody looks.
#[test]
fn what_was_removed_after_a_lost_answer_stays_removed() {
    let keep = Arc::new(support::Server::start());
    let record = Server::new("");
    let client = record.client();
    let mount = Mount::saving(keep, 1 << 20, Arc::clone(&client));
    let files = ["removed", "moved", "d"].map(|name| made(&mount, name));
    client.fate(Fate::Lost);
    assert!(mount.collection().save().is_err());
    mount.unlink(Ino::ROOT, "d").expect("removed");
    mount.mkdir(Ino::ROOT, "d").expect("made");
    let moved = mount.rename((Ino::ROOT, "moved"), (Ino::ROOT, "m"), RenameMode::Replace);
    assert_eq!(moved, Ok(()));
    mount.unlink(Ino::ROOT, "removed").expect("removed");
    mount.collection().save().expect("saved");
    assert!(mount.root.renewed());
    let expected: Paths = [("d".into(), None), ("m".into(), Some(b"moved".to_vec()))].into();
    assert_eq!(mount.saved(), expected);
    let recorded = Arc::new(Tree::parse(&record.manifest()).expect("a manifest"));
    assert_eq!(paths_in(&recorded, &mount), expected);
    for (ino, fh) in files {
        mount.release(ino, fh);
        mount.forget(ino, 1);
    }
}

/// The same where the save before it is noted only, and becomes a version between.
#[test]
fn what_was_renamed_after_a_lost_answer_is_in_one_place() {
    let keep = Arc::new(support::Server::start());
    let record = Server::new("");
    let client = record.client();
    let mount = Mount::saving(keep, 1 << 20, Arc::clone(&client));
    // Of the first one the record's hash is looked at.
    let saved = ["first", "replaced"].map(|name| {
        let (ino, fh) = made(&mount, name);
        mount.release(ino, fh);
        ino
    });
    client.fate(Fate::Lost);
    let (lost, fh) = made(&mount, "moved");
    assert!(mount.collection().save().is_err());
    let moved = mount.rename((Ino::ROOT, "moved"), (Ino::ROOT, "replaced"), RenameMode::Replace);
    assert_eq!(moved, Ok(()));
    mount.collection().save().expect("saved");
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let expected: Paths =
        [("first".into(), text("first")), ("replaced".into(), text("moved"))].into();
    assert_eq!(mount.saved(), expected);
    let recorded = Arc::new(Tree::parse(&record.manifest()).expect("a manifest"));
    assert_eq!(paths_in(&recorded, &mount), expected);
    mount.release(lost, fh);
    saved.into_iter().chain([lost]).for_each(|ino| mount.forget(ino, 1));
}

/// A file with its name as content, which is open.
fn made(mount: &Mount, name: &str) -> (Ino, Fh) {
    let (made, fh) = mount.create(Ino::ROOT, name).expect("made");
    assert_eq!(mount.write(made.ino, fh, 0, name.as_bytes()), Ok(name.len() as u32));
    (made.ino, fh)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The contents of a file: a number, by which it is found.
type Token = u64;

struct Contest {
    random: Rng,
    record: Arc<Server>,
    clients: [Arc<Client>; 2],
    mounts: Vec<Mount>,
    /// Somebody may have it at any path.
    alive: BTreeSet<Token>,
    next: Token,
    /// What was done, for whoever looks for what went wrong.
    log: Vec<String>,
}

fn token_of(bytes: &[u8]) -> Option<Token> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

impl Contest {
    fn new(seed: u64) -> Self {
        let keep = Arc::new(support::Server::start());
        let record = Server::new("");
        let clients = [record.client(), record.client()];
        let [one, other] = clients.each_ref().map(Arc::clone);
        let mounts = vec![
            Mount::saving(Arc::clone(&keep), 1 << 20, one),
            Mount::repacking(keep, 1 << 20, other),
        ];
        let (random, alive) = (Rng::with_seed(seed), BTreeSet::new());
        Contest { random, record, clients, mounts, alive, next: 1, log: Vec::new() }
    }

    fn run(mut self, steps: usize) {
        for _ in 0..steps {
            let who = self.random.usize(..2);
            match self.random.u8(..12) {
                0..5 => self.write(who),
                5..7 => self.remove(who),
                7..9 => self.rename(who),
                9 => {
                    let fate = [Fate::Made, Fate::Lost, Fate::Refused][self.random.usize(..3)];
                    self.log.push(format!("{who} saves, {fate:?}"));
                    self.clients[who].fate(fate);
                    // It may have been made or not: nothing is lost either way.
                    let _ = self.mounts[who].collection().save();
                    self.clients[who].fate(Fate::Made);
                }
                10 => {
                    self.log.push(format!("{who} looks"));
                    assert!(self.mounts[who].root.renewed());
                }
                _ => self.change_elsewhere(),
            }
            self.look_for_lost();
        }
        support::until("all have the same", || self.is_quiet());
        self.look_for_lost();
    }

    /// Has everybody save and look; answers whether all have the same then.
    fn is_quiet(&self) -> bool {
        for mount in &self.mounts {
            mount.collection().save().expect("saved");
            assert!(mount.root.renewed());
        }
        let theirs = Tree::parse(&self.record.manifest()).expect("a manifest");
        self.mounts.iter().all(|mount| {
            let ours = Tree::parse(&mount.collection().manifest().expect("stored"));
            let is_saved = !mount.collection().is_unsaved();
            is_saved && ours.expect("a manifest").stripped() == theirs.stripped()
        })
    }

    /// What is alive is in the record, or will be.
    fn look_for_lost(&self) {
        let record = Arc::new(Tree::parse(&self.record.manifest()).expect("a manifest"));
        let record = paths_in(&record, &self.mounts[0]);
        let views: Vec<Paths> = self.mounts.iter().map(Mount::saved).chain([record]).collect();
        let contents = views.iter().flat_map(BTreeMap::values).flatten();
        let there: BTreeSet<Token> = contents.filter_map(|bytes| token_of(bytes)).collect();
        let lost: Vec<&Token> = self.alive.difference(&there).collect();
        let paths: Vec<_> = views.iter().map(BTreeMap::keys).collect();
        let log = self.log.join("\n");
        assert!(lost.is_empty(), "{lost:?} are nowhere:\n{log}\n{paths:?}");
    }

    /// Contents of files at a path and below it.
    fn tokens(&self, who: usize, path: &str) -> Vec<Token> {
        let all = self.mounts[who].saved().into_iter();
        let within = all.filter(|(at, _)| {
            at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        within.filter_map(|(_, bytes)| token_of(&bytes?)).collect()
    }

    fn forget(&mut self, tokens: Vec<Token>) {
        for token in tokens {
            self.alive.remove(&token);
        }
    }

    /// A directory that may be made for it, and a name in it.
    fn place(&mut self, who: usize) -> (Ino, String, String) {
        let (mut dir, mut path) = (Ino::ROOT, String::new());
        for _ in 0..self.random.usize(..3) {
            let name = NAMES[self.random.usize(..3)];
            let mount = &self.mounts[who];
            let found = mount.lookup(dir, name).or_else(|_| {
                self.log.push(format!("{who} makes {path}{name}"));
                mount.mkdir(dir, name)
            });
            let Ok(attr) = found else { break };
            if !attr.is_dir() {
                break;
            }
            (dir, path) = (attr.ino, format!("{path}{name}/"));
        }
        let name = NAMES[self.random.usize(..3)].to_owned();
        let path = format!("{path}{name}");
        (dir, name, path)
    }

    fn write(&mut self, who: usize) {
        let (dir, name, path) = self.place(who);
        let before = self.tokens(who, &path);
        let mount = &self.mounts[who];
        let opened = match mount.lookup(dir, &name) {
            Ok(attr) if attr.is_dir() => return,
            Ok(attr) => mount.open(attr.ino, libc::O_RDWR).map(|fh| (attr.ino, fh)),
            Err(_) => mount.create(dir, &name).map(|(attr, fh)| (attr.ino, fh)),
        };
        let Ok((ino, fh)) = opened else { return };
        let token = self.next;
        self.next += 1;
        assert_eq!(mount.write(ino, fh, 0, &token.to_le_bytes()), Ok(8));
        let flushed = self.random.bool();
        if flushed {
            mount.release(ino, fh);
        } else {
            // It is saved with something else.
            mount.collection().store().expect("stored");
        }
        self.log
            .push(format!("{who} writes {token} to {path:?} over {before:?}, saved: {flushed}"));
        self.forget(before);
        self.alive.insert(token);
    }

    fn remove(&mut self, who: usize) {
        let (dir, name, path) = self.place(who);
        let before = self.tokens(who, &path);
        let mount = &self.mounts[who];
        if mount.unlink(dir, &name).is_ok() {
            self.log.push(format!("{who} removes {path:?}, {before:?}"));
            self.forget(before);
        } else if mount.rmdir(dir, &name).is_ok() {
            self.log.push(format!("{who} removes the directory {path:?}"));
        }
    }

    fn rename(&mut self, who: usize) {
        let (from, old, old_path) = self.place(who);
        let (to, new, new_path) = self.place(who);
        let replaced = self.tokens(who, &new_path);
        let renamed = self.mounts[who].rename((from, &old), (to, &new), RenameMode::Replace);
        if renamed.is_ok() && old_path != new_path {
            self.log.push(format!("{who} renames {old_path:?} to {new_path:?} over {replaced:?}"));
            self.forget(replaced);
        }
    }

    /// A file is put somewhere by somebody who sees the record as it is.
    fn change_elsewhere(&mut self) {
        let token = self.next;
        let name = format!("{}{}", NAMES[self.random.usize(..3)], NAMES[self.random.usize(..3)]);
        let text = Arc::new(token.to_le_bytes().to_vec());
        self.mounts[0].server.add(&text);
        let block = signed(&text);
        let before = Tree::parse(&self.record.manifest()).expect("a manifest");
        if before.find(&name).is_some() {
            return;
        }
        self.next += 1;
        self.log.push(format!("somebody writes {token} to {name:?}"));
        self.record.change(&format!(". {block} 0:8:{name}\n"), &[]);
        self.alive.insert(token);
    }
}
