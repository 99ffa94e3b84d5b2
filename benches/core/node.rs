// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry that has nothing but a number and a weight.

use arvados_fuse::fs::Errno;
use arvados_fuse::fs::node::{Bytes, Facts, Listing, Node, Outcome};

#[derive(Clone)]
pub struct Weight {
    pub inode: u64,
    pub bytes: i64,
}

fn unused<T>() -> Outcome<T> {
    Err(Errno::ENOSYS.into())
}

impl Node for Weight {
    fn inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.inode))
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(1))
    }
    fn persisted(&self) -> Outcome<bool> {
        Ok(true)
    }
    fn objsize(&self) -> Outcome<i64> {
        Ok(self.bytes)
    }
    fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        Ok(())
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
    fn referenced_now(&self) -> bool {
        false
    }

    fn set_inode(&self, _inode: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn set_parent_inode(&self, _parent: Option<u64>) -> Outcome<()> {
        unused()
    }
    fn size(&self) -> Outcome<u64> {
        unused()
    }
    fn atime(&self) -> Outcome<f64> {
        unused()
    }
    fn mtime(&self) -> Outcome<f64> {
        unused()
    }
    fn writable(&self) -> Outcome<bool> {
        unused()
    }
    fn time_to_next_poll(&self) -> Outcome<f64> {
        unused()
    }
    fn allow_attr_cache(&self) -> Outcome<bool> {
        unused()
    }
    fn facts(&self, _may_write: bool) -> Outcome<Facts> {
        unused()
    }
    fn accessed(&self) -> Outcome<()> {
        unused()
    }
    fn stale(&self) -> Outcome<bool> {
        unused()
    }
    fn checkupdate(&self) -> Outcome<()> {
        unused()
    }
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
    fn uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        unused()
    }
    fn set_cache_uuid(&self, _uuid: Option<String>) -> Outcome<()> {
        unused()
    }
    fn cache_size(&self) -> Outcome<i64> {
        unused()
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
    fn child(&self, _name: &str) -> Outcome<Option<Self>> {
        unused()
    }
    fn items(&self) -> Outcome<Box<dyn Listing<Self>>> {
        unused()
    }
    fn readfrom(&self, _offset: u64, _size: u32, _retries: u32) -> Outcome<Box<dyn Bytes>> {
        unused()
    }
    fn writeto(&self, _offset: u64, _data: &[u8], _retries: u32) -> Outcome<u32> {
        unused()
    }
    fn truncate(&self, _size: u64) -> Outcome<u64> {
        unused()
    }
    fn flush(&self) -> Outcome<()> {
        unused()
    }
    fn create(&self, _name: &str) -> Outcome<()> {
        unused()
    }
    fn mkdir(&self, _name: &str) -> Outcome<()> {
        unused()
    }
    fn unlink(&self, _name: &str) -> Outcome<()> {
        unused()
    }
    fn rmdir(&self, _name: &str) -> Outcome<()> {
        unused()
    }
    fn rename(&self, _old: &str, _new: &str, _source: &Self) -> Outcome<()> {
        unused()
    }
}
