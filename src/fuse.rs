// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The FUSE loop: mounting, requests in, replies and notifications out.
//!
//! The only user of fuser. It knows a file system as a [`crate::fs::FileSystem`] and nothing of
//! what is behind it. Mounting and serving are two steps, with no thread before the second: a
//! program may fork into the background between them.

pub mod adapter;
mod convert;
pub mod desk;
mod listing;
pub mod mount;
mod negotiation;
pub mod notifier;
pub mod options;
pub mod session;
mod workers;
