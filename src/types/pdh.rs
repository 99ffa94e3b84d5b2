// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A portable data hash: the name of a collection's content.

use std::fmt;
use std::str::FromStr;

use super::{Md5, ParseError};

/// A portable data hash: the MD5 of a manifest without signatures, and that manifest's length.
///
/// ```
/// use arvados_fuse::types::Pdh;
///
/// let empty = Pdh::of_stripped("");
/// assert_eq!(empty.to_string(), "d41d8cd98f00b204e9800998ecf8427e+0");
/// assert_eq!(empty.to_string().parse(), Ok(empty));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pdh {
    /// Digest of the stripped manifest text.
    pub md5: Md5,
    /// Length of that text in bytes.
    pub size: u64,
}

impl Pdh {
    /// The hash of a manifest whose locators carry no hints but their size.
    #[must_use]
    pub fn of_stripped(text: &str) -> Self {
        Self { md5: Md5::of(text.as_bytes()), size: text.len() as u64 }
    }
}

impl fmt::Display for Pdh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.md5, self.size)
    }
}

impl FromStr for Pdh {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: ParseError = ParseError("a portable data hash: md5+size");
        let (md5, size) = text.split_once('+').ok_or(EXPECTED)?;
        if !size.bytes().all(|b| b.is_ascii_digit()) {
            return Err(EXPECTED);
        }
        Ok(Self {
            md5: md5.parse().map_err(|_| EXPECTED)?,
            size: size.parse().map_err(|_| EXPECTED)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let empty = Pdh::of_stripped("");
        assert_eq!(empty.to_string(), "d41d8cd98f00b204e9800998ecf8427e+0");
        assert_eq!(empty.to_string().parse(), Ok(empty));
        for bad in ["", "d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e+"] {
            assert!(bad.parse::<Pdh>().is_err(), "{bad}");
        }
        assert!("d41d8cd98f00b204e9800998ecf8427e++1".parse::<Pdh>().is_err());
        assert!("d41d8cd98f00b204e9800998ecf8427e+0+A1".parse::<Pdh>().is_err());
    }
}
