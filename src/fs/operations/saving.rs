// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Saving what was changed through a handle without a thread that waits for it.

use std::sync::Arc;
use std::time::Instant;

use super::Operations;
use crate::fs::attr::Fh;
use crate::fs::filesystem::Done;
use crate::fs::node::{Halt, Node, Outcome};
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
                saving.save_soon(Box::new(|_| {}));
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
        let (inodes, metrics) = (Arc::clone(&self.inodes), Arc::clone(&self.metrics));
        saving.save_soon(Box::new(move |saved| {
            let mut outcome: Outcome<()> = saved.map(drop).map_err(Halt::from);
            if saved == Ok(false) {
                // Meanwhile, saving became the layer above's.
                inodes.upcalls().request(&mut || outcome = handle.flush(force));
            }
            metrics.operations.observe(op, begin.elapsed());
            done(outcome.map_err(|halt| match halt {
                Halt::Errno(errno) => errno,
                halt @ Halt::Upcall(_) => inodes.upcalls().errno_of(halt),
            }));
        }));
    }
}
