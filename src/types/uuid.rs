// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Arvados identifiers: `ccccc-ttttt-rrrrrrrrrrrrrrr`.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// An object's identifier: cluster (5), type (5) and random part (15) of `[0-9a-z]`, with dashes.
///
/// ```
/// use arvados_fuse::types::{Uuid, UuidKind};
///
/// let uuid: Uuid = "zzzzz-4zz18-000000000000000".parse()?;
/// assert_eq!((uuid.cluster(), uuid.kind()), ("zzzzz", UuidKind::Collection));
/// # Ok::<(), arvados_fuse::types::ParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 27]);

/// What an identifier names, by its middle part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UuidKind {
    /// `4zz18`
    Collection,
    /// `j7d0g`: a project, filter group or role.
    Group,
    /// `tpzed`
    User,
    /// `o0j2j`: a link; tags are links.
    Link,
    /// `bi6l4`
    KeepService,
    /// Any other type.
    Other,
}

impl Uuid {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII letters, digits and dashes get past `from_str`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The cluster that the object lives on: five characters.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.as_str()[..5]
    }

    /// What kind of object it is.
    #[must_use]
    pub fn kind(&self) -> UuidKind {
        match &self.0[6..11] {
            b"4zz18" => UuidKind::Collection,
            b"j7d0g" => UuidKind::Group,
            b"tpzed" => UuidKind::User,
            b"o0j2j" => UuidKind::Link,
            b"bi6l4" => UuidKind::KeepService,
            _ => UuidKind::Other,
        }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Uuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const EXPECTED: ParseError = ParseError("an identifier like zzzzz-4zz18-012345678901234");
        let bytes: [u8; 27] = text.as_bytes().try_into().map_err(|_| EXPECTED)?;
        let well_formed = bytes.iter().enumerate().all(|(at, byte)| match at {
            5 | 11 => *byte == b'-',
            _ => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
        });
        if well_formed { Ok(Self(bytes)) } else { Err(EXPECTED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_kinds() {
        let uuid: Uuid = "zzzzz-4zz18-012345678901234".parse().expect("well formed");
        assert_eq!((uuid.cluster(), uuid.kind()), ("zzzzz", UuidKind::Collection));
        assert_eq!(uuid.to_string(), "zzzzz-4zz18-012345678901234");
        let kinds = [
            ("j7d0g", UuidKind::Group),
            ("tpzed", UuidKind::User),
            ("o0j2j", UuidKind::Link),
            ("bi6l4", UuidKind::KeepService),
            ("abcde", UuidKind::Other),
        ];
        for (infix, kind) in kinds {
            let text = format!("zzzzz-{infix}-012345678901234");
            assert_eq!(text.parse::<Uuid>().expect("well formed").kind(), kind);
        }
        let bad = [
            "",
            "zzzzz-4zz18-01234567890123",
            "zzzzz-4zz18-01234567890123A",
            "zzzzz_4zz18-012345678901234",
        ];
        for text in bad {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }
}
