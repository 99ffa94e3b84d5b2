// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The manifest text: what a collection's content looks like on the wire.
//!
//! [`parse`] reads it in one pass and hands each part to a [`Sink`]; [`write`] writes it in normal
//! form; [`strip`] takes the hints off an unparsed text. Calls `types` only, does no I/O, and
//! keeps no state. What is accepted follows the Arvados SDK 3.2.1 (`Collection._import_manifest`);
//! `docs/manifest.md` lists where it differs, and `tests/python/test_manifest.py` holds both to it.

mod error;
mod escape;
mod parse;
mod strip;
pub mod write;

pub(crate) use error::shown;
pub use error::{ManifestError, Reason};
pub use escape::{escape_into, unescape};
pub use parse::{Segment, Sink, parse};
pub use strip::strip;
