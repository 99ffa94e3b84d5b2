// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Mount Arvados Keep as a file system.
//!
//! The crate is laid out in layers whose arrows point down only: [`py`] (the only user of pyo3)
//! and [`fuse`] (the only user of fuser) sit side by side on [`fs`], which knows neither. Below are
//! [`collection`], a collection's tree of files; [`keep`], which reads its blocks; [`api`], which asks for
//! records; [`events`], which hears of changes; [`net`], what both have for connections; [`manifest`], the text a tree is read from; [`types`],
//! the values that all speak of; [`report`], the log of what servers did; [`cluster_clock`], the time there; and [`metrics`], what is counted.
//! `docs/architecture.md` is the map; `tests/rust/layers.rs` holds the layers to it.

pub mod api;
pub mod cluster_clock;
pub mod collection;
pub mod events;
pub mod fs;
pub mod fuse;
pub mod keep;
pub mod manifest;
pub mod metrics;
pub mod net;
#[cfg(feature = "python")]
pub mod py;
pub mod report;
pub mod types;
