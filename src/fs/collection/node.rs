// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A file or directory of a mounted collection, as an inode entry.
//!
//! Everything but a change is answered here, for as long as the layer above does not want to be
//! asked. Where it does, or where something is to be changed, entries of the layer above supersede
//! these, under the same inode numbers, and every question is propagated to them.

use std::sync::Arc;
use std::time::Duration;

use super::draft::TOP;
use super::reader::FileReader;
use super::snapshot::Snapshot;
use super::{Drafted, Host, MountedCollection, Resolved, add};
use crate::collection::NodeId;
use crate::fs::any_node::AnyNode;
use crate::fs::attr::Timestamp;
use crate::fs::errno::Refusal;
use crate::fs::flags::{Allocation, Position, RenameMode, Seek};
use crate::fs::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Identity, Listing,
    Outcome, Reader, Saving, ToSave, Truncated, Written,
};
use crate::fs::read_data::ReadData;

/// A file or directory in a mounted collection. Clones refer to the same one.
pub struct CollectionNode<H> {
    collection: Arc<MountedCollection<H>>,
    ino: u64,
    dir: bool,
}

impl<H> Clone for CollectionNode<H> {
    fn clone(&self) -> Self {
        CollectionNode { collection: Arc::clone(&self.collection), ino: self.ino, dir: self.dir }
    }
}

/// Who answers for the entry.
enum Answering<U> {
    /// We do, from this version.
    Here(Arc<Snapshot>, NodeId),
    /// We do: it was made or changed here.
    Draft(Drafted),
    /// What took its place.
    Successor(U),
}

use Answering::{Draft, Here, Successor};

impl<H: Host> CollectionNode<H> {
    pub(super) fn new(collection: Arc<MountedCollection<H>>, ino: u64, dir: bool) -> Self {
        CollectionNode { collection, ino, dir }
    }

    /// Inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The collection that it is in.
    #[must_use]
    pub fn collection(&self) -> &Arc<MountedCollection<H>> {
        &self.collection
    }

    /// Where it is to be found at present.
    #[must_use]
    pub fn resolve(&self) -> Resolved<H> {
        let state = self.collection.state.read();
        if let Some(orphan) = state.orphans.get(&self.ino) {
            return Resolved::Here(Arc::clone(&orphan.snapshot), orphan.id);
        }
        if !state.arriving.contains(&self.ino) {
            if let Some(drafted) = state.drafted(self.ino) {
                return Resolved::Draft(drafted);
            }
            if let Some(id) = state.in_snapshot(self.ino) {
                return Resolved::Here(Arc::clone(&state.current), id);
            }
        }
        drop(state);
        let elsewhere = self.collection.answering_elsewhere(self.ino);
        elsewhere.map_or(Resolved::Gone, Resolved::Successor)
    }

