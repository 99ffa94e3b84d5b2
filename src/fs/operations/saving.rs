// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Saving what was changed through a handle without a thread that waits for it.

use std::sync::Arc;
use std::time::Instant;

use super::Operations;
use super::changing::Changed;
use crate::fs::attr::Fh;
use crate::fs::filesystem::Done;
use crate::fs::node::{Halt, Node, Outcome, Saving};
use crate::metrics::Op;

impl<N: Node> Operations<N> {
    /// As [`Operations::release`], for the kernel, which takes no answer: it asked for what was written to
    /// be saved when the last descriptor was closed. What was changed since is saved without being waited
    /// for.
    pub(super) fn released(&self, fh: Fh) -> Outcome<()> {
        let handle = self.handles.find(fh);
        // Where that fails, closing says so.
        match handle.and_then(|handle| handle.saving(false).ok().flatten()) {
            Some(saving) => {
                saving.save_behind();
                self.close(fh)
            }
            None => self.release(fh),
        }
    }

    /// Saves what was written through a handle, or (`force`) whatever is unsaved, and tells when it is done.
    pub(super) fn save_then(&self, op: Op, fh: Fh, force: bool, done: Done) {
        let begin = Instant::now();
        let handle = self.handles.find(fh);
        let saving = handle.as_ref().map_or(Ok(None), |handle| handle.saving(force));
        let (handle, saving) = match (handle, saving) {
            (Some(handle), Ok(Some(saving))) => (handle, saving),
            (_, Ok(_)) => {
                let waits = || if force { self.fsync(fh) } else { self.flush(fh) };
                return done(self.answer(op, waits));
            }
            (_, Err(halt)) => return done(self.answer(op, || Err(halt))),
        };
        self.when_saved((op, begin), saving, move || handle.flush(force), done);
    }

    /// Makes a change, and tells when it is saved.
    pub(super) fn change_then(
        &self,
        op: Op,
        change: impl FnOnce() -> Outcome<Changed<N>>,
        done: Done,
    ) {
        let begin = Instant::now();
        match change() {
            Ok(Some((directory, saving))) => {
                self.when_saved((op, begin), saving, move || directory.flush(), done);
            }
            outcome => {
                self.metrics.operations.observe(op, begin.elapsed());
                done(self.result(outcome.map(drop)));
            }
        }
    }

    /// Tells when something is saved; `otherwise` has it saved where that became the layer above's meanwhile.
    fn when_saved(
        &self,
        (op, begin): (Op, Instant),
        saving: Arc<dyn Saving>,
        otherwise: impl Fn() -> Outcome<()> + Send + 'static,
        done: Done,
    ) {
        let (inodes, metrics) = (Arc::clone(&self.inodes), Arc::clone(&self.metrics));
        saving.save_soon(Box::new(move |saved| {
            let mut outcome: Outcome<()> = saved.map(drop).map_err(Halt::from);
            if saved == Ok(false) {
                inodes.upcalls().request(&mut || outcome = otherwise());
            }
            metrics.operations.observe(op, begin.elapsed());
            done(outcome.map_err(|halt| match halt {
                Halt::Errno(errno) => errno,
                halt @ Halt::Upcall(_) => inodes.upcalls().errno_of(halt),
            }));
        }));
    }
}
