// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The hints of a collection's blocks, kept small: a tree may have a signed block for each file.

use std::fmt;

use super::blocks::BlockId;
use crate::types::{LocatorRef, read_hex, write_hex};

/// The hints of every block, and when the first signature among them ends.
#[derive(Default)]
pub(super) struct Hints {
    form: Form,
    expires_at: Option<u64>,
}

#[derive(Default)]
enum Form {
    /// No block has any.
    #[default]
    None,
    /// Every block has a signature of the usual form, and nothing else.
    Signatures(Box<[Signature]>),
    /// Any hints: their text, and where each block's ends in it.
    Text { text: Box<str>, ends: Box<[u32]> },
}

/// `A`, 40 hexadecimal digits, `@`, 8 hexadecimal digits; the digits' values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Signature([u8; 24]);

/// The hints of one block. Those of one tree are equal if they are written alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum BlockHints<'h> {
    Signature(&'h Signature),
    Text(&'h str),
}

impl Signature {
    fn read(hints: &str) -> Option<Self> {
        let (signature, expiry) = hints.strip_prefix('A')?.split_once('@')?;
        if (signature.len(), expiry.len()) != (40, 8) {
            return None;
        }
        let mut bytes = [0; 24];
        read_hex(signature.as_bytes(), &mut bytes[..20])?;
        read_hex(expiry.as_bytes(), &mut bytes[20..])?;
        Some(Self(bytes))
    }
}

impl fmt::Display for BlockHints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Signature(Signature(bytes)) => {
                let (signature, expiry) = bytes.split_at(20);
                f.write_str("A")?;
                write_hex(signature, f)?;
                f.write_str("@")?;
                write_hex(expiry, f)
            }
        }
    }
}

impl BlockHints<'_> {
    pub(super) fn is_empty(self) -> bool {
        self == Self::Text("")
    }
}

impl Hints {
    /// Gathers the hints of all blocks, in their order.
    pub(super) fn gather<'a>(each: impl Iterator<Item = LocatorRef<'a>> + Clone) -> Self {
        let expires_at = each.clone().filter_map(LocatorRef::expires_at).min();
        Self { form: Form::gather(each), expires_at }
    }

    pub(super) fn of(&self, block: BlockId) -> BlockHints<'_> {
        let index = block.0 as usize;
        match &self.form {
            Form::None => BlockHints::Text(""),
            Form::Signatures(signatures) => BlockHints::Signature(&signatures[index]),
            Form::Text { text, ends } => {
                let begin = index.checked_sub(1).map_or(0, |before| ends[before]);
                BlockHints::Text(&text[begin as usize..ends[index] as usize])
            }
        }
    }

    /// When the first signature ends, in seconds since 1970.
    pub(super) fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        match &self.form {
            Form::None => 0,
            Form::Signatures(signatures) => size_of_val(&**signatures),
            Form::Text { text, ends } => text.len() + size_of_val(&**ends),
        }
    }
}

impl Form {
    fn gather<'a>(each: impl Iterator<Item = LocatorRef<'a>> + Clone) -> Self {
        if each.clone().all(|locator| locator.hints.is_empty()) {
            return Self::None;
        }
        if let Some(signatures) = each.clone().map(|l| Signature::read(l.hints)).collect() {
            return Self::Signatures(signatures);
        }
        let mut text = String::with_capacity(each.clone().map(|l| l.hints.len()).sum());
        // The hints are parts of a manifest, which is shorter than 2 GiB.
        let ends = each
            .map(|locator| {
                text.push_str(locator.hints);
                text.len() as u32
            })
            .collect();
        Self::Text { text: text.into(), ends }
    }
}
