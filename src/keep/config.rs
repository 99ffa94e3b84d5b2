// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a Keep client is told when it is made. Defaults are those of the Arvados SDK 3.2.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::Proxies;

/// The largest block that Keep stores, in bytes.
pub const MAX_BLOCK: u64 = 64 << 20;

/// Settings of a [`KeepClient`](super::KeepClient). No `Debug`: it holds the token.
///
/// ```
/// use arvados_fuse::keep::{CacheConfig, Config};
/// use std::time::Duration;
///
/// let cache = CacheConfig { max_bytes: 1 << 30, ..CacheConfig::default() };
/// let config = Config { token: "v2/...".into(), num_retries: 3, cache, ..Config::default() };
/// // As in the SDK.
/// assert_eq!(config.timeouts.connect, Duration::from_secs(2));
/// ```
#[derive(Clone)]
pub struct Config {
    /// API token, sent as `Authorization: Bearer`.
    pub token: String,
    /// Accept any TLS certificate: `ARVADOS_API_HOST_INSECURE`.
    pub insecure: bool,
    /// PEM file of the authorities to trust. `None`: as the SDK, the first that exists of
    /// $`SSL_CERT_FILE`, Arvados' own file, the system's; else OpenSSL's own.
    pub ca_file: Option<PathBuf>,
    /// Proxies to the services. `None`: those of the environment, when the first block is fetched.
    pub proxies: Option<Proxies>,
    /// `KEEP_LOCAL_STORE`: a folder with one file for each block, asked instead of any service.
    pub local_store: Option<PathBuf>,
    /// The block cache.
    pub cache: CacheConfig,
    /// Rounds over all services after the first one.
    pub num_retries: u32,
    /// Limits for services beside their disks.
    pub timeouts: Timeouts,
    /// Limits when any service is a proxy.
    pub proxy_timeouts: Timeouts,
    /// Time from the start of the first round to that of the second; doubles for each further
    /// round.
    pub backoff: Duration,
    /// The longest time between two rounds.
    pub max_backoff: Duration,
    /// Time in which nothing of a block arrives, from whichever service, all rounds included; then
    /// its readers get an error. So does a writer when no service takes any of its block; what one took
    /// that did not store it does not count.
    pub patience: Duration,
    /// Total time for one block, all rounds included; then its readers get an error, or its writer.
    pub deadline: Duration,
    /// Who waits so long with nothing arriving, or nothing taken, is told of in the log.
    pub notice: Duration,
    /// Blocks of 64 MiB fetched ahead at the same time, at most, or four times as many of a quarter of
    /// that; without a folder for the cache also no more than fit into memory.
    pub prefetches: usize,
    /// Blocks sent at the same time, at most (but one), each to as many services as it needs copies.
    /// As many are hashed meanwhile. Others wait for their turn, and no limit of time counts until
    /// then.
    pub uploads: usize,
    /// Threads that compute md5. 0: as many as there are processors, at most 8.
    pub hash_threads: usize,
    /// X-Request-Id for every request. `None`: a new one for each block.
    pub request_id: Option<String>,
}

/// Limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect; doubles with each round.
    pub connect: Duration,
    /// For the answer to begin, and the span over which `min_bandwidth` must be reached.
    pub read: Duration,
    /// Bytes a second.
    pub min_bandwidth: u64,
}

/// Where blocks are kept and how many.
#[derive(Clone, Debug, Default)]
pub struct CacheConfig {
    /// The folder to share with the SDK, usually `~/.cache/arvados/keep`. `None`: memory only.
    pub disk_dir: Option<PathBuf>,
    /// Bytes on disk, or in memory if there is no folder; at least one block of 64 MiB. 0: 256 MiB in
    /// memory; on disk the least of a tenth of the file system, a quarter of what is available to
    /// it, and 64 MiB for each of `max_blocks`.
    pub max_bytes: u64,
    /// Blocks, each of which takes a file descriptor on disk. 0: 512 in memory, on disk an eighth of
    /// `RLIMIT_NOFILE` and at most 16,384.
    pub max_blocks: usize,
    /// Bytes of blocks kept in memory besides, when there is a folder: small ones that were just
    /// fetched, and what the disk does not take. 0: 256 MiB, but no more than on disk.
    pub memory_bytes: u64,
    /// A block of no more bytes is given out first and written to its file then; a larger one is
    /// written as it comes, so many bytes at a time, and given out from there. 0: 1 MiB.
    pub write_behind_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        let timeouts = Timeouts {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(256),
            min_bandwidth: 32_768,
        };
        Config {
            token: String::new(),
            insecure: false,
            ca_file: None,
            proxies: None,
            local_store: None,
            cache: CacheConfig::default(),
            num_retries: 10,
            timeouts,
            proxy_timeouts: Timeouts { connect: Duration::from_secs(20), ..timeouts },
            backoff: Duration::from_secs(2),
            max_backoff: Duration::from_secs(60),
            patience: Duration::from_secs(120),
            deadline: Duration::from_secs(15 * 60),
            notice: Duration::from_secs(7),
            prefetches: 8,
            uploads: 4,
            hash_threads: 0,
            request_id: None,
        }
    }
}

impl Config {
    /// The X-Request-Id for everything that is asked about one block.
    pub(super) fn id_of_request(&self) -> String {
        let random = || std::iter::repeat_with(|| fastrand::digit(36)).take(20).collect::<String>();
        self.request_id.clone().unwrap_or_else(|| format!("req-{}", random()))
    }

    /// How many blocks of 64 MiB may be fetched ahead at the same time.
    pub(super) fn concurrent_prefetches(&self) -> usize {
        let fit = match self.cache.disk_dir {
            Some(_) => usize::MAX,
            None => usize::try_from(self.cache.memory_limit().0 / MAX_BLOCK).unwrap_or(usize::MAX),
        };
        self.prefetches.min(fit).max(1)
    }
}

impl CacheConfig {
    /// Limit of the blocks in memory: bytes and blocks.
    pub(super) fn memory_limit(&self) -> (u64, usize) {
        let or = |given: u64, default| if given == 0 { default } else { given };
        match self.disk_dir {
            Some(_) => (or(self.memory_bytes, self.max_memory()), usize::MAX),
            None => (
                or(self.max_bytes, 256 << 20).max(MAX_BLOCK),
                or(self.max_blocks as u64, 512) as usize,
            ),
        }
    }

    /// Bytes in memory beside a folder.
    fn max_memory(&self) -> u64 {
        let on_disk = if self.max_bytes == 0 { u64::MAX } else { self.max_bytes };
        on_disk.clamp(MAX_BLOCK, 256 << 20)
    }

    /// Limit of the blocks on disk, bytes and blocks, as far as it can be told without looking at
    /// the disk.
    pub(super) fn disk_limit(&self) -> Option<(u64, usize)> {
        self.disk_dir.as_ref()?;
        let bytes = if self.max_bytes == 0 { u64::MAX } else { self.max_bytes.max(MAX_BLOCK) };
        Some((bytes, self.max_files()))
    }

    /// Bytes of a block that is written after it was given out, at most.
    pub(super) fn write_behind(&self) -> usize {
        let given = usize::try_from(self.write_behind_bytes).unwrap_or(usize::MAX);
        if given == 0 { 1 << 20 } else { given }
    }

    /// How many blocks may be on disk.
    pub(super) fn max_files(&self) -> usize {
        if self.max_blocks > 0 {
            return self.max_blocks;
        }
        let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .unwrap_or((1024, 1024));
        usize::try_from(soft / 8).unwrap_or(usize::MAX).clamp(4, 16_384)
    }
}
