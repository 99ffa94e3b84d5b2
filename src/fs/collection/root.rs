// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The top directory of a collection that is the whole mount, with no layer above.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::draft::TOP;
use super::save::{Refused, Taken};
use super::{Host, MountedCollection, Settings, Update};
use crate::collection::Tree;
use crate::fs::any_node::AnyNode;
use crate::fs::attr::{Ino, Timestamp};
use crate::fs::errno::{Errno, Refusal};
use crate::fs::flags::RenameMode;
use crate::fs::inodes::{Inodes, Upcalls};
use crate::fs::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Halt, Identity,
    Listing, Outcome, Reader, Saving, ToSave,
};
use crate::fs::read_data::ReadData;
use crate::fs::state::NodeState;
use crate::keep::KeepClient;

/// Where versions of the collection come from and are saved.
pub trait Record: Send + Sync {
    /// The newest version, and when that was made.
    fn newest(&self) -> Option<(Tree, Timestamp)>;

    /// As [`Host::save`].
    ///
    /// # Errors
    /// Why the update was not made.
    fn save(&self, update: &Update) -> Result<Taken, Refused> {
        let _ = update;
        Err(Refused::Failed(Refusal::ReadOnly.into()))
    }
}

impl<F: Fn() -> Option<(Tree, Timestamp)> + Send + Sync> Record for F {
    fn newest(&self) -> Option<(Tree, Timestamp)> {
        self()
    }
}

/// Everything that a collection needs from outside, where there is nothing but Rust.
pub struct Standalone {
    keep: Arc<KeepClient>,
    record: Option<Arc<dyn Record>>,
    root: Weak<Root>,
}

/// There is no layer above, and nobody who would tell the kernel: for a mount that never changes.
pub struct NoUpcalls;

impl Upcalls for NoUpcalls {
    fn run(&self, body: &mut dyn FnMut()) {
        body();
    }

    fn invalidate_inode(&self, _ino: Ino) {}

    fn invalidate_entry(&self, _parent: Ino, _name: &[u8]) {}

    fn expire_entry(&self, _parent: Ino, _name: &[u8]) {}

    fn prune(&self, _inos: Vec<Ino>) {}

    fn errno_of(&self, halt: Halt) -> Errno {
        match halt {
            Halt::Errno(errno) => errno,
            Halt::Upcall(_) => Refusal::Lost.into(),
        }
    }

    fn report(&self, what: &str, halt: Halt) {
        log::error!("{what}: {halt:?}");
    }
}

impl Host for Standalone {
    type Node = RootDirectory;

    fn save(&self, update: &Update) -> Result<Taken, Refused> {
        match &self.record {
            Some(record) => record.save(update),
            None => Err(Refused::Failed(Refusal::ReadOnly.into())),
        }
    }

    fn now(&self) -> Outcome<Timestamp> {
        Ok(Timestamp::now())
    }

    fn look(&self) -> Outcome<()> {
        Ok(())
    }

    fn take_over(&self) -> Outcome<()> {
        Err(Refusal::ReadOnly.into())
    }

    fn successor(&self, _ino: u64) -> Option<RootDirectory> {
        None
    }

    fn table(&self) -> Option<Arc<Inodes<AnyNode<Self>>>> {
        self.root.upgrade()?.table.upgrade()
    }

    fn shown_by(node: &RootDirectory) -> Option<Arc<MountedCollection<Self>>> {
        node.collection().cloned()
    }

    fn keep(&self) -> Option<Arc<KeepClient>> {
        Some(Arc::clone(&self.keep))
    }

    fn store(&self) -> Arc<KeepClient> {
        Arc::clone(&self.keep)
    }

    fn renew(&self) -> bool {
        let (Some(record), Some(root)) = (&self.record, self.root.upgrade()) else { return false };
        let root = RootDirectory(root);
        for _ in 0..LOOKS {
            let since = root.collection().map(|collection| collection.await_saves());
            let Some((tree, mtime)) = record.newest() else { return false };
            match root.show_since(tree, mtime, since) {
                // A version that was saved meanwhile is newer.
                Some(false) => {}
                shown => return shown.is_some(),
            }
        }
        true
    }
}

/// How often a version is asked for that is outdated when it comes.
const LOOKS: u32 = 5;

struct Root {
    state: Arc<NodeState>,
    collection: OnceLock<Arc<MountedCollection<Standalone>>>,
    table: Weak<Inodes<AnyNode<Standalone>>>,
}

