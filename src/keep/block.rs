// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A verified block that can be read from.
//!
//! A block is either in memory, where nothing can change it any more, or an open file of the disk
//! cache that was verified as a whole. Files are read by pread, never mapped: a mapping would kill
//! the process (SIGBUS) if another one truncated the file. And other processes may also write to
//! it. So each read of a file ends with an fstat that compares size, inode and times with those
//! taken before the file was verified. The kernel moves the times before it moves the data, so
//! bytes read *before* an unchanged fstat are the verified ones; anything else is [`Stale`].

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use nix::fcntl::Flock;

use super::verified::Verified;
use crate::types::Md5;

/// A block whose md5 and length were checked. Cheap to clone; stays readable, also after the
/// cache has evicted it, for as long as it is kept.
#[derive(Clone, Debug)]
pub struct Block(Held);

#[derive(Clone, Debug)]
enum Held {
    Memory(Arc<Vec<u8>>),
    File(Arc<DiskBlock>),
}

/// The cached file has been changed, truncated or removed by somebody else since it was verified.
/// Nothing was read. The cache has already forgotten it: ask the client for the block again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl Block {
    pub(super) fn memory(data: Arc<Vec<u8>>) -> Self {
        Block(Held::Memory(data))
    }

    pub(super) fn file(file: Arc<DiskBlock>) -> Self {
        Block(Held::File(file))
    }

    /// Bytes in the block.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::Memory(data) => data.len(),
            Held::File(file) => file.fingerprint.size as usize,
        }
    }

    /// Whether it is the empty block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.0 {
            Held::Memory(data) => Some(data),
            Held::File(_) => None,
        }
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the block, none past it.
    ///
    /// In memory: a slice of the block, nothing is copied. In a file: one pread and one fstat
    /// into `scratch`, which grows as needed and is best kept by the thread for its next read.
    ///
    /// # Errors
    /// [`Stale`] where the cache file was changed since it was verified.
    pub fn read_at<'a>(
        &'a self,
        offset: usize,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Stale> {
        let end = offset.saturating_add(len).min(self.len());
        if offset >= end {
            return Ok(&[]);
        }
        match &self.0 {
            Held::Memory(data) => Ok(&data[offset..end]),
            Held::File(file) => {
                let len = end - offset;
                if scratch.len() < len {
                    scratch.resize(len, 0);
                }
                let into = &mut scratch[..len];
                file.read_into(offset as u64, into)?;
                Ok(into)
            }
        }
    }

    /// Copies the bytes from `offset` on into `into`, which ends within the block.
    ///
    /// # Errors
    /// [`Stale`] also where `into` reaches past the end of the block.
    pub fn read_into(&self, offset: usize, into: &mut [u8]) -> Result<(), Stale> {
        match &self.0 {
            Held::Memory(data) => {
                let from = data.get(offset..offset + into.len()).ok_or(Stale)?;
                into.copy_from_slice(from);
                Ok(())
            }
            Held::File(file) => file.read_into(offset as u64, into),
        }
    }

    /// All bytes, copied.
    ///
    /// # Errors
    /// [`Stale`] where the cache file was changed since it was verified.
    pub fn to_vec(&self) -> Result<Vec<u8>, Stale> {
        let mut scratch = Vec::new();
        let len = self.read_at(0, self.len(), &mut scratch)?.len();
        if let Some(data) = self.as_slice() {
            return Ok(data.to_vec());
        }
        scratch.truncate(len);
        Ok(scratch)
    }
}

/// What tells whether a file is still the one that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileFingerprint {
    pub size: u64,
    pub inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileFingerprint {
    /// Length of its encoding.
    pub(super) const BYTES: usize = 7 * 8;

    /// Its encoding: for this machine alone.
    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let (modified, changed) = (self.modified, self.changed);
        let words = [
            self.size,
            self.inode.0,
            self.inode.1,
            modified.0 as u64,
            modified.1 as u64,
            changed.0 as u64,
            changed.1 as u64,
        ];
        let mut bytes = [0; Self::BYTES];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// What [`FileFingerprint::to_bytes`] gave.
    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
            u64::from_ne_bytes(word)
        };
        let time = |at: usize| (word(at) as i64, word(at + 1) as i64);
        FileFingerprint {
            size: word(0),
            inode: (word(1), word(2)),
            modified: time(3),
            changed: time(5),
        }
    }

    /// Whether the file system's times have fractions of a second: those that count in seconds
    /// cannot tell two changes apart.
    pub(super) fn is_fine(&self) -> bool {
        self.changed.1 != 0
    }

    /// Whether nothing was written to the file since it had that fingerprint, whatever became of its name.
    pub(super) fn has_content_of(&self, earlier: &Self) -> bool {
        (self.size, self.inode, self.modified) == (earlier.size, earlier.inode, earlier.modified)
    }

    /// When the file was changed last.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        let since = Duration::new(self.changed.0.try_into().ok()?, self.changed.1.try_into().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }

    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(FileFingerprint {
            size: meta.len(),
            inode: (meta.dev(), meta.ino()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// An open, verified file of the disk cache. The descriptor holds the shared lock by which
/// processes tell each other that a file is in use.
#[derive(Debug)]
pub(super) struct DiskBlock {
    pub md5: Md5,
    pub file: Flock<File>,
    pub fingerprint: FileFingerprint,
    stale: AtomicBool,
    verified: Arc<Verified>,
}

impl DiskBlock {
    pub(super) fn new(
        md5: Md5,
        file: Flock<File>,
        fingerprint: FileFingerprint,
        verified: Arc<Verified>,
    ) -> Self {
        DiskBlock { md5, file, fingerprint, stale: AtomicBool::new(false), verified }
    }

    /// Whether a read has found it changed.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    fn read_into(&self, offset: u64, into: &mut [u8]) -> Result<(), Stale> {
        let whole = self.file.read_exact_at(into, offset);
        if whole.is_ok() && FileFingerprint::of(&self.file).is_ok_and(|now| now == self.fingerprint)
        {
            return Ok(());
        }
        self.stale.store(true, Ordering::Relaxed);
        self.verified.forget(self.md5);
        Err(Stale)
    }
}
