// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The layer above, in Rust: files, directories, and directories that show a collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use arvados_fuse::fs::dentries::Dentries;
use arvados_fuse::fs::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Identity, Listing,
    Outcome, Reader, ToSave, Truncated, Written,
};
use arvados_fuse::fs::state::NodeState;
use arvados_fuse::fs::{Errno, Position, ReadData, RenameMode, Timestamp};
use parking_lot::Mutex;

use super::blocks::Content;
use super::directory::Mounted;
use super::world::{Entry, World};

/// An entry of the layer above. Clones refer to the same one.
#[derive(Clone)]
pub(crate) struct MemoryNode(pub Arc<Inner>);

pub(crate) struct Inner {
    pub world: Arc<World>,
    /// Its name in events.
    pub key: u64,
    pub state: Arc<NodeState>,
    pub kind: Kind,
    cache_uuid: Mutex<Option<String>>,
}

pub(crate) enum Kind {
    File { content: Mutex<Content>, of_collection: bool },
    Directory(Directory),
}

pub(crate) struct Directory {
    pub entries: Dentries<Entry>,
    /// The collection that it shows.
    pub shows: Option<Shows>,
    /// It is a part of a collection that objects superseded.
    pub of_collection: bool,
}

pub(crate) struct Shows {
    /// Which one.
    pub collection: usize,
    /// Served from its tree.
    pub mounted: Mutex<Option<Arc<Mounted>>>,
    /// Served from objects.
    pub superseded: AtomicBool,
}

impl MemoryNode {
    pub(crate) fn new(world: &Arc<World>, kind: Kind, mtime: i128) -> Self {
        let state = Arc::new(NodeState::new(Timestamp(0)));
        state.mtime.store(Timestamp(mtime));
        let loads = matches!(&kind, Kind::Directory(Directory { shows: Some(_), .. }));
        state.mark_stale(loads);
        MemoryNode(Arc::new(Inner {
            world: Arc::clone(world),
            key: world.next_key(),
            state,
            kind,
            cache_uuid: Mutex::default(),
        }))
    }

    pub(crate) fn file(
        world: &Arc<World>,
        content: Content,
        mtime: i128,
        of_collection: bool,
    ) -> Self {
        let content = Mutex::new(content);
        Self::new(world, Kind::File { content, of_collection }, mtime)
    }

    pub(crate) fn directory(world: &Arc<World>, mtime: i128, of_collection: bool) -> Self {
        let directory = Directory { entries: Dentries::default(), shows: None, of_collection };
        Self::new(world, Kind::Directory(directory), mtime)
    }

    pub(crate) fn collection(world: &Arc<World>, collection: usize) -> Self {
        let shows =
            Shows { collection, mounted: Mutex::default(), superseded: AtomicBool::default() };
        let (entries, shows) = (Dentries::default(), Some(shows));
        Self::new(world, Kind::Directory(Directory { entries, shows, of_collection: false }), 0)
    }

    pub(crate) fn as_dir(&self) -> Option<&Directory> {
        match &self.0.kind {
            Kind::Directory(directory) => Some(directory),
            Kind::File { .. } => None,
        }
    }

    pub(crate) fn shows(&self) -> Option<&Shows> {
        self.as_dir()?.shows.as_ref()
    }

    pub(crate) fn mounted(&self) -> Option<Arc<Mounted>> {
        self.shows()?.mounted.lock().clone()
    }

    fn asked(&self, what: &'static str) -> Outcome<&NodeState> {
        self.0.world.upcall(what)?;
        Ok(&self.0.state)
    }
}

