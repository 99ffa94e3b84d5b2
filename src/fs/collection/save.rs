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
use super::versions::{Attempt, Unversioned, parsed};
use super::{Host, MountedCollection, Written};
use crate::collection::Tree;
use crate::collection::draft::{BlockRef, Repacked, Unwritable};
use crate::fs::attr::Timestamp;
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
    /// When it was made so, by the server's clock.
    pub at: Timestamp,
    /// When somebody else changed it at the same moment, by the server's clock.
    pub contested: Option<Timestamp>,
    /// Had somebody else changed it, that would be known, now or soon: the hash needs no look.
    pub told: bool,
}

/// How many files and directories a large collection has, where [`super::Settings::large`] does not say.
const LARGE: usize = 1000;
/// How many of a large collection are saved before a version is made of them, at most.
const FEW: usize = 256;

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
    captured: Arc<Captured>,
    replacements: Replacements,
    /// What is saved before, where that is not the version.
    before: Option<Arc<Unversioned>>,
    /// It is a small part of the collection: no whole version is made of it.
    is_small: bool,
}

/// What became of a save that was sent.
enum Sent {
    /// It is all that the collection is now, as the host is told.
    Told(Written, Timestamp),
    /// It is that version, made at that time by the server's clock; and all that the collection is now, unless
    /// somebody else changed it at the same moment.
    Made { tree: Arc<Tree>, at: Timestamp, contested: Option<Timestamp> },
    /// It was not taken, or nobody knows; then the manifest that it was.
    Not(Refused, Written),
}

impl<H: Host> MountedCollection<H> {
    /// Whether it has a record that is saved.
    fn is_saved_here(&self) -> bool {
        self.settings.saved && self.is_written_here()
    }

