// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The small values that every layer speaks of: content hashes, block locators, identifiers.
//!
//! Depends on nothing in the crate. Each value is checked when it is made, so that a `Locator` or
//! a `Uuid` in hand is a well-formed one.

mod hex;
mod locator;
mod md5;
mod pdh;
mod uuid;

pub(crate) use hex::{read_hex, write_hex};
pub use locator::{Hint, Locator, LocatorError, LocatorRef};
pub use md5::Md5;
pub use pdh::Pdh;
pub use uuid::{Uuid, UuidKind};

/// The text is not what it was to be parsed as: says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError(pub(crate) &'static str);

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for ParseError {}