/// The top directory of a mounted collection. Clones refer to the same one.
#[derive(Clone)]
pub struct RootDirectory(Arc<Root>);

impl RootDirectory {
    /// Mounts a collection as the root of `table`, which is empty. Its blocks are read through `keep`;
    /// `record` is asked for a newer version when block signatures have expired, and saves what is changed
    /// where `settings` say so.
    ///
    /// # Errors
    /// `EINVAL` where the collection has names that no file system can show.
    pub fn mount(
        tree: Tree,
        mtime: Timestamp,
        keep: Arc<KeepClient>,
        record: Option<Arc<dyn Record>>,
        settings: Settings,
        table: &Arc<Inodes<AnyNode<Standalone>>>,
    ) -> Outcome<Self> {
        if tree.has_odd_names() {
            return Err(Refusal::OddNames.into());
        }
        let state = Arc::new(NodeState::new(mtime));
        state.mtime.store(mtime);
        state.mark_stale(false);
        state.set_parent(Some(Ino::ROOT.0));
        let root = RootDirectory(Arc::new(Root {
            state: Arc::clone(&state),
            collection: OnceLock::new(),
            table: Arc::downgrade(table),
        }));
        table.add(&AnyNode::Host(root.clone()))?;
        let host = Standalone { keep, record, root: Arc::downgrade(&root.0) };
        let mounted = MountedCollection::mount(host, settings, state, Arc::new(tree), mtime, table);
        // Set once: this is where the directory is made.
        let _ = root.0.collection.set(mounted);
        Ok(root)
    }

    /// Shows another version; false where it has names that no file system can show.
    pub fn show(&self, tree: Tree, mtime: Timestamp) -> bool {
        self.show_since(tree, mtime, None).is_some()
    }

    /// Shows the newest version that its record has; answers whether it has one that can be shown.
    #[must_use]
    pub fn renewed(&self) -> bool {
        self.collection().is_some_and(|collection| collection.host.renew())
    }

    /// As [`MountedCollection::follow`]; None where it has names that no file system can show.
    fn show_since(&self, tree: Tree, mtime: Timestamp, since: Option<u64>) -> Option<bool> {
        let (collection, table) = (self.collection()?, self.0.table.upgrade()?);
        if tree.has_odd_names() {
            return None;
        }
        let shown = collection.follow(tree, mtime, since, &table);
        if shown {
            self.0.state.mtime.store(mtime);
        }
        Some(shown)
    }

    /// The collection.
    #[must_use]
    pub fn collection(&self) -> Option<&Arc<MountedCollection<Standalone>>> {
        self.0.collection.get()
    }

    fn mounted(&self) -> Outcome<&Arc<MountedCollection<Standalone>>> {
        self.collection().ok_or_else(|| Refusal::Lost.into())
    }
}

/// A change that nobody but the collection can make.
fn here(made: Outcome<Option<()>>) -> Outcome<()> {
    made?.ok_or_else(|| Refusal::ReadOnly.into())
}

impl Identity for RootDirectory {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(self.0.state.inode())
    }

    fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        self.0.state.set_inode(inode);
        Ok(())
    }

    fn parent_inode(&self) -> Outcome<Option<u64>> {
        Ok(self.0.state.parent())
    }

    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        self.0.state.set_parent(parent);
        Ok(())
    }

    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn is_dir(&self) -> bool {
        true
    }

    fn is_collection_file(&self) -> bool {
        false
    }

    fn uuid(&self) -> Outcome<Option<String>> {
        Ok(None)
    }

    fn cache_uuid(&self) -> Outcome<Option<String>> {
        Ok(None)
    }

    fn set_cache_uuid(&self, _uuid: Option<String>) -> Outcome<()> {
        Ok(())
    }
}

impl Attributes for RootDirectory {
    fn facts(&self, _may_write: bool) -> Outcome<Facts> {
        let state = &self.0.state;
        Ok(Facts {
            size: 0,
            atime: state.atime.load(),
            mtime: state.mtime.load(),
            nlink: 1,
            writable: self.writable()?,
            attr_timeout: state.time_to_next_poll(),
            entry_timeout: None,
        })
    }

    fn set_mtime(&self, mtime: Timestamp) -> Outcome<bool> {
        match self.collection().filter(|collection| collection.is_written_here()) {
            Some(collection) => here(collection.set_mtime(TOP, mtime)).map(|()| true),
            None => Ok(false),
        }
    }

    fn writable(&self) -> Outcome<bool> {
        Ok(self.collection().is_some_and(|collection| collection.is_written_here()))
    }

