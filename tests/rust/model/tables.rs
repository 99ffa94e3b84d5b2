// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What of the inode table, its cache and the handles no request leads to.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use arvados_fuse::fs::cache::{InodeCache, Replaced};
use arvados_fuse::fs::handles::{Handle, Listed};
use arvados_fuse::fs::node::{Cacheable, Identity, Outcome};
use arvados_fuse::fs::{Errno, Fh, Halt};
use parking_lot::Mutex;

use super::blocks::{Content, Version};
use super::harness::counts;
use super::memory::MemoryNode;
use super::mount::Mount;
use super::world::Entry;

/// A root with so many collections, loaded in order.
fn mount(collections: usize) -> (Mount, Vec<MemoryNode>) {
    let slots = [1, 2, 0, 0, 0, 0, 0, 0, 0];
    let mount = Mount::new(vec![Version { slots, mtime: 1 }; collections]);
    let add = |number: usize| {
        let node = MemoryNode::collection(&mount.world, number);
        mount.root.add(&number.to_string(), &node, None).unwrap();
        node.show_newest().unwrap();
        node
    };
    let nodes = (0..collections).map(add).collect();
    (mount, nodes)
}

fn entry(node: &MemoryNode) -> Entry {
    Entry::Host(node.clone())
}

fn numbers(nodes: &[MemoryNode]) -> Vec<u64> {
    nodes.iter().map(|node| node.number().unwrap()).collect()
}

#[test]
fn the_cache_orders_by_last_use() {
    let (mount, nodes) = mount(3);
    let (cache, inos) = (mount.table.cache(), numbers(&nodes));
    assert_eq!(cache.inodes(), inos);
    assert!(cache.touch(&entry(&nodes[0])).unwrap());
    assert_eq!(cache.inodes(), [inos[1], inos[2], inos[0]]);
    let oldest: Vec<u64> = cache.oldest(1, 5).into_iter().map(|(ino, _)| ino).collect();
    assert_eq!(oldest, [inos[2], inos[0]]);
    assert!(!cache.touch(&entry(&mount.root)).unwrap(), "it is not managed");
    assert!(cache.get(inos[1]).is_some() && cache.get(1).is_none());
}

#[test]
fn the_cache_counts_what_entries_weigh() {
    let (mount, nodes) = mount(2);
    let (cache, size) = (mount.table.cache(), nodes[0].objsize().unwrap());
    assert_eq!((cache.total(), cache.len()), (2 * size, 2));
    cache.set_cap(2 * size);
    assert!(!cache.over_cap() && !cache.satisfied(), "an eviction goes on until there is room");
    assert!(cache.satisfied_without(1, size) && !cache.satisfied_without(0, 0));
    cache.set_min_entries(3);
    assert!(cache.satisfied());
    // By the interface of 2017, whatever they weigh.
    cache.manage(&entry(&mount.root)).unwrap();
    cache.manage(&entry(&mount.root)).unwrap();
    let root = mount.root.objsize().unwrap();
    assert_eq!((cache.total(), cache.len()), (2 * size + root, 3));
    assert!(cache.unmanage(&entry(&nodes[0])).unwrap());
    assert!(!cache.unmanage(&entry(&nodes[0])).unwrap());
    assert_eq!((cache.total(), nodes[0].cache_size().unwrap()), (size + root, 0));
    cache.clear();
    assert_eq!((cache.total(), cache.is_empty()), (0, true));
}

#[test]
fn eviction_goes_from_the_longest_unused_on_until_there_is_room() {
    let (mount, nodes) = mount(4);
    let (cache, inos) = (mount.table.cache(), numbers(&nodes));
    cache.touch(&entry(&nodes[0])).unwrap();
    cache.set_cap(cache.total() / 4 * 3 - 1);
    assert!(mount.table.evict());
    assert_eq!(cache.inodes(), [inos[3], inos[0]]);
    cache.set_min_entries(2);
    cache.set_cap(0);
    mount.table.evict();
    assert_eq!(cache.inodes(), [inos[0]], "fewer than so many stay");
}

#[test]
fn what_was_moved_is_not_removed() {
    let (mount, nodes) = mount(1);
    let node = entry(&nodes[0]);
    mount.table.delete(&node).unwrap();
    node.set_parent_inode(Some(1)).unwrap();
    mount.drain();
    assert!(mount.table.contains(nodes[0].number().unwrap()) && nodes[0].mounted().is_some());
}

#[test]
fn no_reference_is_counted_on_what_was_removed() {
    let (mount, nodes) = mount(1);
    let (node, ino) = (entry(&nodes[0]), nodes[0].number().unwrap());
    assert!(mount.table.reference(ino, &node).unwrap());
    assert!(!mount.table.remove(&node).unwrap(), "it is referenced");
    mount.forget(ino, 1);
    mount.root.remove("0").unwrap();
    mount.drain();
    assert!(!mount.table.reference(ino, &node).unwrap());
    assert_eq!(counts(&node), (0, 0));
}

