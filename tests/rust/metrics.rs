// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a mount counts, from outside. A process of its own: the totals are the process's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arvados_fuse::collection::Tree;
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::cache::InodeCache;
use arvados_fuse::fs::collection::Settings;
use arvados_fuse::fs::collection::root::{NoUpcalls, RootDirectory, Standalone};
use arvados_fuse::fs::inodes::Inodes;
use arvados_fuse::fs::operations::{Operations, Utf8};
use arvados_fuse::fs::{Caller, FileSystem, Ino, Read, Timestamp};
use arvados_fuse::keep::{Config, KeepClient, StaticServices};
use arvados_fuse::metrics::{self, Op};
use arvados_fuse::types::Md5;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };

/// A mount of a file `f` of one block of 5 bytes, which is in `folder`, and not at hand.
fn mount(folder: &Path) -> Operations<AnyNode<Standalone>> {
    let block = b"block";
    let md5 = Md5::of(block);
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join(md5.to_string()), block).expect("written");
    let config = Config { local_store: Some(folder.into()), ..Config::default() };
    let keep = KeepClient::new(config, Arc::new(StaticServices::new(Vec::new())));
    let table = Inodes::new(Arc::new(InodeCache::new(1 << 30, 4)), Arc::new(NoUpcalls));
    let tree = Tree::parse(&format!(". {md5}+5 0:5:f\n")).expect("a manifest");
    RootDirectory::mount(tree, Timestamp::now(), keep, None, Settings::default(), &table)
        .expect("mounted");
    Operations::new(table, Box::new(Utf8))
}

#[test]
fn a_read_takes_until_it_is_answered_and_outlives_the_mount() {
    const WAIT: Duration = Duration::from_millis(50);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
    let folder = target.join(format!("metrics{}", std::process::id()));
    let mount = mount(&folder);
    let file = FileSystem::lookup(&mount, &CALLER, Ino::ROOT, b"f");
    let file = FileSystem::open(&mount, &CALLER, file.expect("there").ino, libc::O_RDONLY);
    let fh = file.expect("opened").fh;
    let reads = |mount: &Operations<_>| mount.metrics.operations.get(Op::Read);
    let Ok(Read::Later(start)) = FileSystem::read(&mount, Ino::ROOT, fh, 0, 5) else {
        panic!("nothing is at hand")
    };
    std::thread::sleep(WAIT);
    assert_eq!(reads(&mount).count(), 0);
    let (done, arrived) = std::sync::mpsc::channel();
    start(Box::new(move |result| {
        done.send(result.map(|data| data.bytes().len())).expect("waiting");
    }));
    assert_eq!(arrived.recv(), Ok(Ok(5)));
    let value = reads(&mount);
    assert_eq!(value.count(), 1);
    assert!(value.nanos >= u64::try_from(WAIT.as_nanos()).expect("short"));
    // Whoever reads the totals sees the same, as often as they like, and when the mount is gone.
    let told = || {
        let totals = metrics::snapshot();
        let numbers = ["read_bytes", "reads", "keep_gets", "keep_misses"]
            .map(|name| totals.number(&format!("arvmount_{name}_total")));
        (totals.operation(Op::Read), totals.operation(Op::Lookup).count(), numbers)
    };
    let before = told();
    assert_eq!((before.0, before.1), (value, 1));
    assert_eq!(before.2[..3], [5, 1, 1]);
    assert_eq!(told(), before);
    drop(mount);
    assert_eq!(told(), before);
    std::fs::remove_dir_all(&folder).expect("removed");
}
