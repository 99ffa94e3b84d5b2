// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry as the file system sees it: a file or directory of any kind.
//!
//! What an entry is asked is parted by what it is about: who it is ([`Identity`]), what stat(2)
//! tells ([`Attributes`]), whether it is up to date ([`Freshness`]), who refers to it ([`Counted`]),
//! what the inode cache makes of it ([`Cacheable`]), and what it contains ([`FileNode`],
//! [`DirectoryNode`]). The methods carry the meaning of those of `arvados_fuse`'s `FreshBase`,
//! `File` and `Directory`.
//!
//! A method may run code of the layer above (a Python method that somebody overrode, a refresh
//! through the API). That code runs where it is asked for, once: a request is never run twice, so
//! that nothing in it can be counted, removed or changed twice. The price is a rule: **no entry
//! is asked anything while a lock of this layer is held**, because the layer above may wait for a
//! lock of its own.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::attr::Timestamp;
use super::errno::{Errno, Refusal};
use super::flags::{Allocation, Position, RenameMode, Seek};
use super::read_data::ReadData;
use super::write_buffer::WriteBuffer;

/// Why a request stopped short.
#[derive(Debug)]
pub enum Halt {
    /// The request failed.
    Errno(Errno),
    /// The layer above failed; its own error, propagated.
    Upcall(Box<dyn Any + Send>),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Halt::Errno(refusal.errno())
    }
}

impl From<Errno> for Halt {
    fn from(errno: Errno) -> Self {
        Halt::Errno(errno)
    }
}

impl Halt {
    /// Whether the request failed as by that.
    #[must_use]
    pub fn is(&self, refusal: Refusal) -> bool {
        matches!(self, Halt::Errno(errno) if *errno == refusal.errno())
    }
}

/// What an entry answers with.
pub type Outcome<T> = std::result::Result<T, Halt>;

/// Takes what was read, from any thread.
pub type Deliver = Box<dyn FnOnce(std::result::Result<ReadData, Errno>) + Send>;

/// The answer to a read.
pub enum Read {
    /// Here it is.
    Now(ReadData),
    /// It has to be waited for: this starts the wait, which takes none of the caller's time.
    Later(Box<dyn FnOnce(Deliver) + Send>),
}

/// What a file makes of a write.
#[derive(Clone, Debug)]
pub enum Written {
    /// So many bytes of it were taken.
    Bytes(u32),
    /// None were: there is no room for them before others were stored. To be tried again when that
    /// has some.
    NoRoom(Arc<WriteBuffer>),
}

/// What cutting or extending a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Its size afterwards, in bytes.
    pub size: u64,
    /// When it was changed, where the file keeps that.
    pub mtime: Option<Timestamp>,
}

/// Told what became of a write, from any thread.
pub type Acknowledge = Box<dyn FnOnce(std::result::Result<u32, Errno>) + Send>;

/// The answer to a write: how many bytes were taken.
pub enum Write {
    /// So many.
    Now(u32),
    /// It has to be waited for: this starts the wait, which takes none of the caller's time.
    Later(Box<dyn FnOnce(Acknowledge) + Send>),
}

/// Told what became of a save: false where saving is the layer above's.
pub type Saved = Box<dyn FnOnce(std::result::Result<bool, Errno>) + Send>;

/// What is saved without a thread that waits.
pub trait Saving: Send + Sync {
    /// Saves what was changed until now, and tells when it is.
    fn save_soon(self: Arc<Self>, then: Saved);

    /// Saves what was changed until now, and waits for that; answers false where saving is the layer above's.
    ///
    /// # Errors
    /// Why it could not be saved.
    fn save_wait(self: Arc<Self>) -> Outcome<bool>;

    /// Saves what was changed until now, if the last save did not fail: it is tried again by itself then.
    fn save_behind(self: Arc<Self>);
}

/// What is to be saved before a change is told as made; None where nothing is to be waited for.
pub type ToSave = Option<Arc<dyn Saving>>;

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

