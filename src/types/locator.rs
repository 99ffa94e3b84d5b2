// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A block locator: `md5+size`, then hints.
//!
//! Source: "Keep locator format" in the Arvados documentation. Hints are kept as they were
//! written, known or not, since a locator must be handed on unchanged.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Md5;

/// Where a block is found: its digest, size and hints. Cloning copies 40 bytes and counts a
/// reference. Two locators are equal if their hints are, too.
///
/// ```
/// use arvados_fuse::types::{Locator, Md5};
///
/// let signature = "0".repeat(40);
/// let text = format!("acbd18db4cc2f85cedef654fccc4a4d8+3+A{signature}@65f00000");
/// let locator: Locator = text.parse()?;
/// assert_eq!((locator.md5(), locator.size()), (Md5::of(b"foo"), 3));
/// assert_eq!(locator.expires_at(), Some(0x65f0_0000));
/// assert_eq!(locator.stripped().to_string(), "acbd18db4cc2f85cedef654fccc4a4d8+3");
/// # Ok::<(), arvados_fuse::types::LocatorError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Locator {
    md5: Md5,
    size: u32,
    /// What follows the size, without its first `+`.
    hints: Option<Arc<str>>,
}

/// A locator that borrows its hints from the text it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocatorRef<'a> {
    /// Digest of the block.
    pub md5: Md5,
    /// Length of the block in bytes.
    pub size: u32,
    /// What follows the size, without its first `+`; empty if there is nothing.
    pub hints: &'a str,
}

/// One hint of a locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint<'a> {
    /// `A<signature>@<expiry>`: permission to read, until a time in seconds since 1970.
    Signature {
        /// The signature, hexadecimal.
        signature: &'a str,
        /// When it ends.
        expires_at: u64,
    },
    /// `K@<id>`: a cluster (5 characters) or a gateway service (27 characters) that has it.
    Service(&'a str),
    /// `R<cluster>-<signature>@<expiry>`: another cluster's block; the text after `R`.
    Remote(&'a str),
    /// Any other.
    Other(&'a str),
}

/// Why a text is no locator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocatorError {
    /// It does not begin like one: 32 hexadecimal digits, `+`, a digit.
    NotALocator,
    /// The size does not fit 32 bits (Keep's own limit is 64 MiB).
    SizeTooLarge,
    /// Something other than `+hint` follows the size, or an empty hint ends it.
    BadHints,
}

impl fmt::Display for LocatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotALocator => "expected a block locator: md5+size",
            Self::SizeTooLarge => "the locator's size is larger than any block",
            Self::BadHints => "the locator's size is followed by something other than hints",
        })
    }
}

impl std::error::Error for LocatorError {}

impl<'a> LocatorRef<'a> {
    /// Reads a locator. Lower-case digits only; hints may be anything that begins with `+`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &'a str) -> Result<Self, LocatorError> {
        let bytes = text.as_bytes();
        let (hex, rest) = bytes.split_first_chunk::<32>().ok_or(LocatorError::NotALocator)?;
        let [b'+', digits @ ..] = rest else { return Err(LocatorError::NotALocator) };
        let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return Err(LocatorError::NotALocator);
        }
        let md5 = Md5::from_hex(hex).ok_or(LocatorError::NotALocator)?;
        let size = digits[..count]
            .iter()
            .try_fold(0u32, |size, b| size.checked_mul(10)?.checked_add(u32::from(b - b'0')))
            .ok_or(LocatorError::SizeTooLarge)?;
        let hints = match &text[33 + count..] {
            "" => "",
            tail => match tail.strip_prefix('+') {
                Some(hints) if !hints.is_empty() => hints,
                _ => return Err(LocatorError::BadHints),
            },
        };
        Ok(Self { md5, size, hints })
    }

    /// Each hint, in the order written.
    pub fn each_hint(self) -> impl Iterator<Item = Hint<'a>> {
        self.hints.split('+').filter(|hint| !hint.is_empty()).map(Hint::read)
    }

    /// When the permission to read ends, in seconds since 1970. `None`: not signed.
    #[must_use]
    pub fn expires_at(self) -> Option<u64> {
        self.each_hint().find_map(|hint| match hint {
            Hint::Signature { expires_at, .. } => Some(expires_at),
            _ => None,
        })
    }

    /// The locator, owning its hints.
    #[must_use]
    pub fn to_locator(self) -> Locator {
        let hints = (!self.hints.is_empty()).then(|| Arc::from(self.hints));
        Locator { md5: self.md5, size: self.size, hints }
    }
}

