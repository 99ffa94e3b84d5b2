// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Reading blocks from Keep and writing them: services, retries, verification, the block cache, read-ahead.
//!
//! Start at [`KeepClient`]. A block is found in [`cache`](self) memory or on disk, or fetched
//! from a service; whichever it is, its md5 and length were checked before a byte of it is given
//! out. Nothing here calls up: the list of services comes through the [`Services`] trait, and a
//! reader that has to wait hands in a closure.

mod block;
mod cache;
mod client;
mod config;
mod disk;
mod disk_quota;
mod error;
mod fetch;
mod files_ahead;
mod hashing;
mod http;
mod in_flight;
mod local_store;
mod pieces;
mod progress;
mod put;
mod readahead;
mod rendezvous;
mod rounds;
mod sending;
mod service;
mod service_list;
mod storage;
mod tally;
mod upload;
mod verified;

pub use block::{Block, Stale};
pub use client::KeepClient;
pub use config::{CacheConfig, Config, MAX_BLOCK, Timeouts};
pub use error::{Answer, Failure, KeepError, Operation};
pub use files_ahead::FilesAhead;
pub use in_flight::{Priority, Waiter};
pub use put::{PutOptions, PutWaiter};
pub use readahead::ReadAhead;
pub use service::{Service, ServiceType, Services, ServicesError, StaticServices};
