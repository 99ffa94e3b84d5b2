// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that move from one collection to another.
//!
//! What is moved is in the target, and saved there, before it leaves its source: whatever fails, and
//! whenever the mount ends, it is in one of them. It keeps its inode numbers, and who has it open goes on:
//! the inode table has the target answer for the numbers from then on, and a node that somebody has from before asks the table.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::draft::TOP;
use super::draft::names::Dentry;
use super::draft::subtree::{SetAside, Subtree};
use super::follow::Numbers;
use super::snapshot::Snapshot;
use super::{Host, MountedCollection};
use crate::fs::any_node::AnyNode;
use crate::fs::attr::Timestamp;
use crate::fs::errno::Refusal;
use crate::fs::flags::RenameMode;
use crate::fs::inodes::RangeOwner;
use crate::fs::node::Outcome;

/// How often a move is begun anew because what it led to is something else meanwhile.
const ATTEMPTS: u32 = 5;

/// What a name led to, and the version of the collection that it was in.
struct Taken {
    subtree: Subtree,
    changes: u64,
    snapshot: Arc<Snapshot>,
}

/// How a move ended.
enum Moved {
    /// It is in the target alone; whether (`true`) as something that is not saved there.
    Done(bool),
    /// One of the collections is not changed here any more.
    HandedOver,
    /// The name leads elsewhere than it did.
    Changed,
}

impl<H: Host> MountedCollection<H> {
    /// Moves a name from a directory of any collection that is changed here to one of this collection. None
    /// where it is not to be done here.
    ///
    /// # Errors
    /// As [`MountedCollection::rename_as`]; between collections `EXDEV` for files that have several names, and
    /// whatever saving either fails with.
    pub fn rename_from(
        self: &Arc<Self>,
        source: &AnyNode<H>,
        old: &str,
        to: Dentry<'_>,
        mode: RenameMode,
    ) -> Outcome<Option<()>> {
        if let Some(from) = self.directory(source) {
            return self.rename_as((from, old), to, mode);
        }
        let Some((collection, from)) = Self::changed_at(source)? else { return Ok(None) };
        if mode == RenameMode::Exchange || Arc::ptr_eq(&collection, self) {
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            match self.move_from(&collection, (from, old), to, mode)? {
                Moved::Done(is_unsaved) => {
                    if is_unsaved {
                        self.saved()?;
                    }
                    collection.saved()?;
                    return Ok(Some(()));
                }
                Moved::HandedOver => return Ok(None),
                Moved::Changed => {}
            }
        }
        Err(Refusal::Lost.into())
    }

    /// The collection that a directory is in, if that is changed here, and by which number it is known there.
    fn changed_at(node: &AnyNode<H>) -> Outcome<Option<(Arc<Self>, u64)>> {
        let found = match node {
            AnyNode::Host(node) => H::shown_by(node).map(|collection| (collection, TOP)),
            AnyNode::Collection(node) => Some((Arc::clone(node.collection()), node.ino())),
        };
        let Some((collection, dir)) = found else { return Ok(None) };
        Ok(collection.may_change_here()?.then_some((collection, dir)))
    }

    fn taken(&self, (dir, name): Dentry<'_>) -> Result<Taken, Refusal> {
        let state = self.state.read();
        let ino = state.find(dir, name).ok_or(Refusal::NotFound)?;
        Ok(Taken {
            subtree: state.subtree(ino)?,
            changes: self.changes(),
            snapshot: Arc::clone(&state.current),
        })
    }

    /// What a name leads to, with everything stored and its signatures valid.
    fn taken_stored(self: &Arc<Self>, dentry: Dentry<'_>) -> Outcome<Taken> {
        let taken = self.taken(dentry)?;
        if taken.subtree.expires_soon() {
            // The blocks show their newest signatures.
            let mut renewed = false;
            self.host.wait(&mut || renewed = self.host.renew());
            if !renewed {
                return Err(Refusal::Unwritable.into());
            }
        }
        if !taken.subtree.is_stored() {
            let mut stored = Ok(());
            self.host.wait(&mut || stored = self.store());
            stored?;
        }
        Ok(taken)
    }

