// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What each part promises; `tests/rust/draft.rs` holds all of it to a plain model.

mod contents;
mod manifest;
mod packer;
mod repack;
