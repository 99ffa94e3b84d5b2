// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::reader::FileReader;
use super::*;
use crate::fs::errno::{Errno, Refusal};
use crate::fs::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Identity, Listing,
    Read, Reader,
};
use crate::fs::read_data::ReadData;
use crate::keep::{Config, StaticServices};

/// What takes the place of an entry: it knows its number, and nothing else.
#[derive(Clone)]
struct Object(u64);

fn unused<T>() -> Outcome<T> {
    Err(Errno::ENOSYS.into())
}

impl Identity for Object {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.0))
    }
    fn set_inode(&self, _inode: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        unused()
    }
    fn set_parent_inode(&self, _parent: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
    fn is_dir(&self) -> bool {
        false
    }
    fn is_collection_file(&self) -> bool {
        true
    }
    fn uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn set_cache_uuid(&self, _uuid: Option<String>) -> Outcome<()> {
        unused()
    }
}

impl Attributes for Object {
    fn facts(&self, _may_write: bool) -> Outcome<Facts> {
        unused()
    }
    fn writable(&self) -> Outcome<bool> {
        Ok(true)
    }
    fn time_to_next_poll(&self) -> Outcome<Duration> {
        unused()
    }
}

impl Freshness for Object {
    fn accessed(&self) -> Outcome<()> {
        unused()
    }
    fn stale(&self) -> Outcome<bool> {
        unused()
    }
    fn checkupdate(&self) -> Outcome<()> {
        unused()
    }
}

impl Counted for Object {
    fn inc_use(&self) -> Outcome<()> {
        unused()
    }
    fn dec_use(&self) -> Outcome<()> {
        unused()
    }
    fn in_use(&self) -> Outcome<bool> {
        unused()
    }
    fn inc_ref(&self) -> Outcome<()> {
        unused()
    }
    fn dec_ref(&self, _n: u64) -> Outcome<i64> {
        unused()
    }
    fn has_ref(&self) -> Outcome<bool> {
        unused()
    }
    fn referenced_now(&self) -> bool {
        false
    }
}

impl Cacheable for Object {
    fn persisted(&self) -> Outcome<bool> {
        unused()
    }
    fn objsize(&self) -> Outcome<i64> {
        unused()
    }
    fn cache_size(&self) -> Outcome<i64> {
        unused()
    }
    fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        unused()
    }
    fn counted_as(&self) -> Outcome<Option<u64>> {
        unused()
    }
    fn kernel_invalidate(&self) -> Outcome<()> {
        unused()
    }
    fn finalize(&self) -> Outcome<()> {
        unused()
    }
    fn clear(&self) -> Outcome<()> {
        unused()
    }
}

impl FileNode<AnyNode<Fake>> for Object {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        unused()
    }
    fn readfrom(&self, _offset: u64, _size: u32, _num_retries: u32) -> Outcome<ReadData> {
        unused()
    }
}

impl DirectoryNode<AnyNode<Fake>> for Object {
    fn child(&self, _name: &str) -> Outcome<Option<AnyNode<Fake>>> {
        unused()
    }
    fn items(&self) -> Outcome<Box<dyn Listing<AnyNode<Fake>>>> {
        unused()
    }
}

#[derive(Default)]
struct Fake {
    /// Renewals wait while this is held.
    gate: Mutex<()>,
    renewals: AtomicU32,
}

impl Host for Fake {
    type Node = Object;

    fn save(&self, _update: &Update) -> Result<Taken, Refused> {
        Err(Refused::Failed(Refusal::ReadOnly.into()))
    }

    fn now(&self) -> Outcome<Timestamp> {
        Ok(at(5))
    }

    fn look(&self) -> Outcome<()> {
        Ok(())
    }

    fn take_over(&self) -> Outcome<()> {
        unused()
    }

    fn keep(&self) -> Option<Arc<KeepClient>> {
        None
    }

    fn store(&self) -> Arc<KeepClient> {
        KeepClient::new(Config::default(), Arc::new(StaticServices::new(Vec::new())))
    }

    fn successor(&self, ino: u64) -> Option<Object> {
        Some(Object(ino))
    }

    fn table(&self) -> Option<Arc<Inodes<AnyNode<Self>>>> {
        None
    }

    fn shown_by(_node: &Object) -> Option<Arc<MountedCollection<Self>>> {
        None
    }

