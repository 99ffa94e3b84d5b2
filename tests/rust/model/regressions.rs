// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the random tests found, by name: the shortest way there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arvados_fuse::fs::Errno;
use arvados_fuse::fs::inodes::RangeOwner;
use arvados_fuse::fs::node::Identity;

use super::blocks::Version;
use super::memory::MemoryNode;
use super::mount::Mount;
use super::world::{Entry, World};

fn version(slots: [u8; 9]) -> Version {
    Version { slots, mtime: 1 }
}

/// A root with a collection of each version, by the names `0`, `1`, ...
fn mount(versions: &[[u8; 9]]) -> (Mount, Vec<MemoryNode>) {
    let mount = Mount::new(versions.iter().map(|slots| version(*slots)).collect());
    let nodes: Vec<MemoryNode> =
        (0..versions.len()).map(|number| MemoryNode::collection(&mount.world, number)).collect();
    for (number, node) in nodes.iter().enumerate() {
        mount.root.add(&number.to_string(), node, None).unwrap();
    }
    (mount, nodes)
}

fn commit(mount: &Mount, collection: usize, slots: [u8; 9]) {
    mount.world.truth.lock()[collection] = version(slots);
}

fn mounted(mount: &Mount) -> usize {
    mount.world.mounted.lock().iter().filter(|mounted| mounted.strong_count() > 0).count()
}

const EMPTY: [u8; 9] = [0; 9];
const A: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];
const E_X: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 1, 0];

#[test]
fn a_collection_deleted_while_a_file_deep_in_it_is_open_goes_when_that_is_closed() {
    let (mount, _) = mount(&[E_X]);
    let (top, sub, file) = (mount.walk("0"), mount.walk("0/e"), mount.walk("0/e/x"));
    let fh = mount.open(file).unwrap();
    mount.root.remove("0").unwrap();
    for (ino, count) in [(top, 3), (sub, 2), (file, 1)] {
        mount.forget(ino, count);
    }
    mount.drain();
    assert_eq!(mount.read(fh, 0, 1000).unwrap().len(), 100);
    mount.release(fh).unwrap();
    mount.drain();
    assert_eq!(mount.table.numbers(), [1]);
    assert_eq!(mount.table.cache().total(), 0);
}

#[test]
fn a_collection_that_was_empty_when_it_was_mounted_gives_its_numbers_back() {
    let (mount, nodes) = mount(&[EMPTY, A]);
    nodes[0].show_newest().unwrap();
    nodes[1].show_newest().unwrap();
    commit(&mount, 0, A);
    nodes[0].show_newest().unwrap();
    nodes[0].drop_contents().unwrap();
    assert_eq!(mounted(&mount), 1);
}

#[test]
fn a_collection_that_was_empty_when_it_was_mounted_takes_no_numbers_of_another() {
    let (mount, nodes) = mount(&[EMPTY, A]);
    nodes[0].show_newest().unwrap();
    nodes[1].show_newest().unwrap();
    commit(&mount, 0, A);
    nodes[0].show_newest().unwrap();
    let (other, file) = (mount.walk("1/a"), mount.walk("0/a"));
    nodes[0].drop_contents().unwrap();
    mount.forget(file, 1);
    mount.drain();
    assert_eq!(mount.lookup(1, "1").map(|attr| mount.table.contains(attr.ino.0)), Ok(true));
    assert!(mount.table.contains(other));
    assert!(mount.open(other).is_ok());
}

#[test]
fn a_collection_deleted_while_a_file_that_left_it_is_open_goes() {
    let (mount, nodes) = mount(&[A]);
    let (top, file) = (mount.walk("0"), mount.walk("0/a"));
    mount.root.remove("0").unwrap();
    commit(&mount, 0, EMPTY);
    nodes[0].show_newest().unwrap();
    let fh = mount.open(file).unwrap();
    mount.forget(top, 2);
    mount.drain();
    assert!(!mount.table.contains(top), "what left it does not need it");
    assert_eq!(mount.read(fh, 0, 1000).unwrap().len(), 100);
    mount.release(fh).unwrap();
    mount.forget(file, 1);
    mount.drain();
    assert_eq!(mount.table.numbers(), [1]);
    drop(nodes);
    // The read was answered from the Keep client's thread, which may not have dropped it yet.
    let patience = Instant::now() + Duration::from_secs(30);
    while mounted(&mount) > 0 {
        assert!(Instant::now() < patience, "nothing has the collection");
        std::thread::yield_now();
    }
}

/// What is looked up became something else of the same name before the kernel was told.
#[test]
fn a_name_that_changes_its_kind_meanwhile_is_found() {
    let (mount, nodes) = mount(&[E_X]);
    let top = mount.walk("0");
    nodes[0].show_newest().unwrap();
    commit(&mount, 0, [0, 0, 0, 0, 0, 0, 2, 0, 0]);
    let node = nodes[0].clone();
    mount.world.meanwhile("look", move || node.show_newest().unwrap());
    let found = mount.lookup(top, "e").map(|attr| attr.mode & libc::S_IFMT);
    assert_eq!(found, Ok(libc::S_IFREG));
}

