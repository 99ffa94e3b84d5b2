// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a request asks for by its flags.

/// What a rename makes of the new name (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// Fails with `EEXIST` where something is there.
    NoReplace,
    /// Both names are there, and change places.
    Exchange,
}
