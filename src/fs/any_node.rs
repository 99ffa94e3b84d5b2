// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry of any kind: one of the layer above, or a part of a mounted collection, which
//! needs no object of its own.

use std::sync::Arc;
use std::time::Duration;

use super::attr::Timestamp;
use super::collection::{CollectionNode, Host};
use super::flags::{Allocation, Position, RenameMode, Seek};
use super::node::{
    Attributes, Cacheable, Counted, DirectoryNode, Facts, FileNode, Freshness, Identity, Listing,
    Outcome, Reader, Saving, ToSave, Truncated, Written,
};
use super::read_data::ReadData;

/// An inode entry. Clones refer to the same one.
pub enum AnyNode<H: Host> {
    /// An entry of the layer above.
    Host(H::Node),
    /// A file or directory of a mounted collection.
    Collection(CollectionNode<H>),
}

impl<H: Host> Clone for AnyNode<H> {
    fn clone(&self) -> Self {
        match self {
            AnyNode::Host(node) => AnyNode::Host(node.clone()),
            AnyNode::Collection(node) => AnyNode::Collection(node.clone()),
        }
    }
}

/// Has the methods of a trait answered by whichever entry it is.
macro_rules! propagate {
    ($trait:path { $(fn $name:ident(&self $(, $arg:ident: $kind:ty)*) $(-> $result:ty)?;)* $(+ $($more:item)*)? }) => {
        impl<H: Host> $trait for AnyNode<H> {
            $(
                fn $name(&self $(, $arg: $kind)*) $(-> $result)? {
                    match self {
                        AnyNode::Host(node) => node.$name($($arg),*),
                        AnyNode::Collection(node) => node.$name($($arg),*),
                    }
                }
            )*
            $($($more)*)?
        }
    };
}

propagate!(Identity {
    fn inode(&self) -> Outcome<Option<u64>>;
    fn set_inode(&self, inode: Option<u64>) -> Outcome<()>;
    fn parent_inode(&self) -> Outcome<Option<u64>>;
    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()>;
    fn is_dir(&self) -> bool;
    fn is_collection_file(&self) -> bool;
    fn uuid(&self) -> Outcome<Option<String>>;
    fn cache_uuid(&self) -> Outcome<Option<String>>;
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()>;
    +
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (AnyNode::Host(one), AnyNode::Host(another)) => one.same(another),
            (AnyNode::Collection(one), AnyNode::Collection(another)) => one.same(another),
            _ => false,
        }
    }
});

propagate!(Attributes {
    fn facts(&self, may_write: bool) -> Outcome<Facts>;
    fn writable(&self) -> Outcome<bool>;
    fn set_mtime(&self, mtime: Timestamp) -> Outcome<bool>;
    fn time_to_next_poll(&self) -> Outcome<Duration>;
    fn allow_dirent_cache(&self) -> Outcome<bool>;
});

propagate!(Freshness {
    fn accessed(&self) -> Outcome<()>;
    fn stale(&self) -> Outcome<bool>;
    fn checkupdate(&self) -> Outcome<()>;
    fn refreshed_with(&self) -> Outcome<Option<u64>>;
});

propagate!(Counted {
    fn inc_use(&self) -> Outcome<()>;
    fn dec_use(&self) -> Outcome<()>;
    fn in_use(&self) -> Outcome<bool>;
    fn inc_ref(&self) -> Outcome<()>;
    fn dec_ref(&self, n: u64) -> Outcome<i64>;
    fn has_ref(&self) -> Outcome<bool>;
    fn referenced_now(&self) -> bool;
});

propagate!(Cacheable {
    fn persisted(&self) -> Outcome<bool>;
    fn objsize(&self) -> Outcome<i64>;
    fn cache_size(&self) -> Outcome<i64>;
    fn set_cache_size(&self, size: i64) -> Outcome<()>;
    fn counted_as(&self) -> Outcome<Option<u64>>;
    fn kernel_invalidate(&self) -> Outcome<()>;
    fn finalize(&self) -> Outcome<()>;
    fn clear(&self) -> Outcome<()>;
});

propagate!(FileNode<AnyNode<H>> {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>>;
    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<ReadData>;
    fn writeto(&self, at: Position, data: &[u8], num_retries: u32) -> Outcome<Written>;
    fn truncate(&self, size: u64) -> Outcome<Truncated>;
    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Outcome<()>;
    fn seek(&self, offset: u64, what: Seek) -> Outcome<Option<u64>>;
    fn copy_range(&self, to: u64, source: &AnyNode<H>, from: u64, len: u64) -> Outcome<u64>;
    fn flush(&self) -> Outcome<()>;
    fn sync(&self) -> Outcome<()>;
    fn saves_nothing(&self) -> bool;
    fn saving(&self, forced: bool) -> Outcome<Option<Arc<dyn Saving>>>;
});

propagate!(DirectoryNode<AnyNode<H>> {
    fn child(&self, name: &str) -> Outcome<Option<AnyNode<H>>>;
    fn items(&self) -> Outcome<Box<dyn Listing<AnyNode<H>>>>;
    fn create(&self, name: &str) -> Outcome<()>;
    fn mkdir(&self, name: &str) -> Outcome<()>;
    fn unlink(&self, name: &str) -> Outcome<ToSave>;
    fn rmdir(&self, name: &str) -> Outcome<ToSave>;
    fn rename(&self, old: &str, new: &str, source: &AnyNode<H>, mode: RenameMode) -> Outcome<ToSave>;
    fn link(&self, name: &str, node: &AnyNode<H>) -> Outcome<()>;
});