    fn renew(&self) -> bool {
        let _open = self.gate.lock();
        self.renewals.fetch_add(1, Ordering::Relaxed);
        true
    }
}

const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e+0";
const BLOCK: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";

fn at(seconds: i128) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

fn tree(text: &str) -> Arc<Tree> {
    Arc::new(Tree::parse(text).unwrap())
}

fn mounted(text: &str) -> Arc<MountedCollection<Fake>> {
    let root = Arc::new(NodeState::new(at(0)));
    root.set_inode(Some(7));
    MountedCollection::new(Fake::default(), Settings::default(), root, tree(text), 100, at(5))
}

fn named(mounted: &Arc<MountedCollection<Fake>>, path: &str) -> CollectionNode<Fake> {
    let snapshot = mounted.snapshot();
    mounted.entry_of(&snapshot, snapshot.tree().find(path).unwrap())
}

fn is_here(entry: &CollectionNode<Fake>) -> bool {
    matches!(entry.resolve(), Resolved::Here(..))
}

fn numbers(from: u64) -> impl FnMut(u64) -> u64 {
    move |_| from
}

#[test]
fn every_node_has_a_number_and_a_parent() {
    let mounted = mounted(&format!(". {BLOCK} 0:3:a\n./d {BLOCK} 0:3:b\n"));
    assert_eq!(MountedCollection::<Fake>::numbers_for(mounted.snapshot().tree()), 3);
    let (a, d, b) = (named(&mounted, "a"), named(&mounted, "d"), named(&mounted, "d/b"));
    assert_eq!((a.is_dir(), d.is_dir()), (false, true));
    assert_eq!((a.parent(), d.parent(), b.parent()), (Some(7), Some(7), Some(d.ino())));
    for entry in [&a, &d, &b] {
        assert!(mounted.entry(entry.ino()).unwrap().same(entry));
        assert!((100..103).contains(&entry.ino()));
    }
    assert!(mounted.entry(99).is_none() && mounted.entry(103).is_none());
    assert_eq!(mounted.ranges(), [100]);
    assert!(!mounted.is_deserted());
}

#[test]
fn counts_never_go_below_zero() {
    let mounted = mounted(&format!(". {EMPTY} 0:0:a\n"));
    let a = named(&mounted, "a");
    assert_eq!((a.add_ref(2), a.add_ref(-1), a.refs()), (Some(2), Some(1), Some(1)));
    assert_eq!((a.add_ref(-5), a.add_ref(1)), (Some(0), Some(1)));
    assert_eq!(a.add_use(1), Some(1));
    assert!(mounted.in_use());
    assert_eq!(a.add_use(-1), Some(0));
    assert!(!mounted.in_use());
}

#[test]
fn a_new_version_keeps_numbers_and_counts_and_tells_what_changed() {
    let mounted = mounted(&format!(". {BLOCK} 0:3:a 0:3:b 0:3:c\n./d {EMPTY} 0:0:e\n"));
    let (a, b, c, d) =
        (named(&mounted, "a"), named(&mounted, "b"), named(&mounted, "c"), named(&mounted, "d"));
    a.add_ref(3);
    b.add_use(1);
    let next = format!(". {BLOCK} 0:3:a 0:2:c 0:3:new\n./d {EMPTY} 0:0:e 0:0:f\n");
    let mut changes = mounted.update(tree(&next), at(9), numbers(500));
    changes.names.sort();
    assert_eq!(changes.inodes, [c.ino(), d.ino()]);
    let name = |parent, name: &str| (parent, name.to_owned());
    assert_eq!(changes.names, [name(7, "b")], "new names the kernel asks for");
    assert_eq!(changes.gone, [b.ino()]);
    assert_eq!(a.refs(), Some(3));
    assert_eq!(named(&mounted, "a").ino(), a.ino());
    assert!([500, 501].contains(&named(&mounted, "new").ino()));
    assert_eq!(mounted.ranges(), [100, 500]);
    let snapshot = mounted.snapshot();
    let mtime = |path| snapshot.mtime(snapshot.tree().find(path).unwrap());
    assert_eq!((mtime("a"), mtime("c"), mtime("new")), (at(5), at(9), at(9)));
    // What is gone but in use stays for whoever has it.
    assert!(is_here(&b) && b.parent().is_none());
    assert!(mounted.entry(b.ino()).is_some());
    b.add_use(-1);
    b.forget();
    assert!(matches!(b.resolve(), Resolved::Gone));
    assert!(mounted.entry(b.ino()).is_none() && b.add_ref(1).is_none());
    // And once more, from a version whose numbers are not in a row.
    let changes = mounted.update(tree(&format!(". {BLOCK} 0:3:a\n")), at(10), numbers(600));
    assert!(changes.inodes.is_empty());
    assert_eq!((a.refs(), named(&mounted, "a").ino()), (Some(3), a.ino()));
    assert!(matches!(c.resolve(), Resolved::Gone), "nobody had it");
}

