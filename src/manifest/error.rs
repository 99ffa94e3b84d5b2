// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What can be wrong with a manifest, said to whoever has to mend it.

use std::fmt;

use crate::types::LocatorError;

/// A manifest that was refused: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a line of a manifest is refused. Texts are cut to a length that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A line that is a stream's name and no more.
    NameOnly(String),
    /// A token that begins like a locator and is none.
    Locator(String, LocatorError),
    /// A token that is no `position:length:name`.
    FileToken(String),
    /// A number in a file token that does not fit 64 bits.
    Number(String),
    /// A file token that reaches past the blocks of its stream, whose length is given.
    PastEnd(String, u64),
    /// A path with an empty component: `a//b`, or one that begins with `/`.
    EmptyComponent(String),
    /// A path that is a file in one place and a directory in another.
    FileAndDirectory(String),
    /// A file whose parts add up to more than 2^63 - 1 bytes.
    FileTooLarge(String),
    /// White space where only a line's end may be: a blank line, or one that ends in a space.
    WhiteSpace,
    /// The whole text is larger than 2 GiB.
    TooLarge,
}

/// Room for a path or a token in a message: characters.
const SHOWN: usize = 200;

/// As much of a text of the manifest as a message should carry.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameOnly(token) => write!(f, "nothing follows the stream's name {token:?}"),
            Self::Locator(token, error) => write!(f, "{error}: {token:?}"),
            Self::FileToken(token) => {
                write!(f, "expected a file segment, position:length:name, not {token:?}")
            }
            Self::Number(token) => write!(f, "a number is too large in {token:?}"),
            Self::PastEnd(token, length) => {
                write!(f, "{token:?} reaches past the {length} bytes of its stream")
            }
            Self::EmptyComponent(path) => write!(f, "empty name in the path {path:?}"),
            Self::FileAndDirectory(path) => write!(f, "{path:?} is both a file and a directory"),
            Self::FileTooLarge(path) => write!(f, "the parts of {path:?} add up to too much"),
            Self::WhiteSpace => f.write_str("blank line, or white space at the end of a line"),
            Self::TooLarge => f.write_str("the manifest is larger than 2 GiB"),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for ManifestError {}
