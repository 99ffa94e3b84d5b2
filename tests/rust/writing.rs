// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A mounted collection that is written, against a plain tree of bytes.
//!
//! The real `Operations` are asked through the `FileSystem` trait, as the kernel would ask them; blocks go
//! to a server on loopback, which may refuse them.
//!
//! - `mount`: a collection as a mount of its own, and requests to it that wait for their answers
//! - `reference`: the plain tree, and what each answer has to be
//! - `driver`: makes random requests, and compares
//! - `random`: one thread, over nothing and over a manifest
//! - `record`: a collection's record, which several mounts save to
//! - `saving`: the same with saves, beside others who change it
//! - `repacking`: small blocks that saves leave
//! - `moving`: names that move between two collections
//! - `threads`: four at once, compared when all are quiet
//! - `regressions`: what was found, by name
//!
//! `TEST_SEED=N` repeats a run, `WRITING_N=N` says how many requests.

mod seed;
#[path = "keep/support.rs"]
mod support;

mod writing {
    pub(crate) mod driver;
    pub(crate) mod mount;
    pub(crate) mod record;
    pub(crate) mod reference;

    mod moving;
    mod random;
    mod regressions;
    mod repacking;
    mod saving;
    mod threads;
}