#[test]
fn the_same_content_changes_nothing_but_signatures() {
    let text = |hint: &str| format!(". {BLOCK}+A{}@{hint} 0:3:a\n", "0".repeat(40));
    let mounted = mounted(&text("60000000"));
    let changes = mounted.update(tree(&text("70000000")), at(9), |_| unreachable!());
    assert_eq!(changes, Changes::default());
    let snapshot = mounted.snapshot();
    assert_eq!(snapshot.tree().expires_at(), Some(0x7000_0000));
    assert_eq!(snapshot.mtime(NodeId(1)), at(5));
}

#[test]
fn what_is_dropped_stays_until_it_is_let_go() {
    let mounted = mounted(&format!(". {BLOCK} 0:3:a 0:3:b\n"));
    let (a, b) = (named(&mounted, "a"), named(&mounted, "b"));
    a.add_ref(1);
    a.add_use(1);
    let memory = mounted.memory();
    mounted.detach();
    assert!(is_here(&a) && matches!(b.resolve(), Resolved::Gone));
    assert!(!mounted.in_use() && !mounted.is_deserted());
    assert_eq!((a.uses(), a.refs()), (Some(1), Some(1)));
    a.add_use(-1);
    a.add_ref(-1);
    a.forget();
    assert!(!mounted.in_use() && mounted.is_deserted());
    assert!(mounted.memory() < memory);
}

#[test]
fn objects_take_over_what_was_counted() {
    let mounted = mounted(&format!(". {BLOCK} 0:3:a 0:3:b 0:3:c\n"));
    let (a, b, c) = (named(&mounted, "a"), named(&mounted, "b"), named(&mounted, "c"));
    a.add_ref(2);
    b.add_ref(1);
    b.add_use(3);
    assert_eq!(mounted.supersede(), [(a.ino(), 2, 0), (b.ino(), 1, 3)]);
    for entry in [&a, &b, &c] {
        let Resolved::Successor(AnyNode::Host(object)) = entry.resolve() else {
            panic!("superseded")
        };
        assert_eq!(object.0, entry.ino());
        assert!(entry.add_ref(1).is_none() && entry.add_use(1).is_none());
    }
    assert!(mounted.is_superseded() && mounted.is_deserted() && !mounted.in_use());
}

