// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Four threads at once, compared when all are quiet.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;

use arvados_fuse::fs::{FileSystem, Ino, Timestamp};

use super::driver::Driver;
use super::mount::{Mount, Paths};
use super::random::requests;
use super::reference::{Mtime, Reference};
use crate::seed::seed;

const THREADS: u64 = 4;

/// Makes random requests in a directory, and answers what it contains afterwards, by path from the top.
pub(super) fn requests_in(
    mount: &Mount,
    dir: Ino,
    name: &str,
    since: Timestamp,
    seed: u64,
    never_refuses: bool,
) -> Paths {
    let reference = Reference::new(dir, Mtime::Since(since), &Paths::new());
    let mut driver = Driver::new(mount, reference, seed, false);
    driver.never_refuses = never_refuses;
    (0..requests(20_000) / 8).for_each(|_| driver.step());
    driver.end();
    let within = driver.reference.paths().into_iter();
    let within = within.map(|(path, bytes)| (format!("{name}/{path}"), bytes));
    within.chain([(name.to_owned(), None)]).collect()
}

/// Each in a directory of its own, with one collection's room and blocks for all.
#[test]
fn four_threads_find_what_they_made() {
    let seed = seed();
    for (n, room) in (0..).zip([100_000, 100 << 20]) {
        let mount = Mount::empty(room);
        FileSystem::init(&mount.fs);
        let since = Timestamp::now();
        let names: Vec<String> = (0..THREADS).map(|n| format!("thread {n}")).collect();
        let dirs: Vec<Ino> =
            names.iter().map(|name| mount.mkdir(Ino::ROOT, name).expect("made").ino).collect();
        let done = AtomicBool::new(false);
        let mut all = Paths::new();
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| {
                while !done.load(Relaxed) {
                    mount.collection().manifest().expect("saved");
                    mount.keep.clear_cache();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            });
            let threads: Vec<_> = (dirs.iter().zip(&names))
                .zip(1..)
                .map(|((dir, name), thread)| {
                    let (mount, seed) = (&mount, seed.wrapping_add(10 * n + thread));
                    scope.spawn(move || requests_in(mount, *dir, name, since, seed, false))
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
            done.store(true, Relaxed);
            saving.join().expect("saved");
            ended.into_iter().for_each(|paths| all.extend(paths.expect("no difference")));
        });
        let saved = mount.saved();
        assert!(saved.keys().eq(all.keys()), "{:?}\n{:?}", saved.keys(), all.keys());
        assert!(saved == all, "other contents");
        dirs.iter().for_each(|dir| mount.forget(*dir, 1));
        FileSystem::destroy(&mount.fs);
        mount.end();
    }
}