    /// Inode number of the directory that it is in; none once it left the collection.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        let state = self.collection.state.read();
        if state.orphans.contains_key(&self.ino) {
            return None;
        }
        match state.dir_of(self.ino)? {
            TOP => self.collection.root().inode(),
            dir => Some(dir),
        }
    }

    /// Adds to the kernel's references; answers how many there are then. None where it was
    /// superseded or is gone.
    #[allow(clippy::must_use_candidate, reason = "it is called to count")]
    pub fn add_ref(&self, n: i64) -> Option<i64> {
        let state = self.collection.state.read();
        state.counts_of(self.ino).map(|counts| add(&counts.refs, n))
    }

    /// Adds to the uses from inside; answers how many there are then. None as above.
    #[allow(clippy::must_use_candidate, reason = "it is called to count")]
    pub fn add_use(&self, n: i64) -> Option<i64> {
        let state = self.collection.state.read();
        let uses = state.counts_of(self.ino).map(|counts| add(&counts.uses, n))?;
        if !state.has_left(self.ino) {
            self.collection.uses.fetch_add(n, std::sync::atomic::Ordering::AcqRel);
        }
        Some(uses)
    }

    /// How many references the kernel has. None as above.
    #[must_use]
    pub fn refs(&self) -> Option<u32> {
        let state = self.collection.state.read();
        let refs = |counts: &super::Counts| counts.refs.load(std::sync::atomic::Ordering::Acquire);
        state.counts_of(self.ino).map(refs)
    }

    /// How many uses there are from inside. None as above.
    #[must_use]
    pub fn uses(&self) -> Option<u32> {
        let state = self.collection.state.read();
        let uses = |counts: &super::Counts| counts.uses.load(std::sync::atomic::Ordering::Acquire);
        state.counts_of(self.ino).map(uses)
    }

    /// An orphan that nobody has any more is forgotten.
    pub fn forget(&self) {
        self.collection.state.write().forget(self.ino);
        self.collection.buffer.changed();
    }

    /// Who answers, after a look at whether the layer above wants to.
    fn answering(&self) -> Outcome<Answering<AnyNode<H>>> {
        self.collection.host.look()?;
        match self.resolve() {
            Resolved::Here(snapshot, id) => Ok(Here(snapshot, id)),
            Resolved::Draft(drafted) => Ok(Draft(drafted)),
            Resolved::Successor(node) => Ok(Successor(node)),
            Resolved::Gone => Err(Refusal::NotFound.into()),
        }
    }

    /// The entry of the layer above; it takes over where it has not yet.
    fn taken_over(&self) -> Outcome<AnyNode<H>> {
        if let Successor(node) = self.answering()? {
            return Ok(node);
        }
        self.collection.host.take_over()?;
        match self.resolve() {
            Resolved::Successor(node) => Ok(node),
            // It left the collection: there is nothing that could be changed.
            _ => Err(Refusal::Lost.into()),
        }
    }

    /// Who makes a change that the collection did not make: it itself where what was on its way to it has arrived
    /// meanwhile.
    pub(super) fn changed_by(&self) -> Outcome<AnyNode<H>> {
        let given_away = self.collection.has_given_away() && self.is_changed_here()?;
        let arrived = given_away
            && !self.collection.is_handed_over(&self.collection.state.read())
            && matches!(self.resolve(), Resolved::Draft(_) | Resolved::Here(..));
        if arrived { Ok(AnyNode::Collection(self.clone())) } else { self.taken_over() }
    }

    /// For how long the collection still counts as fresh.
    fn fresh_for(&self) -> Outcome<Duration> {
        let root = self.collection.root();
        if root.marked_stale() {
            return Ok(Duration::ZERO);
        }
        Ok(root.fresh_for(self.collection.host.now()?))
    }

    /// What is to be saved before a change of the collection is told as made.
    fn changed(&self) -> Outcome<ToSave> {
        match self.collection.saving(false) {
            Some(saving) => Ok(Some(saving)),
            None => self.saved().map(|()| None),
        }
    }

    /// Saves what was changed in the collection, or has it saved later.
    fn saved(&self) -> Outcome<()> {
        self.saved_by(MountedCollection::saved)
    }

    fn saved_by(&self, save: fn(&Arc<MountedCollection<H>>) -> Outcome<bool>) -> Outcome<()> {
        if save(&self.collection)? {
            return Ok(());
        }
        match self.superseded() {
            Some(node) => node.flush(),
            // It is about to be.
            None if self.collection.is_written_here() => self.taken_over()?.flush(),
            None => Ok(()),
        }
    }

    /// What took its place, if anything did. Asks nobody.
    fn superseded(&self) -> Option<AnyNode<H>> {
        if !self.collection.is_superseded() && !self.collection.has_given_away() {
            return None;
        }
        match self.resolve() {
            Resolved::Successor(node) => Some(node),
            _ => None,
        }
    }
}

