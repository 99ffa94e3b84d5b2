// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which cache files were verified since this machine booted, so that the next mount need not
//! hash them again.
//!
//! A file `arvados_fuse.verified` in the cache folder, which the SDK's and Go's clients pass over,
//! has a record for each verified file: its block, and its fingerprint, that is size, device, inode,
//! time of content and time of change. No program can set back the time of change, so whoever
//! writes to a file, or puts another in its place, makes its record worth nothing. Records of
//! another boot count for nothing either: a crash may lose bytes and keep the times.
//!
//! Invariant: a record that is believed was written by this user on this boot, for a file whose every byte
//! had just been checked. Each has a checksum over itself and the boot's identity, so damage, a torn
//! write or another boot cost a verification and nothing else. So does everything that goes
//! wrong here: no error leaves this module.
//!
//! What no fingerprint shows: bytes that the hardware loses without an error, and, before Linux 6.13, a change
//! within the same tick of the clock (at most 10 ms) as the rename that a block of ours ends with.
//!
//! Everything here blocks and runs on threads for that.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FlockArg, OFlag};
use nix::sys::statfs;
use parking_lot::Mutex;

use super::block::FileFingerprint;
use super::disk::lock;
use crate::types::Md5;

const NAME: &str = "arvados_fuse.verified";
const RECORD: usize = 16 + FileFingerprint::BYTES + 16;
/// Records in the file, at most; then the older half goes. 1.4 MiB, for 1 TiB of full blocks.
const MAX_RECORDS: u64 = 16_384;
/// Two changes of a file that are so close may have the same time.
const TICK: Duration = Duration::from_millis(20);
/// How often, and how long in between, the file's lock is tried for.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(2);

/// The records of one cache folder.
#[derive(Debug)]
pub(super) struct Verified {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    fingerprints: HashMap<Md5, FileFingerprint>,
    /// Bytes of the file that were read.
    read: u64,
    /// Whose records are believed; asked for once. Empty: nobody's.
    boot: Option<Vec<u8>>,
}

impl Verified {
    pub(super) fn new(dir: &Path) -> Self {
        Verified { path: dir.join(NAME), known: Mutex::default() }
    }

    /// Whether all bytes of the file with this fingerprint were checked to be this block.
    pub(super) fn knows(&self, md5: Md5, fingerprint: &FileFingerprint) -> bool {
        let mut known = self.known.lock();
        if known.fingerprints.get(&md5) != Some(fingerprint) {
            // Whatever it is that fails: then nothing more is known.
            let _ = self.read_on(&mut known);
        }
        known.fingerprints.get(&md5) == Some(fingerprint)
    }

    /// Notes that all bytes of the file with this fingerprint, which nobody else has changed since, are
    /// this block.
    pub(super) fn note(&self, md5: Md5, fingerprint: &FileFingerprint) {
        if !fingerprint.is_fine() {
            return;
        }
        let mut known = self.known.lock();
        if let Err(error) = self.append(&mut known, md5, fingerprint) {
            log::debug!("{}: {error}", self.path.display());
        }
    }

    /// As [`Verified::note`], for a file found and read by us from `begun` on.
    pub(super) fn note_found(&self, md5: Md5, fingerprint: &FileFingerprint, begun: SystemTime) {
        // Changed just before: it may have been changed once more since, within the same tick.
        if fingerprint.changed_at().is_some_and(|at| at + TICK < begun) {
            self.note(md5, fingerprint);
        }
    }

    /// A file turned out not to be as its fingerprint says: it is to be verified from now on.
    pub(super) fn forget(&self, md5: Md5) {
        self.known.lock().fingerprints.remove(&md5);
    }