/// A read that waits for a block is answered, whoever has the file when it comes.
#[test]
fn a_read_outlives_what_it_is_read_from() {
    let dir = std::env::temp_dir().join(format!("outlives-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let digest = BLOCK.split('+').next().unwrap();
    std::fs::write(dir.join(digest), "foo").unwrap();
    let config = Config { local_store: Some(dir.clone()), ..Config::default() };
    let keep = KeepClient::new(config, Arc::new(StaticServices::new(Vec::new())));
    let mounted = mounted(&format!(". {BLOCK} 0:3:file\n"));
    let reader = FileReader::new(named(&mounted, "file"), Arc::clone(&keep));
    let Ok(Some(Read::Later(start))) = reader.read(1, 100) else { panic!("it has to be fetched") };
    mounted.supersede();
    let (tell, told) = std::sync::mpsc::channel();
    start(Box::new(move |read| tell.send(read.map(|data| data.bytes().to_vec())).unwrap()));
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(Ok(b"oo".to_vec())));
    keep.shutdown();
    std::fs::remove_dir_all(dir).unwrap();
}

fn written(text: &str) -> Arc<MountedCollection<Fake>> {
    let root = Arc::new(NodeState::new(at(0)));
    root.set_inode(Some(7));
    let stored = Some(PutOptions::default());
    let settings = Settings { writable: true, stored, ..Settings::default() };
    MountedCollection::new(Fake::default(), settings, root, tree(text), 100, at(5))
}

#[test]
fn what_was_removed_and_nobody_has_is_gone() {
    let mounted = written(&format!(". {BLOCK} 0:3:a 0:3:b\n"));
    let (a, b) = (named(&mounted, "a"), named(&mounted, "b"));
    b.add_use(1);
    for name in ["a", "b"] {
        assert!(mounted.remove(TOP, name, false).unwrap().is_some());
    }
    assert!(matches!(a.resolve(), Resolved::Gone));
    assert!(a.add_ref(1).is_none() && a.add_use(1).is_none() && !mounted.in_use());
    assert!(matches!(b.resolve(), Resolved::Draft(_)));
    b.add_use(-1);
    b.forget();
    assert!(matches!(b.resolve(), Resolved::Gone) && b.add_use(1).is_none());
    assert!(!mounted.in_use());
}

#[test]
fn what_was_removed_and_somebody_has_again_is_not_forgotten() {
    let mounted = written(&format!(". {BLOCK} 0:3:a\n"));
    let a = named(&mounted, "a");
    a.add_ref(1);
    assert!(mounted.remove(TOP, "a", false).unwrap().is_some());
    a.forget();
    assert_eq!(a.refs(), Some(1));
    a.add_ref(-1);
    a.forget();
    assert!(a.refs().is_none());
}

#[test]
fn a_directory_that_moved_takes_its_names_along() {
    let mounted =
        written(&format!("./d {BLOCK} 0:3:a 0:3:b\n./d/e {BLOCK} 0:3:f\n./g {BLOCK} 0:3:h\n"));
    let ino = |path: &str| {
        let mut dir = TOP;
        path.split('/').try_for_each(|name| {
            dir = mounted.child_of(dir, name)?.ino();
            Some(())
        })?;
        Some(dir)
    };
    let names = |dir: u64| {
        let entries = mounted.state.read().entries(dir);
        entries.into_iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    let [dir, first, below, last, other] =
        ["d", "d/a", "d/e", "d/e/f", "g"].map(|path| ino(path).unwrap());
    assert!(mounted.rename((TOP, "d"), (other, "moved"), true).unwrap().is_some());
    assert_eq!(
        (names(TOP), names(other), names(dir)),
        ("g".into(), "h moved".into(), "a b e".into())
    );
    assert_eq!((ino("g/moved/a"), ino("g/moved/e/f")), (Some(first), Some(last)));
    assert!(ino("d").is_none() && mounted.entry(dir).unwrap().parent() == Some(other));
    // Names in it change, and stay when it moves on.
    assert!(mounted.remove(dir, "b", false).unwrap().is_some());
    assert!(mounted.rename((dir, "a"), (dir, "b"), true).unwrap().is_some());
    assert!(mounted.rename((other, "moved"), (TOP, "d"), true).unwrap().is_some());
    assert_eq!((names(dir), ino("d/b"), ino("d/e")), ("b e".into(), Some(first), Some(below)));
    assert!(
        matches!(mounted.rename((TOP, "d"), (below, "d"), true), Err(halt) if halt.is(Refusal::IntoItself))
    );
    // Removed; what has its name afterwards is another.
    assert!(mounted.remove(below, "f", false).unwrap().is_some());
    assert!(mounted.remove(dir, "e", true).unwrap().is_some());
    assert!(mounted.remove(dir, "b", false).unwrap().is_some());
    assert!(mounted.remove(TOP, "d", true).unwrap().is_some());
    assert!(ino("d").is_none() && mounted.entry(dir).is_none() && names(TOP) == "g");
    let now = at(9);
    mounted.state.write().add(TOP, "d", 900, None, now).unwrap();
    assert_eq!((ino("d"), names(900)), (Some(900), String::new()));
    assert!(mounted.state.write().add(below, "new", 901, None, now).is_err(), "it was removed");
}

#[test]
fn signatures_are_renewed_once_for_all_who_wait() {
    let mounted = mounted(&format!(". {BLOCK} 0:3:a\n"));
    let (told, answers) = std::sync::mpsc::channel();
    let gate = mounted.host.gate.lock();
    for _ in 0..4 {
        let told = told.clone();
        mounted.renew(Box::new(move |renewed| told.send(renewed).unwrap()));
    }
    drop(gate);
    let answered: Vec<bool> = answers.iter().take(4).collect();
    assert_eq!(answered, [true; 4]);
    assert_eq!(mounted.host.renewals.load(Ordering::Relaxed), 1);
}
