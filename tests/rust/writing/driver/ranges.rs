// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Random requests about ranges of files.

use arvados_fuse::fs::{Allocation, Errno, Seek, Timestamp};

use super::{Driver, LONGEST, REACH};

impl Driver<'_> {
    pub(super) fn allocate(&mut self) {
        let Some((fh, key)) = self.handle(true) else { return };
        let (offset, len) = (self.random.usize(..REACH), self.random.usize(1..2 * LONGEST));
        let keep_size = self.random.u8(..4) > 0;
        let how = match self.random.u8(..4) {
            0 => Allocation::Reserve { keep_size },
            1 => Allocation::ZeroRange { keep_size },
            _ => Allocation::PunchHole,
        };
        let now = Timestamp::now();
        let done = self.mount.allocate(self.ino(key), fh, offset as u64, len as u64, how);
        if self.frozen_for(key) {
            assert_eq!(done, Err(Errno::ENOTSUP));
        } else {
            assert_eq!(done, Ok(()));
            self.reference.allocate(key, offset, len, how, now);
        }
        if self.reference.is_known(key) {
            self.check(key);
        }
    }

    pub(super) fn copy(&mut self) {
        let (Some((fh_in, source)), Some((fh, key))) = (self.handle(false), self.handle(true))
        else {
            return;
        };
        let (from, to) = (self.random.usize(..REACH), self.random.usize(..REACH));
        let (len, now) = (self.random.usize(1..3 * LONGEST), Timestamp::now());
        let (one, other) = (self.ino(source), self.ino(key));
        let copied = self.mount.copy((one, fh_in, from as u64), (other, fh, to as u64), len as u64);
        if copied == Err(Errno::EXDEV) {
            // Otherwise there is no room for what would be copied.
            assert!(self.frozen_for(key) || self.mount.buffer.gauge().bytes() > 0);
            return;
        }
        let expected = self.reference.copy((source, from), (key, to), len, now);
        assert_eq!(copied.map(|copied| copied as usize), expected);
        if self.reference.is_known(key) {
            self.check(key);
        }
    }

    pub(super) fn seek(&mut self) {
        let Some((fh, key)) = self.handle(false) else { return };
        let at = self.random.usize(..REACH + LONGEST);
        let what = if self.random.bool() { Seek::Data } else { Seek::Hole };
        let found = match self.mount.seek(self.ino(key), fh, at as u64, what) {
            Ok(found) => Some(found as usize),
            Err(Errno::ENXIO) => None,
            Err(errno) => panic!("{errno}"),
        };
        self.reference.check_found(key, at, what, found);
    }
}