impl<N: Clone + Send + Sync> Listing<N> for Vec<(Box<str>, N)> {
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

/// What an entry tells for its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Size in bytes.
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change.
    pub mtime: Timestamp,
    /// How many names lead to it.
    pub nlink: u32,
    /// Whether it can be changed, as far as that was asked.
    pub writable: bool,
    /// For how long the kernel may cache the attributes.
    pub attr_timeout: Duration,
    /// For how long it may cache the name; None: for as long as the directory is fresh.
    pub entry_timeout: Option<Duration>,
}

/// Which entry it is, and where it stands.
#[allow(clippy::missing_errors_doc)]
pub trait Identity {
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
    /// Arvados uuid or portable data hash, by which events find it.
    fn uuid(&self) -> Outcome<Option<String>>;
    /// The uuid under which it is listed at present.
    fn cache_uuid(&self) -> Outcome<Option<String>>;
    /// See [`Identity::cache_uuid`].
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()>;
}

/// What stat(2) tells of it.
#[allow(clippy::missing_errors_doc)]
pub trait Attributes {
    /// All that its attributes are made of; whether it can be changed only where `may_write`.
    fn facts(&self, may_write: bool) -> Outcome<Facts>;
    /// Whether it can be changed.
    fn writable(&self) -> Outcome<bool>;
    /// Sets when it was last changed; answers false where that is not kept.
    fn set_mtime(&self, mtime: Timestamp) -> Outcome<bool> {
        let _ = mtime;
        Ok(false)
    }
    /// For how long the kernel may cache what it was told.
    fn time_to_next_poll(&self) -> Outcome<Duration>;
    /// Whether the kernel may cache the name that leads here (a choice that entries had in 2017).
    fn allow_dirent_cache(&self) -> Outcome<bool> {
        Ok(true)
    }
}

/// Whether what it shows is up to date.
#[allow(clippy::missing_errors_doc)]
pub trait Freshness {
    /// It was accessed just now.
    fn accessed(&self) -> Outcome<()>;
    /// Whether the contents must be refreshed.
    fn stale(&self) -> Outcome<bool>;
    /// Refreshes the contents where they are stale.
    fn checkupdate(&self) -> Outcome<()>;
    /// Inode number of the directory that it is refreshed along with, where nothing refreshes it
    /// by itself.
    fn refreshed_with(&self) -> Outcome<Option<u64>> {
        Ok(None)
    }
}

/// Who refers to it.
#[allow(clippy::missing_errors_doc)]
pub trait Counted {
    /// Uses from inside: one more, one less.
    fn inc_use(&self) -> Outcome<()>;
    /// See [`Counted::inc_use`].
    fn dec_use(&self) -> Outcome<()>;
    /// Whether it, or anything below it, is in use.
    fn in_use(&self) -> Outcome<bool>;
    /// One more reference of the kernel's.
    fn inc_ref(&self) -> Outcome<()>;
    /// `n` references less; answers how many remain.
    fn dec_ref(&self, n: u64) -> Outcome<i64>;
    /// Whether the kernel refers to it.
    fn has_ref(&self) -> Outcome<bool>;
    /// As [`Counted::has_ref`] where that can be told without the layer above; otherwise false. Asked
    /// with the table's lock held: of this entry alone, not of what took its place.
    fn referenced_now(&self) -> bool;
}

/// What the inode cache makes of it.
#[allow(clippy::missing_errors_doc)]
pub trait Cacheable {
    /// Whether the inode cache counts it.
    fn persisted(&self) -> Outcome<bool>;
    /// Memory that its contents take, in bytes.
    fn objsize(&self) -> Outcome<i64>;
    /// What the cache counts for it at present, in bytes.
    fn cache_size(&self) -> Outcome<i64>;
    /// See [`Cacheable::cache_size`].
    fn set_cache_size(&self, size: i64) -> Outcome<()>;
    /// The number under which the inode cache counts it: its own, or that of the entry as a part
    /// of which it is loaded and evicted.
    fn counted_as(&self) -> Outcome<Option<u64>>;
    /// Tells the kernel to forget the name that leads here.
    fn kernel_invalidate(&self) -> Outcome<()>;
    /// Commits what is pending, before it is cleared or the mount ends.
    fn finalize(&self) -> Outcome<()>;
    /// Drops the contents; they are loaded again at the next access.
    fn clear(&self) -> Outcome<()>;
}