impl<H: Host> Identity for CollectionNode<H> {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.ino))
    }

    fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        if let Some(node) = self.superseded() {
            node.set_inode(inode)
        } else {
            if inode.is_none() {
                self.forget();
            }
            Ok(())
        }
    }

    fn parent_inode(&self) -> Outcome<Option<u64>> {
        self.superseded().map_or_else(|| Ok(self.parent()), |node| node.parent_inode())
    }

    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        // Where it is, the tree says.
        self.superseded().map_or(Ok(()), |node| node.set_parent_inode(parent))
    }

    fn same(&self, other: &Self) -> bool {
        self.ino == other.ino && Arc::ptr_eq(&self.collection, &other.collection)
    }

    fn is_dir(&self) -> bool {
        self.dir
    }

    fn is_collection_file(&self) -> bool {
        !self.dir
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

impl<H: Host> Attributes for CollectionNode<H> {
    fn facts(&self, may_write: bool) -> Outcome<Facts> {
        let (size, mtime, nlink) = match self.answering()? {
            Here(snapshot, id) => (snapshot.tree().size(id), snapshot.mtime(id), 1),
            Draft(Drafted::File(file)) => (file.size(), file.mtime.load(), file.links()),
            Draft(Drafted::Dir(mtime)) => (0, mtime, 1),
            Successor(node) => return node.facts(may_write),
        };
        let fresh_for = self.fresh_for()?;
        Ok(Facts {
            size,
            atime: self.collection.atime.load(),
            mtime,
            nlink,
            writable: may_write && self.collection.is_writable(),
            attr_timeout: fresh_for,
            entry_timeout: Some(fresh_for),
        })
    }

    fn set_mtime(&self, mtime: Timestamp) -> Outcome<bool> {
        if let Some(node) = self.superseded() {
            return node.set_mtime(mtime);
        }
        if let Some(collection) = self.writing()? {
            return match collection.set_mtime(self.ino, mtime)? {
                Some(()) => Ok(true),
                None => self.changed_by()?.set_mtime(mtime),
            };
        }
        self.superseded().map_or(Ok(false), |node| node.set_mtime(mtime))
    }

    fn writable(&self) -> Outcome<bool> {
        match self.answering()? {
            Here(..) | Draft(_) => Ok(self.collection.is_writable()),
            Successor(node) => node.writable(),
        }
    }

    fn time_to_next_poll(&self) -> Outcome<Duration> {
        match self.answering()? {
            // For as long as the collection counts as fresh.
            Here(..) | Draft(_) => self.fresh_for(),
            Successor(node) => node.time_to_next_poll(),
        }
    }

    fn allow_dirent_cache(&self) -> Outcome<bool> {
        match self.answering()? {
            Here(..) | Draft(_) => Ok(true),
            Successor(node) => node.allow_dirent_cache(),
        }
    }
}

impl<H: Host> Freshness for CollectionNode<H> {
    fn accessed(&self) -> Outcome<()> {
        if let Some(node) = self.superseded() {
            node.accessed()
        } else {
            self.collection.atime.store(self.collection.host.now()?);
            Ok(())
        }
    }

    fn stale(&self) -> Outcome<bool> {
        self.superseded().map_or(Ok(false), |node| node.stale())
    }

    fn checkupdate(&self) -> Outcome<()> {
        self.superseded().map_or(Ok(()), |node| node.checkupdate())
    }

    fn refreshed_with(&self) -> Outcome<Option<u64>> {
        match self.superseded() {
            Some(node) => node.refreshed_with(),
            // What left the collection stays as it is.
            None => Ok(self.parent().and(self.collection.root().inode())),
        }
    }
}

impl<H: Host> Counted for CollectionNode<H> {
    fn inc_use(&self) -> Outcome<()> {
        match self.add_use(1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |node| node.inc_use()),
        }
    }

    fn dec_use(&self) -> Outcome<()> {
        match self.add_use(-1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |node| node.dec_use()),
        }
    }

    fn in_use(&self) -> Outcome<bool> {
        match self.uses() {
            Some(uses) => Ok(uses > 0),
            None => self.superseded().map_or(Ok(false), |node| node.in_use()),
        }
    }

    fn inc_ref(&self) -> Outcome<()> {
        match self.add_ref(1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |node| node.inc_ref()),
        }
    }

    fn dec_ref(&self, n: u64) -> Outcome<i64> {
        let count = i64::try_from(n).unwrap_or(i64::MAX);
        match self.add_ref(-count) {
            Some(refs) => Ok(refs),
            None => self.superseded().map_or(Ok(0), |node| node.dec_ref(n)),
        }
    }

    fn has_ref(&self) -> Outcome<bool> {
        match self.refs() {
            Some(refs) => Ok(refs > 0),
            None => self.superseded().map_or(Ok(false), |node| node.has_ref()),
        }
    }

    fn referenced_now(&self) -> bool {
        // What took its place is for the table to ask, whose lock is held.
        self.refs().is_some_and(|refs| refs > 0)
    }
}

impl<H: Host> Cacheable for CollectionNode<H> {
    fn persisted(&self) -> Outcome<bool> {
        // The whole collection is counted at its root.
        Ok(false)
    }

    fn objsize(&self) -> Outcome<i64> {
        Ok(0)
    }

    fn cache_size(&self) -> Outcome<i64> {
        Ok(0)
    }

    fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        Ok(())
    }

    fn counted_as(&self) -> Outcome<Option<u64>> {
        self.superseded().map_or_else(|| Ok(self.collection.root().inode()), |node| node.inode())
    }

    fn kernel_invalidate(&self) -> Outcome<()> {
        self.superseded().map_or(Ok(()), |node| node.kernel_invalidate())
    }

    fn finalize(&self) -> Outcome<()> {
        self.superseded().map_or(Ok(()), |node| node.finalize())
    }

    fn clear(&self) -> Outcome<()> {
        self.superseded().map_or(Ok(()), |node| node.clear())
    }
}

