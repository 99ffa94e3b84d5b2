// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The block cache as a good citizen: shared with other processes, within its limits.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arvados_fuse::keep::{Config, KeepClient};
use nix::fcntl::{Flock, FlockArg};

use super::support::{
    Fault, Scratch, Server, cached, data, locator, quick, read_all, services, until,
};

fn fetch(client: &KeepClient, blocks: &[Arc<Vec<u8>>]) {
    for block in blocks {
        assert!(read_all(client, &locator(block)) == **block);
    }
}

fn server_of(blocks: &[Arc<Vec<u8>>]) -> [Server; 1] {
    let server = Server::start();
    blocks.iter().for_each(|block| server.add(block));
    [server]
}

#[test]
fn files_are_named_and_guarded_as_the_sdk_does() {
    let block = data(1, 100_000);
    let dir = Scratch::new("layout");
    let server = server_of(std::slice::from_ref(&block));
    // A folder that does not exist yet.
    let mut config = cached(&dir);
    config.cache.disk_dir = Some(dir.0.join("a/b"));
    let client = KeepClient::new(config, services(&server));
    fetch(&client, std::slice::from_ref(&block));
    let path = dir.0.join("a/b").join(dir.file(&block).strip_prefix(&dir.0).expect("inside"));
    until("the file is there", || path.exists());
    assert!(std::fs::read(&path).expect("readable") == *block);
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!(mode(&path) & 0o777, 0o600);
    assert_eq!(mode(path.parent().expect("a folder")) & 0o777, 0o700);
    until("it is held open", || client.cached_bytes().1 == 100_000);
    let other =
        || Flock::lock(File::open(&path).expect("readable"), FlockArg::LockExclusiveNonblock);
    assert!(other().is_err(), "a shared lock says that it is in use");
    client.shutdown();
    assert!(other().is_ok());
}

#[test]
fn the_next_process_finds_what_is_there() {
    let blocks: Vec<_> = (0..20).map(|seed| data(seed, 10_000 + seed as usize)).collect();
    let dir = Scratch::new("next");
    let server = server_of(&blocks);
    let client = KeepClient::new(cached(&dir), services(&server));
    fetch(&client, &blocks);
    until("all are held open", || client.cached_bytes().1 == dir.bytes() && dir.bytes() > 200_000);
    client.shutdown();
    assert_eq!(server[0].requests(), 20);

    server[0].always(Fault::Status(500));
    let client = KeepClient::new(cached(&dir), services(&server));
    client.prefetch(&locator(&blocks[0]));
    fetch(&client, &blocks);
    fetch(&client, &blocks);
    assert_eq!(server[0].requests(), 20, "nothing was asked for again");
    let metrics = client.metrics();
    assert_eq!((metrics.misses.get(), metrics.bytes_downloaded.get()), (0, 0));
}

#[test]
fn memory_keeps_what_was_used_last_and_never_drops_what_is_read() {
    let blocks: Vec<_> = (0..100).map(|seed| data(seed, 1 << 20)).collect();
    let server = server_of(&blocks);
    let mut config = quick();
    config.cache.max_bytes = 64 << 20;
    let client = KeepClient::new(config, services(&server));
    let first = client.get_blocking(&locator(&blocks[0])).expect("a good server");
    fetch(&client, &blocks[1..64]);
    assert!(client.try_get(&locator(&blocks[1])).is_some(), "now used later than the third");
    fetch(&client, &blocks[64..66]);
    assert!(client.try_get(&locator(&blocks[0])).is_some(), "being read");
    assert!(client.try_get(&locator(&blocks[1])).is_some());
    assert!(client.try_get(&locator(&blocks[2])).is_none());
    fetch(&client, &blocks[66..]);
    assert!(client.cached_bytes().0 <= 64 << 20);
    assert!(first.as_slice() == Some(&blocks[0][..]));
    client.clear_cache();
    assert!(first.as_slice() == Some(&blocks[0][..]), "also when all is forgotten");
    assert_eq!(client.cached_bytes(), (0, 0));
}

/// Little memory, so that blocks are read from their files.
fn from_files(dir: &Scratch) -> Config {
    let mut config = cached(dir);
    config.cache.memory_bytes = 1;
    config
}

#[test]
fn descriptors_are_bounded_and_closed_files_stay() {
    let blocks: Vec<_> = (0..30).map(|seed| data(seed, 5000)).collect();
    let dir = Scratch::new("slots");
    let server = server_of(&blocks);
    let mut config = from_files(&dir);
    config.cache.max_blocks = 8;
    let client = KeepClient::new(config, services(&server));
    fetch(&client, &blocks);
    until("all are written", || dir.bytes() == 30 * 5000);
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").expect("proc").flatten();
        all.filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|to| to.starts_with(&dir.0))
            .count()
    };
    until("eight are open", || open() == 8);
    fetch(&client, &blocks);
    until("still eight", || open() == 8);
    assert_eq!(server[0].requests(), 30);
    assert_eq!(dir.bytes(), 30 * 5000);
}

