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
use std::borrow::Cow;

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

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Takes what was read, from any thread.
pub type Deliver = Box<dyn FnOnce(std::result::Result<Box<dyn Bytes>, Errno>) + Send>;

/// The answer to a read.
pub enum Read {
    /// Here it is.
    Now(Box<dyn Bytes>),
    /// It has to be waited for: this starts the wait, which takes none of the caller's time.
    Later(Box<dyn FnOnce(Deliver) + Send>),
}

/// An open file that can be read without the layer above.
pub trait Reader: Send + Sync {
    /// Up to `size` bytes from `offset`, fewer only at the end of the file; None where the file
    /// is no longer read this way, but through its node.
    ///
    /// # Errors
    /// What reading failed with, where that shows at once.
    fn read(&self, offset: u64, size: u32) -> Outcome<Option<Read>>;
}

/// What a directory lists, as it was at one moment.
pub trait Listing<N>: Send + Sync {
    /// How many entries there are.
    fn len(&self) -> usize;
    /// Whether there is no entry.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Name and entry at a position; None past the end, or where the entry is gone since.
    fn get(&self, at: usize) -> Option<(Cow<'_, str>, N)>;
    /// Entries that must be kept in use for as long as the listing is.
    fn used(&self) -> Box<dyn Iterator<Item = &N> + '_>;
}

impl<N: Node> Listing<N> for Vec<(Box<str>, N)> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn get(&self, at: usize) -> Option<(Cow<'_, str>, N)> {
        self.as_slice().get(at).map(|(name, node)| (Cow::Borrowed(&**name), node.clone()))
    }

    fn used(&self) -> Box<dyn Iterator<Item = &N> + '_> {
        Box::new(self.iter().map(|(_, node)| node))
    }
}

/// What a node tells for its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Size in bytes.
    pub size: u64,
    /// Last access, in seconds since the epoch.
    pub atime: f64,
    /// Last change, in seconds since the epoch.
    pub mtime: f64,
    /// Whether it can be changed, as far as that was asked.
    pub writable: bool,
    /// For how many seconds the kernel may cache the attributes.
    pub attr_timeout: f64,
    /// For how many seconds it may cache the name; None: for as long as the directory is fresh.
    pub entry_timeout: Option<f64>,
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
    /// All of these together; whether it can be changed only where `may_write`.
    fn facts(&self, may_write: bool) -> Outcome<Facts>;

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

    /// Whether nothing refreshes it but a refresh of the directory that it is in.
    fn fresh_with_parent(&self) -> bool {
        false
    }
    /// The entry of that name, after a refresh where one is due.
    fn child(&self, name: &str) -> Outcome<Option<Self>>;
    /// The whole listing, after a refresh where one is due.
    fn items(&self) -> Outcome<Box<dyn Listing<Self>>>;

    /// The number under which the inode cache counts it: its own, or that of the entry as a part
    /// of which it is loaded and evicted.
    fn counted_as(&self) -> Outcome<Option<u64>> {
        self.inode()
    }

    /// How an open file is read without the layer above; None where each read asks the node.
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        Ok(None)
    }

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
