// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a session agrees on with the kernel when it begins (`FUSE_INIT`).

use fuser::{InitFlags, KernelConfig};

use super::options::Options;

/// Largest write request: what the kernel allows without a raised `fs.fuse.max_pages_limit`.
const MAX_WRITE: u32 = 1 << 20;

/// Agrees on the terms of `options`; what this kernel does not offer, the session does without.
/// Answers whether it can expire a name without dropping it (`FUSE_HAS_EXPIRE_ONLY`, Linux 6.2).
pub(super) fn agree(config: &mut KernelConfig, options: &Options, readdirplus: bool) -> bool {
    let offered = config.capabilities();
    let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS;
    if options.auto_inval_data == Some(true) {
        wanted |= InitFlags::FUSE_AUTO_INVAL_DATA;
    }
    if !options.sync_read {
        wanted |= InitFlags::FUSE_ASYNC_READ;
    }
    if readdirplus {
        wanted |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
    }
    let _ = config.add_capabilities(wanted & offered);
    let _ = config.set_max_write(options.max_write.unwrap_or(MAX_WRITE).clamp(4096, MAX_WRITE));
    if let Some(bytes) = options.max_readahead {
        let _ = config.set_max_readahead(bytes).or_else(|most| config.set_max_readahead(most));
    }
    let _ = config.set_max_background(options.max_background.unwrap_or(64));
    offered.contains(InitFlags::FUSE_HAS_EXPIRE_ONLY)
}
