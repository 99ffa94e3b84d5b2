// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Saving a collection: one save at a time, which takes all that was changed until it begins. What is
//! changed meanwhile is in the next one, for all who wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLockWriteGuard};

use super::capture::{Captured, Update};
use super::reader::expires_soon;
use super::replacements::Replacements;
use super::{Host, MountedCollection, State};
use crate::collection::{Tree, diff};
use crate::fs::errno::{Errno, Refusal};
use crate::fs::node::{Halt, Outcome, Saved, Saving};
use crate::fs::savers;
use crate::report::{phrases, report};

/// How often a save is made anew that the server does not take as it is. Where others save as often as
/// they can, all but one have to look again each time.
const ATTEMPTS: u32 = 100;

/// Why a server did not take an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The collection is not what the update is for: to be made anew for its newest version.
    Outdated,
    /// Anything else, which the log says.
    Failed(Errno),
}

/// What a server made of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The portable data hash that the collection has now.
    pub hash: String,
    /// Somebody else changed it at the same moment.
    pub contested: bool,
}

/// After how long what nobody waits for is saved, where closing a file saves it; and what could not be
/// saved is tried again, where nobody asks before.
const UNASKED: Duration = Duration::from_secs(5);
/// After how long it is tried once more, time after time.
const AGAIN: Duration = Duration::from_secs(30);

/// In milliseconds; 0: closing a file saves it.
static SAVE_AFTER: AtomicU64 = AtomicU64::new(0);

/// Has closing a file return at once, in the whole process, and what was changed saved after so long. Zero:
/// closing saves.
pub fn set_save_after(delay: Duration) {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    SAVE_AFTER.store(millis, Ordering::Relaxed);
}

fn save_after() -> Option<Duration> {
    match SAVE_AFTER.load(Ordering::Relaxed) {
        0 => None,
        millis => Some(Duration::from_millis(millis)),
    }
}

#[derive(Default)]
struct Progress {
    /// How many of the changes are saved.
    saved: u64,
    /// How many saves began, and how many of them ended.
    begun: u64,
    ended: u64,
    /// A thread is at it.
    under_way: bool,
    /// When it will be saved by itself.
    due: Option<Instant>,
    /// The last one did not save.
    failed: bool,
    /// Who waits, and for how many changes.
    waiting: Vec<(u64, Saved)>,
}

/// What is saved, and who waits for more. Its lock comes before the state's.
#[derive(Default)]
pub(super) struct Saves {
    progress: Mutex<Progress>,
    ended: Condvar,
}

/// A save that has begun.
struct Begun {
    captured: Captured,
    replacements: Replacements,
}

/// What was sent, and whether it was taken: then, whether it is all that the collection is now.
struct Sent {
    tree: Arc<Tree>,
    taken: Result<bool, Refused>,
}

/// What was sent, and nobody knows whether it was taken: the next version tells.
pub(super) struct Attempt {
    captured: Captured,
    tree: Arc<Tree>,
    /// For further names of files.
    numbers: Vec<u64>,
}

impl Attempt {
    /// Whether that version is what was sent.
    pub(super) fn is(&self, tree: &Tree) -> bool {
        diff(&self.tree, tree).is_empty()
    }

    /// The draft becomes one over what was sent, which is this version.
    pub(super) fn saved(self, state: &mut State, tree: Arc<Tree>) -> bool {
        let snapshot = self.captured.snapshot(tree, self.numbers);
        let is_saved = snapshot.is_some();
        if let Some(snapshot) = snapshot {
            state.rebase(snapshot, &self.captured.edits(), |_, _| false);
        }
        is_saved
    }
}

impl<H: Host> MountedCollection<H> {
    /// Whether it has a record that is saved.
    fn is_saved_here(&self) -> bool {
        self.settings.saved && self.is_written_here()
    }

    /// Saves what was changed until now, and tells when it is. Takes none of the caller's time.
    pub fn save_soon(self: &Arc<Self>, then: Saved) {
        if !self.settings.saved {
            return then(Ok(true));
        }
        let wanted = self.changes();
        let mut progress = self.saves.progress.lock();
        if progress.saved >= wanted {
            drop(progress);
            return then(Ok(!self.is_superseded()));
        }
        progress.waiting.push((wanted, then));
        if !std::mem::replace(&mut progress.under_way, true) {
            let collection = Arc::clone(self);
            savers::run(Box::new(move || collection.save_all()));
        }
    }

    /// Has what was changed saved after a while, if nobody asks before.
    pub(super) fn save_unasked(self: &Arc<Self>) {
        self.save_later(save_after().unwrap_or(UNASKED));
    }