    fn move_from(
        self: &Arc<Self>,
        source: &Arc<Self>,
        from: Dentry<'_>,
        to: Dentry<'_>,
        mode: RenameMode,
    ) -> Outcome<Moved> {
        let (taken, now) = (source.taken_stored(from)?, self.host.now()?);
        // For what is here and not yet this collection's, its source answers.
        self.gave_away.store(true, Ordering::Release);
        let adopted = self.change(|state| {
            self.may_name(to.0, to.1)?;
            let replace = mode == RenameMode::Replace;
            let (aside, uses) = state.adopt(to, &taken.subtree, replace, now)?;
            self.uses.fetch_sub(uses.into(), Ordering::AcqRel);
            Ok(aside)
        })?;
        let Some(mut aside) = adopted else { return Ok(Moved::HandedOver) };
        let moved = match self.save() {
            Ok(_) => self.let_in(source, from, to, &taken, &mut aside, now),
            Err(halt) => Err(halt),
        };
        if !matches!(moved, Ok(Moved::Done(_))) {
            self.take_back(to, &taken.subtree, aside, now);
        }
        moved
    }

    /// What is in both collections leaves its source; numbers, references and uses are this collection's.
    fn let_in(
        self: &Arc<Self>,
        source: &Arc<Self>,
        from: Dentry<'_>,
        to: Dentry<'_>,
        taken: &Taken,
        aside: &mut Option<SetAside>,
        now: Timestamp,
    ) -> Outcome<Moved> {
        let table = self.host.table().ok_or(Refusal::Lost)?;
        let owner: Arc<dyn RangeOwner<AnyNode<H>>> = Arc::new(Numbers(Arc::clone(self)));
        let mut moved = Ok(Moved::HandedOver);
        table.hand_over(&owner, || {
            let (mut theirs, mut ours) = (source.state.write(), self.state.write());
            if source.is_handed_over(&theirs) || self.is_handed_over(&ours) {
                return Vec::new();
            }
            let top = taken.subtree.top();
            if theirs.find(from.0, from.1) != Some(top) || ours.find(to.0, to.1) != Some(top) {
                moved = Ok(Moved::Changed);
                return Vec::new();
            }
            let mut latest = None;
            if source.changes() != taken.changes || !Arc::ptr_eq(&theirs.current, &taken.snapshot) {
                match theirs.subtree(top) {
                    Ok(now) if now.is_same(&taken.subtree) => {}
                    Ok(now) => {
                        ours.adopt_again(to, &taken.subtree, &now);
                        latest = Some(now);
                    }
                    Err(refusal) => {
                        moved = Err(refusal.into());
                        return Vec::new();
                    }
                }
            }
            if let Err(refusal) = theirs.lead(from.0, from.1, None, now) {
                moved = Err(refusal.into());
                return Vec::new();
            }
            moved = Ok(Moved::Done(latest.is_some()));
            let subtree = latest.as_ref().unwrap_or(&taken.subtree);
            let counted = theirs.disown(subtree.numbers());
            ours.arrived(subtree.numbers());
            let uses = ours.take_counts(&counted);
            source.uses.fetch_sub(uses, Ordering::AcqRel);
            self.uses.fetch_add(uses, Ordering::AcqRel);
            source.changes.fetch_add(1, Ordering::AcqRel);
            self.changes.fetch_add(u64::from(latest.is_some()), Ordering::AcqRel);
            source.gave_away.store(true, Ordering::Release);
            if let Some(aside) = aside.take() {
                ours.let_go(&aside);
            }
            subtree.numbers().collect()
        });
        if matches!(moved, Ok(Moved::Done(_))) {
            source.renamed(Some(true), &[from.0], now);
            self.renamed(Some(true), &[to.0], now);
        }
        moved
    }

    /// The target is as it was before.
    fn take_back(
        &self,
        to: Dentry<'_>,
        subtree: &Subtree,
        aside: Option<SetAside>,
        now: Timestamp,
    ) {
        let mut state = self.state.write();
        if self.is_superseded() {
            // What the layer above has by now is its own.
            return;
        }
        let uses = state.put_back(to, subtree, aside, now);
        // Were it saved after all, what is in it there has numbers of its own.
        state.attempt = None;
        self.uses.fetch_add(uses.into(), Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Who answers for a number that is not this collection's any more; None where nobody does.
    pub(super) fn answering_elsewhere(&self, ino: u64) -> Option<AnyNode<H>> {
        if self.is_superseded()
            && let Some(node) = self.host.successor(ino)
        {
            return Some(AnyNode::Host(node));
        }
        if !self.has_given_away() {
            return None;
        }
        match self.host.table()?.get(ino)? {
            AnyNode::Collection(node) if std::ptr::eq(Arc::as_ptr(node.collection()), self) => None,
            node => Some(node),
        }
    }
}
