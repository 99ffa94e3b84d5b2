// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Four kernels' worth of requests at once, while the layer above changes things and the removal
//! thread evicts.
//!
//! Collection 0 never changes, whatever becomes of how it is served: each answer about it has to be
//! exactly right. Of collection 1 and of what the layer above adds and removes, each answer has to be
//! one that some order explains: what was looked up stays, what is read is what some version has. When
//! all are quiet, everything counted has to add up, and the newest versions have to be shown.
//!
//! A seed repeats what each thread asks, not how the threads take turns: what is found here becomes a
//! regression test by having one do the other's part in an upcall (`World::meanwhile`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use arvados_fuse::fs::{Errno, Fh, FileSystem, Ino};

use super::blocks::{CONTENTS, Content, PATHS, Version};
use super::generators::NAMES;
use super::harness::{Above, counts};
use super::memory::MemoryNode;
use super::mount::{CALLER, Mount};
use super::random::run_of;
use super::world::Entry;

const THREADS: u64 = 4;
const OPERATIONS: usize = 60;
const BURSTS: usize = 2;
const STABLE: [u8; PATHS.len()] = [1, 2, 0, 3, 0, 6, 0, 8, 2];

/// What a thread looked up.
#[derive(Clone, Debug)]
struct Known {
    parent: u64,
    refs: u64,
    dir: bool,
    /// Its path in the collection that never changes.
    stable: Option<String>,
}

/// One of the threads.
struct Worker<'m> {
    mount: &'m Mount,
    stable: &'m Version,
    random: fastrand::Rng,
    known: BTreeMap<u64, Known>,
    /// Open files and directories.
    open: Vec<(Fh, u64)>,
    mtime: &'m AtomicI64,
}

type Checked = Result<(), String>;

