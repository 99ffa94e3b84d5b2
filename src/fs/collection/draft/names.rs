// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that change places.

use super::{DraftNode, State};
use crate::fs::attr::Timestamp;
use crate::fs::errno::Refusal;

/// A directory, and a name in it.
pub(in crate::fs::collection) type Dentry<'n> = (u64, &'n str);

impl DraftNode {
    /// Its name leads to it from elsewhere.
    pub(super) fn moved(&mut self, (dir, name): Dentry<'_>) {
        (self.parent, self.name) = (Some(dir), name.into());
    }
}

impl State {
    /// Two names change places; answers whether they led to different nodes.
    pub(in crate::fs::collection) fn exchange(
        &mut self,
        one: Dentry<'_>,
        other: Dentry<'_>,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let here = self.find(one.0, one.1).ok_or(Refusal::NotFound)?;
        let there = self.find(other.0, other.1).ok_or(Refusal::NotFound)?;
        if here == there {
            return Ok(false);
        }
        if self.is_within(other.0, here) || self.is_within(one.0, there) {
            return Err(Refusal::IntoItself);
        }
        self.take_up(here).ok_or(Refusal::NotFound)?;
        self.take_up(there).ok_or(Refusal::NotFound)?;
        self.lead(one.0, one.1, Some(there), now)?;
        self.lead(other.0, other.1, Some(here), now)?;
        for (ino, to) in [(here, other), (there, one)] {
            if let Some(node) = self.draft.nodes.get_mut(&ino) {
                node.moved(to);
            }
        }
        Ok(true)
    }
}
