// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that change places in a mounted collection.
//!
//! As in [`super::writing`], None says that nothing was done here.

use super::draft::names::Dentry;
use super::{Host, MountedCollection};
use crate::fs::flags::RenameMode;
use crate::fs::node::Outcome;

impl<H: Host> MountedCollection<H> {
    /// Moves a name within the collection, or has it change places with another.
    ///
    /// # Errors
    /// `EEXIST` where another name is there that is not to be replaced; as
    /// [`MountedCollection::rename`], `EINVAL` also for a directory that would be in itself by an exchange.
    pub fn rename_as(
        &self,
        from: Dentry<'_>,
        to: Dentry<'_>,
        mode: RenameMode,
    ) -> Outcome<Option<()>> {
        if mode != RenameMode::Exchange {
            return self.rename(from, to, mode == RenameMode::Replace);
        }
        let now = self.host.now()?;
        let exchanged = self.change(|state| {
            self.may_name(from.0, from.1)?;
            self.may_name(to.0, to.1)?;
            state.exchange(from, to, now)
        })?;
        Ok(self.renamed(exchanged, &[from.0, to.0], now))
    }
}
