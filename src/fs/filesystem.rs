// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The seam between the kernel's requests and whatever answers them.
//!
//! [`crate::fuse`] decodes a request, makes one call into a [`FileSystem`], and replies. Two kinds
//! implement it: our own operations, and any `llfuse.Operations` object written in Python.
//! Handlers are called from several threads at once and hold no lock of the caller's.

use super::attr::{Attr, Caller, Fh, Ino, SetAttr, StatFs};
use super::errno::{Errno, Refusal};
use super::flags::{Allocation, Position, RenameMode, Seek};
use super::node::{Read, Write};

/// What a handler answers with.
pub type Result<T> = std::result::Result<T, Errno>;

/// Told what became of a request.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// An open file or directory, and how the kernel may treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle that later requests name.
    pub fh: Fh,
    /// The kernel may keep pages that it cached in an earlier open.
    pub keep_cache: bool,
    /// Nothing is to be saved when a descriptor is closed: the kernel need not ask for it.
    pub no_flush: bool,
}

/// The reply buffer has no room for the entry offered; it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkFull;

/// Takes directory entries until the kernel's buffer is full: name, attributes, and the offset
/// from which a later call goes on behind this entry.
pub type DirSink<'a> = dyn FnMut(&[u8], &Attr, u64) -> std::result::Result<(), SinkFull> + 'a;

/// Tells the kernel to forget what it cached. Must not be called from a request handler: the
/// kernel may hold the lock that the request was made under.
pub trait KernelNotifier: Send + Sync {
    /// Drop cached attributes (and, unless `attr_only`, pages) of an inode.
    ///
    /// # Errors
    /// The errno that the kernel answered; an inode that it does not know is no error.
    fn invalidate_inode(&self, ino: Ino, attr_only: bool) -> Result<()>;

    /// Drop the cached entry (negative ones included) `name` of directory `parent`.
    ///
    /// # Errors
    /// The errno that the kernel answered; an entry that it does not know is no error.
    fn invalidate_entry(&self, parent: Ino, name: &[u8]) -> Result<()>;

    /// Have the kernel look `name` of directory `parent` up again when it is next used. What uses it
    /// (a working directory, a mount on it) stays, where the name still leads to the same inode.
    ///
    /// # Errors
    /// `ENOSYS` where this kernel cannot; the errno that it answered.
    fn expire_entry(&self, parent: Ino, name: &[u8]) -> Result<()>;

    /// Have the kernel give back inodes, as far as nothing uses them; of a directory and what is in
    /// it, what is in it has to come first.
    ///
    /// # Errors
    /// `ENOSYS` where this kernel cannot; the errno that it answered.
    fn prune(&self, inos: &[Ino]) -> Result<()>;