impl Identity for MemoryNode {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(self.asked("inode")?.inode())
    }
    fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        self.asked("set_inode")?.set_inode(inode);
        Ok(())
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        Ok(self.asked("parent_inode")?.parent())
    }
    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        self.asked("set_parent_inode")?.set_parent(parent);
        Ok(())
    }
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
    fn is_dir(&self) -> bool {
        self.as_dir().is_some()
    }
    fn is_collection_file(&self) -> bool {
        matches!(self.0.kind, Kind::File { of_collection: true, .. })
    }
    fn uuid(&self) -> Outcome<Option<String>> {
        self.asked("uuid")?;
        Ok(self.shows().map(|shows| format!("collection {}", shows.collection)))
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        self.asked("cache_uuid")?;
        Ok(self.0.cache_uuid.lock().clone())
    }
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()> {
        self.asked("set_cache_uuid")?;
        *self.0.cache_uuid.lock() = uuid;
        Ok(())
    }
}

impl Attributes for MemoryNode {
    fn facts(&self, may_write: bool) -> Outcome<Facts> {
        let state = self.asked("facts")?;
        let size = match &self.0.kind {
            Kind::File { content, .. } => content.lock().size(),
            Kind::Directory(_) => 0,
        };
        Ok(Facts {
            size,
            atime: state.atime.load(),
            mtime: state.mtime.load(),
            nlink: 1,
            writable: may_write && self.writable()?,
            attr_timeout: state.time_to_next_poll(),
            entry_timeout: None,
        })
    }
    fn writable(&self) -> Outcome<bool> {
        self.asked("writable")?;
        Ok(match &self.0.kind {
            Kind::File { .. } => true,
            Kind::Directory(directory) => directory.shows.is_none() && !directory.of_collection,
        })
    }
    fn time_to_next_poll(&self) -> Outcome<Duration> {
        Ok(self.asked("time_to_next_poll")?.time_to_next_poll())
    }
    fn allow_dirent_cache(&self) -> Outcome<bool> {
        self.asked("allow_dirent_cache")?;
        Ok(true)
    }
}

impl Freshness for MemoryNode {
    fn accessed(&self) -> Outcome<()> {
        self.asked("accessed")?.atime.store(self.0.world.now());
        Ok(())
    }
    fn stale(&self) -> Outcome<bool> {
        Ok(self.asked("stale")?.is_stale())
    }
    fn checkupdate(&self) -> Outcome<()> {
        self.asked("checkupdate")?;
        self.refresh()
    }
}

