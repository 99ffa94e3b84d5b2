// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The record of what was verified: it saves hashing again, and never a file that was changed.
//!
//! A file that was not hashed was believed.

use std::fs::{File, FileTimes, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arvados_fuse::keep::KeepClient;

use super::support::{Fault, Scratch, Server, cached, data, locator, read_all, services, until};

const LEN: usize = 300_000;
const NAME: &str = "arvados_fuse.verified";
/// Set for a child of this program: the folder and what the child is to see.
const IN_CHILD: &str = "KEEP_TEST_OTHER_BOOT";

type Data = Arc<Vec<u8>>;
type Harm = fn(&Path);

/// A folder with these blocks, written by a client that has ended.
fn folder(blocks: &[Data]) -> (Scratch, [Server; 1]) {
    let dir = Scratch::new("verified");
    let server = [Server::start()];
    blocks.iter().for_each(|block| server[0].add(block));
    let client = KeepClient::new(cached(&dir), services(&server));
    fetch(&client, blocks);
    client.shutdown();
    (dir, server)
}

/// Reads the blocks and waits until their files are written.
fn fetch(client: &KeepClient, blocks: &[Data]) {
    let before = client.cached_bytes().1;
    let mut bytes = 0;
    for block in blocks {
        assert!(read_all(client, &locator(block)) == **block);
        bytes += block.len() as u64;
    }
    until("all are written", || client.cached_bytes().1 == before + bytes);
}

/// Whether the file was believed; its bytes are right in any case.
fn believed(client: &KeepClient, block: &Data) -> bool {
    let hashed = || client.metrics().bytes_verified.get();
    let before = hashed();
    let got = client.get_blocking(&locator(block)).expect("a good server");
    assert!(got.to_vec().expect("unchanged") == **block);
    got.as_slice().is_none() && hashed() == before
}

fn next(dir: &Scratch, server: &[Server]) -> Arc<KeepClient> {
    KeepClient::new(cached(dir), services(server))
}

fn blocks(count: u64) -> Vec<Data> {
    (0..count).map(|seed| data(seed, LEN)).collect()
}

#[test]
fn a_file_that_was_written_here_is_not_hashed_again() {
    let blocks = blocks(3);
    let (dir, server) = folder(&blocks);
    server[0].always(Fault::Status(500));
    let client = next(&dir, &server);
    assert!(blocks.iter().all(|block| believed(&client, block)));
    assert_eq!(server[0].requests(), 3);
    let index = dir.0.join(NAME);
    let mode = std::fs::metadata(&index).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_by_others_is_hashed_once() {
    let block = data(1, LEN);
    let dir = Scratch::new("theirs");
    let path = dir.file(&block);
    std::fs::create_dir(path.parent().expect("a folder")).expect("writable");
    std::fs::write(&path, &**block).expect("writable");
    let server = [Server::start()];
    assert!(!believed(&next(&dir, &server), &block), "nobody knows it");
    // Just written, it may be hashed more than once, but not for ever.
    until("believed", || believed(&next(&dir, &server), &block));
    assert_eq!(server[0].requests(), 0);
}

#[test]
fn a_change_afterwards_is_seen_also_with_the_time_set_back() {
    let block = data(1, LEN);
    let (dir, server) = folder(std::slice::from_ref(&block));
    let path = dir.file(&block);
    let spoil = || {
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("writable");
        let meta = file.metadata().expect("a file");
        let times = FileTimes::new()
            .set_modified(meta.modified().expect("known"))
            .set_accessed(meta.accessed().expect("known"));
        let mut byte = [0];
        file.read_exact_at(&mut byte, 200_000).expect("long enough");
        file.write_all_at(&[byte[0] ^ 0x10], 200_000).expect("writable");
        file.set_times(times).expect("ours");
        assert_eq!(
            file.metadata().expect("a file").modified().expect("known"),
            meta.modified().expect("known")
        );
    };
    spoil();
    let client = next(&dir, &server);
    assert!(!believed(&client, &block));
    assert_eq!(server[0].requests(), 2, "fetched again");
    until("a good file again", || std::fs::read(&path).is_ok_and(|bytes| bytes == **block));

    // Also while a client believes it.
    until("noted", || believed(&next(&dir, &server), &block));
    let client = next(&dir, &server);
    let held = client.get_blocking(&locator(&block)).expect("at hand");
    assert!(held.as_slice().is_none());
    spoil();
    assert!(held.to_vec().is_err());
    assert!(read_all(&client, &locator(&block)) == *block);
    assert_eq!(server[0].requests(), 3, "fetched again");
}

#[test]
fn another_file_in_its_place_is_hashed() {
    let block = data(1, LEN);
    let (dir, server) = folder(std::slice::from_ref(&block));
    let path = dir.file(&block);
    let (copy, meta) = (path.with_extension("copy"), path.metadata().expect("a file"));
    std::fs::copy(&path, &copy).expect("writable");
    let times = FileTimes::new().set_modified(meta.modified().expect("known"));
    File::options().write(true).open(&copy).and_then(|file| file.set_times(times)).expect("ours");
    std::fs::rename(&copy, &path).expect("ours");
    assert!(!believed(&next(&dir, &server), &block));
    assert_eq!(server[0].requests(), 1, "it was right");
}

#[test]
fn a_damaged_record_costs_a_verification() {
    let blocks = blocks(3);
    let harms: [(&str, Harm, usize); 7] = [
        ("removed", |path| std::fs::remove_file(path).expect("it is there"), 0),
        ("emptied", |path| std::fs::write(path, b"").expect("writable"), 0),
        ("garbage", |path| std::fs::write(path, vec![0x55; 5000]).expect("writable"), 0),
        ("flipped", |path| flip(path, 100), 2),
        ("torn", |path| truncate(path, 1), 2),
        (
            "a folder",
            |path| {
                std::fs::remove_file(path).expect("it is there");
                std::fs::create_dir(path).expect("writable");
            },
            0,
        ),
        (
            "anybody's",
            |path| {
                let all = std::fs::Permissions::from_mode(0o666);
                std::fs::set_permissions(path, all).expect("ours");
            },
            0,
        ),
    ];
    for (what, harm, left) in harms {
        let (dir, server) = folder(&blocks);
        harm(&dir.0.join(NAME));
        let client = next(&dir, &server);
        let count = blocks.iter().filter(|block| believed(&client, block)).count();
        assert_eq!((count, server[0].requests()), (left, 3), "{what}");
    }
}

#[test]
fn what_was_torn_or_garbled_is_written_on() {
    let blocks = blocks(4);
    let (dir, server) = folder(&blocks[..2]);
    truncate(&dir.0.join(NAME), 7);
    server[0].add(&blocks[2]);
    fetch(&next(&dir, &server), &blocks[2..3]);
    assert!(believed(&next(&dir, &server), &blocks[2]));
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("it is there");
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writable");
}

fn truncate(path: &Path, by: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("it is there");
    file.set_len(file.metadata().expect("a file").len() - by).expect("writable");
}

#[test]
fn clients_side_by_side_believe_each_other() {
    let blocks = blocks(60);
    let (dir, server) = folder(&blocks[..1]);
    blocks.iter().for_each(|block| server[0].add(block));
    let early = next(&dir, &server);
    assert!(believed(&early, &blocks[0]), "it has read the record");
    std::thread::scope(|scope| {
        for part in blocks[1..].chunks(15) {
            let client = next(&dir, &server);
            scope.spawn(move || fetch(&client, part));
        }
    });
    assert_eq!(server[0].requests(), 60);
    let late = next(&dir, &server);
    for client in [early, late] {
        let count = blocks.iter().filter(|block| believed(&client, block)).count();
        // A record that cannot be locked in time is left out.
        assert!(count >= 55, "{count} of 60");
    }
    assert_eq!(server[0].requests(), 60);
}

/// In a mount namespace of its own, where the kernel seems to have booted anew.
#[test]
fn what_was_verified_before_a_boot_is_hashed() {
    let block = data(1, LEN);
    if let Some(dir) = std::env::var_os(IN_CHILD) {
        let mut config = super::support::quick();
        config.cache.disk_dir = Some(dir.into());
        let client = KeepClient::new(config, services(&[]));
        println!("believed: {}", believed(&client, &block));
        return;
    }
    let (dir, _server) = folder(std::slice::from_ref(&block));
    let boot = dir.0.join("boot");
    std::fs::write(&boot, "01234567-0000-4000-8000-0123456789ab\n").expect("writable");
    let name = std::thread::current().name().expect("a test has one").to_owned();
    let child = |prepare: &str| {
        let script = format!("{prepare} exec \"$1\" --exact \"$2\" --nocapture");
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script, "sh"])
            .arg(std::env::current_exe().expect("this program"))
            .arg(&name)
            .env(IN_CHILD, &dir.0)
            .env("BOOT", &boot)
            .output()
            .expect("util-linux is there");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(child("").contains("believed: true"), "the same boot");
    let other = child("mount --bind \"$BOOT\" /proc/sys/kernel/random/boot_id;");
    assert!(other.contains("believed: false"), "{other}");
}
