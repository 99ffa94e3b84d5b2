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
//! Everything here blocks and runs on threads for that. Limits: see [`disk_quota`](super::disk_quota).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::block::{DiskBlock, FileFingerprint};
use super::disk_quota::DiskQuota;
use super::verified::Verified;
use crate::metrics;
use crate::types::{Locator, Md5};

pub(super) const SUFFIX: &str = ".keepcacheblock";

/// Bytes that are read and hashed, or written, at a time: fits the processor's cache, and bounds
/// how long a shutdown waits.
const PIECE: usize = 256 << 10;

/// A disk that writes less than so many bytes a second, over this time, holds up readers: the
/// rest of the block is kept in memory instead.
const SLOW: u64 = 16 << 20;
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The folder.
pub(super) struct DiskCache {
    dir: PathBuf,
    quota: DiskQuota,
    verified: Arc<Verified>,
    metrics: Arc<metrics::Keep>,
    stop: Arc<AtomicBool>,
    temporaries: AtomicU64,
}

impl DiskCache {
    /// On a folder that need not exist yet. `stop` ends whatever is under way.
    pub(super) fn new(
        dir: &Path,
        max_bytes: u64,
        metrics: Arc<metrics::Keep>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let quota = DiskQuota::new(dir, max_bytes);
        let verified = Arc::new(Verified::new(dir));
        let (dir, temporaries) = (dir.to_path_buf(), AtomicU64::new(0));
        DiskCache { dir, quota, verified, metrics, stop, temporaries }
    }

    fn path(&self, md5: Md5) -> PathBuf {
        let name = md5.to_string();
        self.dir.join(&name[..3]).join(format!("{name}{SUFFIX}"))
    }

    /// A block from the disk if its file is there and every byte of it right. A wrong file is
    /// removed, unless another process is just writing it.
    pub(super) fn find(&self, locator: &Locator) -> Option<DiskBlock> {
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

    fn read(&self, path: &Path, locator: &Locator) -> io::Result<DiskBlock> {
        // Neither following a link nor waiting for the other end of a pipe.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let file = lock(file, FlockArg::LockSharedNonblock)?;
        let begun = SystemTime::now();
        let fingerprint = FileFingerprint::of(&file)?;
        let md5 = locator.md5();
        let block = |file| DiskBlock::new(md5, file, fingerprint, self.verified.clone());
        if fingerprint.size == u64::from(locator.size()) && self.verified.knows(md5, &fingerprint) {
            return Ok(block(file));
        }
        let wrong = match self.verify(&file, &fingerprint, locator) {
            Ok(()) => {
                self.verified.note_found(md5, &fingerprint, begun);
                return Ok(block(file));
            }
            Err(error) => error,
        };
        if wrong.kind() == io::ErrorKind::InvalidData {
            remove(&file, path, &fingerprint);
        }
        Err(wrong)
    }

    /// Reads all of a file, to see whether it is the block.
    fn verify(
        &self,
        mut file: &File,
        fingerprint: &FileFingerprint,
        locator: &Locator,
    ) -> io::Result<()> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let size = locator.size() as usize;
        if fingerprint.size != u64::from(locator.size()) {
            return Err(wrong(format!("has {} bytes instead of {size}", fingerprint.size)));
        }
        let mut md5 = md5_lanes::Running::default();
        let (mut piece, mut read) = (Vec::with_capacity(PIECE), 0);
        while read < size {
            self.go_on()?;
            let room = (PIECE - piece.len()).min(size - read) as u64;
            match Read::take(&mut file, room).read_to_end(&mut piece)? {
                0 => return Err(wrong(format!("ends after {read} bytes instead of {size}"))),
                more => read += more,
            }
            self.metrics.bytes_verified.add(md5.pending(&piece) as u64);
            md5.advance(&piece, usize::MAX);
            piece.drain(..md5.release());
        }
        if Md5(md5.finish(&piece)) != locator.md5() {
            return Err(wrong("has other content than its name says".into()));
        }
        if FileFingerprint::of(file)? != *fingerprint {
            return Err(io::Error::other("changed while it was verified"));
        }
        Ok(())
    }

