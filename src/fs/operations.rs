// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How each request is answered, over any kind of [`Node`].
//!
//! One implementation serves both ways in: the kernel's requests ([`serving`]), and the methods of
//! `Operations` in the layer above. A request runs once. Where an entry fails half way, what was
//! counted for the request is taken back, so that the caller's next try finds everything as it was.

mod changing;
mod listing;
mod ranges;
mod saving;
mod serving;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::attr::{Attr, Fh, Ino, SetAttr, StatFs};
use super::errno::Refusal;
use super::handles::{Handle, Handles, every};
use super::inodes::Inodes;
use super::node::{Halt, Node, Outcome, Read};
use super::told::Told;
use crate::collection::NAME_MAX;
use crate::metrics;

/// How long the kernel may keep what it was told, at most: some 30 years, which its 64 bits of jiffies
/// hold.
const MAX_TIMEOUT: Duration = Duration::from_secs(1_000_000_000);

/// How often a lookup looks where what it finds is removed under it each time.
const LOOKS: u32 = 3;

/// File names as the kernel has them (bytes) and as nodes have them (text).
pub trait Codec: Send + Sync + 'static {
    /// The text of a name from the kernel.
    ///
    /// # Errors
    /// `EILSEQ` where the bytes are no text in this encoding.
    fn decode<'n>(&self, name: &'n [u8]) -> Outcome<Cow<'n, str>>;

    /// The bytes of a name for the kernel.
    ///
    /// # Errors
    /// `EILSEQ` where the text cannot be written in this encoding.
    fn encode<'n>(&self, name: &'n str) -> Outcome<Cow<'n, [u8]>>;
}

/// The encoding of nearly every mount.
pub struct Utf8;

impl Codec for Utf8 {
    fn decode<'n>(&self, name: &'n [u8]) -> Outcome<Cow<'n, str>> {
        std::str::from_utf8(name).map(Cow::Borrowed).map_err(|_| Refusal::NotText.into())
    }

    fn encode<'n>(&self, name: &'n str) -> Outcome<Cow<'n, [u8]>> {
        Ok(Cow::Borrowed(name.as_bytes()))
    }
}

// Each fits into the 32 bits that statfs(2) has for older programs, which get EOVERFLOW otherwise.
const STATFS_BLOCK: u32 = 1 << 20;
const STATFS_BLOCKS: u64 = 1 << 30;
const STATFS_FILES: u64 = 1 << 31;

/// A mounted file system: its inode table, its open handles, and what holds for all of it.
pub struct Operations<N: Node> {
    /// The inode table.
    pub inodes: Arc<Inodes<N>>,
    /// The open handles.
    pub handles: Handles<N>,
    /// Owner shown for every inode.
    pub uid: AtomicU32,
    /// Group shown for every inode.
    pub gid: AtomicU32,
    /// Whether anything may be changed through the mount.
    pub enable_write: AtomicBool,
    /// How often a failed transfer is tried again.
    pub num_retries: AtomicU32,
    /// The mount is ending: the kernel's last words about inodes no longer matter.
    pub shutting_down: AtomicBool,
    /// What went through, and what was answered in what time.
    pub metrics: Arc<metrics::Mount>,
    codec: Box<dyn Codec>,
    /// Names that are left out of listings, and were logged.
    left_out: Told,
}

impl<N: Node> Operations<N> {
    /// A file system over `inodes`, whose entry number 1 is the root.
    #[must_use]
    pub fn new(inodes: Arc<Inodes<N>>, codec: Box<dyn Codec>) -> Self {
        Operations {
            inodes,
            handles: Handles::default(),
            uid: AtomicU32::new(0),
            gid: AtomicU32::new(0),
            enable_write: AtomicBool::new(false),
            num_retries: AtomicU32::new(4),
            shutting_down: AtomicBool::new(false),
            metrics: metrics::register(),
            codec,
            left_out: Told::default(),
        }
    }