    /// Whether it has no record, and is written here.
    pub(super) fn is_scratch(&self) -> bool {
        !self.settings.saved && self.is_written_here()
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

    /// Somebody else changed the collection at that time, by the server's clock, if that is known. Where
    /// that may be what was saved here at the same moment, it is looked at.
    pub fn changed_elsewhere(self: &Arc<Self>, at: Option<Timestamp>) {
        if self.settings.saved && self.state.write().contest(at) {
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

    /// Runs `act` while no save is under way: waits for the end of one that is, or (not `patient`) answers None.
    pub(super) fn between_saves<T>(&self, patient: bool, act: impl FnOnce() -> T) -> Option<T> {
        let mut progress = self.saves.progress.lock();
        while progress.begun > progress.ended {
            if !patient {
                return None;
            }
            self.saves.ended.wait(&mut progress);
        }
        Some(act())
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
        for attempt in 0..ATTEMPTS {
            if !self.is_saved_here() || self.state.read().draft.frozen {
                return Ok(false);
            }
            // The answer to a save has no newer ones: they get older with every save.
            if expires_soon(self.snapshot().tree().expires_at()) {
                self.host.renew();
            }
            let Some(begun) = self.begin_save() else {
                return Ok(true);
            };
            begun.captured.renew_signatures();
            // What is made anew has others beside it who save: it does no more than it has to.
            let result = self.send(&begun, attempt == 0);
            let numbers = self.numbers_for_links(&begun.captured).unwrap_or_default();
            match self.end_save(begun, numbers, result) {
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
        let captured = Arc::new(state.capture(contents));
        let is_small = captured.changes() <= FEW
            && state.current.tree().len() > self.settings.large.unwrap_or(LARGE)
            && captured.further_names() == 0;
        Some(Begun { captured, replacements, before: state.saved.clone(), is_small })
    }

    /// Whatever began has ended.
    fn give_up_save(&self) {
        let mut progress = self.saves.progress.lock();
        let mut state = self.state.write();
        state.note_saving();
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
        self: &Arc<Self>,
        begun: Begun,
        numbers: Vec<u64>,
        sent: Result<Sent, Refused>,
    ) -> Result<bool, Refused> {
        let Begun { captured, replacements, .. } = begun;
        let mut progress = self.saves.progress.lock();
        let mut state = self.state.write();
        let result = match sent {
            Ok(Sent::Told(whole, at)) => {
                state.attempt = None;
                state.saved_lately(&captured, &replacements, at);
                state.note_saved(&captured);
                let first =
                    state.saved.replace(Arc::new(Unversioned { captured, whole })).is_none();
                if first {
                    self.settle_later();
                }
                Ok(true)
            }
            Ok(Sent::Made { tree, at, contested }) => {
                state.attempt = None;
                state.saved_lately(&captured, &replacements, at);
                let is_current = contested.is_none();
                if !is_current {
                    state.contest(contested);
                }
                let is_saved = state.become_version(&captured, tree, numbers);
                if !is_saved {
                    log::error!("what was saved is not what its manifest says");
                }
                Ok(is_saved && is_current)
            }
            Ok(Sent::Not(refused, whole)) => {
                if refused != Refused::Outdated {
                    state.attempt = Some(Attempt { captured, whole, numbers });
                }
                Err(refused)
            }
            Err(refused) => Err(refused),
        };
        state.note_saving();
        progress.ended += 1;
        self.saves.ended.notify_all();
        drop((state, progress));
        self.buffer.changed();
        result
    }

    /// What `write` makes of what was captured, once all of that is stored, and the block for its holes.
    fn stored<T>(
        &self,
        captured: &Captured,
        write: impl Fn(Option<&BlockRef>) -> Result<T, Unwritable>,
    ) -> Result<(T, Option<BlockRef>), Errno> {
        let written = self.written_out(captured, |zeros| Ok((write(zeros)?, zeros.cloned())));
        written.map_err(|halt| match halt {
            Halt::Errno(errno) => errno,
            Halt::Upcall(_) => Refusal::Unwritable.errno(),
        })
    }

    /// Stores and sends.
    fn send(self: &Arc<Self>, begun: &Begun, repacks: bool) -> Result<Sent, Refused> {
        let Begun { captured, replacements, before, is_small } = begun;
        let (files, zeros) = self
            .stored(captured, |zeros| captured.manifest_of(replacements, zeros))
            .map_err(Refused::Failed)?;
        // That takes as long as making a version does.
        let repacked = if repacks && !is_small { self.repacked(captured) } else { None };
        let segments = repacked.iter().flat_map(|(repacked, _)| repacked.segments()).collect();
        let (repacked, small) = repacked.unzip();
        let whole = whole_of(captured, zeros, repacked);
        // Nothing is sent of which no version can be made.
        let tree = match is_small {
            true => None,
            false => Some(parsed(&whole).map_err(Refused::Failed)?),
        };
        let base: Written = if let Some(before) = before {
            Arc::clone(&before.whole)
        } else {
            let tree = Arc::clone(captured.base());
            Arc::new(move || Ok(tree.normalized()))
        };
        let replace = replacements.replace.iter();
        let replace = replace.map(|(path, source)| (format!("/{path}"), source.clone())).collect();
        let only_removes_files = replacements.only_removes_files();
        let update = Update {
            base,
            replace,
            only_removes_files,
            files,
            segments,
            whole: Arc::clone(&whole),
        };
        let taken = match self.host.save(&update) {
            Ok(taken) => taken,
            Err(refused) => {
                self.uploads.small.are_left(small);
                return Ok(Sent::Not(refused, whole));
            }
        };
        if *is_small && taken.told && taken.contested.is_none() {
            return Ok(Sent::Told(whole, taken.at));
        }
        let tree = tree.map_or_else(|| parsed(&whole).map_err(Refused::Failed), Ok)?;
        let is_same = taken.hash == tree.portable_data_hash().to_string();
        if small.is_some() && !is_same && taken.contested.is_none() {
            // Its manifest has other segments than ours: those are left alone.
            self.uploads.small.give_up();
        }
        let contested = taken.contested.or((!is_same).then_some(taken.at));
        Ok(Sent::Made { tree, at: taken.at, contested })
    }
}

/// What makes the manifest of what was captured, all of which is stored.
fn whole_of(
    captured: &Arc<Captured>,
    zeros: Option<BlockRef>,
    repacked: Option<Arc<Repacked>>,
) -> Written {
    let captured = Arc::clone(captured);
    Arc::new(move || {
        captured.manifest(zeros.as_ref(), repacked.as_deref()).map_err(|unwritable| {
            report(log::Level::Error, &format!("{}: {unwritable}", phrases::UNHANDLED));
            Refusal::Unwritable.errno()
        })
    })
}

impl<H: Host> Saving for MountedCollection<H> {
    fn save_soon(self: Arc<Self>, then: Saved) {
        MountedCollection::save_soon(&self, then);
    }

    fn save_wait(self: Arc<Self>) -> Outcome<bool> {
        self.save()
    }

    fn save_behind(self: Arc<Self>) {
        if !self.saves.progress.lock().failed {
            MountedCollection::save_soon(&self, Box::new(|_| {}));
        }
    }
}

impl Replacements {
    fn is_empty(&self) -> bool {
        self.replace.is_empty()
    }
}
