// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The block cache on disk, shared with the SDK's clients in Python and Go.
//!
//! Files are `<dir>/<first 3 digits>/<md5>.keepcacheblock`, mode 0600 in folders of 0700. Whoever
//! has one open in its cache holds a shared flock on it; who wants to remove one must get the
//! exclusive lock first. What is found is hashed as a whole before it is trusted, unless that was done
//! before, see [`verified`](super::verified): the Go client writes under the final name, so that a
//! file may be incomplete.
//!
//! Everything here blocks and runs on threads for that. Limits: see [`room`](super::room).

use super::block::{DiskBlock, Stamp};
use super::room::Room;
use super::verified::Verified;
use crate::types::{Locator, Md5};
use nix::fcntl::{Flock, FlockArg, OFlag};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

pub(super) const SUFFIX: &str = ".keepcacheblock";

/// Bytes that are read and hashed, or written, at a time: fits the processor's cache, and bounds
/// how long a shutdown waits.
const PIECE: usize = 256 << 10;

/// The folder.
pub(super) struct DiskCache {
    dir: PathBuf,
    room: Room,
    verified: Arc<Verified>,
    stop: Arc<AtomicBool>,
    temporaries: AtomicU64,
}

impl DiskCache {
    /// On a folder that need not exist yet. `stop` ends whatever is under way.
    pub fn new(dir: &Path, max_bytes: u64, stop: Arc<AtomicBool>) -> Self {
        let room = Room::new(dir, max_bytes);
        let verified = Arc::new(Verified::new(dir));
        DiskCache { dir: dir.to_path_buf(), room, verified, stop, temporaries: AtomicU64::new(0) }
    }

    fn path(&self, md5: Md5) -> PathBuf {
        let name = md5.to_string();
        self.dir.join(&name[..3]).join(format!("{name}{SUFFIX}"))
    }

    /// A block from the disk if its file is there and every byte of it right; with its bytes where
    /// they had to be read to tell. A wrong file is removed, unless another process is just writing it.
    pub fn find(&self, locator: &Locator) -> Option<(Option<Vec<u8>>, DiskBlock)> {
        let path = self.path(locator.md5());
        match self.read(&path, locator) {
            Ok(found) => Some(found),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("cached block {} not used: {error}", path.display());
                }
                None
            }
        }
    }

    fn read(&self, path: &Path, locator: &Locator) -> io::Result<(Option<Vec<u8>>, DiskBlock)> {
        // Neither following a link nor waiting for the other end of a pipe.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let file = lock(file, FlockArg::LockSharedNonblock)?;
        let begun = SystemTime::now();
        let stamp = Stamp::of(&file)?;
        let md5 = locator.md5();
        let block = |file| DiskBlock::new(md5, file, stamp, self.verified.clone());
        if stamp.size == u64::from(locator.size()) && self.verified.knows(md5, &stamp) {
            return Ok((None, block(file)));
        }
        let wrong = match self.read_whole(&file, &stamp, locator) {
            Ok(data) => {
                self.verified.note_found(md5, &stamp, begun);
                return Ok((Some(data), block(file)));
            }
            Err(error) => error,
        };
        if wrong.kind() == io::ErrorKind::InvalidData {
            remove(&file, path, &stamp);
        }
        Err(wrong)
    }

    fn read_whole(&self, mut file: &File, stamp: &Stamp, locator: &Locator) -> io::Result<Vec<u8>> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let size = locator.size() as usize;
        if stamp.size != u64::from(locator.size()) {
            return Err(wrong(format!("has {} bytes instead of {size}", stamp.size)));
        }
        let mut data = Vec::new();
        data.try_reserve_exact(size).map_err(io::Error::other)?;
        let mut md5 = md5_lanes::Running::default();
        while data.len() < size {
            self.go_on()?;
            let at = data.len();
            let piece = PIECE.min(size - at) as u64;
            if Read::take(&mut file, piece).read_to_end(&mut data)? == 0 {
                return Err(wrong(format!("ends after {at} bytes instead of {size}")));
            }
            md5.advance(&data, usize::MAX);
        }
        if Md5(md5.finish(&data)) != locator.md5() {
            return Err(wrong("has other content than its name says".into()));
        }
        if Stamp::of(file)? != *stamp {
            return Err(io::Error::other("changed while it was verified"));
        }
        Ok(data)
    }

    /// Writes a verified block, if there is room: to a temporary name first, so that no reader
    /// finds an incomplete file. `Ok(None)`: nothing may be written now.
    ///
    /// `spare` gives up one of our own files at a time, when that helps.
    pub fn store(
        &self,
        md5: Md5,
        data: &[u8],
        spare: &dyn Fn() -> Option<Arc<DiskBlock>>,
    ) -> io::Result<Option<DiskBlock>> {
        let path = self.path(md5);
        let folder = path.parent().unwrap_or(&self.dir);
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("tmp{}-{number}{SUFFIX}", std::process::id()));
        let give_up_one = || spare().is_some_and(|block| self.evict(&block));
        let create = || {
            make_dir(folder)?;
            let mut options = OpenOptions::new();
            let file =
                options.read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
            // Its full length from the start: others count it before it is written.
            file.set_len(data.len() as u64)?;
            lock(file, FlockArg::LockSharedNonblock)
        };
        let written = self.room.reserve(data.len() as u64, &give_up_one, create).and_then(|file| {
            let Some(file) = file else { return Ok(None) };
            for piece in data.chunks(PIECE) {
                self.go_on()?;
                (&*file).write_all(piece)?;
            }
            std::fs::rename(&temporary, &path)?;
            let stamp = Stamp::of(&file)?;
            self.verified.note(md5, &stamp);
            Ok(Some(DiskBlock::new(md5, file, stamp, self.verified.clone())))
        });
        match written {
            Ok(block) => Ok(block),
            Err(error) => {
                // It may not have come into being; anything left is removed as old by the next.
                let _ = std::fs::remove_file(&temporary);
                self.room.failed(&error, data.len() as u64);
                Err(error)
            }
        }
    }

    /// Removes the file of a block that is no longer in any table, unless another process uses
    /// it. Says whether it is gone.
    pub fn evict(&self, block: &DiskBlock) -> bool {
        let gone = remove(&block.file, &self.path(block.md5), &block.stamp);
        if gone {
            self.room.freed(block.stamp.size);
        }
        gone
    }

    /// The limit to hold: the one configured, or one that suits the file system.
    pub fn measure(&self, max_blocks: usize) -> u64 {
        self.room.measure(max_blocks)
    }

    fn go_on(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "shutting down"));
        }
        Ok(())
    }
}

/// Makes a folder and those above it, for this user only.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(super) fn lock(file: File, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(file, how).map_err(|(_, errno)| io::Error::from(errno))
}

/// Removes `path` if it still is `file` and nobody else holds a lock on it.
pub(super) fn remove(file: &Flock<File>, path: &Path, stamp: &Stamp) -> bool {
    if file.relock(FlockArg::LockExclusiveNonblock).is_err() {
        return false;
    }
    let same =
        std::fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == stamp.inode);
    same && std::fs::remove_file(path).is_ok()
}
