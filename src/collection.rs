// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection as a compact tree of files made of block segments.
//!
//! Calls `manifest` and `types`; does no I/O. A [`Tree`] never changes once built, except that its
//! locators' signatures can be renewed. Its size is linear in the manifest's, whatever the text:
//! a file token that extents many blocks is kept as one extent of its stream.
//!
//! Nodes are numbered breadth first, children by name: the children of a directory are a range of
//! numbers, and every child's number is larger than its parent's. Names are ordered by code point.

mod blocks;
mod build;
mod diff;
pub mod draft;
mod hints;
mod plan;
mod tree;
mod write;

pub use blocks::{Block, BlockId};
pub use build::NAME_MAX;
pub use diff::{Diff, diff};
pub use plan::{BlockIds, BlockRange, Plan};
pub use tree::{Children, Kind, NodeId, Tree};

#[cfg(test)]
mod tests;