/// What is listed goes before its attributes are asked for.
#[test]
fn a_listing_leaves_out_what_goes_meanwhile() {
    let (mount, nodes) = mount(&[[1, 2, 0, 1, 0, 0, 0, 0, 0]]);
    let fh = mount.opendir(mount.walk("0")).unwrap();
    commit(&mount, 0, [0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let node = nodes[0].clone();
    mount.world.meanwhile("look", move || node.show_newest().unwrap());
    let (taken, ended) = mount.list(fh, 0, true, 100);
    let names: Vec<&str> = taken.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!((names, ended), (vec![".", "..", "b"], Ok(())));
}

/// What the kernel opens while it is about to be evicted stays, and lists what it has.
#[test]
fn a_directory_that_is_opened_while_it_is_evicted_is_not_empty() {
    let (mount, nodes) = mount(&[A]);
    let mount = Arc::new(mount);
    nodes[0].show_newest().unwrap();
    let (opened, handle) = std::sync::mpsc::channel();
    let kernel = Arc::clone(&mount);
    mount.world.meanwhile("clear", move || {
        let top = kernel.lookup(1, "0").unwrap().ino.0;
        opened.send(kernel.opendir(top).unwrap()).unwrap();
    });
    mount.table.cache().set_cap(0);
    mount.table.cap_cache();
    mount.drain();
    let (taken, ended) = mount.list(handle.recv().unwrap(), 0, false, 100);
    let names: Vec<&str> = taken.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!((names, ended), (vec![".", "..", "a"], Ok(())));
}

/// Answers for a number that just then comes into the table.
struct Moving(Arc<World>);

impl RangeOwner<Entry> for Moving {
    fn entry(&self, ino: u64) -> Option<Entry> {
        let object = MemoryNode::directory(&self.0, 0, false);
        self.0.table().insert(ino, Entry::Host(object));
        None
    }
    fn is_deserted(&self) -> bool {
        false
    }
    fn ranges(&self) -> Vec<u64> {
        Vec::new()
    }
}

#[test]
fn an_entry_that_moves_from_its_range_to_the_table_is_found() {
    let mount = Mount::new(Vec::new());
    let first = mount.table.reserve(2);
    mount.table.add_range(first, 2, Arc::new(Moving(Arc::clone(&mount.world))));
    assert!(mount.table.get(first).is_some());
    assert!(mount.table.contains(first + 1));
}

/// The object of a directory is in the table before those of what is in it.
#[test]
fn a_directory_that_is_about_to_be_superseded_lacks_nothing() {
    let (mount, nodes) = mount(&[E_X]);
    let mount = Arc::new(mount);
    let dir = mount.walk("0/e");
    let (looked, found) = std::sync::mpsc::channel();
    let kernel = Arc::clone(&mount);
    mount.world.meanwhile("set_inode", move || {
        let taken = kernel.list(kernel.opendir(dir).unwrap(), 0, false, 100).0;
        looked.send((kernel.lookup(dir, "x").is_ok(), taken.len())).unwrap();
    });
    nodes[0].take_over().unwrap();
    assert_eq!(found.recv().unwrap(), (true, 3));
    assert!(mount.lookup(dir, "x").is_ok());
}

/// It stays for a file that is open, which then leaves the collection and is nobody's but its reader's.
#[test]
fn a_deleted_directory_goes_when_what_is_open_in_it_leaves_its_collection() {
    let mount = Mount::new(vec![version(E_X)]);
    let dir = MemoryNode::directory(&mount.world, 0, false);
    let collection = MemoryNode::collection(&mount.world, 0);
    mount.root.add("d", &dir, None).unwrap();
    dir.add("0", &collection, None).unwrap();
    let file = mount.walk("d/0/e/x");
    let fh = mount.open(file).unwrap();
    mount.root.remove("d").unwrap();
    for ino in [dir.number().unwrap(), collection.number().unwrap(), mount_dir(&mount, file)] {
        mount.forget(ino, 1);
    }
    mount.drain();
    assert!(dir.number().is_some());
    commit(&mount, 0, EMPTY);
    collection.show_newest().unwrap();
    mount.drain();
    assert_eq!(dir.number(), None);
    assert_eq!(mount.read(fh, 0, 1000).unwrap().len(), 100);
    mount.forget(file, 1);
    mount.release(fh).unwrap();
    mount.drain();
    assert_eq!(mount.table.numbers(), [1]);
}

/// Inode number of the directory of an entry.
fn mount_dir(mount: &Mount, ino: u64) -> u64 {
    mount.table.get(ino).and_then(|node| node.parent_inode().ok()?).expect("a directory")
}

/// A directory is opened, which shows that a newer version has it no more.
#[test]
fn a_directory_that_is_found_to_be_gone_cannot_be_opened() {
    let (mount, nodes) = mount(&[E_X]);
    let dir = mount.walk("0/e");
    commit(&mount, 0, EMPTY);
    nodes[0].0.state.mark_stale(true);
    assert_eq!(mount.opendir(dir), Err(Errno::EIO));
}

/// The handle's entry is the collection's own; an object took its place, and was deleted.
#[test]
fn a_file_that_was_superseded_and_deleted_goes_when_it_is_closed() {
    let (mount, nodes) = mount(&[A]);
    let (top, file) = (mount.walk("0"), mount.walk("0/a"));
    let fh = mount.open(file).unwrap();
    nodes[0].take_over().unwrap();
    commit(&mount, 0, EMPTY);
    nodes[0].show_newest().unwrap();
    mount.forget(file, 1);
    mount.drain();
    assert_eq!(mount.read(fh, 0, 1000).unwrap().len(), 100);
    mount.release(fh).unwrap();
    mount.drain();
    assert_eq!(mount.table.numbers(), [1, top]);
}
