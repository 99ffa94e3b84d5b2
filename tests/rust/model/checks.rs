// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What has to hold after each operation, whatever it was: all that is counted, and what the kernel still
//! believes; and that nothing is left over at the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use arvados_fuse::fs::node::Identity;

use super::generators::GIVEN;
use super::harness::{COLLECTIONS, Harness, counts, equal, wrong};
use super::reference::{ROOT, Served};
use super::world::Entry;

impl Harness {
    /// Everything that was put off is done; then all that is counted has to be right.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.mount.drain();
        self.follow_events()?;
        self.reference.sweep();
        let notices = std::mem::take(&mut *self.mount.world.notices.lock());
        notices.iter().for_each(|notice| self.kernel.told(notice));
        equal("reports", std::mem::take(&mut *self.mount.world.reports.lock()), Vec::new())?;
        self.kernel.check(&self.reference)?;
        self.check_counts()?;
        self.check_cache()
    }

    fn check_counts(&self) -> Result<(), String> {
        let table = &self.mount.table;
        let there = self.reference.objects.iter().filter(|object| !object.gone).count();
        let numbers = table.numbers();
        for ino in &numbers {
            let entry = table.get(*ino).ok_or_else(|| format!("{ino} is listed, not found"))?;
            let is = counts(&entry);
            match self.reference.of_ino(*ino).map(|id| &self.reference.objects[id]) {
                Some(object) => {
                    equal(&format!("inode {ino} is gone"), object.gone, false)?;
                    let right =
                        (i64::try_from(object.refs).unwrap(), i64::try_from(object.uses).unwrap());
                    equal(&format!("references and uses of inode {ino}"), is, right)?;
                }
                None => equal(&format!("references of inode {ino}"), is.0, 0)?,
            }
        }
        equal("entries in the table", numbers.len(), there)?;
        let mut open: Vec<u64> = self.handles.iter().map(|handle| handle.fh.0).collect();
        open.sort_unstable();
        equal("handles", self.mount.served.handles.numbers(), open)
    }

    fn check_cache(&self) -> Result<(), String> {
        let cache = self.mount.table.cache();
        let counted = |ino: &u64| cache.counted(*ino).unwrap_or(0);
        equal("total", cache.total(), cache.inodes().iter().map(counted).sum())?;
        let objects = &self.reference.objects;
        for collection in 0..usize::from(COLLECTIONS) {
            let found = self.mount.table.find_by_uuid(&format!("collection {collection}"));
            let showing = (objects.iter())
                .filter(|object| !object.gone)
                .filter(|object| object.shows.is_some_and(|(shown, _)| shown == collection));
            equal("found by uuid", found.len(), showing.count())?;
        }
        let loaded = (objects.iter())
            .filter(|object| object.shows.is_some_and(|(_, served)| served != Served::Unloaded))
            .filter_map(|object| object.ino);
        let cached: BTreeSet<u64> = cache.inodes().into_iter().collect();
        for ino in loaded {
            equal(&format!("inode {ino} is cached"), cached.contains(&ino), true)?;
        }
        Ok(())
    }

    /// The kernel lets go of everything, and the layer above removes everything.
    pub(super) fn finish(mut self) -> Result<(), String> {
        while let Some(handle) = self.handles.pop() {
            self.release(&handle)?;
            self.settle()?;
        }
        for id in self.known(|_, id| id != ROOT) {
            self.forget(id, self.reference.objects[id].refs);
            self.settle()?;
        }
        self.forget(ROOT, self.reference.objects[ROOT].refs - 1);
        self.evict()?;
        self.settle()?;
        equal("bytes in the cache", self.mount.table.cache().total(), 0)?;
        for name in GIVEN {
            self.mount.root.remove(name).map_err(|halt| format!("{halt:?}"))?;
            self.reference.remove(ROOT, name);
            self.settle()?;
        }
        equal("what is left", self.mount.table.numbers(), vec![1])?;
        equal("what is counted", counts(&Entry::Host(self.mount.root.clone())), (1, 0))?;
        // A read that was just answered may still be on its way out of the Keep client's thread.
        // Once that was waited for in vain, it is not waited for as long while the failure shrinks.
        static LATE: AtomicBool = AtomicBool::new(false);
        let millis = if LATE.load(SeqCst) { 200 } else { 30_000 };
        let patience = Instant::now() + Duration::from_millis(millis);
        let mounted = std::mem::take(&mut *self.mount.world.mounted.lock());
        while mounted.iter().any(|mounted| mounted.strong_count() > 0) {
            if Instant::now() > patience {
                LATE.store(true, SeqCst);
                return wrong("a collection in memory", "left", "none");
            }
            std::thread::yield_now();
        }
        equal("entries in the cache", self.mount.table.cache().len(), 0)?;
        let inode = Entry::Host(self.mount.root).inode();
        equal("the root's number", inode.ok().flatten(), Some(1))
    }
}