impl Worker<'_> {
    fn pick(&mut self, is: impl Fn(&Known) -> bool) -> Option<(u64, Known)> {
        let all: Vec<_> = self.known.iter().filter(|(_, known)| is(known)).collect();
        let at = self.random.usize(..all.len().max(1));
        all.get(at).map(|(ino, known)| (**ino, (*known).clone()))
    }

    fn step(&mut self) -> Checked {
        match self.random.u8(..40) {
            0..12 => self.lookup(),
            12..16 => self.forget(),
            16..20 => self.open(),
            20..24 => self.read(),
            24..28 => self.list(),
            28..31 => self.release(),
            31..33 => self.getattr(),
            _ => self.change(),
        }
    }

    /// The path of a name in a directory of the collection that never changes.
    fn path(&self, dir: &Known, name: &str) -> Option<String> {
        let path = dir.stable.as_ref()?;
        Some(if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") })
    }

    fn content(&self, path: &str) -> Option<Content> {
        self.stable.files().get(path).cloned()
    }

    fn exists(&self, path: &str) -> bool {
        self.stable.files().contains_key(path) || self.stable.directories().contains(path)
    }

    fn found(&mut self, parent: u64, name: &str, ino: u64, mode: u32, size: u64) -> Checked {
        let dir = mode & libc::S_IFMT == libc::S_IFDIR;
        let stable = match self.known.get(&parent) {
            _ if (parent, name) == (1, "stable") => Some(String::new()),
            Some(above) => self.path(&above.clone(), name),
            None => None,
        };
        if let Some(path) = stable.as_ref().filter(|path| !path.is_empty()) {
            let right = self.content(path).map(|content| content.size());
            let is = (!dir).then_some(size);
            if is != right || !self.exists(path) {
                return Err(format!("stable {path}: {is:?}, not {right:?}"));
            }
        }
        let known = self.known.entry(ino).or_insert(Known { parent, refs: 0, dir, stable });
        known.refs += 1;
        if known.dir == dir { Ok(()) } else { Err(format!("inode {ino} changed its kind")) }
    }

    fn lookup(&mut self) -> Checked {
        let (dir, known) = match self.pick(|known| known.dir) {
            Some(found) if self.random.u8(..4) > 0 => found,
            _ => (1, Known { parent: 1, refs: 1, dir: true, stable: None }),
        };
        let name = match dir {
            1 => self.random.choice(["stable", "changing", "dir"]).unwrap(),
            _ => self.random.choice(&NAMES[..9]).copied().unwrap(),
        };
        match self.mount.lookup(dir, name) {
            Ok(attr) => self.found(dir, name, attr.ino.0, attr.mode, attr.size),
            Err(Errno::ENOENT) if dir != 1 => match self.path(&known, name) {
                Some(path) if self.exists(&path) => Err(format!("stable {path} is not found")),
                _ => Ok(()),
            },
            Err(errno) => Err(format!("lookup of {name} in {dir}: {errno}")),
        }
    }

    /// As a kernel does, keeps the directories above what it knows.
    fn forget(&mut self) -> Checked {
        let needed = |ino: u64| {
            self.known.values().any(|known| known.parent == ino)
                || self.open.iter().any(|(_, open)| *open == ino)
        };
        let free: Vec<u64> = self.known.keys().copied().filter(|ino| !needed(*ino)).collect();
        if let Some(ino) = self.random.choice(free) {
            let known = self.known.get_mut(&ino).expect("chosen of those");
            let count = if self.random.bool() { known.refs } else { 1 };
            known.refs -= count;
            if known.refs == 0 {
                self.known.remove(&ino);
            }
            self.mount.forget(ino, count);
        }
        Ok(())
    }

    fn open(&mut self) -> Checked {
        let Some((ino, known)) = self.pick(|_| true) else { return Ok(()) };
        let opened = if known.dir { self.mount.opendir(ino) } else { self.mount.open(ino) };
        match opened {
            Ok(fh) => self.open.push((fh, ino)),
            // What was removed cannot be listed: nothing is above it.
            Err(Errno::EIO) if known.dir && known.stable.is_none() => {}
            Err(errno) => return Err(format!("open of {ino}, {known:?}: {errno}")),
        }
        Ok(())
    }

    fn pick_open(&mut self, dir: bool) -> Option<(Fh, u64, Known)> {
        let known = |ino: u64| self.known.get(&ino).cloned();
        let all: Vec<_> = (self.open.iter())
            .filter_map(|(fh, ino)| Some((*fh, *ino, known(*ino)?)))
            .filter(|(.., known)| known.dir == dir)
            .collect();
        self.random.choice(all)
    }

    fn read(&mut self) -> Checked {
        let Some((fh, ino, known)) = self.pick_open(false) else { return Ok(()) };
        let (offset, size) = (self.random.u64(..200), self.random.u32(..200));
        let answer = self.mount.read(fh, offset, size);
        let content = known.stable.as_deref().map(|path| self.content(path).expect("a file"));
        let right = |content: &Content| content.read(offset, size).ok_or(Errno::EIO) == answer;
        let explained = match &content {
            Some(content) => right(content),
            None => (0..CONTENTS).any(|number| right(&Content::number(number))),
        };
        if explained {
            return Ok(());
        }
        Err(format!("read of {ino}, {known:?}, at {offset}: {answer:?}"))
    }

    fn list(&mut self) -> Checked {
        let Some((fh, ino, known)) = self.pick_open(true) else { return Ok(()) };
        let (plus, room) = (self.random.bool(), self.random.usize(1..30));
        let (taken, ended) = self.mount.list(fh, 0, plus, room);
        ended.map_err(|errno| format!("listing of {ino}, {known:?}: {errno}"))?;
        let names: Vec<String> = taken.iter().map(|(name, ..)| name.clone()).collect();
        for (name, attr, _) in taken {
            if plus && name != "." && name != ".." {
                self.found(ino, &name, attr.ino.0, attr.mode, attr.size)?;
            }
        }
        if known.stable.is_some() && names.len() < room {
            for name in NAMES {
                let path = self.path(&known, name).expect("stable");
                if self.exists(&path) && !names.iter().any(|listed| listed == name) {
                    return Err(format!("stable {path} is not listed in {ino}: {names:?}"));
                }
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Checked {
        if self.open.is_empty() {
            return Ok(());
        }
        let (fh, _) = self.open.swap_remove(self.random.usize(..self.open.len()));
        self.mount.release(fh).map_err(|errno| format!("release: {errno}"))
    }

    fn getattr(&mut self) -> Checked {
        let Some((ino, known)) = self.pick(|_| true) else { return Ok(()) };
        match self.mount.ask(|fs| fs.getattr(&CALLER, Ino(ino))) {
            Ok(attr) if attr.ino.0 == ino => Ok(()),
            answer => Err(format!("attributes of {ino}, {known:?}: {answer:?}")),
        }
    }

    /// The layer above changes something.
    fn change(&mut self) -> Checked {
        let host = |name: &str| match self.mount.root.as_dir().unwrap().entries.get(name) {
            Some(Entry::Host(node)) => node,
            _ => panic!("{name} is an entry of the layer above"),
        };
        let shown = host(if self.random.bool() { "stable" } else { "changing" });
        let name = NAMES[self.random.usize(5..9)];
        let done = match self.random.u8(..12) {
            0..3 => {
                let mtime = i128::from(self.mtime.fetch_add(1, SeqCst));
                let slots = std::array::from_fn(|_| self.random.u8(..CONTENTS));
                self.mount.world.truth.lock()[1] = Version { slots, mtime };
                Ok(())
            }
            3..6 => {
                shown.0.state.mark_stale(true);
                Ok(())
            }
            6 => shown.take_over(),
            7..9 => {
                self.mount.table.cap_cache();
                Ok(())
            }
            9 => host("dir")
                .make(name, || MemoryNode::file(&self.mount.world, Content::number(0), 0, false)),
            10 => host("dir").remove(name).map(drop),
            _ => host("dir").move_to(name, &host("dir"), "p").map(drop),
        };
        done.map_err(|halt| format!("{halt:?}"))
    }
}

/// All are quiet: what is counted has to be what the threads know.
fn check_quiet(mount: &Mount, workers: &mut [Worker<'_>]) -> Checked {
    for worker in workers.iter_mut() {
        while !worker.open.is_empty() {
            worker.release()?;
        }
    }
    mount.table.wait_removal();
    let mut refs: HashMap<u64, u64> = HashMap::from([(1, 1)]);
    for (ino, known) in workers.iter().flat_map(|worker| &worker.known) {
        *refs.entry(*ino).or_default() += known.refs;
    }
    let is = |ino: &u64| mount.table.get(*ino).map(|entry| counts(&entry));
    for ino in mount.table.numbers().iter().chain(refs.keys()) {
        let right = i64::try_from(refs.get(ino).copied().unwrap_or(0)).unwrap();
        if is(ino) != Some((right, 0)) {
            return Err(format!("inode {ino} counts {:?}, not {right} references", is(ino)));
        }
    }
    let cache = mount.table.cache();
    let counted: i64 = cache.inodes().iter().filter_map(|ino| cache.counted(*ino)).sum();
    if cache.total() != counted || !mount.served.handles.numbers().is_empty() {
        return Err(format!("{} bytes in the cache, not {counted}", cache.total()));
    }
    Ok(())
}

/// The newest version of each collection is shown, once its directory looks.
fn check_contents(mount: &Mount) -> Checked {
    for (number, name) in ["stable", "changing"].into_iter().enumerate() {
        let Some(Entry::Host(node)) = mount.root.as_dir().unwrap().entries.get(name) else {
            return Err(format!("{name} is gone"));
        };
        node.0.state.mark_stale(true);
        let version = mount.world.truth.lock()[number].clone();
        for (path, content) in version.files() {
            let mut walked = vec![1];
            for name in std::iter::once(name).chain(path.split('/')) {
                let attr = mount.lookup(*walked.last().unwrap(), name);
                walked.push(attr.map_err(|errno| format!("{path}: {errno}"))?.ino.0);
            }
            let fh = mount.open(*walked.last().unwrap()).map_err(|errno| errno.to_string())?;
            let (is, right) = (mount.read(fh, 0, 10_000), content.read(0, 10_000));
            mount.release(fh).map_err(|errno| errno.to_string())?;
            walked[1..].iter().for_each(|ino| mount.forget(*ino, 1));
            if is != right.ok_or(Errno::EIO) {
                return Err(format!("{name}/{path} reads {is:?}"));
            }
        }
    }
    Ok(())
}

fn file_system(seed: u64, above: Above) -> Checked {
    let stable = Version { slots: STABLE, mtime: 1 };
    let mount = Mount::new(vec![stable.clone(), stable.clone()]);
    for (number, name) in ["stable", "changing"].into_iter().enumerate() {
        mount.root.add(name, &MemoryNode::collection(&mount.world, number), None).unwrap();
    }
    mount.root.add("dir", &MemoryNode::directory(&mount.world, 0, false), None).unwrap();
    mount.world.hook.enabled.store(above != Above::Never, SeqCst);
    mount.world.hook.probing.store(above == Above::CallsBack, SeqCst);
    // One collection is too much: whatever is not held is evicted.
    mount.table.cache().set_cap(100);
    mount.served.init();
    let mtime = AtomicI64::new(2);
    let worker = |number| Worker {
        mount: &mount,
        stable: &stable,
        random: fastrand::Rng::with_seed(seed.wrapping_add(number)),
        known: BTreeMap::new(),
        open: Vec::new(),
        mtime: &mtime,
    };
    let mut workers: Vec<Worker<'_>> = (0..THREADS).map(worker).collect();
    for _ in 0..BURSTS {
        let run = |worker: &mut Worker<'_>| (0..OPERATIONS).try_for_each(|_| worker.step());
        std::thread::scope(|scope| {
            let running: Vec<_> =
                workers.iter_mut().map(|worker| scope.spawn(move || run(worker))).collect();
            running.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))
            })
        })?;
        check_quiet(&mount, &mut workers)?;
        check_contents(&mount)?;
        check_quiet(&mount, &mut workers)?;
    }
    for worker in &mut workers {
        let known = std::mem::take(&mut worker.known);
        known.into_iter().for_each(|(ino, known)| mount.forget(ino, known.refs));
    }
    for name in ["stable", "changing", "dir"] {
        mount.root.remove(name).map_err(|halt| format!("{halt:?}"))?;
    }
    mount.table.wait_removal();
    mount.served.destroy();
    let (left, bytes) = (mount.table.numbers(), mount.table.cache().total());
    let reports = std::mem::take(&mut *mount.world.reports.lock());
    if left != [1] || bytes != 0 || !reports.is_empty() {
        return Err(format!("left over: {left:?}, {bytes} bytes in the cache; {reports:?}"));
    }
    Ok(())
}

/// Ends the process where the threads stand still: nothing else would.
fn watch(done: &Arc<AtomicBool>) {
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        for _ in 0..6000 {
            std::thread::sleep(Duration::from_millis(50));
            if done.load(SeqCst) {
                return;
            }
        }
        eprintln!("the threads of the model stand still");
        std::process::abort();
    });
}

#[test]
fn four_threads_at_once() {
    let (seed, count) = run_of();
    let one = usize::try_from(THREADS).unwrap() * OPERATIONS * BURSTS;
    for number in 0..count.div_ceil(one) as u64 {
        let done = Arc::new(AtomicBool::new(false));
        watch(&done);
        let above = [Above::Never, Above::Asked, Above::Never, Above::CallsBack];
        let above = above[usize::try_from(number % 4).unwrap()];
        let seed = seed.wrapping_add(number * THREADS);
        if let Err(wrong) = file_system(seed, above) {
            panic!("file system {number}, Above::{above:?}: {wrong}");
        }
        done.store(true, SeqCst);
    }
}