/// What a file is asked; others that it is asked about are of type `N`. What is not implemented is
/// refused with `EPERM`, unless it says otherwise.
#[allow(clippy::missing_errors_doc, unused_variables)]
pub trait FileNode<N> {
    /// How an open file is read without the layer above; None where each read asks the node.
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>>;
    /// Up to `size` bytes from `offset`.
    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<ReadData>;
    /// Writes there.
    fn writeto(&self, at: Position, data: &[u8], num_retries: u32) -> Outcome<Written> {
        Err(Refusal::NotPermitted.into())
    }
    /// Cuts or extends to `size` bytes.
    fn truncate(&self, size: u64) -> Outcome<Truncated> {
        Err(Refusal::NotPermitted.into())
    }
    /// Reserves room for a range, or makes it a hole or zeros. `EOPNOTSUPP` where that is not implemented.
    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Outcome<()> {
        Err(Refusal::NotSupported.into())
    }
    /// The first byte from `offset` on that is data, or in a hole; None for a file that is all data.
    fn seek(&self, offset: u64, what: Seek) -> Outcome<Option<u64>> {
        Ok(None)
    }
    /// Takes `len` bytes of `source` from offset `from` on, and puts them at `to`, without reading them;
    /// answers how many there were. `EXDEV` where they have to be read and written.
    fn copy_range(&self, to: u64, source: &N, from: u64, len: u64) -> Outcome<u64> {
        Err(Refusal::CrossCollection.into())
    }
    /// A descriptor was closed: saves what was changed; of a directory, what was changed in it.
    fn flush(&self) -> Outcome<()> {
        Ok(())
    }
    /// Saves what was changed, whatever closing a descriptor does.
    fn sync(&self) -> Outcome<()> {
        self.flush()
    }
    /// Whether what is written to it is nowhere saved, so that closing it has nothing to wait for.
    fn saves_nothing(&self) -> bool {
        false
    }
    /// What takes the place of [`FileNode::flush`], or (`forced`) of [`FileNode::sync`], without a
    /// thread that waits; None where those do it.
    fn saving(&self, forced: bool) -> Outcome<Option<Arc<dyn Saving>>> {
        Ok(None)
    }
}

/// What a directory is asked; its entries are of type `N`. What is not implemented is refused with
/// `EPERM`.
#[allow(clippy::missing_errors_doc, unused_variables)]
pub trait DirectoryNode<N> {
    /// The entry of that name, after a refresh where one is due.
    fn child(&self, name: &str) -> Outcome<Option<N>>;
    /// The whole listing, after a refresh where one is due.
    fn items(&self) -> Outcome<Box<dyn Listing<N>>>;
    /// Makes an empty file.
    fn create(&self, name: &str) -> Outcome<()> {
        Err(Refusal::NotPermitted.into())
    }
    /// Makes a directory.
    fn mkdir(&self, name: &str) -> Outcome<()> {
        Err(Refusal::NotPermitted.into())
    }
    /// Removes a file.
    fn unlink(&self, name: &str) -> Outcome<ToSave> {
        Err(Refusal::NotPermitted.into())
    }
    /// Removes a directory.
    fn rmdir(&self, name: &str) -> Outcome<ToSave> {
        Err(Refusal::NotPermitted.into())
    }
    /// Moves `old` of directory `source` to `new` in this one.
    fn rename(&self, old: &str, new: &str, source: &N, mode: RenameMode) -> Outcome<ToSave> {
        Err(Refusal::NotPermitted.into())
    }
    /// Has a name lead to a file that has one already.
    fn link(&self, name: &str, node: &N) -> Outcome<()> {
        Err(Refusal::NotPermitted.into())
    }
}

/// An inode entry in a table whose entries are of type `N`. Cloning is cheap and refers to the same
/// entry.
pub trait NodeOf<N>:
    Identity
    + Attributes
    + Freshness
    + Counted
    + Cacheable
    + FileNode<N>
    + DirectoryNode<N>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<N, T> NodeOf<N> for T where
    T: Identity
        + Attributes
        + Freshness
        + Counted
        + Cacheable
        + FileNode<N>
        + DirectoryNode<N>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What the table's entries themselves are: an entry whose neighbours are of its own type.
pub trait Node: NodeOf<Self> {}

impl<T: NodeOf<T>> Node for T {}
