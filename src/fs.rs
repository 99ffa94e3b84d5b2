// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The file system itself: what an inode is, when it is fresh, when it may be evicted, and how a
//! request about it is answered.
//!
//! Nothing here knows pyo3 or fuser, and nothing here blocks on either: what this layer needs
//! from above (Python objects as nodes, a way to notify the kernel) arrives as a trait.
//!
//! Start at [`operations`], which answers requests over any [`Node`]; [`inodes`] is the table
//! that requests go through, [`cache`] decides what is evicted, [`state`] is what every node keeps,
//! [`collection`] is a mounted collection.

pub mod absent;
pub mod any_node;
pub mod atomic;
pub mod attr;
pub mod cache;
pub mod collection;
pub mod dentries;
pub mod errno;
pub mod filesystem;
pub mod flags;
pub mod handles;
pub mod inodes;
pub mod node;
pub mod operations;
pub mod read_data;
pub mod removal;
pub mod savers;
pub mod state;
pub mod told;
pub mod write_buffer;

pub use attr::{Attr, Caller, Fh, Ino, SetAttr, StatFs, Timestamp};
pub use errno::{Errno, Refusal};
pub use filesystem::{DirSink, FileSystem, KernelNotifier, Opened, Result, SinkFull};
pub use flags::{Allocation, Position, RenameMode, Seek};
pub use node::{Halt, Node, Outcome, Read, Write, Written};
pub use read_data::{Bytes, ReadData};
