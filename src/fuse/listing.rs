// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Listings, put into the kernel's buffer for as long as there is room.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::{errno, file_attr, kind, shorter_timeout};
use crate::fs::{Fh, FileSystem, Ino, SinkFull};

/// An open directory, and where in it to go on.
type Position = (Ino, Fh, u64);

pub(super) fn list(fs: &dyn FileSystem, (ino, fh, offset): Position, mut reply: ReplyDirectory) {
    let listed = fs.readdir(ino, fh, offset, &mut |name, attr, next| {
        let full = reply.add(INodeNo(attr.ino.0), next, kind(attr.mode), OsStr::from_bytes(name));
        if full { Err(SinkFull) } else { Ok(()) }
    });
    match listed {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn list_plus(
    fs: &dyn FileSystem,
    (ino, fh, offset): Position,
    mut reply: ReplyDirectoryPlus,
) {
    let mut taken = 0_u64;
    let listed = fs.readdirplus(ino, fh, offset, &mut |name, attr, next| {
        let full = reply.add(
            INodeNo(attr.ino.0),
            next,
            OsStr::from_bytes(name),
            &shorter_timeout(attr),
            &file_attr(attr),
            Generation(attr.generation),
        );
        if full {
            return Err(SinkFull);
        }
        taken += 1;
        Ok(())
    });
    match listed {
        // Entries given out already count as looked up: they have to arrive. The error comes
        // again when the kernel asks for what follows them.
        Err(error) if taken == 0 => reply.error(errno(error)),
        _ => reply.ok(),
    }
}
