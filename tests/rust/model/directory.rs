// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How directories of the layer above change: entries come, move and go; collections are loaded,
//! followed, superseded and dropped, as the Python directories do it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

use arvados_fuse::collection::{NodeId, Tree};
use arvados_fuse::fs::collection::save::{Refused, Taken};
use arvados_fuse::fs::collection::{Host, MountedCollection, Settings, Update};
use arvados_fuse::fs::inodes::Inodes;
use arvados_fuse::fs::node::{Counted, Identity, Outcome};
use arvados_fuse::fs::{Errno, Ino, Refusal, Timestamp};
use arvados_fuse::keep::KeepClient;

use super::blocks::{Version, keep};
use super::memory::{Inner, Kind, MemoryNode, Shows};
use super::world::{Entry, Event, World};

/// A mounted collection under test.
pub(crate) type Mounted = MountedCollection<MemoryHost>;

/// What a mounted collection needs of the directory that shows it.
pub(crate) struct MemoryHost {
    world: Arc<World>,
    directory: Weak<Inner>,
}

impl Host for MemoryHost {
    type Node = MemoryNode;

    fn save(&self, _update: &Update) -> Result<Taken, Refused> {
        Err(Refused::Failed(Refusal::ReadOnly.into()))
    }

    fn now(&self) -> Outcome<Timestamp> {
        self.world.upcall("now")?;
        Ok(self.world.now())
    }

    fn look(&self) -> Outcome<()> {
        self.world.upcall("look")
    }

    fn take_over(&self) -> Outcome<()> {
        self.world.upcall("take_over")?;
        self.directory.upgrade().map_or(Ok(()), |inner| MemoryNode(inner).take_over())
    }

    fn successor(&self, ino: u64) -> Option<MemoryNode> {
        match self.world.table().get(ino)? {
            Entry::Host(node) => Some(node),
            Entry::Collection(_) => None,
        }
    }

    fn table(&self) -> Option<Arc<Inodes<Entry>>> {
        Some(self.world.table())
    }

    fn shown_by(node: &MemoryNode) -> Option<Arc<Mounted>> {
        node.mounted()
    }

    fn keep(&self) -> Option<Arc<KeepClient>> {
        Some(keep())
    }

    fn store(&self) -> Arc<KeepClient> {
        keep()
    }

    fn renew(&self) -> bool {
        false
    }
}

/// Entries of a collection as objects, by path.
type Objects = BTreeMap<String, MemoryNode>;

/// Makes the object of a path and node, and says which number it is to have.
type Make<'m> = dyn Fn(&str, NodeId) -> (MemoryNode, Option<u64>) + 'm;

fn made(objects: Objects) -> Vec<(String, u64)> {
    objects.into_iter().map(|(path, node)| (path, node.0.key)).collect()
}

