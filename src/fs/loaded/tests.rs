// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::*;

/// Objects that take the place of entries are their numbers, negated.
#[derive(Default)]
struct Fake {
    /// Renewals wait while this is held.
    gate: Mutex<()>,
    renewals: AtomicU32,
}

impl Owner for Fake {
    type Node = i64;

    fn successor(&self, ino: u64) -> Option<i64> {
        i64::try_from(ino).ok().map(|ino| -ino)
    }

    fn renew(&self) -> bool {
        let _open = self.gate.lock();
        self.renewals.fetch_add(1, Ordering::Relaxed);
        true
    }
}

const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e+0";
const BLOCK: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";

fn tree(text: &str) -> Arc<Tree> {
    Arc::new(Tree::parse(text).unwrap())
}

fn loaded(text: &str) -> Arc<Loaded<Fake>> {
    let root = Arc::new(NodeState::new(0.0));
    root.set_inode(Some(7));
    Loaded::new(Fake::default(), root, tree(text), 100, 5.0)
}

fn named(loaded: &Arc<Loaded<Fake>>, path: &str) -> Entry<Fake> {
    let shown = loaded.shown();
    loaded.entry_of(&shown, shown.tree().find(path).unwrap())
}

fn is_here(entry: &Entry<Fake>) -> bool {
    matches!(entry.place(), Place::Here(..))
}

fn numbers(from: u64) -> impl FnOnce(u64) -> u64 {
    move |_| from
}

#[test]
fn every_node_has_a_number_and_a_parent() {
    let loaded = loaded(&format!(". {BLOCK} 0:3:a\n./d {BLOCK} 0:3:b\n"));
    assert_eq!(Loaded::<Fake>::numbers_for(loaded.shown().tree()), 3);
    let (a, d, b) = (named(&loaded, "a"), named(&loaded, "d"), named(&loaded, "d/b"));
    assert_eq!((a.is_dir(), d.is_dir()), (false, true));
    assert_eq!((a.parent(), d.parent(), b.parent()), (Some(7), Some(7), Some(d.ino())));
    for entry in [&a, &d, &b] {
        assert!(loaded.entry(entry.ino()).unwrap().same(entry));
        assert!((100..103).contains(&entry.ino()));
    }
    assert!(loaded.entry(99).is_none() && loaded.entry(103).is_none());
    assert_eq!(loaded.ranges(), [100]);
    assert!(!loaded.is_deserted());
}

#[test]
fn counts_never_go_below_zero() {
    let loaded = loaded(&format!(". {EMPTY} 0:0:a\n"));
    let a = named(&loaded, "a");
    assert_eq!((a.add_ref(2), a.add_ref(-1), a.refs()), (Some(2), Some(1), Some(1)));
    assert_eq!((a.add_ref(-5), a.add_ref(1)), (Some(0), Some(1)));
    assert_eq!(a.add_use(1), Some(1));
    assert!(loaded.in_use());
    assert_eq!(a.add_use(-1), Some(0));
    assert!(!loaded.in_use());
}

