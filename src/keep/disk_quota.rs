// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How many bytes the cache folder may take, counted together with every other process that
//! uses it.
//!
//! The folder is measured now and then: often enough that several processes writing at once
//! stay below the limit, rarely enough that writing small blocks does not mean reading the folder
//! each time. Near the limit, one process at a time measures, makes room, and creates its file
//! at full length, under the lock file that the Go client's tidying takes too.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use parking_lot::Mutex;

use super::block::FileFingerprint;
use super::config::MAX_BLOCK;
use super::disk::{SUFFIX, lock, make_dir, remove};

/// Bytes that may be written between two measurements when there is hardly any room left.
const SLACK: u64 = 16 << 20;
/// A measurement older than this says little about what other processes did.
const MEASURED_FOR: Duration = Duration::from_secs(60);
/// How long to wait for another process to make room.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// How long nothing is written after the disk failed.
const PAUSE: Duration = Duration::from_secs(30);
/// A temporary file untouched for so long is a leftover.
const ABANDONED: Duration = Duration::from_secs(60);

pub(super) struct DiskQuota {
    dir: PathBuf,
    ledger: Mutex<Ledger>,
}

struct Ledger {
    /// 0 until it was worked out.
    limit: u64,
    measured: Option<(u64, Instant)>,
    written: u64,
    paused_until: Option<Instant>,
}

/// A cache file as a measurement finds it.
struct Found {
    path: PathBuf,
    used: SystemTime,
    size: u64,
}

impl DiskQuota {
    pub(super) fn new(dir: &Path, limit: u64) -> Self {
        let limit = if limit == 0 { 0 } else { limit.max(MAX_BLOCK) };
        let ledger = Ledger { limit, measured: None, written: 0, paused_until: None };
        DiskQuota { dir: dir.to_path_buf(), ledger: Mutex::new(ledger) }
    }

    /// Works the limit out if it was left open, and returns it.
    pub(super) fn measure(&self, max_blocks: usize) -> u64 {
        if self.ledger.lock().limit == 0 {
            let total = self.scan().iter().map(|found| found.size).sum();
            let limit = self.suitable_limit(total, max_blocks);
            let mut ledger = self.ledger.lock();
            ledger.limit = limit;
            ledger.measured = Some((total, Instant::now()));
        }
        self.ledger.lock().limit
    }

    /// The SDK's rule.
    fn suitable_limit(&self, used: u64, max_blocks: usize) -> u64 {
        let slots = (max_blocks as u64).saturating_mul(MAX_BLOCK);
        let known = make_dir(&self.dir)
            .and_then(|()| nix::sys::statvfs::statvfs(&self.dir).map_err(io::Error::from));
        let Ok(fs) = known else { return slots.min(MAX_BLOCK) };
        let total = fs.blocks() * fs.fragment_size();
        let available = fs.blocks_available() * fs.fragment_size() + used;
        (total / 10).min(available / 4).min(slots).max(MAX_BLOCK)
    }

    /// Makes sure that `size` more bytes fit and calls `create`, which must make them count.
    /// `None`: they do not fit, or the disk failed lately. `give_up_one` removes one file of this process.
    pub(super) fn reserve<T>(
        &self,
        size: u64,
        give_up_one: &dyn Fn() -> bool,
        create: impl Fn() -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        {
            let mut ledger = self.ledger.lock();
            if ledger.paused_until.is_some_and(|until| Instant::now() < until) {
                return Ok(None);
            }
            if ledger.fits(size) {
                ledger.written += size;
                drop(ledger);
                return create().map(Some);
            }
        }
        let Some(_tidying) = self.tidy_lock()? else { return Ok(None) };
        let limit = self.ledger.lock().limit;
        let mut found = self.scan();
        let mut total: u64 = found.iter().map(|found| found.size).sum();
        if total + size > limit {
            found.sort_by_key(|found| found.used);
            // What nobody holds goes first, then our own in order of use.
            for old in &found {
                if total + size <= limit {
                    break;
                }
                if remove_unused(&old.path) {
                    total -= old.size.min(total);
                }
            }
            while total + size > limit && give_up_one() {
                total = self.scan().iter().map(|found| found.size).sum();
            }
        }
        let mut ledger = self.ledger.lock();
        ledger.measured = Some((total, Instant::now()));
        ledger.written = size;
        if total + size > limit {
            ledger.written = 0;
            return Ok(None);
        }
        drop(ledger);
        create().map(Some)
    }