#[test]
fn the_limit_is_held_and_the_oldest_go() {
    let blocks: Vec<_> = (0..160).map(|seed| data(seed, 1 << 20)).collect();
    let dir = Scratch::new("limit");
    let server = server_of(&blocks);
    let mut config = from_files(&dir);
    config.cache.max_bytes = 64 << 20;
    let client = KeepClient::new(config, services(&server));
    let mut kept = None;
    for (number, block) in blocks.iter().enumerate() {
        fetch(&client, std::slice::from_ref(block));
        until("written", || dir.file(block).exists());
        assert!(dir.bytes() <= 64 << 20, "{} MiB", dir.bytes() >> 20);
        if number == 0 {
            until("held open", || client.cached_bytes().1 == 1 << 20);
        }
        if number == 1 {
            // No longer in memory.
            kept = client.try_get(&locator(&blocks[0])).filter(|block| block.as_slice().is_none());
        }
    }
    assert!(dir.bytes() > 50 << 20, "the limit is used: {} MiB", dir.bytes() >> 20);
    assert!(dir.file(&blocks[0]).exists(), "being read");
    assert!(kept.expect("at hand").to_vec().expect("still there") == *blocks[0]);
    assert!(!dir.file(&blocks[1]).exists() && dir.file(&blocks[159]).exists());
}

#[test]
fn leftovers_of_others_go_first_and_what_they_hold_stays() {
    let dir = Scratch::new("others");
    let theirs: Vec<_> = (1000..1060).map(|seed| data(seed, 1 << 20)).collect();
    let mut held = Vec::new();
    for (number, block) in theirs.iter().enumerate() {
        let path = dir.file(block);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(&path, &**block).expect("writable");
        if number < 10 {
            let file = File::open(&path).expect("readable");
            held.push(Flock::lock(file, FlockArg::LockSharedNonblock).expect("free"));
        }
    }
    let blocks: Vec<_> = (0..60).map(|seed| data(seed, 1 << 20)).collect();
    let server = server_of(&blocks);
    let mut config = from_files(&dir);
    config.cache.max_bytes = 64 << 20;
    let client = KeepClient::new(config, services(&server));
    for block in &blocks[..54] {
        fetch(&client, std::slice::from_ref(block));
        until("written", || dir.file(block).exists());
    }
    assert!(dir.bytes() <= 64 << 20);
    assert!(theirs[..10].iter().all(|block| dir.file(block).exists()), "others hold these");
    assert!(!theirs[10..].iter().any(|block| dir.file(block).exists()));
    assert!(blocks[..54].iter().all(|block| dir.file(block).exists()));
}

#[test]
fn four_clients_in_one_folder_stay_near_the_limit() {
    let dir = Scratch::new("four");
    let limit = 64 << 20;
    let blocks: Vec<Vec<_>> =
        (0..4).map(|own| (0..60).map(|n| data(own * 1000 + n, 1 << 20)).collect()).collect();
    let server = server_of(&blocks.concat());
    let done = std::sync::atomic::AtomicUsize::new(0);
    let most = std::thread::scope(|scope| {
        for own in &blocks {
            scope.spawn(|| {
                let mut config = from_files(&dir);
                config.cache.max_bytes = limit;
                let client = KeepClient::new(config, services(&server));
                for _ in 0..2 {
                    fetch(&client, own);
                }
                done.fetch_add(1, Relaxed);
            });
        }
        let mut most = 0;
        while done.load(Relaxed) < 4 {
            most = most.max(dir.bytes());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        most
    });
    assert!(most <= limit + (64 << 20), "{} MiB", most >> 20);
    assert!(most > limit / 2, "{} MiB", most >> 20);
}

#[test]
fn abandoned_temporary_files_are_removed() {
    let dir = Scratch::new("abandoned");
    let folder = dir.0.join("abc");
    std::fs::create_dir_all(&folder).expect("writable");
    let file = |name: &str, age| {
        let file = File::create(folder.join(name)).expect("writable");
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        file.set_modified(then).expect("ours");
        folder.join(name)
    };
    let (old, new) = (file("tmp1.keepcacheblock", 100), file("tmp2.keepcacheblock", 0));
    let block = data(1, 1000);
    let server = server_of(std::slice::from_ref(&block));
    let client = KeepClient::new(cached(&dir), services(&server));
    fetch(&client, std::slice::from_ref(&block));
    until("the old one is gone", || !old.exists());
    assert!(new.exists());
}
