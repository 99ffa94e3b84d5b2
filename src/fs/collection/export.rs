// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writing a collection out, with everything stored: for whoever saves it or takes it over.

use std::sync::Arc;
use std::time::Duration;

use super::capture::Captured;
use super::{Host, MountedCollection};
use crate::collection::draft::{BlockRef, Unwritable, UnwritableReason, zeros, zeros_len};
use crate::fs::errno::Refusal;
use crate::fs::node::Outcome;
use crate::report::{phrases, report};

/// How often what others began to store is waited for.
const ATTEMPTS: u32 = 20;
/// Between two looks whether they did.
const PAUSE: Duration = Duration::from_millis(100);

impl<H: Host> MountedCollection<H> {
    /// Stores everything that was written, and waits for it. Not for a thread of the Keep client.
    ///
    /// # Errors
    /// `EIO` where something could not be stored: the log says why. It is tried again the next time.
    pub fn store(&self) -> Outcome<()> {
        self.uploads.store_all(&self.host.store()).map_err(|_| Refusal::Unwritable.into())
    }

    /// The manifest of what it contains, all of which is stored; signed as the blocks are. May take as
    /// long as storing does.
    ///
    /// # Errors
    /// `EIO` where something could not be stored; `EFBIG` where the holes of a file are too long for a
    /// manifest.
    pub fn manifest(&self) -> Outcome<String> {
        let state = self.state.read();
        let captured = state.capture(state.contents());
        drop(state);
        self.written_out(&captured, |zeros| captured.manifest(zeros, None))
    }

    /// The manifest of the version that the draft is over, where something is not saved, and of what it
    /// contains, all of which is stored.
    ///
    /// # Errors
    /// As [`MountedCollection::manifest`].
    pub fn unsaved_manifests(&self) -> Outcome<Option<(String, String)>> {
        self.settle(true);
        let state = self.state.read();
        if state.replacements().replace.is_empty() {
            return Ok(None);
        }
        let (base, captured) = (Arc::clone(&state.current), state.capture(state.contents()));
        drop(state);
        let ours = self.written_out(&captured, |zeros| captured.manifest(zeros, None))?;
        Ok(Some((base.tree().normalized(), ours)))
    }

    /// What `write` makes of what was captured, once all of that is stored. It is given a block for holes.
    pub(super) fn written_out<T>(
        &self,
        captured: &Captured,
        write: impl Fn(Option<&BlockRef>) -> Result<T, Unwritable>,
    ) -> Outcome<T> {
        let zeros = match captured.longest_hole() {
            Some(longest) => Some(self.stored_zeros(zeros_len(longest))?),
            None => None,
        };
        for _ in 0..ATTEMPTS {
            // What was merged or overwritten since in the file itself is stored for this version.
            self.start(self.uploads.add(captured.chunks()));
            self.store()?;
            match write(zeros.as_ref()) {
                Ok(written) => return Ok(written),
                // Another collection is storing it, which it was moved from.
                Err(Unwritable { reason: UnwritableReason::NotStored(_), .. }) => {
                    std::thread::sleep(PAUSE);
                }
                Err(refused) => {
                    report(log::Level::Error, &format!("{}: {refused}", phrases::UNHANDLED));
                    return Err(match refused.reason {
                        UnwritableReason::TooManyZeros => Refusal::TooLarge.into(),
                        _ => Refusal::OddNames.into(),
                    });
                }
            }
        }
        Err(Refusal::Unwritable.into())
    }

    fn stored_zeros(&self, len: u32) -> Outcome<BlockRef> {
        match self.host.store().put_blocking(zeros(len), self.uploads.options()) {
            Ok(locator) => Ok(BlockRef::Own(Arc::new(locator))),
            Err(error) => {
                error.report();
                Err(Refusal::Unwritable.into())
            }
        }
    }
}
