// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The event bus: what changed on the cluster, as it happens.
//!
//! Start at [`EventBus`]. It has one thread, which connects again for as long as it is not closed, and tells a
//! [`Listener`].

mod bus;
mod socket;

pub use bus::{EventBus, Listener, Settings};