    fn time_to_next_poll(&self) -> Outcome<Duration> {
        Ok(self.0.state.time_to_next_poll())
    }
}

impl Freshness for RootDirectory {
    fn accessed(&self) -> Outcome<()> {
        self.0.state.atime.store(Timestamp::now());
        Ok(())
    }

    fn stale(&self) -> Outcome<bool> {
        Ok(false)
    }

    fn checkupdate(&self) -> Outcome<()> {
        Ok(())
    }
}

impl Counted for RootDirectory {
    fn inc_use(&self) -> Outcome<()> {
        self.0.state.add_use(1);
        Ok(())
    }

    fn dec_use(&self) -> Outcome<()> {
        self.0.state.add_use(-1);
        Ok(())
    }

    fn in_use(&self) -> Outcome<bool> {
        Ok(self.0.state.in_use() || self.collection().is_some_and(|c| c.in_use()))
    }

    fn inc_ref(&self) -> Outcome<()> {
        self.0.state.add_ref(1);
        Ok(())
    }

    fn dec_ref(&self, n: u64) -> Outcome<i64> {
        Ok(self.0.state.add_ref(-i64::try_from(n).unwrap_or(i64::MAX)))
    }

    fn has_ref(&self) -> Outcome<bool> {
        Ok(self.0.state.has_ref())
    }

    fn referenced_now(&self) -> bool {
        self.0.state.has_ref()
    }
}

impl Cacheable for RootDirectory {
    fn persisted(&self) -> Outcome<bool> {
        // It is the whole mount: there is nothing else to be evicted.
        Ok(false)
    }

    fn objsize(&self) -> Outcome<i64> {
        let bytes = self.collection().map_or(0, |collection| collection.memory());
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    fn cache_size(&self) -> Outcome<i64> {
        Ok(0)
    }

    fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        Ok(())
    }

    fn counted_as(&self) -> Outcome<Option<u64>> {
        self.inode()
    }

    fn kernel_invalidate(&self) -> Outcome<()> {
        Ok(())
    }

    fn finalize(&self) -> Outcome<()> {
        Ok(())
    }

    fn clear(&self) -> Outcome<()> {
        Ok(())
    }
}

impl FileNode<AnyNode<Standalone>> for RootDirectory {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        Err(Refusal::IsDirectory.into())
    }

    fn readfrom(&self, _offset: u64, _size: u32, _num_retries: u32) -> Outcome<ReadData> {
        Err(Refusal::IsDirectory.into())
    }

    fn flush(&self) -> Outcome<()> {
        self.collection().map_or(Ok(()), |collection| collection.saved().map(drop))
    }

    fn sync(&self) -> Outcome<()> {
        self.collection().map_or(Ok(()), |collection| collection.save().map(drop))
    }

    fn saving(&self, forced: bool) -> Outcome<Option<Arc<dyn Saving>>> {
        Ok(self.collection().and_then(|collection| collection.saving(forced)))
    }
}

impl DirectoryNode<AnyNode<Standalone>> for RootDirectory {
    fn child(&self, name: &str) -> Outcome<Option<AnyNode<Standalone>>> {
        Ok(self.mounted()?.top(name).map(AnyNode::Collection))
    }

    fn items(&self) -> Outcome<Box<dyn Listing<AnyNode<Standalone>>>> {
        Ok(self.mounted()?.top_listing())
    }

    fn create(&self, name: &str) -> Outcome<()> {
        here(self.mounted()?.create(TOP, name))
    }

    fn mkdir(&self, name: &str) -> Outcome<()> {
        here(self.mounted()?.mkdir(TOP, name))
    }

    fn unlink(&self, name: &str) -> Outcome<ToSave> {
        here(self.mounted()?.remove(TOP, name, false))?;
        self.flush().map(|()| None)
    }

    fn rmdir(&self, name: &str) -> Outcome<ToSave> {
        here(self.mounted()?.remove(TOP, name, true))?;
        self.flush().map(|()| None)
    }

    fn rename(
        &self,
        old: &str,
        new: &str,
        source: &AnyNode<Standalone>,
        mode: RenameMode,
    ) -> Outcome<ToSave> {
        let mounted = self.mounted()?;
        here(mounted.rename_from(source, old, (TOP, new), mode))?;
        self.flush().map(|()| None)
    }

    fn link(&self, name: &str, node: &AnyNode<Standalone>) -> Outcome<()> {
        self.mounted()?.link_node(node, (TOP, name))?;
        self.flush()
    }
}
