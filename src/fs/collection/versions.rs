// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! From what was saved to the version that it is.
//!
//! That takes as long as the collection is large. So a small change of a large one is only noted as saved
//! ([`Unversioned`]): the draft goes on over the version before, and the next save is compared with what was noted. A
//! version is made of it before anything has to do with another version, and after a while.

use std::sync::Arc;
use std::time::Duration;

use super::capture::Captured;
use super::draft::View;
use super::{Host, MountedCollection, State, Written};
use crate::collection::{Tree, diff};
use crate::fs::errno::{Errno, Refusal};
use crate::fs::savers;
use crate::report::{phrases, report};

/// After how long a version is made of what is saved: block signatures in it get no older.
const SETTLED: Duration = Duration::from_secs(30);

/// What is saved, where no version was made of it.
pub(super) struct Unversioned {
    pub captured: Arc<Captured>,
    /// Makes its manifest.
    pub whole: Written,
}

impl Unversioned {
    pub(super) fn view(&self) -> View<'_> {
        self.captured.view()
    }

    /// Memory that it takes, in bytes, about.
    pub(super) fn memory(&self) -> usize {
        self.captured.memory()
    }
}

/// What was sent, and nobody knows whether it was taken: the next version tells.
pub(super) struct Attempt {
    pub captured: Arc<Captured>,
    /// Makes its manifest.
    pub whole: Written,
    /// For further names of files.
    pub numbers: Vec<u64>,
}

impl Attempt {
    /// Whether that version is what was sent.
    pub(super) fn is(&self, tree: &Tree) -> bool {
        parsed(&self.whole).is_ok_and(|sent| diff(&sent, tree).is_empty())
    }

    /// The draft becomes one over what was sent, which is this version.
    pub(super) fn saved(self, state: &mut State, tree: Arc<Tree>) -> bool {
        state.become_version(&self.captured, tree, self.numbers)
    }
}

/// The version of a manifest that was made here.
pub(super) fn parsed(whole: &Written) -> Result<Arc<Tree>, Errno> {
    Tree::parse(&whole()?).map(Arc::new).map_err(|error| {
        report(log::Level::Error, &format!("{}: {error}", phrases::UNHANDLED));
        Refusal::Unwritable.errno()
    })
}

impl State {
    /// What was captured is `tree`, which is the version now. Answers false where it is not.
    pub(super) fn become_version(
        &mut self,
        captured: &Captured,
        tree: Arc<Tree>,
        numbers: Vec<u64>,
    ) -> bool {
        let snapshot = captured.snapshot(tree, numbers);
        let is_saved = snapshot.is_some();
        if let Some(snapshot) = snapshot {
            self.saved = None;
            self.rebase(snapshot, &captured.edits(), |_, _| false);
        }
        is_saved
    }

    /// What is saved is that version. Answers false where something else was saved meanwhile.
    fn settle(&mut self, saved: &Arc<Unversioned>, version: Result<Arc<Tree>, Errno>) -> bool {
        if !self.saved.as_ref().is_some_and(|now| Arc::ptr_eq(now, saved)) {
            return false;
        }
        // What has further names is no small part.
        if !version.is_ok_and(|tree| self.become_version(&saved.captured, tree, Vec::new())) {
            log::error!("what was saved is not what its manifest says");
            self.saved = None;
        }
        self.note_saving();
        true
    }

    /// Says whether what is gone has to be told from what never was.
    pub(super) fn note_saving(&mut self) {
        self.draft.saving = self.attempt.is_some() || self.saved.is_some();
    }
}

impl<H: Host> MountedCollection<H> {
    /// Has a version made of what is saved after a while: what it refers to gets no older than that.
    pub(super) fn settle_later(self: &Arc<Self>) {
        let collection = Arc::downgrade(self);
        savers::run_after(
            SETTLED,
            Box::new(move || {
                let Some(collection) = collection.upgrade() else { return };
                if !collection.settle(false) {
                    collection.settle_later();
                }
            }),
        );
    }

    /// Makes a version of what is saved, where that is not the version. Waits for a save that is under way, or
    /// (not `patient`) answers false.
    pub(super) fn settle(&self, patient: bool) -> bool {
        loop {
            let Some(saved) = self.state.read().saved.clone() else { return true };
            let made = parsed(&saved.whole);
            match self.between_saves(patient, || self.state.write().settle(&saved, made)) {
                Some(false) => {}
                settled => return settled.is_some(),
            }
        }
    }

    /// The same for whoever keeps saves from beginning.
    pub(super) fn settle_between_saves(&self) {
        let saved = self.state.read().saved.clone();
        if let Some(saved) = saved {
            let version = parsed(&saved.whole);
            self.state.write().settle(&saved, version);
        }
    }
}
