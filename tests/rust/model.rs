// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The file system against a plain model of a tree, and under entries that fail.
//!
//! The real [`Operations`](arvados_fuse::fs::operations::Operations) is asked through the
//! [`FileSystem`](arvados_fuse::fs::FileSystem) trait, as the kernel would ask it; the layer above it
//! is written in Rust ([`memory`](model::memory)), so that entries of every kind are there: files and
//! directories of the layer above, mounted collections, and collections that were superseded.
//!
//! - `blocks`: what files contain, manifests, and the Keep client that reads them
//! - `world`: what is outside of the file system: upcalls, newer versions, notices to the kernel
//! - `memory`, `directory`: the layer above: its entries, and how its directories change
//! - `reference`: the plain model: what there is, and what each answer has to be
//! - `kernel`: what a kernel knows: lookups counted, names and handles
//! - `generators`: random operations, made to shrink
//! - `harness`: runs operations on both, and compares each answer
//! - `checks`: what has to hold after each operation; at the end nothing may be left over
//! - `random`: as many operations as wanted, from one thread
//! - `threads`: the same from four, compared when all are quiet
//! - `tables`: what of the inode table, its cache and the handles no request leads to
//! - `failures`: each request with an entry that fails at each possible call
//! - `regressions`: what the random tests found, by name
//!
//! `TEST_SEED=N` repeats a run, `MODEL_N=N` says how many operations; both are printed. `make model N=...`
//! runs more of them.
//!
//! # Adding an operation
//!
//! Writing, say. Add it to `generators::Op` with selectors instead of numbers (they stay valid when
//! other operations are left out while a failure shrinks) and give it a weight; have `Harness::step`
//! turn the selectors into a request and compare the answer with what `Reference` expects; have
//! `Reference` change its tree. What the layer above does on its own and cannot be foreseen (what is
//! evicted, and when a directory is loaded) it tells as `world::Event`, which the reference checks and
//! follows.

mod model {
    pub(crate) mod blocks;
    pub(crate) mod checks;
    pub(crate) mod directory;
    pub(crate) mod generators;
    pub(crate) mod harness;
    pub(crate) mod kernel;
    pub(crate) mod memory;
    pub(crate) mod mount;
    pub(crate) mod reference;
    pub(crate) mod world;

    mod failures;
    mod random;
    mod regressions;
    mod tables;
    mod threads;
}