    /// Counts a removed file.
    pub(super) fn freed(&self, size: u64) {
        let mut ledger = self.ledger.lock();
        if let Some((total, _)) = &mut ledger.measured {
            *total = total.saturating_sub(size);
        }
    }

    /// Takes back a reservation: the file was given up.
    pub(super) fn unused(&self, size: u64) {
        let mut ledger = self.ledger.lock();
        ledger.written = ledger.written.saturating_sub(size);
    }

    /// Takes back a reservation, and leaves a failing disk alone for a while. A full one is given
    /// a lower limit as well: something other than the cache needs the space.
    pub(super) fn failed(&self, error: &io::Error, size: u64) {
        if error.kind() == io::ErrorKind::Interrupted {
            return;
        }
        let mut ledger = self.ledger.lock();
        ledger.written = ledger.written.saturating_sub(size);
        let full = [Errno::ENOSPC, Errno::EDQUOT]
            .iter()
            .any(|errno| error.raw_os_error() == Some(*errno as i32));
        if full {
            let used = ledger.measured.map_or(0, |(total, _)| total) + ledger.written;
            ledger.limit = used.saturating_sub(MAX_BLOCK).max(MAX_BLOCK).min(ledger.limit);
            ledger.measured = None;
        }
        ledger.paused_until = Some(Instant::now() + PAUSE);
        log::warn!(
            "block cache {}: {error}; blocks stay in memory for {} s",
            self.dir.display(),
            PAUSE.as_secs()
        );
    }

    /// Waits its turn to make room; `None` if another process takes too long.
    fn tidy_lock(&self) -> io::Result<Option<Flock<File>>> {
        let folder = self.dir.join("tmp");
        make_dir(&folder)?;
        let open = || {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            open_at_once(&mut options, &folder.join("tidy.lock"))
        };
        let start = Instant::now();
        loop {
            match lock(open()?, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(Some(held)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if start.elapsed() > LOCK_WAIT => return Ok(None),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Every cache file, complete or not. What cannot be looked at is left out; abandoned
    /// temporary files are removed.
    fn scan(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let folders = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for folder in folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            for entry in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let Ok(meta) = entry.metadata() else { continue };
                if !meta.is_file() || !(name.ends_with(SUFFIX) || name.ends_with(".tmp")) {
                    continue;
                }
                let path = entry.path();
                let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
                let temporary = name.starts_with("tmp") && name.ends_with(SUFFIX);
                if temporary && age.is_some_and(|age| age > ABANDONED) && remove_unused(&path) {
                    continue;
                }
                let modified =
                    SystemTime::UNIX_EPOCH + Duration::from_secs(meta.mtime().max(0) as u64);
                found.push(Found {
                    used: meta.accessed().unwrap_or(modified),
                    // Length, as the other clients count, not blocks: a file that is being written has its full length from the start.
                    size: meta.len(),
                    path,
                });
            }
        }
        found
    }
}

impl Ledger {
    fn fits(&self, size: u64) -> bool {
        let Some((total, at)) = self.measured else { return false };
        let left = self.limit.saturating_sub(total);
        at.elapsed() < MEASURED_FOR && self.written + size <= left && {
            // An eighth of what is left: up to eight processes may do the same.
            self.written + size <= (left / 8).max(SLACK.min(left))
        }
    }
}

/// Opens a file, neither following a link nor waiting for the other end of a pipe.
fn open_at_once(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)
}

/// Removes a file that no process holds a lock on.
fn remove_unused(path: &Path) -> bool {
    let Ok(file) = open_at_once(OpenOptions::new().read(true), path) else { return false };
    let Ok(fingerprint) = FileFingerprint::of(&file) else { return false };
    lock(file, FlockArg::LockExclusiveNonblock).is_ok_and(|file| remove(&file, path, &fingerprint))
}
