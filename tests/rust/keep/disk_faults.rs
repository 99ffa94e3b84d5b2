// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Cache files that others spoil, and disks that fail: never a wrong byte, never a lost read.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arvados_fuse::keep::{Config, KeepClient, Stale};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::support::{Fault, Scratch, Server, cached, data, locator, read_all, services, until};

const LEN: usize = 300_000;

type Harm = fn(&Path);

/// Ways to spoil a cache file in place.
const SPOILERS: [(&str, Harm); 6] = [
    ("flipped", |path| {
        let file = OpenOptions::new().write(true).read(true).open(path).expect("writable");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 200_000).expect("long enough");
        file.write_all_at(&[byte[0] ^ 0x10], 200_000).expect("writable");
    }),
    ("truncated", |path| set_len(path, 1000)),
    ("lengthened", |path| set_len(path, LEN as u64 + 1)),
    ("emptied", |path| set_len(path, 0)),
    ("removed", |path| std::fs::remove_file(path).expect("it is there")),
    ("replaced", |path| {
        std::fs::remove_file(path).expect("it is there");
        std::fs::write(path, vec![7; LEN]).expect("writable");
    }),
];

fn set_len(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("writable");
    file.set_len(len).expect("writable");
}

/// Keeps nothing in memory that is on disk.
fn from_files(dir: &Scratch) -> Config {
    let mut config = cached(dir);
    config.cache.memory_bytes = 1;
    config
}

/// A client whose block is on disk and verified, but not in memory.
fn with_file(dir: &Scratch, server: &[Server], block: &Arc<Vec<u8>>) -> Arc<KeepClient> {
    let client = KeepClient::new(from_files(dir), services(server));
    let other = data(99, 1000);
    server[0].add(&other);
    read_all(&client, &locator(block));
    until("written", || client.cached_bytes().1 == LEN as u64);
    read_all(&client, &locator(&other));
    until("only in its file", || {
        client.try_get(&locator(block)).is_some_and(|block| block.as_slice().is_none())
    });
    client
}

#[test]
fn what_is_spoiled_after_it_was_verified_is_noticed_by_the_next_read() {
    let block = data(1, LEN);
    for (what, spoil) in SPOILERS {
        let dir = Scratch::new("spoiled");
        let server = [Server::start()];
        server[0].add(&block);
        let client = with_file(&dir, &server, &block);
        let held = client.try_get(&locator(&block)).expect("at hand");
        assert!(held.to_vec().expect("as verified") == *block);
        spoil(&dir.file(&block));
        // Of a removed file the bytes are still right, but it is not the cache's any more.
        let mut scratch = Vec::new();
        assert_eq!(held.read_at(0, 100, &mut scratch), Err(Stale), "{what}");
        assert!(client.try_get(&locator(&block)).is_none(), "{what}: forgotten");
        assert!(read_all(&client, &locator(&block)) == *block, "{what}");
        until("a good file again", || {
            std::fs::read(dir.file(&block)).is_ok_and(|bytes| bytes == **block)
        });
    }
}

#[test]
fn what_is_spoiled_before_it_is_found_is_not_trusted() {
    let block = data(2, LEN);
    for (what, spoil) in SPOILERS {
        let dir = Scratch::new("found");
        let server = [Server::start()];
        server[0].add(&block);
        with_file(&dir, &server, &block).shutdown();
        spoil(&dir.file(&block));
        let client = KeepClient::new(from_files(&dir), services(&server));
        assert!(read_all(&client, &locator(&block)) == *block, "{what}");
        assert_eq!(server[0].requests(), 3, "{what}: fetched again");
        until("a good file again", || {
            std::fs::read(dir.file(&block)).is_ok_and(|bytes| bytes == **block)
        });

        // Without any service: an error, and the bad file is gone.
        client.shutdown();
        spoil(&dir.file(&block));
        server[0].always(Fault::Status(500));
        let client = KeepClient::new(from_files(&dir), services(&server));
        assert!(client.get_blocking(&locator(&block)).is_err(), "{what}");
        assert!(!dir.file(&block).exists(), "{what}");
    }
}

