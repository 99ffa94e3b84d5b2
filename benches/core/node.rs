// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry that has nothing but a number and a weight.

use std::time::Duration;

use arvados_fuse::fs::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Identity, Listing,
    Outcome, Reader,
};
use arvados_fuse::fs::{Errno, ReadData};

#[derive(Clone)]
pub(crate) struct Weight {
    pub inode: u64,
    pub bytes: i64,
}

fn unused<T>() -> Outcome<T> {
    Err(Errno::ENOSYS.into())
}

impl Identity for Weight {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.inode))
    }
    fn set_inode(&self, _inode: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(1))
    }
    fn set_parent_inode(&self, _parent: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn same(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
    fn is_dir(&self) -> bool {
        true
    }
    fn is_collection_file(&self) -> bool {
        false
    }
    fn uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn set_cache_uuid(&self, _uuid: Option<String>) -> Outcome<()> {
        unused()
    }
}

impl Attributes for Weight {
    fn facts(&self, _may_write: bool) -> Outcome<Facts> {
        unused()
    }
    fn writable(&self) -> Outcome<bool> {
        unused()
    }
    fn time_to_next_poll(&self) -> Outcome<Duration> {
        unused()
    }
}

impl Freshness for Weight {
    fn accessed(&self) -> Outcome<()> {
        unused()
    }
    fn stale(&self) -> Outcome<bool> {
        unused()
    }
    fn checkupdate(&self) -> Outcome<()> {
        unused()
    }
}

impl Counted for Weight {
    fn inc_use(&self) -> Outcome<()> {
        unused()
    }
    fn dec_use(&self) -> Outcome<()> {
        unused()
    }
    fn in_use(&self) -> Outcome<bool> {
        unused()
    }
    fn inc_ref(&self) -> Outcome<()> {
        unused()
    }
    fn dec_ref(&self, _n: u64) -> Outcome<i64> {
        unused()
    }
    fn has_ref(&self) -> Outcome<bool> {
        unused()
    }
    fn referenced_now(&self) -> bool {
        false
    }
}

impl Cacheable for Weight {
    fn persisted(&self) -> Outcome<bool> {
        Ok(true)
    }
    fn objsize(&self) -> Outcome<i64> {
        Ok(self.bytes)
    }
    fn cache_size(&self) -> Outcome<i64> {
        unused()
    }
    fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        Ok(())
    }
    fn counted_as(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.inode))
    }
    fn kernel_invalidate(&self) -> Outcome<()> {
        unused()
    }
    fn finalize(&self) -> Outcome<()> {
        unused()
    }
    fn clear(&self) -> Outcome<()> {
        unused()
    }
}

impl FileNode<Weight> for Weight {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        unused()
    }
    fn readfrom(&self, _offset: u64, _size: u32, _retries: u32) -> Outcome<ReadData> {
        unused()
    }
}

impl DirectoryNode<Weight> for Weight {
    fn child(&self, _name: &str) -> Outcome<Option<Self>> {
        unused()
    }
    fn items(&self) -> Outcome<Box<dyn Listing<Weight>>> {
        unused()
    }
}