impl<'a> Hint<'a> {
    fn read(text: &'a str) -> Self {
        let signature = text.strip_prefix('A').and_then(|t| t.split_once('@'));
        if let Some((signature, expiry)) = signature
            && let Ok(expires_at) = u64::from_str_radix(expiry, 16)
        {
            return Self::Signature { signature, expires_at };
        }
        if let Some(id) = text.strip_prefix("K@") {
            return Self::Service(id);
        }
        match text.strip_prefix('R') {
            Some(remote) => Self::Remote(remote),
            None => Self::Other(text),
        }
    }
}

impl Locator {
    /// Digest of the block.
    #[must_use]
    pub fn md5(&self) -> Md5 {
        self.md5
    }

    /// Length of the block in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> LocatorRef<'_> {
        LocatorRef { md5: self.md5, size: self.size, hints: self.hints.as_deref().unwrap_or("") }
    }

    /// Each hint, in the order written.
    pub fn hints(&self) -> impl Iterator<Item = Hint<'_>> {
        self.as_ref().each_hint()
    }

    /// When the permission to read ends, in seconds since 1970. `None`: not signed.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.as_ref().expires_at()
    }

    /// The locator without hints.
    #[must_use]
    pub fn stripped(&self) -> Self {
        Self { md5: self.md5, size: self.size, hints: None }
    }
}

impl fmt::Display for LocatorRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.md5, self.size)?;
        if !self.hints.is_empty() {
            write!(f, "+{}", self.hints)?;
        }
        Ok(())
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Without hints: a signature is a permission, and has no place in a log.
impl fmt::Debug for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = if self.hints.is_some() { "+..." } else { "" };
        write!(f, "{}+{}{hidden}", self.md5, self.size)
    }
}

impl FromStr for Locator {
    type Err = LocatorError;

    fn from_str(text: &str) -> Result<Self, LocatorError> {
        LocatorRef::parse(text).map(LocatorRef::to_locator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";

    #[test]
    fn gives_its_text_back() {
        let signed = format!("{FOO}+A0123456789abcdef0123456789abcdef01234567@65f00000+Z+K@zzzzz");
        for text in [FOO, &signed] {
            assert_eq!(text.parse::<Locator>().expect("a locator").to_string(), *text);
        }
        let locator: Locator = signed.parse().expect("a locator");
        assert_eq!((locator.md5(), locator.size()), (Md5::of(b"foo"), 3));
        assert_eq!(locator.stripped().to_string(), FOO);
        assert_eq!(format!("{locator:?}"), format!("{FOO}+..."));
    }

    #[test]
    fn knows_its_hints() {
        let text =
            format!("{FOO}+Aabc@65f00000+K@zzzzz-bi6l4-012345678901234+Rxxxxx-1@2+Zodd+Abad");
        let locator: Locator = text.parse().expect("a locator");
        let hints: Vec<_> = locator.hints().collect();
        assert_eq!(
            hints,
            [
                Hint::Signature { signature: "abc", expires_at: 0x65f0_0000 },
                Hint::Service("zzzzz-bi6l4-012345678901234"),
                Hint::Remote("xxxxx-1@2"),
                Hint::Other("Zodd"),
                Hint::Other("Abad"),
            ]
        );
        assert_eq!(locator.expires_at(), Some(0x65f0_0000));
        assert_eq!(locator.stripped().expires_at(), None);
    }

    #[test]
    fn refuses_what_is_none() {
        let cases = [
            ("", LocatorError::NotALocator),
            ("acbd18db4cc2f85cedef654fccc4a4d8", LocatorError::NotALocator),
            ("acbd18db4cc2f85cedef654fccc4a4d8+", LocatorError::NotALocator),
            ("ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3", LocatorError::NotALocator),
            ("acbd18db4cc2f85cedef654fccc4a4d8+4294967296", LocatorError::SizeTooLarge),
            ("acbd18db4cc2f85cedef654fccc4a4d8+3x", LocatorError::BadHints),
            ("acbd18db4cc2f85cedef654fccc4a4d8+3+", LocatorError::BadHints),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Locator>(), Err(error), "{text}");
        }
    }
}