impl Counted for MemoryNode {
    fn inc_use(&self) -> Outcome<()> {
        self.asked("inc_use")?.add_use(1);
        Ok(())
    }
    fn dec_use(&self) -> Outcome<()> {
        self.asked("dec_use")?.add_use(-1);
        Ok(())
    }
    fn in_use(&self) -> Outcome<bool> {
        if self.asked("in_use")?.in_use() || self.mounted().is_some_and(|m| m.in_use()) {
            return Ok(true);
        }
        let entries = self.as_dir().map(|dir| dir.entries.snapshot()).unwrap_or_default();
        for (_, node) in entries {
            if node.in_use()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
    fn inc_ref(&self) -> Outcome<()> {
        self.asked("inc_ref")?.add_ref(1);
        Ok(())
    }
    fn dec_ref(&self, n: u64) -> Outcome<i64> {
        Ok(self.asked("dec_ref")?.add_ref(-i64::try_from(n).unwrap()))
    }
    fn has_ref(&self) -> Outcome<bool> {
        Ok(self.asked("has_ref")?.has_ref())
    }
    fn referenced_now(&self) -> bool {
        self.0.state.has_ref()
    }
}

impl Cacheable for MemoryNode {
    fn persisted(&self) -> Outcome<bool> {
        self.asked("persisted")?;
        Ok(self.shows().is_some())
    }
    fn objsize(&self) -> Outcome<i64> {
        self.asked("objsize")?;
        let superseded = self.shows().is_some_and(|shows| shows.superseded.load(SeqCst));
        let objects = self.as_dir().map_or(0, |dir| dir.entries.len() * 1000);
        let bytes = objects + usize::from(superseded) * 500;
        let bytes = bytes + self.mounted().map_or(0, |mounted| mounted.memory());
        Ok(i64::try_from(bytes).unwrap())
    }
    fn cache_size(&self) -> Outcome<i64> {
        let size = &self.asked("cache_size")?.cache_size;
        Ok(size.load(std::sync::atomic::Ordering::Relaxed))
    }
    fn set_cache_size(&self, size: i64) -> Outcome<()> {
        let counted = &self.asked("set_cache_size")?.cache_size;
        counted.store(size, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
    fn counted_as(&self) -> Outcome<Option<u64>> {
        self.inode()
    }
    fn kernel_invalidate(&self) -> Outcome<()> {
        self.asked("kernel_invalidate")?;
        Ok(())
    }
    fn finalize(&self) -> Outcome<()> {
        self.asked("finalize")?;
        Ok(())
    }
    fn clear(&self) -> Outcome<()> {
        self.asked("clear")?;
        self.drop_contents()
    }
}

impl FileNode<Entry> for MemoryNode {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        self.asked("reader")?;
        Ok(None)
    }
    fn readfrom(&self, offset: u64, size: u32, _num_retries: u32) -> Outcome<ReadData> {
        self.asked("readfrom")?;
        match &self.0.kind {
            Kind::File { content, .. } => match content.lock().read(offset, size) {
                Some(data) => Ok(ReadData::Shared(Box::new(data))),
                None => Err(Errno::EIO.into()),
            },
            Kind::Directory(_) => Err(Errno::EISDIR.into()),
        }
    }
    fn writeto(&self, _at: Position, data: &[u8], _num_retries: u32) -> Outcome<Written> {
        self.asked("writeto")?;
        Ok(Written::Bytes(u32::try_from(data.len()).unwrap()))
    }
    fn truncate(&self, size: u64) -> Outcome<Truncated> {
        self.asked("truncate")?;
        Ok(Truncated { size, mtime: None })
    }
    fn flush(&self) -> Outcome<()> {
        self.asked("flush")?;
        Ok(())
    }
}

impl DirectoryNode<Entry> for MemoryNode {
    fn child(&self, name: &str) -> Outcome<Option<Entry>> {
        self.asked("child")?;
        self.while_fresh(|| match self.mounted() {
            Some(mounted) => mounted.top(name).map(Entry::Collection),
            None => self.as_dir().and_then(|dir| dir.entries.get(name)),
        })
    }
    fn items(&self) -> Outcome<Box<dyn Listing<Entry>>> {
        self.asked("items")?;
        let directory = self.as_dir().ok_or(Errno::ENOTDIR)?;
        self.while_fresh(|| match self.mounted() {
            Some(mounted) => {
                let root = arvados_fuse::collection::NodeId::ROOT;
                mounted.listing(mounted.snapshot(), root)
            }
            None => Box::new(directory.entries.snapshot()) as Box<dyn Listing<Entry>>,
        })
    }
    fn create(&self, name: &str) -> Outcome<()> {
        self.asked("create")?;
        self.make(name, || MemoryNode::file(&self.0.world, Content::default(), 0, false))
    }
    fn mkdir(&self, name: &str) -> Outcome<()> {
        self.asked("mkdir")?;
        self.make(name, || MemoryNode::directory(&self.0.world, 0, false))
    }
    fn unlink(&self, name: &str) -> Outcome<ToSave> {
        self.asked("unlink")?;
        if self.remove(name)? { Ok(None) } else { Err(Errno::ENOENT.into()) }
    }
    fn rmdir(&self, name: &str) -> Outcome<ToSave> {
        self.asked("rmdir")?;
        if self.remove(name)? { Ok(None) } else { Err(Errno::ENOENT.into()) }
    }
    fn rename(&self, old: &str, new: &str, source: &Entry, _mode: RenameMode) -> Outcome<ToSave> {
        self.asked("rename")?;
        match source {
            Entry::Host(source) => {
                if source.move_to(old, self, new)? {
                    Ok(None)
                } else {
                    Err(Errno::ENOENT.into())
                }
            }
            Entry::Collection(_) => Err(Errno::EPERM.into()),
        }
    }
}