    fn open(&self, options: &mut OpenOptions) -> io::Result<File> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = options.read(true).mode(0o600).custom_flags(flags).open(&self.path)?;
        let meta = file.metadata()?;
        let ours = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0;
        if meta.is_file() && ours {
            Ok(file)
        } else {
            Err(io::Error::other("not a file that only we write"))
        }
    }

    fn read_on(&self, known: &mut Known) -> io::Result<()> {
        let file = self.open(&mut OpenOptions::new())?;
        let len = file.metadata()?.len();
        if len == known.read {
            return Ok(());
        }
        let file = locked(file, FlockArg::LockSharedNonblock)?;
        let len = file.metadata()?.len().min(2 * MAX_RECORDS * RECORD as u64);
        // Shorter: it was written anew.
        let from = if len < known.read { 0 } else { known.read };
        let boot = known.boot.get_or_insert_with(|| boot_of(&file)).clone();
        let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        // Without what is torn at the end.
        let records = bytes.chunks_exact(RECORD);
        known.read = from + (records.len() * RECORD) as u64;
        if !boot.is_empty() {
            known
                .fingerprints
                .extend(records.filter_map(|record| decode(record.first_chunk()?, &boot)));
        }
        Ok(())
    }

    fn append(&self, known: &mut Known, md5: Md5, fingerprint: &FileFingerprint) -> io::Result<()> {
        let file = self.open(OpenOptions::new().write(true).create(true).truncate(false))?;
        let file = locked(file, FlockArg::LockExclusiveNonblock)?;
        let boot = known.boot.get_or_insert_with(|| boot_of(&file)).clone();
        if boot.is_empty() {
            return Ok(());
        }
        // A torn record at the end is written over.
        let mut number = file.metadata()?.len() / RECORD as u64;
        if number >= MAX_RECORDS {
            let kept = MAX_RECORDS / 2;
            let mut bytes = vec![0; kept as usize * RECORD];
            file.read_exact_at(&mut bytes, (number - kept) * RECORD as u64)?;
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            number = kept;
        }
        file.write_all_at(&encode(md5, fingerprint, &boot), number * RECORD as u64)?;
        known.fingerprints.insert(md5, *fingerprint);
        // Kept within the same bounds as the file: what goes is read or verified again.
        if known.fingerprints.len() > MAX_RECORDS as usize {
            known.fingerprints.clear();
        }
        Ok(())
    }
}

fn locked(mut file: File, how: FlockArg) -> io::Result<nix::fcntl::Flock<File>> {
    for _ in 0..TRIES {
        match nix::fcntl::Flock::lock(file, how) {
            Ok(held) => return Ok(held),
            Err((again, nix::errno::Errno::EWOULDBLOCK)) => file = again,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(PAUSE);
    }
    lock(file, how)
}

/// What tells this boot from others; empty where fingerprints are not to be trusted: on file systems that other
/// machines, with boots of their own, can change, or whose times we know nothing about.
fn boot_of(file: &File) -> Vec<u8> {
    let local = [
        statfs::EXT4_SUPER_MAGIC,
        statfs::XFS_SUPER_MAGIC,
        statfs::BTRFS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        statfs::OVERLAYFS_SUPER_MAGIC,
    ];
    match statfs::fstatfs(file) {
        Ok(on) if local.contains(&on.filesystem_type()) => {
            std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn encode(md5: Md5, fingerprint: &FileFingerprint, boot: &[u8]) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..16].copy_from_slice(&md5.0);
    record[16..16 + FileFingerprint::BYTES].copy_from_slice(&fingerprint.to_bytes());
    let sum = checksum(&record, boot);
    record[16 + FileFingerprint::BYTES..].copy_from_slice(&sum);
    record
}

fn decode(record: &[u8; RECORD], boot: &[u8]) -> Option<(Md5, FileFingerprint)> {
    let (md5, rest) = record.split_first_chunk::<16>()?;
    let (fingerprint, sum) = rest.split_first_chunk::<{ FileFingerprint::BYTES }>()?;
    (sum == checksum(record, boot)).then(|| (Md5(*md5), FileFingerprint::from_bytes(fingerprint)))
}

fn checksum(record: &[u8; RECORD], boot: &[u8]) -> [u8; 16] {
    Md5::of(&[boot, &record[..16 + FileFingerprint::BYTES]].concat()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_on_its_own_boot_and_whole() {
        let file = tempfile();
        let fingerprint = FileFingerprint::of(&file).expect("a file");
        let record = encode(Md5::EMPTY, &fingerprint, b"this boot");
        assert_eq!(decode(&record, b"this boot"), Some((Md5::EMPTY, fingerprint)));
        assert_eq!(decode(&record, b"another"), None);
        for at in 0..RECORD {
            let mut damaged = record;
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, b"this boot"), None, "byte {at}");
        }
    }

    fn tempfile() -> File {
        File::open("/proc/self/exe").expect("this program")
    }
}
