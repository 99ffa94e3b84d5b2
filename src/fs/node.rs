// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry as the file system sees it: a file or directory of any kind.
//!
//! The layer above implements [`Node`]. A method may need that layer to run code of its own (a
//! Python method that somebody overrode, a refresh through the API); where the calling thread may
//! not do so, it answers [`Halt::Ascend`] and the request is run again where it may. Nothing that
//! cannot be repeated happens before that answer.

use std::any::Any;

use super::errno::Errno;

/// Why a request stopped short.
#[derive(Debug)]
pub enum Halt {
    /// The layer above is needed, and this thread may not call it: run the request again there.
    Ascend,
    /// The request failed.
    Errno(Errno),
    /// The layer above failed; its own error, handed through.
    Above(Box<dyn Any + Send>),
}

impl From<Errno> for Halt {
    fn from(errno: Errno) -> Self {
        Halt::Errno(errno)
    }
}

/// What a node answers with.
pub type Outcome<T> = std::result::Result<T, Halt>;

/// Bytes that a read answered with, kept alive by their owner.
pub trait Bytes: Send {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

/// An inode entry. Cloning is cheap and refers to the same entry.
///
/// The methods carry the meaning of those of `arvados_fuse`'s `FreshBase`, `File` and `Directory`.
#[allow(clippy::missing_errors_doc)]
pub trait Node: Clone + Send + Sync + 'static {
    /// Inode number, once in the table.
    fn inode(&self) -> Outcome<Option<u64>>;
    /// Gives or takes the inode number.
    fn set_inode(&self, inode: Option<u64>) -> Outcome<()>;
    /// Inode number of the directory that this is in.
    fn parent_inode(&self) -> Outcome<Option<u64>>;
    /// Sets the directory that this is in.
    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()>;
    /// Whether both are the same entry.
    fn same(&self, other: &Self) -> bool;

    /// A directory (otherwise a file).
    fn is_dir(&self) -> bool;
    /// A file of a collection: shown as executable, and can be truncated.
    fn is_collection_file(&self) -> bool;
    /// Size in bytes.
    fn size(&self) -> Outcome<u64>;
    /// Last access, in seconds since the epoch.
    fn atime(&self) -> Outcome<f64>;
    /// Last change, in seconds since the epoch.
    fn mtime(&self) -> Outcome<f64>;
    /// Whether it can be changed.
    fn writable(&self) -> Outcome<bool>;
    /// For how many seconds the kernel may cache what it was told.
    fn time_to_next_poll(&self) -> Outcome<f64>;
    /// Whether the kernel may cache attributes at all.
    fn allow_attr_cache(&self) -> Outcome<bool>;
    /// Whether the kernel may cache the name that leads here (a choice that entries had in 2017).
    ///
    /// # Errors
    /// What the node answers.
    fn allow_dirent_cache(&self) -> Outcome<bool> {
        Ok(true)
    }

    /// It was accessed just now.
    fn accessed(&self) -> Outcome<()>;
    /// Whether the contents must be refreshed.
    fn stale(&self) -> Outcome<bool>;
    /// Refreshes the contents where they are stale.
    fn checkupdate(&self) -> Outcome<()>;

    /// Uses from inside: one more, one less.
    fn inc_use(&self) -> Outcome<()>;
    /// See [`Node::inc_use`].
    fn dec_use(&self) -> Outcome<()>;
    /// Whether it, or anything below it, is in use.
    fn in_use(&self) -> Outcome<bool>;
    /// One more reference of the kernel's.
    fn inc_ref(&self) -> Outcome<()>;
    /// `n` references less; answers how many remain.
    fn dec_ref(&self, n: u64) -> Outcome<i64>;
    /// Whether the kernel refers to it.
    fn has_ref(&self) -> Outcome<bool>;

    /// As [`Node::has_ref`] where that can be told without the layer above; otherwise false.
    fn referenced_now(&self) -> bool;

    /// Arvados uuid or portable data hash, by which events find it.
    fn uuid(&self) -> Outcome<Option<String>>;
    /// The uuid under which it is listed at present.
    fn cache_uuid(&self) -> Outcome<Option<String>>;
    /// See [`Node::cache_uuid`].
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()>;
    /// Whether the inode cache counts it.
    fn persisted(&self) -> Outcome<bool>;
    /// Memory that its contents take, in bytes.
    fn objsize(&self) -> Outcome<i64>;
    /// What the cache counts for it at present, in bytes.
    fn cache_size(&self) -> Outcome<i64>;
    /// See [`Node::cache_size`].
    fn set_cache_size(&self, size: i64) -> Outcome<()>;
    /// Tells the kernel to forget the name that leads here.
    fn kernel_invalidate(&self) -> Outcome<()>;
    /// Commits what is pending, before it is cleared or the mount ends.
    fn finalize(&self) -> Outcome<()>;
    /// Drops the contents; they are loaded again at the next access.
    fn clear(&self) -> Outcome<()>;

    /// The entry of that name, after a refresh where one is due.
    fn child(&self, name: &str) -> Outcome<Option<Self>>;
    /// The whole listing, after a refresh where one is due.
    fn items(&self) -> Outcome<Vec<(Box<str>, Self)>>;

    /// Up to `size` bytes from `offset`.
    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<Box<dyn Bytes>>;
    /// Writes at `offset`; answers the bytes written.
    fn writeto(&self, offset: u64, data: &[u8], num_retries: u32) -> Outcome<u32>;
    /// Cuts or extends to `size` bytes; answers the size afterwards.
    fn truncate(&self, size: u64) -> Outcome<u64>;
    /// Saves what was changed.
    fn flush(&self) -> Outcome<()>;

    /// Makes an empty file.
    fn create(&self, name: &str) -> Outcome<()>;
    /// Makes a directory.
    fn mkdir(&self, name: &str) -> Outcome<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> Outcome<()>;
    /// Removes a directory.
    fn rmdir(&self, name: &str) -> Outcome<()>;
    /// Moves `old` of directory `source` to `new` in this one.
    fn rename(&self, old: &str, new: &str, source: &Self) -> Outcome<()>;
}
