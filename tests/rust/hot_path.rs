// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What every request costs: a lookup, a `stat` and a read of a cached block allocate nothing.
//!
//! A process of its own: it counts what its allocator is asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use arvados_fuse::collection::Tree;
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::cache::InodeCache;
use arvados_fuse::fs::collection::Settings;
use arvados_fuse::fs::collection::root::{NoUpcalls, RootDirectory, Standalone};
use arvados_fuse::fs::inodes::Inodes;
use arvados_fuse::fs::operations::{Operations, Utf8};
use arvados_fuse::fs::{Caller, Errno, Fh, FileSystem, Ino, Read, Timestamp};
use arvados_fuse::keep::{CacheConfig, Config, KeepClient, StaticServices};
use arvados_fuse::types::Md5;

/// The system's allocator, which counts what this thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches a cell of this
// thread that needs neither allocation nor destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(body: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
const ROUNDS: usize = 1000;

struct Mount {
    operations: Operations<AnyNode<Standalone>>,
    file: Ino,
    fh: Fh,
    size: usize,
}

/// A mount of a file `d/f` of two signed blocks, which are in the cache: in memory, or on disk.
fn mount(folder: &Path, on_disk: bool) -> Mount {
    let (store, cache) = (folder.join("store"), folder.join("cache"));
    let blocks = [vec![b'a'; 3 << 20], vec![b'b'; 2 << 20]];
    let signature = format!("+A{}@7fffffff", "0".repeat(40));
    let mut locators = Vec::new();
    for block in &blocks {
        let md5 = Md5::of(block);
        let name = md5.to_string();
        let path = if on_disk {
            cache.join(&name[..3]).join(format!("{name}.keepcacheblock"))
        } else {
            store.join(&name)
        };
        std::fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
        std::fs::write(path, block).expect("written");
        locators.push(format!("{md5}+{}{signature}", block.len()));
    }
    let size: usize = blocks.iter().map(Vec::len).sum();
    let manifest = format!("./d {} 0:{size}:f\n", locators.join(" "));
    let cache =
        CacheConfig { disk_dir: on_disk.then(|| folder.join("cache")), ..CacheConfig::default() };
    let config = Config { local_store: Some(store), cache, ..Config::default() };
    let keep = KeepClient::new(config, Arc::new(StaticServices::new(Vec::new())));
    let table = Inodes::new(Arc::new(InodeCache::new(1 << 30, 4)), Arc::new(NoUpcalls));
    let tree = Tree::parse(&manifest).expect("a manifest");
    RootDirectory::mount(tree, Timestamp::now(), keep, None, Settings::default(), &table)
        .expect("mounted");
    let operations = Operations::new(table, Box::new(Utf8));
    let directory = FileSystem::lookup(&operations, &CALLER, Ino::ROOT, b"d").expect("there").ino;
    let file = FileSystem::lookup(&operations, &CALLER, directory, b"f").expect("there").ino;
    let fh = FileSystem::open(&operations, &CALLER, file, libc::O_RDONLY).expect("opened").fh;
    let mount = Mount { operations, file, fh, size };
    // Whatever is not at hand arrives now.
    for offset in (0..size).step_by(1 << 20) {
        match FileSystem::read(&mount.operations, file, fh, offset as u64, 1 << 20) {
            Ok(Read::Now(_)) => {}
            Ok(Read::Later(start)) => {
                let (done, arrived) = std::sync::mpsc::channel();
                start(Box::new(move |result| done.send(result.map(drop)).expect("waiting")));
                assert_eq!(arrived.recv(), Ok(Ok(())));
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    mount
}

impl Mount {
    fn read(&self, offset: usize, size: u32) -> usize {
        match FileSystem::read(&self.operations, self.file, self.fh, offset as u64, size) {
            Ok(Read::Now(data)) => data.bytes().len(),
            Ok(Read::Later(_)) => panic!("at hand"),
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn lookups_attributes_and_cached_reads_allocate_nothing() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
    let folder = target.join(format!("hot_path{}", std::process::id()));
    for on_disk in [false, true] {
        let mount = mount(&folder, on_disk);
        let directory = Ino::ROOT;
        let one_of_each = |round: usize| {
            let looked = FileSystem::lookup(&mount.operations, &CALLER, directory, b"d");
            assert!(looked.is_ok());
            let missing = FileSystem::lookup(&mount.operations, &CALLER, directory, b"missing");
            assert_eq!(missing.err(), Some(Errno::ENOENT));
            assert!(FileSystem::getattr(&mount.operations, &CALLER, mount.file).is_ok());
            let offset = round * 4_999_999 % (mount.size - 4096);
            assert_eq!(mount.read(offset, 4096), 4096);
            // Across the two blocks.
            assert_eq!(mount.read((3 << 20) - 2048, 4096), 4096);
        };
        // Buffers and tables find their size.
        (0..ROUNDS).for_each(one_of_each);
        let counted = allocations(|| (0..ROUNDS).for_each(one_of_each));
        assert_eq!(counted, 0, "in {ROUNDS} rounds, blocks on disk: {on_disk}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}
