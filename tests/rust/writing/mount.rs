// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection as a mount of its own, and requests to it that wait for their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use arvados_fuse::collection::Tree;
use arvados_fuse::collection::draft::{Contents, MAX_LEN, Piece};
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::cache::InodeCache;
use arvados_fuse::fs::collection::root::{NoUpcalls, Record, RootDirectory, Standalone};
use arvados_fuse::fs::collection::{MountedCollection, Settings};
use arvados_fuse::fs::inodes::Inodes;
use arvados_fuse::fs::operations::{Operations, Utf8};
use arvados_fuse::fs::write_buffer::WriteBuffer;
use arvados_fuse::fs::{
    Allocation, Attr, Caller, Errno, Fh, FileSystem, Ino, Position, Read, RenameMode, Seek,
    SetAttr, Timestamp, Write,
};
use arvados_fuse::keep::{KeepClient, PutOptions};

use super::record::Client;
use crate::support::taking::{Take, signed};
use crate::support::{Server, data, quick, services};

pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0, umask: 0 };
/// The time of everything in the manifest.
pub(crate) const LOADED: Timestamp = Timestamp(1_000_000_000_000_000_000);
/// Whatever takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a directory contains: by path, the bytes of a file, or none for a directory.
pub(crate) type Paths = BTreeMap<String, Option<Vec<u8>>>;

pub(crate) struct Mount {
    pub fs: Operations<AnyNode<Standalone>>,
    pub root: RootDirectory,
    pub keep: Arc<KeepClient>,
    pub buffer: Arc<WriteBuffer>,
    pub server: Arc<Server>,
}

/// Some files in some directories, in three blocks.
pub(crate) fn some_files() -> (Server, String) {
    let server = Server::start();
    let blocks: Vec<String> = [(1, 30_000), (2, 20_000), (3, 500)]
        .into_iter()
        .map(|(seed, len)| {
            let block = data(seed, len);
            server.add(&block);
            signed(&block)
        })
        .collect();
    let (a, b, c) = (&blocks[0], &blocks[1], &blocks[2]);
    let empty = "d41d8cd98f00b204e9800998ecf8427e+0";
    let text = format!(
        ". {a} {b} 100:40000:a 0:500:b 49000:1000:b\n./c {b} {c} 0:0:a 0:20500:b\n\
         ./c/d {c} 0:500:a 10:20:b 100:5:b\n./e {empty} 0:0:\\056\n./f/g/h {c} 0:100:a\n",
    );
    (server, text)
}

impl Mount {
    /// Nothing, with room for so many unsaved bytes.
    pub(crate) fn empty(room: u64) -> Self {
        Mount::new(Server::start(), "", room)
    }

    pub(crate) fn new(server: Server, manifest: &str, room: u64) -> Self {
        Mount::sharing(server, manifest, Arc::new(WriteBuffer::new(room)))
    }

    pub(crate) fn sharing(server: Server, manifest: &str, buffer: Arc<WriteBuffer>) -> Self {
        Mount::with(Arc::new(server), manifest, settings(buffer, false), None)
    }

    /// What is changed is saved to a record.
    pub(crate) fn saving(server: Arc<Server>, room: u64, record: Arc<Client>) -> Self {
        let manifest = record.manifest();
        let settings = settings(Arc::new(WriteBuffer::new(room)), true);
        Mount::with(server, &manifest, settings, Some(record))
    }

    /// The same, where each save makes a version, and every few put small blocks together.
    pub(crate) fn repacking(server: Arc<Server>, room: u64, record: Arc<Client>) -> Self {
        let manifest = record.manifest();
        let settings = settings(Arc::new(WriteBuffer::new(room)), true);
        let settings = Settings { large: None, repacked: Some(4), ..settings };
        Mount::with(server, &manifest, settings, Some(record))
    }

    fn with(
        server: Arc<Server>,
        manifest: &str,
        settings: Settings,
        record: Option<Arc<Client>>,
    ) -> Self {
        let mut config = quick();
        config.num_retries = 0;
        config.timeouts.read = PATIENCE;
        let keep = KeepClient::new(config, services(std::slice::from_ref(&*server)));
        let buffer = Arc::clone(settings.buffer.as_ref().expect("one of its own"));
        let record = record.map(|record| record as Arc<dyn Record>);
        let table = Inodes::new(Arc::new(InodeCache::new(1 << 30, 4)), Arc::new(NoUpcalls));
        let tree = Tree::parse(manifest).expect("a manifest");
        let root = RootDirectory::mount(tree, LOADED, Arc::clone(&keep), record, settings, &table)
            .expect("mounted");
        let fs = Operations::new(table, Box::new(Utf8));
        fs.enable_write.store(true, std::sync::atomic::Ordering::Relaxed);
        Mount { fs, root, keep, buffer, server }
    }