#[test]
fn a_new_version_keeps_numbers_and_counts_and_tells_what_changed() {
    let loaded = loaded(&format!(". {BLOCK} 0:3:a 0:3:b 0:3:c\n./d {EMPTY} 0:0:e\n"));
    let (a, b, c, d) =
        (named(&loaded, "a"), named(&loaded, "b"), named(&loaded, "c"), named(&loaded, "d"));
    a.add_ref(3);
    b.add_use(1);
    let next = format!(". {BLOCK} 0:3:a 0:2:c 0:3:new\n./d {EMPTY} 0:0:e 0:0:f\n");
    let mut changes = loaded.update(tree(&next), 9.0, numbers(500));
    changes.names.sort();
    assert_eq!(changes.inodes, [c.ino(), d.ino()]);
    let name = |parent, name: &str| (parent, name.to_owned());
    assert_eq!(changes.names, [name(7, "b")], "new names the kernel asks for");
    assert_eq!(changes.gone, [b.ino()]);
    assert_eq!(a.refs(), Some(3));
    assert_eq!(named(&loaded, "a").ino(), a.ino());
    assert!([500, 501].contains(&named(&loaded, "new").ino()));
    assert_eq!(loaded.ranges(), [100, 500]);
    let shown = loaded.shown();
    let mtime = |path| shown.mtime(shown.tree().find(path).unwrap());
    assert_eq!((mtime("a"), mtime("c"), mtime("new")), (5.0, 9.0, 9.0));
    // What is gone but in use stays for whoever has it.
    assert!(is_here(&b) && b.parent().is_none());
    assert!(loaded.entry(b.ino()).is_some());
    b.add_use(-1);
    b.forget();
    assert!(matches!(b.place(), Place::Gone));
    assert!(loaded.entry(b.ino()).is_none() && b.add_ref(1).is_none());
    // And once more, from a version whose numbers are not in a row.
    let changes = loaded.update(tree(&format!(". {BLOCK} 0:3:a\n")), 10.0, numbers(600));
    assert!(changes.inodes.is_empty());
    assert_eq!((a.refs(), named(&loaded, "a").ino()), (Some(3), a.ino()));
    assert!(matches!(c.place(), Place::Gone), "nobody had it");
}

#[test]
fn the_same_content_changes_nothing_but_signatures() {
    let text = |hint: &str| format!(". {BLOCK}+A{}@{hint} 0:3:a\n", "0".repeat(40));
    let loaded = loaded(&text("60000000"));
    let changes = loaded.update(tree(&text("70000000")), 9.0, |_| unreachable!());
    assert_eq!(changes, Changes::default());
    let shown = loaded.shown();
    assert_eq!(shown.tree().expires_at(), Some(0x7000_0000));
    assert_eq!(shown.mtime(NodeId(1)), 5.0);
}

#[test]
fn what_is_dropped_stays_until_it_is_let_go() {
    let loaded = loaded(&format!(". {BLOCK} 0:3:a 0:3:b\n"));
    let (a, b) = (named(&loaded, "a"), named(&loaded, "b"));
    a.add_ref(1);
    a.add_use(1);
    let memory = loaded.memory();
    loaded.detach();
    assert!(is_here(&a) && matches!(b.place(), Place::Gone));
    assert!(loaded.in_use() && !loaded.is_deserted());
    a.add_use(-1);
    a.add_ref(-1);
    a.forget();
    assert!(!loaded.in_use() && loaded.is_deserted());
    assert!(loaded.memory() < memory);
}

#[test]
fn objects_take_over_what_was_counted() {
    let loaded = loaded(&format!(". {BLOCK} 0:3:a 0:3:b 0:3:c\n"));
    let (a, b, c) = (named(&loaded, "a"), named(&loaded, "b"), named(&loaded, "c"));
    a.add_ref(2);
    b.add_ref(1);
    b.add_use(3);
    assert_eq!(loaded.supersede(), [(a.ino(), 2, 0), (b.ino(), 1, 3)]);
    for entry in [&a, &b, &c] {
        let Place::Successor(object) = entry.place() else { panic!("superseded") };
        assert_eq!(object.unsigned_abs(), entry.ino());
        assert!(entry.add_ref(1).is_none() && entry.add_use(1).is_none());
    }
    assert!(loaded.is_superseded() && loaded.is_deserted() && !loaded.in_use());
}

#[test]
fn signatures_are_renewed_once_for_all_who_wait() {
    let loaded = loaded(&format!(". {BLOCK} 0:3:a\n"));
    let (told, answers) = std::sync::mpsc::channel();
    let gate = loaded.owner.gate.lock();
    for _ in 0..4 {
        let told = told.clone();
        loaded.renew(Box::new(move |renewed| told.send(renewed).unwrap()));
    }
    drop(gate);
    let answered: Vec<bool> = answers.iter().take(4).collect();
    assert_eq!(answered, [true; 4]);
    assert_eq!(loaded.owner.renewals.load(Ordering::Relaxed), 1);
}
