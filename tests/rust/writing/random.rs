// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! One thread.

use arvados_fuse::fs::Ino;

use super::driver::Driver;
use super::mount::{LOADED, Mount, Paths, some_files};
use super::reference::{Mtime, Reference};
use crate::seed::seed;

/// How many requests, unless `WRITING_N` says.
pub(crate) fn requests(default: usize) -> usize {
    std::env::var("WRITING_N").map_or(default, |text| text.parse().expect("a number"))
}

fn run(mount: Mount, paths: &Paths, seed: u64, requests: usize) {
    let reference = Reference::new(Ino::ROOT, Mtime::Known(LOADED), paths);
    let mut driver = Driver::new(&mount, reference, seed, true);
    driver.compare_saved();
    (0..requests).for_each(|_| driver.step());
    driver.end();
    driver.compare_saved();
    mount.end();
}

#[test]
fn what_was_nothing_is_what_was_made_of_it() {
    let seed = seed();
    for (n, room) in (0..).zip([60_000, 300_000, 100 << 20]) {
        run(Mount::empty(room), &Paths::new(), seed.wrapping_add(n), requests(20_000) / 3);
    }
}

#[test]
fn what_was_loaded_is_what_was_made_of_it() {
    let seed = seed();
    for (n, room) in (0..).zip([60_000, 300_000, 100 << 20]) {
        let (server, manifest) = some_files();
        let mount = Mount::new(server, &manifest, room);
        let paths = mount.saved();
        assert_eq!(paths.len(), 13);
        run(mount, &paths, seed.wrapping_add(n), requests(20_000) / 3);
    }
}