    /// Put `data` into the kernel's page cache of an inode, at `offset` bytes.
    ///
    /// # Errors
    /// The errno that the kernel answered.
    fn store(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<()>;
}

/// A file system as the kernel sees it. Every method has the meaning of the request of the same
/// name in the kernel's fuse.h; a method left out answers `ENOSYS`, as libfuse does.
///
/// ```
/// use arvados_fuse::fs::{Caller, Errno, FileSystem, Ino, Result};
///
/// /// One symbolic link, as the root.
/// struct Link;
///
/// impl FileSystem for Link {
///     fn readlink(&self, _caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
///         if ino == Ino::ROOT { Ok(b"target".to_vec()) } else { Err(Errno::ENOENT) }
///     }
/// }
///
/// let caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
/// assert_eq!(Link.readlink(&caller, Ino::ROOT), Ok(b"target".to_vec()));
/// assert_eq!(Link.readlink(&caller, Ino(2)), Err(Errno::ENOENT));
/// assert_eq!(Link.unlink(&caller, Ino::ROOT, b"name"), Err(Errno::ENOSYS));
/// ```
#[allow(unused_variables, clippy::missing_errors_doc)]
pub trait FileSystem: Send + Sync + 'static {
    /// The session has begun; called once, before any other request.
    fn init(&self) {}
    /// The session has ended; called once, after every other request.
    fn destroy(&self) {}
    /// True where [`FileSystem::readdirplus`] is implemented, which makes a cold `ls -l` cost a
    /// request a directory instead of one a file.
    fn has_readdirplus(&self) -> bool {
        false
    }
    /// Find `name` in `parent`; counts one kernel reference on the inode found.
    fn lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// The kernel drops references: pairs of inode and count.
    fn forget(&self, batch: &[(Ino, u64)]) {}
    /// Attributes of an inode.
    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Change attributes; answers the ones that hold afterwards.
    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Target of a symbolic link.
    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make a node that is not a directory or link; counts one kernel reference.
    fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make a directory; counts one kernel reference.
    fn mkdir(&self, caller: &Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Remove a file.
    fn unlink(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Remove an empty directory.
    fn rmdir(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make a symbolic link; counts one kernel reference.
    fn symlink(&self, caller: &Caller, parent: Ino, name: &[u8], target: &[u8]) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Rename; `mode` says what becomes of a name that is there.
    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// As [`FileSystem::unlink`], or (`dir`) [`FileSystem::rmdir`]; tells when it is done, from any thread.
    fn remove_later(&self, caller: &Caller, parent: Ino, name: &[u8], dir: bool, done: Done) {
        let remove = if dir { Self::rmdir } else { Self::unlink };
        done(remove(self, caller, parent, name));
    }
    /// As [`FileSystem::rename`]; tells when it is done, from any thread.
    fn rename_later(
        &self,
        caller: &Caller,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
        done: Done,
    ) {
        done(self.rename(caller, parent, name, new_parent, new_name, mode));
    }
    /// Make a hard link; counts one kernel reference.
    fn link(&self, caller: &Caller, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Attr> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Open a file. `flags` are those of open(2).
    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<Opened> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Read up to `size` bytes at `offset`; fewer only at the end of the file. What has to be waited
    /// for is answered later, from another thread.
    fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> Result<Read> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Write `data`; answers the bytes written.
    fn write(&self, ino: Ino, fh: Fh, at: Position, data: &[u8]) -> Result<Write> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Reserve room for a range of a file, or make it a hole or zeros. The kernel asks no more on this mount
    /// once that was `ENOSYS`: what cannot be is `EOPNOTSUPP`.
    fn fallocate(&self, ino: Ino, fh: Fh, offset: u64, len: u64, how: Allocation) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// The first byte from `offset` on that is data, or in a hole; `ENXIO` where there is none. After an
    /// `ENOSYS` the kernel takes all files of this mount for data.
    fn lseek(&self, ino: Ino, fh: Fh, offset: u64, what: Seek) -> Result<u64> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Copy `len` bytes between open files, each of them an inode, a handle and an offset; answers how many
    /// were copied, fewer at the end of the source. `EXDEV` has the kernel read and write instead, and
    /// `ENOSYS` from then on for the whole mount.
    fn copy_file_range(
        &self,
        source: (Ino, Fh, u64),
        target: (Ino, Fh, u64),
        len: u64,
    ) -> Result<u32> {
        Err(Refusal::NotImplemented.errno())
    }
    /// A descriptor of the handle was closed.
    fn flush(&self, ino: Ino, fh: Fh) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// As [`FileSystem::flush`]; tells when it is done, from any thread.
    fn flush_later(&self, ino: Ino, fh: Fh, done: Done) {
        done(self.flush(ino, fh));
    }
    /// The last descriptor of the handle was closed.
    fn release(&self, ino: Ino, fh: Fh) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make what was written durable.
    fn fsync(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Open a directory for listing.
    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<Opened> {
        Err(Refusal::NotImplemented.errno())
    }
    /// As [`FileSystem::fsync`], or (`dir`) [`FileSystem::fsyncdir`]; tells when it is done, from any
    /// thread.
    fn fsync_later(&self, ino: Ino, fh: Fh, datasync: bool, dir: bool, done: Done) {
        done(if dir { self.fsyncdir(ino, fh, datasync) } else { self.fsync(ino, fh, datasync) });
    }
    /// List a directory from `offset` on (0 at first). Counts no kernel reference.
    fn readdir(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// List a directory with attributes. Counts one kernel reference on each entry that the sink
    /// took, except `.` and `..`.
    fn readdirplus(&self, ino: Ino, fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// The directory was closed.
    fn releasedir(&self, ino: Ino, fh: Fh) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make changes to a directory durable.
    fn fsyncdir(&self, ino: Ino, fh: Fh, datasync: bool) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Size and free space.
    fn statfs(&self, caller: &Caller) -> Result<StatFs> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Set an extended attribute. `flags`: 0, `XATTR_CREATE` or `XATTR_REPLACE`.
    fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Value of an extended attribute.
    fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Names of the extended attributes.
    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Remove an extended attribute.
    fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// May the caller access the inode? `mask` as in access(2).
    fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        Err(Refusal::NotImplemented.errno())
    }
    /// Make a file and open it; counts one kernel reference.
    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: i32,
    ) -> Result<(Attr, Opened)> {
        Err(Refusal::NotImplemented.errno())
    }
}