    fn save_later(self: &Arc<Self>, delay: Duration) {
        if !self.is_saved_here() {
            return;
        }
        let due = Instant::now() + delay;
        let mut progress = self.saves.progress.lock();
        if progress.due.is_some_and(|sooner| sooner <= due) {
            return;
        }
        progress.due = Some(due);
        drop(progress);
        let collection = Arc::downgrade(self);
        savers::run_after(
            delay,
            Box::new(move || {
                let Some(collection) = collection.upgrade() else { return };
                collection.saves.progress.lock().due = None;
                collection.save_soon(Box::new(|_| {}));
            }),
        );
    }

    /// A descriptor was closed, or a name led elsewhere: saves that, and waits, or has it saved after a
    /// while, as [`set_save_after`] says. Answers false where saving is the layer above's.
    ///
    /// # Errors
    /// As [`MountedCollection::save`].
    pub fn saved(self: &Arc<Self>) -> Outcome<bool> {
        if save_after().is_none() || !self.is_saved_here() {
            return self.save();
        }
        self.save_unasked();
        Ok(true)
    }

    /// Saves what was changed until now, and waits for that; answers false where saving is the layer
    /// above's.
    ///
    /// # Errors
    /// Why it could not be saved. It stays, and is tried again the next time.
    pub fn save(self: &Arc<Self>) -> Outcome<bool> {
        if !self.settings.saved || self.saves.progress.lock().saved >= self.changes() {
            return Ok(!self.is_superseded());
        }
        let (tell, told) = mpsc::sync_channel(1);
        self.save_soon(Box::new(move |result| {
            // Whoever waits is still there.
            let _ = tell.send(result);
        }));
        let (mut result, told) = (Err(Refusal::Lost.errno()), Mutex::new(told));
        self.host.wait(&mut || result = told.lock().recv().unwrap_or(Err(Refusal::Lost.errno())));
        result.map_err(Halt::from)
    }

    /// Somebody else changed the collection just now. Where that may be what was saved here at the same
    /// moment, it is looked at.
    pub fn changed_elsewhere(self: &Arc<Self>) {
        if self.settings.saved && self.state.write().contest() {
            let collection = Arc::clone(self);
            savers::run(Box::new(move || {
                collection.host.renew();
            }));
        }
    }

    /// What has to be waited for when a descriptor is closed, or (`forced`) for what was changed to be
    /// saved; None where that is nothing.
    #[must_use]
    pub fn saving(self: &Arc<Self>, forced: bool) -> Option<Arc<dyn Saving>> {
        let waits = (forced || save_after().is_none()) && self.is_saved_here();
        if !waits || self.saves.progress.lock().saved >= self.changes() {
            return None;
        }
        Some(Arc::clone(self) as Arc<dyn Saving>)
    }