    /// Another collection, which is saved to a record, under a number of its own.
    pub(crate) fn beside(&self, record: Arc<Client>) -> RootDirectory {
        let tree = Tree::parse(&record.manifest()).expect("a manifest");
        let (keep, buffer) = (Arc::clone(&self.keep), Arc::clone(&self.buffer));
        let settings = settings(buffer, true);
        RootDirectory::mount(tree, LOADED, keep, Some(record), settings, &self.fs.inodes)
            .expect("mounted")
    }

    pub(crate) fn collection(&self) -> &Arc<MountedCollection<Standalone>> {
        self.root.collection().expect("mounted")
    }

    /// Whether the server refuses what it is sent.
    pub(crate) fn refuse(&self, refuse: bool) {
        let take = if refuse { Take::Status(403) } else { Take::Store(1, Some("")) };
        self.server.always_take(take);
    }

    pub(crate) fn lookup(&self, dir: Ino, name: &str) -> Result<Attr, Errno> {
        FileSystem::lookup(&self.fs, &CALLER, dir, name.as_bytes())
    }

    pub(crate) fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        FileSystem::getattr(&self.fs, &CALLER, ino)
    }

    pub(crate) fn create(&self, dir: Ino, name: &str) -> Result<(Attr, Fh), Errno> {
        let made = FileSystem::create(&self.fs, &CALLER, dir, name.as_bytes(), 0o644, libc::O_RDWR);
        made.map(|(attr, opened)| (attr, opened.fh))
    }

    pub(crate) fn mkdir(&self, dir: Ino, name: &str) -> Result<Attr, Errno> {
        FileSystem::mkdir(&self.fs, &CALLER, dir, name.as_bytes(), 0o755)
    }

    pub(crate) fn unlink(&self, dir: Ino, name: &str) -> Result<(), Errno> {
        FileSystem::unlink(&self.fs, &CALLER, dir, name.as_bytes())
    }

    pub(crate) fn rmdir(&self, dir: Ino, name: &str) -> Result<(), Errno> {
        FileSystem::rmdir(&self.fs, &CALLER, dir, name.as_bytes())
    }

    pub(crate) fn rename(
        &self,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let (old, new) = (from.1.as_bytes(), to.1.as_bytes());
        FileSystem::rename(&self.fs, &CALLER, from.0, old, to.0, new, mode)
    }

    pub(crate) fn link(&self, ino: Ino, to: (Ino, &str)) -> Result<Attr, Errno> {
        FileSystem::link(&self.fs, &CALLER, ino, to.0, to.1.as_bytes())
    }

    pub(crate) fn allocate(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        how: Allocation,
    ) -> Result<(), Errno> {
        FileSystem::fallocate(&self.fs, ino, fh, offset, len, how)
    }

    pub(crate) fn seek(&self, ino: Ino, fh: Fh, offset: u64, what: Seek) -> Result<u64, Errno> {
        FileSystem::lseek(&self.fs, ino, fh, offset, what)
    }

    pub(crate) fn copy(
        &self,
        source: (Ino, Fh, u64),
        target: (Ino, Fh, u64),
        len: u64,
    ) -> Result<u32, Errno> {
        FileSystem::copy_file_range(&self.fs, source, target, len)
    }

    pub(crate) fn open(&self, ino: Ino, flags: i32) -> Result<Fh, Errno> {
        FileSystem::open(&self.fs, &CALLER, ino, flags).map(|opened| opened.fh)
    }

    pub(crate) fn release(&self, ino: Ino, fh: Fh) {
        FileSystem::flush(&self.fs, ino, fh).expect("flushed");
        FileSystem::release(&self.fs, ino, fh).expect("released");
    }

    pub(crate) fn forget(&self, ino: Ino, n: u64) {
        FileSystem::forget(&self.fs, &[(ino, n)]);
        self.fs.inodes.wait_removal();
    }

    pub(crate) fn set_size(&self, ino: Ino, fh: Option<Fh>, size: u64) -> Result<Attr, Errno> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        FileSystem::setattr(&self.fs, &CALLER, ino, &set, fh)
    }

    pub(crate) fn set_mtime(&self, ino: Ino, mtime: Timestamp) -> Result<Attr, Errno> {
        let set = SetAttr { mtime: Some(mtime), ..SetAttr::default() };
        FileSystem::setattr(&self.fs, &CALLER, ino, &set, None)
    }

    pub(crate) fn read(&self, ino: Ino, fh: Fh, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        match FileSystem::read(&self.fs, ino, fh, offset, len)? {
            Read::Now(data) => Ok(data.bytes().to_vec()),
            Read::Later(start) => {
                let (tell, told) = channel();
                start(Box::new(move |result| {
                    drop(tell.send(result.map(|data| data.bytes().to_vec())));
                }));
                told.recv_timeout(PATIENCE).expect("a read ends")
            }
        }
    }

    pub(crate) fn write(&self, ino: Ino, fh: Fh, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_at(ino, fh, Position::At(offset), data)
    }

    pub(crate) fn write_at(
        &self,
        ino: Ino,
        fh: Fh,
        at: Position,
        data: &[u8],
    ) -> Result<u32, Errno> {
        match FileSystem::write(&self.fs, ino, fh, at, data)? {
            Write::Now(written) => Ok(written),
            Write::Later(start) => {
                let (tell, told) = channel();
                start(Box::new(move |result| {
                    let _ = tell.send(result);
                }));
                told.recv_timeout(PATIENCE).expect("a write ends")
            }
        }
    }

    /// Names and numbers in an open directory, `.` and `..` left out; as `plus`, with what was counted.
    /// Asked for `step` at a time.
    pub(crate) fn list(&self, dir: Ino, fh: Fh, step: usize, plus: bool) -> Vec<(String, Attr)> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let mut page = Vec::new();
            let sink = &mut |name: &[u8], attr: &Attr, next: u64| {
                if page.len() == step {
                    return Err(arvados_fuse::fs::SinkFull);
                }
                let name = String::from_utf8(name.to_vec()).expect("text");
                page.push((name, attr.clone(), next));
                Ok(())
            };
            let listed = if plus {
                FileSystem::readdirplus(&self.fs, dir, fh, offset, sink)
            } else {
                FileSystem::readdir(&self.fs, dir, fh, offset, sink)
            };
            listed.expect("listed");
            let Some((.., next)) = page.last() else { break };
            offset = *next;
            all.extend(page.into_iter().map(|(name, attr, _)| (name, attr)));
        }
        all.retain(|(name, _)| name != "." && name != "..");
        all
    }

    /// What the manifest says, with the blocks that the server has.
    pub(crate) fn saved(&self) -> Paths {
        let text = self.collection().manifest().expect("stored");
        let tree = Arc::new(Tree::parse(&text).expect("well formed"));
        assert_eq!(tree.normalized(), text);
        paths_in(&tree, self)
    }

    /// Has everything let go that a kernel has; then nothing may be left.
    pub(crate) fn end(self) {
        self.fs.inodes.wait_removal();
        let collection = self.collection();
        assert!(collection.known().is_empty() && !collection.in_use());
        assert!(self.fs.handles.numbers().is_empty());
        collection.unmount(&self.fs.inodes);
        assert_eq!(self.fs.inodes.numbers(), [Ino::ROOT.0]);
        assert!(collection.is_deserted());
        // Packs on their way have theirs until they end.
        crate::support::until("all room is given back", || self.buffer.gauge().bytes() == 0);
        self.keep.shutdown();
    }
}

fn settings(buffer: Arc<WriteBuffer>, saved: bool) -> Settings {
    Settings {
        writable: true,
        reserved: vec!["reserved".into()],
        stored: Some(PutOptions { replicas: 1, ..PutOptions::default() }),
        buffer: Some(buffer),
        saved,
        large: Some(0),
        repacked: None,
    }
}

/// What a tree has, with the blocks that the mount's server has.
pub(crate) fn paths_in(tree: &Arc<Tree>, mount: &Mount) -> Paths {
    let ids = (1..tree.len() as u32).map(arvados_fuse::collection::NodeId);
    ids.map(|id| {
        let mut bytes = Vec::new();
        for piece in Contents::of_tree(tree, id).pieces(0, MAX_LEN) {
            let Piece::Stored { block, offset, len } = piece else { panic!("stored") };
            let data = mount.server.block(block.md5()).expect("on the server");
            bytes.extend_from_slice(&data[offset as usize..(offset + len) as usize]);
        }
        (tree.path(id), (!tree.is_dir(id)).then_some(bytes))
    })
    .collect()
}