impl<H: Host> FileNode<AnyNode<H>> for CollectionNode<H> {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        if let Successor(node) = self.answering()? {
            return node.reader();
        }
        match self.collection.host.keep() {
            Some(client) => Ok(Some(Box::new(FileReader::new(self.clone(), client)))),
            None => self.taken_over()?.reader(),
        }
    }

    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<ReadData> {
        self.taken_over()?.readfrom(offset, size, num_retries)
    }

    fn writeto(&self, at: Position, data: &[u8], num_retries: u32) -> Outcome<Written> {
        if self.is_changed_here()?
            && let Some(written) = self.collection.write(self.ino, at, data)?
        {
            return Ok(written);
        }
        self.changed_by()?.writeto(at, data, num_retries)
    }

    fn truncate(&self, size: u64) -> Outcome<Truncated> {
        if self.is_changed_here()?
            && let Some(truncated) = self.collection.truncate(self.ino, size)?
        {
            // By a path, without a descriptor that would be closed.
            self.collection.save_unasked();
            return Ok(truncated);
        }
        self.changed_by()?.truncate(size)
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Outcome<()> {
        match self.superseded() {
            Some(node) => node.allocate(offset, len, how),
            None => self.allocate_here(offset, len, how),
        }
    }

    fn seek(&self, offset: u64, what: Seek) -> Outcome<Option<u64>> {
        match self.answering()? {
            Draft(Drafted::File(file)) => Ok(Some(file.seek(offset, what)?)),
            Here(..) | Draft(_) => Ok(None),
            Successor(node) => node.seek(offset, what),
        }
    }

    fn copy_range(&self, to: u64, source: &AnyNode<H>, from: u64, len: u64) -> Outcome<u64> {
        match self.superseded() {
            Some(node) => node.copy_range(to, source, from, len),
            None => self.copy_here(to, source, from, len),
        }
    }

    fn sync(&self) -> Outcome<()> {
        if let Some(node) = self.superseded() {
            return node.sync();
        }
        self.saved_by(MountedCollection::save)
    }

    fn saving(&self, forced: bool) -> Outcome<Option<Arc<dyn Saving>>> {
        if let Some(node) = self.superseded() {
            return node.saving(forced);
        }
        let Some(collection) = self.writing()? else { return Ok(None) };
        Ok(collection.saving(forced))
    }

    fn saves_nothing(&self) -> bool {
        match self.superseded() {
            Some(node) => node.saves_nothing(),
            None => self.collection.is_scratch(),
        }
    }

    fn flush(&self) -> Outcome<()> {
        if self.collection.state.read().has_left(self.ino) {
            // Nobody will see it again.
            return Ok(());
        }
        if let Some(node) = self.superseded() {
            return node.flush();
        }
        self.saved()
    }
}

impl<H: Host> DirectoryNode<AnyNode<H>> for CollectionNode<H> {
    fn child(&self, name: &str) -> Outcome<Option<AnyNode<H>>> {
        match self.answering()? {
            Here(snapshot, id) => {
                let found = self.collection.child(&snapshot, id, name);
                Ok(found.map(AnyNode::Collection))
            }
            Draft(_) => Ok(self.collection.child_of(self.ino, name).map(AnyNode::Collection)),
            Successor(node) => node.child(name),
        }
    }

    fn items(&self) -> Outcome<Box<dyn Listing<AnyNode<H>>>> {
        match self.answering()? {
            Here(snapshot, id) => Ok(self.collection.listing(snapshot, id)),
            Draft(_) => Ok(self.collection.draft_listing(self.ino)),
            Successor(node) => node.items(),
        }
    }

    fn create(&self, name: &str) -> Outcome<()> {
        if let Some(collection) = self.writing()?
            && let Some(()) = collection.create(self.ino, name)?
        {
            return Ok(());
        }
        self.taken_over()?.create(name)
    }

    fn mkdir(&self, name: &str) -> Outcome<()> {
        if let Some(collection) = self.writing()?
            && let Some(()) = collection.mkdir(self.ino, name)?
        {
            return Ok(());
        }
        self.taken_over()?.mkdir(name)
    }

    fn unlink(&self, name: &str) -> Outcome<ToSave> {
        if let Some(collection) = self.writing()?
            && let Some(()) = collection.remove(self.ino, name, false)?
        {
            return self.changed();
        }
        self.taken_over()?.unlink(name)
    }

    fn rmdir(&self, name: &str) -> Outcome<ToSave> {
        if let Some(collection) = self.writing()?
            && let Some(()) = collection.remove(self.ino, name, true)?
        {
            return self.changed();
        }
        self.taken_over()?.rmdir(name)
    }

    fn rename(
        &self,
        old: &str,
        new: &str,
        source: &AnyNode<H>,
        mode: RenameMode,
    ) -> Outcome<ToSave> {
        if let Some(collection) = self.writing()?
            && let Some(()) = collection.rename_from(source, old, (self.ino, new), mode)?
        {
            return self.changed();
        }
        // Nothing that could take over exchanges names.
        if mode == RenameMode::Exchange {
            return Err(Refusal::NoExchange.into());
        }
        self.taken_over()?.rename(old, new, source, mode)
    }

    fn link(&self, name: &str, node: &AnyNode<H>) -> Outcome<()> {
        self.link_here(name, node)?;
        self.saved()
    }
}