#[test]
fn what_is_no_readable_file_is_passed_over() {
    let block = data(3, LEN);
    let obstacles: [(&str, Harm); 4] = [
        ("folder", |path| std::fs::create_dir(path).expect("writable")),
        ("link", |path| std::os::unix::fs::symlink("/etc/hostname", path).expect("writable")),
        ("pipe", |path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("writable");
        }),
        ("huge", |path| File::create(path).and_then(|file| file.set_len(1 << 40)).expect("sparse")),
    ];
    for (what, put) in obstacles {
        let dir = Scratch::new("obstacle");
        let path = dir.file(&block);
        std::fs::create_dir(path.parent().expect("a folder")).expect("writable");
        put(&path);
        let server = [Server::start()];
        server[0].add(&block);
        let client = KeepClient::new(from_files(&dir), services(&server));
        for _ in 0..3 {
            assert!(read_all(&client, &locator(&block)) == *block, "{what}");
        }
    }
}

#[test]
fn a_folder_that_cannot_be_made_leaves_memory() {
    let block = data(4, LEN);
    let dir = Scratch::new("nofolder");
    std::fs::write(dir.0.join("file"), b"").expect("writable");
    let server = [Server::start()];
    server[0].add(&block);
    let mut config = cached(&dir);
    config.cache.disk_dir = Some(dir.0.join("file/below"));
    let client = KeepClient::new(config, services(&server));
    for _ in 0..3 {
        assert!(read_all(&client, &locator(&block)) == *block);
    }
    assert_eq!(server[0].requests(), 1, "kept in memory");
}

/// A file system of that many bytes, unmounted at the end.
struct Tiny(Scratch);

impl Tiny {
    fn new(options: &str) -> Self {
        let dir = Scratch::new("tiny");
        mount(Some("tmpfs"), &dir.0, Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("tests run as root");
        Tiny(dir)
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        umount2(&self.0.0, MntFlags::MNT_DETACH).expect("ours");
    }
}

#[test]
fn a_full_disk_costs_nothing_but_its_use() {
    let blocks: Vec<_> = (0..20).map(|seed| data(seed, LEN)).collect();
    for options in ["size=1m", "size=1g,nr_inodes=8"] {
        let tiny = Tiny::new(options);
        let server = [Server::start()];
        blocks.iter().for_each(|block| server[0].add(block));
        let client = KeepClient::new(cached(&tiny.0), services(&server));
        for _ in 0..2 {
            for block in &blocks {
                assert!(read_all(&client, &locator(block)) == **block);
            }
        }
        assert_eq!(server[0].requests(), 20, "the rest is in memory");
        client.shutdown();
        let whole = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes.len() == LEN);
        let files = blocks.iter().map(|block| tiny.0.file(block)).filter(|path| path.exists());
        assert!(files.clone().count() > 0 && files.into_iter().all(|path| whole(&path)));
    }
}

#[test]
fn a_folder_taken_away_under_way_costs_nothing_but_its_use() {
    let blocks: Vec<_> = (0..10).map(|seed| data(seed, LEN)).collect();
    let dir = Scratch::new("away");
    let server = [Server::start()];
    blocks.iter().for_each(|block| server[0].add(block));
    let mut config = cached(&dir);
    config.cache.disk_dir = Some(dir.0.join("cache"));
    let client = KeepClient::new(config, services(&server));
    for (number, block) in blocks.iter().enumerate() {
        if number == 5 {
            until("five are written", || client.cached_bytes().1 == 5 * LEN as u64);
            std::fs::rename(dir.0.join("cache"), dir.0.join("gone")).expect("ours");
            std::fs::write(dir.0.join("cache"), b"not a folder").expect("writable");
        }
        assert!(read_all(&client, &locator(block)) == **block);
    }
    for block in &blocks {
        assert!(read_all(&client, &locator(block)) == **block);
    }
    assert_eq!(server[0].requests(), 10);
}