    /// The text of a name from the kernel.
    ///
    /// # Errors
    /// `ENAMETOOLONG`; `EILSEQ` where the bytes are no text in the mount's encoding.
    fn decode<'n>(&self, name: &'n [u8]) -> Outcome<Cow<'n, str>> {
        if name.len() > NAME_MAX {
            return Err(Refusal::NameTooLong.into());
        }
        self.codec.decode(name)
    }

    fn node(&self, ino: Ino) -> Outcome<N> {
        self.inodes.get(ino.0).ok_or_else(|| Refusal::NotFound.into())
    }

    fn parent_of(&self, node: &N) -> Outcome<Option<N>> {
        Ok(node.parent_inode()?.and_then(|parent| self.inodes.get(parent)))
    }

    fn retries(&self) -> u32 {
        self.num_retries.load(Ordering::Relaxed)
    }

    fn may_write(&self) -> Outcome<()> {
        if self.enable_write.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Refusal::ReadOnly.into())
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `ENOENT` for a number that is not in the table; what the node answers.
    pub fn getattr(&self, ino: Ino) -> Outcome<Attr> {
        let node = self.node(ino)?;
        self.freshen(&node)?;
        self.attr_of(ino, &node)
    }

    /// Refreshes what an entry that is never refreshed by itself is a part of: a file of a collection
    /// is as fresh as the collection. Whoever has it open, or sits in a directory, comes by no name
    /// above.
    fn freshen(&self, node: &N) -> Outcome<()> {
        let mut next = node.refreshed_with()?;
        while let Some(ino) = next {
            let Some(above) = self.inodes.get(ino) else { break };
            next = above.refreshed_with()?;
            if next.is_none() {
                above.accessed()?;
                return above.checkupdate();
            }
            // The root is in itself.
            next = next.filter(|further| *further != ino);
        }
        Ok(())
    }

    fn attr_of(&self, ino: Ino, node: &N) -> Outcome<Attr> {
        self.inodes.touch(node)?;
        let facts = node.facts(self.enable_write.load(Ordering::Relaxed))?;
        let entry_timeout = match facts.entry_timeout {
            Some(timeout) => timeout,
            None => match self.parent_of(node)? {
                Some(parent) => {
                    self.inodes.touch(&parent)?;
                    if node.allow_dirent_cache()? {
                        parent.time_to_next_poll()?
                    } else {
                        Duration::ZERO
                    }
                }
                None => Duration::ZERO,
            },
        };
        let mut mode = 0o444;
        if node.is_dir() {
            mode |= libc::S_IFDIR | 0o111;
        } else {
            mode |= libc::S_IFREG;
            if node.is_collection_file() {
                mode |= 0o111;
            }
        }
        if facts.writable {
            mode |= 0o222;
        }
        Ok(Attr {
            ino,
            generation: 0,
            entry_timeout: entry_timeout.min(MAX_TIMEOUT),
            attr_timeout: facts.attr_timeout.min(MAX_TIMEOUT),
            mode,
            nlink: facts.nlink,
            uid: self.uid.load(Ordering::Relaxed),
            gid: self.gid.load(Ordering::Relaxed),
            rdev: 0,
            size: facts.size,
            blksize: 512,
            blocks: facts.size / 512 + 1,
            atime: facts.atime,
            mtime: facts.mtime,
            ctime: facts.mtime,
        })
    }

    /// Changes the size of a collection's file, and the time of its last change where that is kept for
    /// as long as the mount knows it. Modes, owners and times are not kept in a manifest: a change of
    /// those is accepted and has no further effect.
    ///
    /// # Errors
    /// `EROFS` on a read-only mount; `ENOENT`; `EPERM` for a file that cannot be changed.
    pub fn setattr(&self, ino: Ino, set: &SetAttr, fh: Option<Fh>) -> Outcome<Attr> {
        if *set != SetAttr::default() {
            self.may_write()?;
        }
        let mut attr = self.attr_of(ino, &self.node(ino)?)?;
        let node = match fh.and_then(|fh| self.handles.find(fh)) {
            Some(handle) => handle.node().clone(),
            None => self.node(ino)?,
        };
        if let Some(size) = set.size
            && node.is_collection_file()
        {
            if !node.writable()? {
                return Err(Refusal::NotPermitted.into());
            }
            let truncated = node.truncate(size)?;
            (attr.size, attr.blocks) = (truncated.size, truncated.size / 512 + 1);
            if let Some(mtime) = truncated.mtime {
                (attr.mtime, attr.ctime) = (mtime, mtime);
            }
        }
        if let Some(mtime) = set.mtime
            && node.set_mtime(mtime)?
        {
            (attr.mtime, attr.ctime) = (mtime, mtime);
        }
        Ok(attr)
    }

    /// Finds a name in a directory, and counts a kernel reference on what it leads to.
    ///
    /// # Errors
    /// `ENOENT`, `ENAMETOOLONG`; what the nodes answer.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Outcome<Attr> {
        let name = match self.decode(name) {
            // No name of ours has such bytes.
            Err(halt) if halt.is(Refusal::NotText) => return Err(Refusal::NotFound.into()),
            name => name?,
        };
        for _ in 0..LOOKS {
            let (ino, node) = self.find(parent, &name)?;
            match self.attr_of(ino, &node) {
                Ok(attr) if self.inodes.reference(ino.0, &node)? => return Ok(attr),
                Err(halt) if !self.is_gone(ino, &halt) => return Err(halt),
                // It was removed meanwhile: something else may have that name by now.
                Ok(_) | Err(_) => {}
            }
        }
        Err(Refusal::NotFound.into())
    }

    /// Whether the answer says that an entry which was found just now is not there any more.
    fn is_gone(&self, ino: Ino, halt: &Halt) -> bool {
        halt.is(Refusal::NotFound) && !self.inodes.contains(ino.0)
    }

    fn find(&self, parent: Ino, name: &str) -> Outcome<(Ino, N)> {
        if name == "." {
            return Ok((parent, self.node(parent)?));
        }
        let directory = self.node(parent)?;
        self.inodes.touch(&directory)?;
        if name == ".." {
            let ino = directory.parent_inode()?.ok_or(Refusal::NotFound)?;
            return Ok((Ino(ino), self.node(Ino(ino))?));
        }
        if !directory.is_dir() {
            return Err(Refusal::NotFound.into());
        }
        self.freshen(&directory)?;
        let Some(node) = directory.child(name)? else {
            self.inodes.absent.note(parent.0, name);
            return Err(Refusal::NotFound.into());
        };
        let ino = node.inode()?.ok_or(Refusal::NotFound)?;
        Ok((Ino(ino), node))
    }

    /// The kernel dropped references. An entry deleted before goes with the last of them.
    ///
    /// # Errors
    /// What the nodes answer.
    pub fn forget_one(&self, ino: Ino, nlookup: u64) -> Outcome<()> {
        if self.shutting_down.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(node) = self.inodes.get(ino.0) else {
            log::debug!("forget of inode {ino}, which is not in the table");
            return Ok(());
        };
        if node.dec_ref(nlookup)? != 0 {
            return Ok(());
        }
        match node.parent_inode() {
            Ok(Some(_)) => {
                self.inodes.cap_cache();
                Ok(())
            }
            // The kernel says this once: where the answer is not known, the removal thread asks.
            deleted => {
                self.inodes.remove_later(&node);
                deleted.map(drop)
            }
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`; opened for writing, `EROFS` on a read-only mount and `EPERM` for a
    /// file that cannot be changed; what the nodes answer to a refresh.
    pub fn open(&self, ino: Ino, flags: i32) -> Outcome<Fh> {
        let (fh, refreshed) = self.open_refreshed(ino, flags)?;
        if refreshed {
            self.inodes.upcalls().invalidate_inode(ino);
        }
        Ok(fh)
    }

    /// As [`Operations::open`]; answers whether the file was refreshed besides: then the kernel must not
    /// keep pages of it.
    fn open_refreshed(&self, ino: Ino, flags: i32) -> Outcome<(Fh, bool)> {
        let node = self.node(ino)?;
        if node.is_dir() {
            return Err(Refusal::IsDirectory.into());
        }
        let for_writing = flags & (libc::O_WRONLY | libc::O_RDWR) != 0;
        if for_writing {
            self.may_write()?;
            if !node.writable()? {
                return Err(Refusal::NotPermitted.into());
            }
        }
        let refreshed = node.stale()?;
        if refreshed {
            node.checkupdate()?;
        }
        self.inodes.touch(&node)?;
        // A collection above may have been loaded so long ago that the signatures of its blocks
        // have expired, even where nothing else changed: every directory above is refreshed.
        let parent = self.parent_of(&node)?;
        let mut below = node.clone();
        while let Some(above) = self.parent_of(&below)? {
            if above.same(&below) {
                break;
            }
            self.inodes.touch(&above)?;
            above.checkupdate()?;
            below = above;
        }
        let reader = node.reader()?;
        let fh = self.handles.open(Handle::file(node, parent, for_writing, reader))?;
        Ok((fh, refreshed))
    }

    /// Whether closing the handle saves nothing: it is for reading only, or the file is nowhere saved.
    pub fn saves_nothing(&self, fh: Fh) -> bool {
        self.handles.find(fh).is_some_and(|handle| handle.saves_nothing())
    }

    /// Reads up to `size` bytes.
    ///
    /// # Errors
    /// `EBADF`; what the node answers.
    pub fn read(&self, fh: Fh, offset: u64, size: u32) -> Outcome<Read> {
        let handle = self.handles.get(fh)?;
        self.inodes.touch(handle.node())?;
        let read = match handle.reader() {
            Some(reader) => reader.read(offset, size)?,
            None => None,
        };
        let read = match read {
            Some(read) => read,
            None => Read::Now(handle.node().readfrom(offset, size, self.retries())?),
        };
        self.metrics.read_ops.add(1);
        Ok(match read {
            Read::Now(data) => {
                self.metrics.read.add(data.bytes().len() as u64);
                Read::Now(data)
            }
            Read::Later(start) => {
                let metrics = Arc::clone(&self.metrics);
                Read::Later(Box::new(move |deliver| {
                    start(Box::new(move |result| {
                        if let Ok(data) = &result {
                            metrics.read.add(data.bytes().len() as u64);
                        }
                        deliver(result);
                    }));
                }))
            }
        })
    }

    /// Closes a file or directory; saves what was written through it. It is closed even where
    /// that fails.
    ///
    /// # Errors
    /// What saving answers.
    pub fn release(&self, fh: Fh) -> Outcome<()> {
        let saved = self.handles.find(fh).map_or(Ok(()), |handle| handle.flush(false));
        saved.and(self.close(fh))
    }

    /// Closes a file or directory; saving is somebody else's.
    fn close(&self, fh: Fh) -> Outcome<()> {
        let Some(handle) = self.handles.find(fh) else {
            return Ok(());
        };
        let closed = self.handles.close(fh);
        // What was deleted while it was in use had to stay until now.
        let removed = every(handle.used(), |node| self.remove_deserted(node));
        self.inodes.cap_cache();
        closed.and(removed)
    }

    /// Has an entry removed that was deleted and is no longer open, or the directory above it that
    /// was deleted and had to stay for it. A handle is closed once: where the answers are not known, the
    /// removal thread asks.
    fn remove_deserted(&self, node: &N) -> Outcome<()> {
        let mut at = node.clone();
        loop {
            let above = match self.parent_unless_deserted(&at) {
                Ok(Some(above)) => above,
                deserted => {
                    self.inodes.remove_later(&at);
                    return deserted.map(drop);
                }
            };
            match self.inodes.get(above) {
                Some(above) if !above.same(&at) => at = above,
                _ => return Ok(()),
            }
        }
    }

    /// The number of the directory above; that of the root, where there is none, but the entry stays.
    fn parent_unless_deserted(&self, node: &N) -> Outcome<Option<u64>> {
        match node.parent_inode()? {
            None if node.inode()?.is_none() => Ok(Some(Ino::ROOT.0)),
            parent => Ok(parent),
        }
    }

    /// A descriptor of the handle was closed: saves what was written through it.
    ///
    /// # Errors
    /// What saving answers.
    pub fn flush(&self, fh: Fh) -> Outcome<()> {
        match self.handles.find(fh) {
            Some(handle) => handle.flush(false),
            None => Ok(()),
        }
    }

    /// Saves whatever is unsaved, and has the kernel look at the result.
    ///
    /// # Errors
    /// What saving answers.
    pub fn fsync(&self, fh: Fh) -> Outcome<()> {
        let Some(handle) = self.handles.find(fh) else {
            return Ok(());
        };
        handle.flush(true)?;
        self.inodes.invalidate(handle.node())
    }

    /// Keep tells no size and no limit: 1 PiB, of which nothing is used, and which is free where
    /// something can be written. Programs that look for free space before they write find some.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        let free = |number: u64| if self.may_write().is_ok() { number } else { 0 };
        StatFs {
            bsize: STATFS_BLOCK,
            frsize: STATFS_BLOCK,
            blocks: STATFS_BLOCKS,
            bfree: STATFS_BLOCKS,
            bavail: free(STATFS_BLOCKS),
            files: STATFS_FILES,
            ffree: free(STATFS_FILES),
            namemax: NAME_MAX as u32,
        }
    }

    /// Everybody whom the kernel lets through may read; nobody may write to a read-only mount.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn access(&self, mask: i32) -> Outcome<()> {
        if mask & libc::W_OK != 0 { self.may_write() } else { Ok(()) }
    }
}
