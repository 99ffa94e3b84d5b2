// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Storing what was written: packs that are full at once, the rest when somebody needs it stored.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::repack::SmallBlocks;
use crate::collection::draft::{Chunk, Pack, Packer};
use crate::fs::write_buffer::WriteBuffer;
use crate::keep::{Failure, KeepClient, KeepError, PutOptions};
use crate::types::Locator;

/// What waits to be stored, and what is on its way.
pub(super) struct Uploads {
    options: PutOptions,
    /// Whoever waits for room is told what ended.
    buffer: Arc<WriteBuffer>,
    packer: Mutex<Packer>,
    flight: Mutex<Flight>,
    changed: Condvar,
    pub small: SmallBlocks,
}

#[derive(Default)]
struct Flight {
    next: u64,
    under_way: HashSet<u64>,
    /// How many wait for what is under way.
    awaiting: u32,
    /// Why packs were not stored, for those who wait.
    failed: HashMap<u64, KeepError>,
}

impl Flight {
    fn begin(&mut self) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next);
        self.next
    }
}

/// A pack that is under way: to be started.
pub(super) type Begun = (u64, Pack);

impl Uploads {
    pub(super) fn new(options: PutOptions, buffer: Arc<WriteBuffer>) -> Arc<Self> {
        Arc::new(Uploads {
            options,
            buffer,
            packer: Mutex::default(),
            flight: Mutex::default(),
            changed: Condvar::new(),
            small: SmallBlocks::default(),
        })
    }

    /// How blocks are stored.
    pub(super) fn options(&self) -> &PutOptions {
        &self.options
    }

    /// Takes packs out of the packer; answers the numbers of all that are under way besides. What is
    /// written and not stored is in the packer or under way for whoever has the packer's lock.
    fn take(&self, take: impl FnOnce(&mut Packer) -> Vec<Pack>) -> (Vec<Begun>, Vec<u64>) {
        let mut packer = self.packer.lock();
        let packs = take(&mut packer);
        let mut flight = self.flight.lock();
        let others = flight.under_way.iter().copied().collect();
        self.buffer.begin(packs.len() as u64);
        (packs.into_iter().map(|pack| (flight.begin(), pack)).collect(), others)
    }

    /// Notes what is to be stored; answers the packs that are full now, to be started.
    pub(super) fn add(&self, chunks: Vec<Arc<Chunk>>) -> Vec<Begun> {
        if chunks.is_empty() {
            return Vec::new();
        }
        let full = |packer: &mut Packer| {
            chunks.into_iter().for_each(|chunk| packer.add(chunk));
            std::iter::from_fn(|| packer.full()).collect()
        };
        self.take(full).0
    }

    /// Everything that waits, in packs to be started; nothing while others are under way, at whose end
    /// there may be room enough.
    pub(super) fn drain_if_idle(&self) -> Vec<Begun> {
        let idle = self.flight.lock().under_way.is_empty();
        if idle { self.take(Packer::drain).0 } else { Vec::new() }
    }

    /// Begins to store packs.
    pub(super) fn start(self: &Arc<Self>, keep: &KeepClient, packs: Vec<Begun>) {
        for (number, pack) in packs {
            let (data, uploads) = (pack.data(), Arc::clone(self));
            let ended = Box::new(move |result| uploads.ended(number, pack, result));
            keep.put(data, &self.options, ended);
        }
    }

    fn failed(&self, pack: Pack) {
        let mut packer = self.packer.lock();
        for chunk in pack.failed() {
            packer.add(chunk);
        }
    }

    fn ended(&self, number: u64, pack: Pack, result: Result<Locator, KeepError>) {
        match result {
            Ok(locator) => {
                self.small.note(locator.md5(), locator.size());
                pack.stored(Arc::new(locator));
                self.end(number, None);
            }
            Err(error) => {
                // Nobody wants any more what a client has left that is shut down.
                if error.failure() != Failure::ShutDown {
                    error.report();
                }
                self.failed(pack);
                self.end(number, Some(error));
            }
        }
    }

    /// What was in the pack is stored, or in the packer again.
    fn end(&self, number: u64, failed: Option<KeepError>) {
        let is_stored = failed.is_none();
        let mut flight = self.flight.lock();
        flight.under_way.remove(&number);
        if let Some(error) = failed
            && flight.awaiting > 0
        {
            flight.failed.insert(number, error);
        }
        self.changed.notify_all();
        drop(flight);
        self.buffer.end(is_stored);
    }

    /// Stores everything that waits, and waits for that and for what is on its way.
    ///
    /// # Errors
    /// Why something could not be stored; it stays, and is tried again the next time.
    pub(super) fn store_all(self: &Arc<Self>, keep: &KeepClient) -> Result<(), KeepError> {
        self.flight.lock().awaiting += 1;
        let (packs, mut awaited) = self.take(Packer::drain);
        awaited.extend(packs.iter().map(|(number, _)| *number));
        self.start(keep, packs);
        let mut flight = self.flight.lock();
        while awaited.iter().any(|number| flight.under_way.contains(number)) {
            self.changed.wait(&mut flight);
        }
        let failed = awaited.iter().find_map(|number| flight.failed.get(number).cloned());
        flight.awaiting -= 1;
        if flight.awaiting == 0 {
            flight.failed.clear();
        }
        failed.map_or(Ok(()), Err)
    }
}