#[test]
fn the_end_finalizes_every_entry_and_tells_which_could_not_be() {
    let (mount, _) = mount(2);
    mount.world.hook.enabled.store(true, SeqCst);
    mount.world.fail_at(2);
    let failed = mount.table.clear();
    assert_eq!((failed.len(), mount.world.failed()), (1, Some("finalize")));
    assert!(mount.table.is_empty() && mount.table.cache().is_empty());
    assert!(mount.table.find_by_uuid("collection 0").is_empty());
}

#[test]
fn abandoning_asks_nobody() {
    let (mount, _) = mount(2);
    mount.world.hook.enabled.store(true, SeqCst);
    mount.table.abandon();
    assert_eq!(mount.world.fail_at(0), 0, "calls");
    assert!(mount.table.is_empty() && mount.table.cache().total() == 0);
}

/// A cache whose methods were overridden, and that notes what it is asked.
struct Overridden {
    asked: Arc<Mutex<Vec<&'static str>>>,
    chosen: Mutex<Vec<Entry>>,
}

impl Overridden {
    fn note(&self, what: &'static str) {
        self.asked.lock().push(what);
    }
}

impl Replaced<Entry> for Overridden {
    fn touch(&self, _node: &Entry) -> Option<Outcome<bool>> {
        self.note("touch");
        Some(Ok(true))
    }
    fn update(&self, node: &Entry) -> Option<Outcome<()>> {
        self.note("update");
        self.chosen.lock().push(node.clone());
        Some(Ok(()))
    }
    fn unmanage(&self, _node: &Entry) -> Option<Outcome<()>> {
        self.note("unmanage");
        None
    }
    fn clear(&self) -> Option<Outcome<()>> {
        self.note("clear");
        Some(Err(Errno::EIO.into()))
    }
    fn evicts(&self) -> bool {
        true
    }
    fn evict(&self, remove: &mut dyn FnMut(&Entry) -> bool) -> Outcome<bool> {
        self.note("evict");
        let chosen = std::mem::take(&mut *self.chosen.lock());
        Ok(chosen.iter().any(remove))
    }
}

#[test]
fn a_cache_that_was_overridden_is_asked_first() {
    let (mount, _) = mount(0);
    let asked = Arc::default();
    let overridden = Overridden { asked: Arc::clone(&asked), chosen: Mutex::default() };
    mount.table.cache().replace(Box::new(overridden));
    let node = MemoryNode::file(&mount.world, Content::default(), 0, false);
    mount.root.add("file", &node, None).unwrap();
    mount.drain();
    assert_eq!(asked.lock().split_off(0), ["update", "evict"]);
    mount.table.touch(&entry(&node)).unwrap();
    mount.root.remove("file").unwrap();
    mount.drain();
    assert_eq!(asked.lock().split_off(0), ["touch", "unmanage", "evict"]);
    mount.table.clear();
    assert_eq!(*asked.lock(), ["clear"]);
    assert_eq!(mount.world.reports.lock().len(), 1, "what it raised is told");
}

#[test]
fn handles_have_numbers_that_are_not_given_twice() {
    let (mount, _) = mount(0);
    let handles = &mount.served.handles;
    let handle = || Handle::file(entry(&mount.root), None, false, None);
    handles.insert(Fh(7), handle());
    assert_eq!(counts(&entry(&mount.root)).1, 0, "whoever made it counted");
    let fh = handles.open(handle()).unwrap();
    assert!(fh.0 > 7 && handles.next_number() > fh.0);
    assert_eq!(handles.numbers(), [7, fh.0]);
    assert!(handles.forget(Fh(7)) && !handles.forget(Fh(7)));
    assert_eq!(counts(&entry(&mount.root)).1, 1);
    handles.close(fh).unwrap();
    handles.close(fh).unwrap();
    assert_eq!(counts(&entry(&mount.root)).1, 0);
    assert!(matches!(handles.get(fh), Err(Halt::Errno(Errno::EBADF))));
    handles.insert(fh, handle());
    handles.clear();
    assert!(handles.numbers().is_empty());
}

#[test]
fn a_listing_has_an_end_and_gaps() {
    let (mount, nodes) = mount(1);
    let fh = mount.opendir(mount.walk("0")).unwrap();
    let handle = mount.served.handles.get(fh).unwrap();
    let name = |at| match handle.listed(at) {
        Some(Listed::Entry(name, _)) => Some(name.into_owned()),
        Some(Listed::Gone) => Some("gone".to_owned()),
        None => None,
    };
    assert_eq!([0, 1, 2, 3].map(name), [".", "..", "a", "b"].map(|name| Some(name.to_owned())));
    assert_eq!([name(4), name(u64::MAX)], [None, None]);
    assert!(!handle.saves_nothing() && handle.reader().is_none());
    drop(nodes);
}

#[test]
fn a_new_cache_holds_nothing() {
    let cache: InodeCache<Entry> = InodeCache::new(10, 4);
    assert!(cache.is_empty() && !cache.over_cap() && cache.satisfied());
    assert_eq!((cache.cap(), cache.min_entries(), cache.counted(1)), (10, 4, None));
}
