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

/// What fallocate(2) makes of a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Room for it. Unless `keep_size`, a file that ends before it is extended by zeros.
    Reserve {
        /// The file's length stays.
        keep_size: bool,
    },
    /// A hole. The file's length stays.
    PunchHole,
    /// Zeros. Unless `keep_size`, a file that ends before it is extended.
    ZeroRange {
        /// The file's length stays.
        keep_size: bool,
    },
}

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At that offset.
    At(u64),
    /// At the end of the file (`O_APPEND`), which the kernel takes to be at that offset.
    End(u64),
}

impl Position {
    /// Where the kernel has it.
    #[must_use]
    pub fn offset(self) -> u64 {
        match self {
            Position::At(offset) | Position::End(offset) => offset,
        }
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Bytes that are in no hole.
    Data,
    /// A hole; the end of the file counts as one.
    Hole,
}