impl MemoryNode {
    /// Its inode number; none in or after its time in the table.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0.state.inode()
    }

    fn tell_kernel(&self, name: &str) {
        if let Some(ino) = self.number() {
            self.0.world.table().upcalls().invalidate_entry(Ino(ino), name.as_bytes());
        }
    }

    fn deleted(&self) -> Outcome<()> {
        self.0.world.table().delete(&Entry::Host(self.clone()))
    }

    /// Adds an entry; the number is a new one, unless it is given.
    pub(crate) fn add(&self, name: &str, node: &MemoryNode, number: Option<u64>) -> Outcome<()> {
        let directory = self.as_dir().ok_or(Errno::ENOTDIR)?;
        node.0.state.set_parent(self.number());
        let (table, entry) = (self.0.world.table(), Entry::Host(node.clone()));
        match number {
            Some(number) => table.add_as(number, &entry)?,
            None => table.add(&entry).map(drop)?,
        }
        directory.entries.insert(name, entry);
        Ok(())
    }

    /// Makes an entry, unless there is one.
    pub(crate) fn make(&self, name: &str, node: impl FnOnce() -> MemoryNode) -> Outcome<()> {
        self.0.world.change(|| {
            let directory = self.as_dir().ok_or(Errno::ENOTDIR)?;
            if directory.entries.contains(name) { Ok(()) } else { self.add(name, &node(), None) }
        })
    }

    /// Removes an entry; answers whether it was there.
    pub(crate) fn remove(&self, name: &str) -> Outcome<bool> {
        self.0.world.change(|| {
            let Some(directory) = self.as_dir() else { return Ok(false) };
            let Some(Entry::Host(node)) = directory.entries.get(name) else { return Ok(false) };
            node.deleted()?;
            directory.entries.remove(name);
            self.tell_kernel(name);
            Ok(true)
        })
    }

    /// Moves an entry, over what is there; answers whether it was there.
    pub(crate) fn move_to(&self, name: &str, target: &MemoryNode, new_name: &str) -> Outcome<bool> {
        self.0.world.change(|| {
            let (Some(from), Some(to)) = (self.as_dir(), target.as_dir()) else {
                return Ok(false);
            };
            let Some(Entry::Host(node)) = from.entries.get(name) else { return Ok(false) };
            if from
                .entries
                .get(name)
                .is_some_and(|node| to.entries.get(new_name).is_some_and(|there| there.same(&node)))
            {
                return Ok(true);
            }
            target.remove(new_name)?;
            node.set_parent_inode(target.number())?;
            from.entries.remove(name);
            to.entries.insert(new_name, Entry::Host(node));
            self.tell_kernel(name);
            target.tell_kernel(new_name);
            Ok(true)
        })
    }

    /// Loads what it shows, or the newest version of it, where it is stale.
    pub(crate) fn refresh(&self) -> Outcome<()> {
        if self.shows().is_none() || !self.0.state.is_stale() {
            return Ok(());
        }
        self.0.world.change(|| if self.0.state.is_stale() { self.show_newest() } else { Ok(()) })
    }

    /// Looks at what it contains, as it was while it was fresh: contents that are dropped or changed
    /// are marked stale before.
    pub(crate) fn while_fresh<T>(&self, look: impl Fn() -> T) -> Outcome<T> {
        loop {
            self.refresh()?;
            let seen = look();
            if self.shows().is_none() || !self.0.state.is_stale() {
                return Ok(seen);
            }
        }
    }

    /// Shows the newest version of its collection.
    pub(crate) fn show_newest(&self) -> Outcome<()> {
        self.shows().map_or(Ok(()), |shows| self.show_newest_of(shows).map(drop))
    }

    fn show_newest_of(&self, shows: &Shows) -> Outcome<Version> {
        self.0.world.change(|| {
            let version = self.0.world.truth.lock()[shows.collection].clone();
            self.show(shows, &version)?;
            self.counted_anew()?;
            self.0.state.mtime.store(Timestamp(version.mtime));
            self.0.state.mark_fresh(Timestamp(0));
            Ok(version)
        })
    }

    fn counted_anew(&self) -> Outcome<()> {
        self.0.world.table().cache().update(&Entry::Host(self.clone()))?;
        self.0.world.table().cap_cache();
        Ok(())
    }

    fn show(&self, shows: &Shows, version: &Version) -> Outcome<()> {
        let (table, dir) = (self.0.world.table(), self.0.key);
        let (tree, mtime) = (version.tree(), Timestamp(version.mtime));
        if shows.superseded.load(SeqCst) {
            let mut objects = Objects::new();
            self.follow_with_objects(version, &tree, NodeId::ROOT, &mut objects)?;
            let made = made(objects);
            self.0.world.tell(Event::Followed { dir, version: version.clone(), made });
        } else if let Some(mounted) = self.mounted() {
            mounted.follow(tree, mtime, None, &table);
            let version = version.clone();
            self.0.world.tell(Event::Followed { dir, version, made: Vec::new() });
        } else {
            let host =
                MemoryHost { world: Arc::clone(&self.0.world), directory: Arc::downgrade(&self.0) };
            let (settings, root) = (Settings::default(), Arc::clone(&self.0.state));
            let mounted = Mounted::mount(host, settings, root, Arc::new(tree), mtime, &table);
            self.0.world.mounted.lock().push(Arc::downgrade(&mounted));
            *shows.mounted.lock() = Some(mounted);
            self.0.world.tell(Event::Loaded { dir, version: version.clone() });
        }
        Ok(())
    }

    /// Objects take the place of what is served from the tree, under the same numbers.
    pub(crate) fn take_over(&self) -> Outcome<()> {
        self.0.world.change(|| {
            let (Some(shows), Some(_)) = (self.shows(), self.mounted()) else { return Ok(()) };
            // Both show the same version before the one takes the other's place.
            let version = self.show_newest_of(shows)?;
            let Some(mounted) = self.mounted() else { return Ok(()) };
            let table = self.0.world.table();
            let mut objects = Objects::new();
            let (snapshot, files) = (mounted.snapshot(), version.files());
            self.populate(snapshot.tree(), NodeId::ROOT, &mut objects, &|path, id| {
                let mtime = snapshot.mtime(id).0;
                let node = match files.get(path) {
                    Some(content) => MemoryNode::file(&self.0.world, content.clone(), mtime, true),
                    None => MemoryNode::directory(&self.0.world, mtime, true),
                };
                (node, Some(snapshot.ino(id)))
            })?;
            // From here on the objects are found, which are in the table; what is superseded has nothing.
            shows.superseded.store(true, SeqCst);
            *shows.mounted.lock() = None;
            for (ino, refs, uses) in mounted.supersede() {
                if let Some(Entry::Host(node)) = table.get(ino) {
                    node.0.state.add_ref(i64::from(refs));
                    node.0.state.add_use(i64::from(uses));
                }
            }
            mounted.forget_ranges(&table);
            self.0.world.tell(Event::TakenOver { dir: self.0.key, made: made(objects) });
            self.counted_anew()
        })
    }

    /// Makes an entry for everything in a directory of a tree.
    fn populate(
        &self,
        tree: &Tree,
        dir: NodeId,
        objects: &mut Objects,
        make: &Make<'_>,
    ) -> Outcome<()> {
        for id in tree.children(dir) {
            let path = tree.path(id);
            let (node, number) = make(&path, id);
            self.add(tree.name(id), &node, number)?;
            node.populate(tree, id, objects, make)?;
            objects.insert(path, node);
        }
        Ok(())
    }

    /// Follows to another version of the collection: what is as before stays.
    fn follow_with_objects(
        &self,
        version: &Version,
        tree: &Tree,
        dir: NodeId,
        objects: &mut Objects,
    ) -> Outcome<bool> {
        let Some(directory) = self.as_dir() else { return Ok(false) };
        let files = version.files();
        let mut changed = false;
        for (name, entry) in directory.entries.snapshot() {
            let stays = tree.child(dir, &name).is_some_and(|id| tree.is_dir(id) == entry.is_dir());
            if !stays {
                self.remove(&name)?;
                changed = true;
            }
        }
        for id in tree.children(dir) {
            let (path, name) = (tree.path(id), tree.name(id));
            let (table, mtime) = (self.0.world.table(), Timestamp(version.mtime));
            match (directory.entries.get(name), files.get(path.as_str())) {
                (Some(Entry::Host(node)), Some(newer)) => {
                    let Kind::File { content, .. } = &node.0.kind else { continue };
                    if std::mem::replace(&mut *content.lock(), newer.clone()) != *newer {
                        node.0.state.mtime.store(mtime);
                        table.invalidate(&Entry::Host(node.clone()))?;
                    }
                }
                (Some(Entry::Host(node)), None) => {
                    if node.follow_with_objects(version, tree, id, objects)? {
                        node.0.state.mtime.store(mtime);
                        table.invalidate(&Entry::Host(node.clone()))?;
                    }
                }
                _ => {
                    let make = |path: &str, _| {
                        let node = match files.get(path) {
                            Some(content) => MemoryNode::file(
                                &self.0.world,
                                content.clone(),
                                version.mtime,
                                true,
                            ),
                            None => MemoryNode::directory(&self.0.world, version.mtime, true),
                        };
                        (node, None)
                    };
                    let (node, _) = make(&path, id);
                    self.add(name, &node, None)?;
                    node.populate(tree, id, objects, &make)?;
                    objects.insert(path, node);
                    changed = true;
                }
            }
        }
        Ok(changed)
    }

    /// Drops what it contains; a collection is loaded again at the next access.
    pub(crate) fn drop_contents(&self) -> Outcome<()> {
        let Some(directory) = self.as_dir() else { return Ok(()) };
        self.0.world.change(|| {
            let table = self.0.world.table();
            // From here on whoever looks waits for the end of this; who looked before is counted.
            self.0.state.mark_stale(directory.shows.is_some());
            if let Some(mounted) = self.mounted() {
                if !mounted.unmount_unless_used(&table) {
                    return Ok(());
                }
            } else {
                std::sync::atomic::fence(SeqCst);
                if directory.shows.is_some() && (self.0.state.has_ref() || self.in_use()?) {
                    return Ok(());
                }
            }
            for (name, _) in directory.entries.snapshot() {
                self.remove(&name)?;
            }
            if let Some(shows) = &directory.shows {
                *shows.mounted.lock() = None;
                shows.superseded.store(false, SeqCst);
                self.counted_anew()?;
            }
            self.0.world.tell(Event::Cleared { dir: self.0.key });
            Ok(())
        })
    }
}