    /// Writes a verified block, if there is room and the disk takes it.
    ///
    /// `spare` gives up one of our own files at a time, when that helps.
    pub(super) fn store(
        self: &Arc<Self>,
        md5: Md5,
        data: &[u8],
        spare: &dyn Fn() -> Option<Arc<DiskBlock>>,
    ) -> Option<DiskBlock> {
        let begun = self.begin(md5, data.len(), spare).ok().flatten()?;
        begun.write(&[data]).and_then(PartialCacheFile::finish).ok()
    }

    /// Begins the file of a block of `size` bytes, if there is room: under a temporary name, so
    /// that no reader finds an incomplete file. `Ok(None)`: nothing may be written now. `spare` as
    /// for [`DiskCache::store`]. What fails is told in the log, here and later.
    pub(super) fn begin(
        self: &Arc<Self>,
        md5: Md5,
        size: usize,
        spare: &dyn Fn() -> Option<Arc<DiskBlock>>,
    ) -> io::Result<Option<PartialCacheFile>> {
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
            file.set_len(size as u64)?;
            lock(file, FlockArg::LockSharedNonblock)
        };
        match self.quota.reserve(size as u64, &give_up_one, create) {
            Ok(None) => Ok(None),
            Ok(Some(file)) => Ok(Some(PartialCacheFile {
                disk: self.clone(),
                md5,
                size,
                reserved: size as u64,
                written: 0,
                spent: Duration::ZERO,
                temporary,
                path,
                file: Some(file),
                spoiled: false,
            })),
            Err(error) => {
                // It may not have come into being; anything left is removed as old by the next.
                let _ = std::fs::remove_file(&temporary);
                self.quota.failed(&error, size as u64);
                Err(error)
            }
        }
    }

    /// Removes the file of a block that is no longer in any table, unless another process uses
    /// it. Says whether it is gone.
    pub(super) fn evict(&self, block: &DiskBlock) -> bool {
        let gone = remove(&block.file, &self.path(block.md5), &block.fingerprint);
        if gone {
            self.quota.freed(block.fingerprint.size);
        }
        gone
    }

    /// The limit to hold: the one configured, or one that suits the file system.
    pub(super) fn measure(&self, max_blocks: usize) -> u64 {
        self.quota.measure(max_blocks)
    }

    fn go_on(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "shutting down"));
        }
        Ok(())
    }
}

/// A cache file that is being written. Dropped before it is finished, it is gone.
pub(super) struct PartialCacheFile {
    disk: Arc<DiskCache>,
    md5: Md5,
    size: usize,
    /// Bytes of it that the quota still counts as on their way.
    reserved: u64,
    written: usize,
    /// Time that writing took.
    spent: Duration,
    temporary: PathBuf,
    path: PathBuf,
    /// `None` once it has its name.
    file: Option<Flock<File>>,
    /// Somebody else changed it.
    spoiled: bool,
}

