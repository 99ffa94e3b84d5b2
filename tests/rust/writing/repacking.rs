// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Small blocks that saves left are put together, and nobody sees it but in the number of requests.

use std::collections::HashSet;
use std::sync::Arc;

use arvados_fuse::collection::{NodeId, Tree};
use arvados_fuse::fs::{Attr, Fh, Ino};

use super::mount::{Mount, Paths, paths_in};
use super::record::{Client, Server};
use crate::support;

fn mounted(record: &Arc<Server>) -> Mount {
    Mount::repacking(Arc::new(support::Server::start()), 1 << 20, record.client())
}

/// A file is made, and saved with a block of its own.
fn saved(mount: &Mount, name: &str) -> Attr {
    let (made, fh) = mount.create(Ino::ROOT, name).expect("made");
    write(mount, made.ino, fh, name);
    mount.release(made.ino, fh);
    mount.getattr(made.ino).expect("there")
}

fn write(mount: &Mount, ino: Ino, fh: Fh, text: &str) {
    assert_eq!(mount.write(ino, fh, 0, text.as_bytes()), Ok(text.len() as u32));
    mount.collection().save().expect("saved");
}

fn recorded(record: &Server) -> Arc<Tree> {
    Arc::new(Tree::parse(&record.manifest()).expect("a manifest"))
}

/// The blocks that files are in.
fn blocks(tree: &Tree) -> usize {
    let files = (1..tree.len() as u32).map(NodeId);
    files.flat_map(|id| tree.file_blocks(id)).collect::<HashSet<_>>().len()
}

#[test]
fn files_closed_one_by_one_are_in_few_blocks() {
    let record = Server::new("");
    let mount = mounted(&record);
    let names: Vec<String> = (0..40).map(|n| format!("file {n}")).collect();
    let made: Vec<Attr> = names.iter().map(|name| saved(&mount, name)).collect();
    // After each four there is one; the last ones wait for others.
    let few = blocks(&recorded(&record));
    assert!(few <= 8, "{few} blocks for 40 files");
    let expected: Paths =
        names.iter().map(|name| (name.clone(), Some(name.clone().into_bytes()))).collect();
    assert_eq!(paths_in(&recorded(&record), &mount), expected);
    assert_eq!(mount.saved(), expected);
    for (name, made) in names.iter().zip(made) {
        // The same file, which nothing was done to.
        let found = mount.lookup(Ino::ROOT, name).expect("there");
        assert_eq!(Attr { atime: made.atime, ..found }, made);
        let fh = mount.open(made.ino, libc::O_RDONLY).expect("opened");
        assert_eq!(mount.read(made.ino, fh, 0, 100), Ok(name.clone().into_bytes()));
        mount.release(made.ino, fh);
        mount.forget(made.ino, 2);
    }
    mount.end();
}

/// What somebody has open, and writes to meanwhile, is what it was.
#[test]
fn a_file_that_is_open_meanwhile_goes_on() {
    let record = Server::new("");
    let mount = mounted(&record);
    let (open, fh) = mount.create(Ino::ROOT, "open").expect("made");
    write(&mount, open.ino, fh, "before");
    let others: Vec<Attr> = (0..6).map(|n| saved(&mount, &format!("other {n}"))).collect();
    assert!(blocks(&recorded(&record)) < 7);
    assert_eq!(mount.read(open.ino, fh, 0, 100), Ok(b"before".to_vec()));
    assert_eq!(mount.write(open.ino, fh, 6, b", after"), Ok(7));
    assert_eq!(mount.read(open.ino, fh, 0, 100), Ok(b"before, after".to_vec()));
    mount.collection().save().expect("saved");
    let there = paths_in(&recorded(&record), &mount);
    assert_eq!(there["open"].as_deref(), Some(&b"before, after"[..]));
    mount.release(open.ino, fh);
    others.iter().chain([&open]).for_each(|made| mount.forget(made.ino, 1));
    mount.end();
}

/// A file that is synced after each line is few segments, whatever that left.
#[test]
fn a_log_that_is_synced_line_by_line_is_in_few_blocks() {
    let record = Server::new("");
    let mount = mounted(&record);
    let (log, fh) = mount.create(Ino::ROOT, "log").expect("made");
    let mut text = String::new();
    for n in 0..60 {
        let line = format!("line {n}\n");
        let at = text.len() as u64;
        assert_eq!(mount.write(log.ino, fh, at, line.as_bytes()), Ok(line.len() as u32));
        mount.collection().save().expect("saved");
        text += &line;
    }
    let tree = recorded(&record);
    let segments = tree.plan(tree.find("log").expect("there"), 0, u64::MAX).count();
    assert!(segments <= 12, "{segments} segments for 60 lines");
    assert_eq!(paths_in(&tree, &mount), [("log".into(), Some(text.into_bytes()))].into());
    mount.release(log.ino, fh);
    mount.forget(log.ino, 1);
    mount.end();
}

/// Somebody else changes a file just before the save that would put it together with others. Ours, which
/// they cannot have seen, stands beside.
#[test]
fn what_others_changed_stays() {
    let record = Server::new("");
    let mount = mounted(&record);
    let names = ["a", "b", "c"];
    let mut made: Vec<Attr> = names.iter().map(|name| saved(&mount, name)).collect();
    let client: &Client = &record.client();
    let block = client.manifest().split(' ').nth(1).expect("a block").to_owned();
    record.change(&format!(". {block} 0:0:a\n"), &["b".into()]);
    made.push(saved(&mount, "d"));
    let beside = "a.conflict-20010909T014642Z";
    let expected: Paths = [("a", ""), (beside, "a"), ("c", "c"), ("d", "d")]
        .map(|(name, text)| (name.to_owned(), Some(text.as_bytes().to_vec())))
        .into();
    assert_eq!(paths_in(&recorded(&record), &mount), expected);
    assert!(mount.root.renewed());
    assert_eq!(mount.saved(), expected);
    // The next save has nobody beside it.
    made.push(saved(&mount, "e"));
    assert!(blocks(&recorded(&record)) <= 2, "{}", record.manifest());
    made.iter().for_each(|made| mount.forget(made.ino, 1));
    mount.end();
}
