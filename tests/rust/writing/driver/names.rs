// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Random renames, and further names.

use arvados_fuse::fs::{Errno, RenameMode, Timestamp};

use super::{Driver, TOP};

impl Driver<'_> {
    pub(super) fn rename(&mut self) {
        let (from, to, now) = (self.dir(), self.dir(), Timestamp::now());
        let (old, new) = (self.name(from), self.name(to));
        let mode = match self.random.u8(..4) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let renamed = self.mount.rename((self.ino(from), &old), (self.ino(to), &new), mode);
        let expected = match mode {
            // Whoever took over would exchange no names.
            RenameMode::Exchange if self.frozen && to != TOP => Err(Errno::EINVAL),
            _ if self.frozen => Err(Errno::EROFS),
            _ => self.reference.rename((from, &old), (to, &new), mode, now),
        };
        let names = (&old, &new, mode);
        assert_eq!(renamed.err(), expected.as_ref().err().copied(), "{names:?}");
        self.check(from);
        self.check(to);
        if let Ok((key, replaced)) = expected {
            let attr = self.mount.lookup(self.ino(to), &new).expect("renamed");
            self.referenced(key, &attr);
            if mode == RenameMode::Exchange {
                let attr = self.mount.lookup(self.ino(from), &old).expect("exchanged");
                self.referenced(replaced.unwrap_or(key), &attr);
            } else if let Some(replaced) = replaced {
                self.check_removed(replaced);
            }
        }
    }

    pub(super) fn link(&mut self) {
        let is_dir = self.random.u8(..10) == 0;
        let (Some(key), dir, now) = (self.known(is_dir), self.dir(), Timestamp::now()) else {
            return;
        };
        let name = self.name(dir);
        let linked = self.mount.link(self.ino(key), (self.ino(dir), &name));
        let expected = if self.frozen {
            Err(Errno::EPERM)
        } else {
            self.reference.link(key, (dir, &name), now)
        };
        assert_eq!(linked.as_ref().err(), expected.as_ref().err(), "{name:?}");
        if let Ok(attr) = linked {
            self.referenced(key, &attr);
        }
        self.check(dir);
    }
}
