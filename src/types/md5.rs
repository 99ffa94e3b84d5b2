// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An MD5 digest: the name of a Keep block, and half of a portable data hash.

use std::fmt;
use std::str::FromStr;

use ::md5::Digest;

use super::ParseError;
use super::hex::{read_hex, write_hex};

/// An MD5 digest. Its text is 32 lower-case hexadecimal digits, as in locators.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Md5(pub [u8; 16]);

impl Md5 {
    /// The digest of no bytes: the block of every empty stream.
    pub const EMPTY: Md5 = Md5([
        0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42,
        0x7e,
    ]);

    /// The digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(::md5::Md5::digest(data).into())
    }

    /// Reads exactly 32 lower-case hexadecimal digits.
    pub(crate) fn from_hex(hex: &[u8; 32]) -> Option<Self> {
        let mut digest = [0; 16];
        read_hex(hex, &mut digest)?;
        Some(Self(digest))
    }
}

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Md5 {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.as_bytes()
            .try_into()
            .ok()
            .and_then(Self::from_hex)
            .ok_or(ParseError("32 lower-case hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_digest_agree() {
        let foo: Md5 = "acbd18db4cc2f85cedef654fccc4a4d8".parse().expect("hex");
        assert_eq!(foo, Md5::of(b"foo"));
        assert_eq!(foo.to_string(), "acbd18db4cc2f85cedef654fccc4a4d8");
        assert_eq!(Md5::EMPTY, Md5::of(b""));
        for bad in
            ["", "acbd", "ACBD18DB4CC2F85CEDEF654FCCC4A4D8", "gcbd18db4cc2f85cedef654fccc4a4d8"]
        {
            assert!(bad.parse::<Md5>().is_err(), "{bad}");
        }
    }
}