    /// Whether something is not saved.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.settings.saved
            && self.saves.progress.lock().saved < self.changes()
            && !self.state.read().replacements().is_empty()
    }

    /// Waits until no save is under way; answers how many there were.
    pub fn await_saves(&self) -> u64 {
        let mut progress = self.saves.progress.lock();
        while progress.begun > progress.ended {
            self.saves.ended.wait(&mut progress);
        }
        progress.begun
    }

    /// Runs `follow` where no save began since there were so many; answers None where one did: what was
    /// loaded meanwhile may be older than what was saved.
    pub(super) fn unless_saved<T>(
        &self,
        since: Option<u64>,
        follow: impl FnOnce() -> T,
    ) -> Option<T> {
        let progress = self.saves.progress.lock();
        let outdated =
            progress.begun > progress.ended || since.is_some_and(|since| since != progress.begun);
        if outdated { None } else { Some(follow()) }
    }

    /// Saves until nobody waits any more.
    fn save_all(self: &Arc<Self>) {
        loop {
            let changes = self.changes();
            let saving = std::panic::AssertUnwindSafe(|| self.save_once());
            let result = std::panic::catch_unwind(saving).unwrap_or_else(|_| {
                let what = format!("{}: saving panicked", phrases::UNHANDLED);
                report(log::Level::Error, &what);
                self.give_up_save();
                Err(Refusal::Unwritable.errno())
            });
            let mut progress = self.saves.progress.lock();
            if result == Ok(true) {
                progress.saved = progress.saved.max(changes);
            }
            let waiting = std::mem::take(&mut progress.waiting);
            let (told, waiting): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(wanted, _)| *wanted <= changes);
            progress.under_way = !waiting.is_empty();
            let done = waiting.is_empty();
            progress.waiting = waiting;
            let failed_before = std::mem::replace(&mut progress.failed, result.is_err());
            drop(progress);
            for (_, then) in told {
                then(result);
            }
            if result.is_err() {
                self.save_later(if failed_before { AGAIN } else { UNASKED });
            }
            if done {
                return;
            }
        }
    }

    fn save_once(self: &Arc<Self>) -> Result<bool, Errno> {
        for _ in 0..ATTEMPTS {
            if !self.is_saved_here() || self.state.read().draft.frozen {
                return Ok(false);
            }
            // The answer to a save has no newer ones: they get older with every save.
            if expires_soon(self.snapshot().tree().expires_at()) {
                self.host.renew();
            }
            let Some(Begun { captured, replacements }) = self.begin_save() else {
                return Ok(true);
            };
            captured.renew_signatures();
            let result = self.send(&captured, &replacements);
            let numbers = self.numbers_for_links(&captured).unwrap_or_default();
            match self.end_save(captured, replacements, numbers, result) {
                Ok(true) => return Ok(true),
                // Somebody else changed it besides: that shows at once, or at the next look.
                Ok(false) => {
                    self.host.renew();
                    return Ok(true);
                }
                Err(Refused::Failed(errno)) => return Err(errno),
                Err(Refused::Outdated) => {
                    if !self.host.renew() {
                        break;
                    }
                }
            }
        }
        Err(Refusal::Unwritable.errno())
    }

    /// None where there is nothing to save.
    fn begin_save(&self) -> Option<Begun> {
        let mut progress = self.saves.progress.lock();
        let mut state = self.state.write();
        let replacements = state.replacements();
        if replacements.is_empty() {
            return None;
        }
        state.draft.saving = true;
        progress.begun += 1;
        drop(progress);
        // Nobody writes until here: what is to be replaced is what is captured.
        let contents = state.contents();
        let state = RwLockWriteGuard::downgrade(state);
        Some(Begun { captured: state.capture(contents), replacements })
    }

    /// Whatever began has ended.
    fn give_up_save(&self) {
        let mut progress = self.saves.progress.lock();
        let mut state = self.state.write();
        state.draft.saving = state.attempt.is_some();
        drop(state);
        progress.ended = progress.begun;
        self.saves.ended.notify_all();
    }

    /// A number for each further name of a file.
    fn numbers_for_links(self: &Arc<Self>, captured: &Captured) -> Result<Vec<u64>, Errno> {
        let count = captured.further_names();
        let numbers: Outcome<Vec<u64>> =
            std::iter::repeat_with(|| self.new_number()).take(count).collect();
        numbers.map_err(|_| Refusal::Lost.errno())
    }

    fn end_save(
        &self,
        captured: Captured,
        replaced: Replacements,
        numbers: Vec<u64>,
        sent: Result<Sent, Refused>,
    ) -> Result<bool, Refused> {
        let mut progress = self.saves.progress.lock();
        let mut state = self.state.write();
        let result = match sent {
            Ok(Sent { tree, taken: Ok(is_current) }) => {
                state.attempt = None;
                state.saved_lately(&captured, &replaced);
                if !is_current {
                    state.contest();
                }
                let is_saved =
                    Attempt { captured, tree: Arc::clone(&tree), numbers }.saved(&mut state, tree);
                if !is_saved {
                    log::error!("what was saved is not what its manifest says");
                }
                Ok(is_saved && is_current)
            }
            Ok(Sent { tree, taken: Err(refused) }) => {
                if refused != Refused::Outdated {
                    state.attempt = Some(Attempt { captured, tree, numbers });
                }
                Err(refused)
            }
            Err(refused) => Err(refused),
        };
        state.draft.saving = state.attempt.is_some();
        progress.ended += 1;
        self.saves.ended.notify_all();
        drop((state, progress));
        self.buffer.changed();
        result
    }

    /// Stores and sends.
    fn send(
        self: &Arc<Self>,
        captured: &Captured,
        replacements: &Replacements,
    ) -> Result<Sent, Refused> {
        let unwritable = |halt| match halt {
            Halt::Errno(errno) => Refused::Failed(errno),
            Halt::Upcall(_) => Refused::Failed(Refusal::Unwritable.errno()),
        };
        let (whole, files) = self
            .written_out(captured, |zeros| {
                let whole = captured.manifest(zeros)?;
                Ok((whole, captured.manifest_of(replacements, zeros)?))
            })
            .map_err(unwritable)?;
        let tree = match Tree::parse(&whole) {
            Ok(tree) => Arc::new(tree),
            Err(error) => {
                report(log::Level::Error, &format!("{}: {error}", phrases::UNHANDLED));
                return Err(Refused::Failed(Refusal::Unwritable.errno()));
            }
        };
        let replace = replacements.replace.iter();
        let replace = replace.map(|(path, source)| (format!("/{path}"), source.clone())).collect();
        let base = Arc::clone(captured.base());
        let saved = self.host.save(&Update { base, replace, files, whole });
        let taken = saved
            .map(|taken| !taken.contested && taken.hash == tree.portable_data_hash().to_string());
        Ok(Sent { tree, taken })
    }
}

impl<H: Host> Saving for MountedCollection<H> {
    fn save_soon(self: Arc<Self>, then: Saved) {
        MountedCollection::save_soon(&self, then);
    }

    fn save_wait(self: Arc<Self>) -> Outcome<bool> {
        self.save()
    }
}

impl Replacements {
    fn is_empty(&self) -> bool {
        self.replace.is_empty()
    }
}