impl PartialCacheFile {
    /// Writes the next bytes. An error, also where the disk is too slow to wait for, gives back
    /// what was written before them.
    pub(super) fn write(mut self, pieces: &[impl AsRef<[u8]>]) -> Result<Self, Self> {
        match self.try_write(pieces) {
            Ok(bytes) => {
                self.written += bytes;
                Ok(self)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn try_write(&mut self, pieces: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let begun = Instant::now();
        let file = self.file()?;
        let mut at = self.written as u64;
        for piece in pieces.iter().flat_map(|bytes| bytes.as_ref().chunks(PIECE)) {
            self.disk.go_on()?;
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        self.spent += begun.elapsed();
        if self.spent > SLOW_AFTER && at < self.spent.as_secs() * SLOW {
            return Err(io::Error::other(format!("{at} bytes took {:?} to write", self.spent)));
        }
        Ok((at - self.written as u64) as usize)
    }

    fn file(&self) -> io::Result<&Flock<File>> {
        self.file.as_ref().ok_or_else(|| io::Error::other("has its name already"))
    }

    /// Gives it its name: all bytes were written, and are known to be the block. From then on others may
    /// change them; what they did before it was looked at must not be taken for what was written.
    pub(super) fn finish(mut self) -> Result<DiskBlock, Self> {
        let renamed = self.file().and_then(|file| {
            let written = FileFingerprint::of(file)?;
            std::fs::rename(&self.temporary, &self.path)?;
            Ok((written, FileFingerprint::of(file)?))
        });
        match (renamed, self.file.take()) {
            (Ok((written, fingerprint)), Some(file)) if !fingerprint.has_content_of(&written) => {
                // Nobody may read it, here or later.
                remove(&file, &self.path, &fingerprint);
                self.file = Some(file);
                self.spoiled = true;
                Err(self)
            }
            (Ok((_, fingerprint)), Some(file)) => {
                let verified = self.disk.verified.clone();
                verified.note(self.md5, &fingerprint);
                Ok(DiskBlock::new(self.md5, file, fingerprint, verified))
            }
            (renamed, file) => {
                self.file = file;
                let error = renamed.err().unwrap_or_else(|| io::Error::other("has no file"));
                Err(self.failed(&error))
            }
        }
    }

    /// What was written, read back: there, the file is of no more use.
    pub(super) fn into_memory(self) -> io::Result<Vec<u8>> {
        if self.spoiled {
            return Err(io::Error::other("its cache file was changed by somebody else"));
        }
        let mut data = Vec::new();
        data.try_reserve_exact(self.size).map_err(io::Error::other)?;
        data.resize(self.written, 0);
        self.file()?.read_exact_at(&mut data, 0)?;
        Ok(data)
    }

    /// An error is told once, and the quota given back with it.
    fn failed(mut self, error: &io::Error) -> Self {
        self.disk.quota.failed(error, std::mem::take(&mut self.reserved));
        self
    }
}

impl Drop for PartialCacheFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.temporary);
            self.disk.quota.unused(self.reserved);
        }
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
pub(super) fn remove(file: &Flock<File>, path: &Path, fingerprint: &FileFingerprint) -> bool {
    if file.relock(FlockArg::LockExclusiveNonblock).is_err() {
        return false;
    }
    let same = std::fs::symlink_metadata(path)
        .is_ok_and(|meta| (meta.dev(), meta.ino()) == fingerprint.inode);
    same && std::fs::remove_file(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_as_it_gets_its_name_is_not_believed() {
        const LEN: usize = 4096;
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
        let dir = target.join(format!("changed{}", std::process::id()));
        let disk = Arc::new(DiskCache::new(&dir, 1 << 30, Arc::default(), Arc::default()));
        disk.measure(10);
        let right = vec![1; LEN];
        let (md5, done) = (Md5::of(&right), AtomicBool::new(false));
        let path = disk.path(md5);
        let (mut changed, mut read, mut wrong) = (0, 0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                        let _ = file.write_all_at(&[2], LEN as u64 / 2);
                        let _ = std::fs::remove_file(&path);
                    }
                }
            });
            for _ in 0..3000 {
                let Some(block) = disk.store(md5, &right, &|| None) else {
                    changed += 1;
                    continue;
                };
                let mut bytes = vec![0; LEN];
                if crate::keep::Block::file(Arc::new(block)).read_into(0, &mut bytes).is_ok() {
                    read += 1;
                    wrong += usize::from(bytes != right);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        std::fs::remove_dir_all(&dir).expect("ours");
        assert_eq!(wrong, 0, "of {read}; {changed} were seen to be changed");
    }

    #[test]
    fn a_disk_too_slow_to_wait_for_gives_back_what_it_has() {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
        let dir = target.join(format!("slow{}", std::process::id()));
        let disk = DiskCache::new(&dir, 1 << 30, Arc::default(), Arc::default());
        let disk = Arc::new(disk);
        disk.measure(10);
        let begun = disk.begin(Md5::EMPTY, 300_000, &|| None).expect("writable").expect("room");
        let Ok(mut begun) = begun.write(&[vec![1; 100_000]]) else { panic!("not that slow") };
        begun.spent = Duration::from_secs(3);
        let Err(slow) = begun.write(&[vec![2; 100_000]]) else { panic!("slow") };
        assert!(slow.into_memory().expect("readable") == vec![1; 100_000]);
        let again = disk.begin(Md5::EMPTY, 300_000, &|| None).expect("it is only slow");
        assert!(again.is_none(), "left alone for a while");
        let left = std::fs::read_dir(dir.join("d41")).expect("it was made").count();
        std::fs::remove_dir_all(&dir).expect("ours");
        assert_eq!(left, 0);
    }
}
