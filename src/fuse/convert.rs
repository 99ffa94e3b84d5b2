// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Between fuser's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, OpenFlags, RenameFlags,
    ReplyAttr, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use crate::fs::{
    Allocation, Attr, Caller, Errno, Fh, Ino, Opened, Position, RenameMode, Result, Seek, Timestamp,
};

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

/// What renameat2(2) asks for; none where we know of no such thing.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    match flags {
        none if none.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

/// Where write(2) writes. What a mapping wrote has its place, whatever the file was opened for.
pub(super) fn position(offset: u64, how: WriteFlags, opened: OpenFlags) -> Position {
    let appends = opened.0 & libc::O_APPEND != 0 && !how.contains(WriteFlags::FUSE_WRITE_CACHE);
    if appends { Position::End(offset) } else { Position::At(offset) }
}

/// What fallocate(2) asks for.
pub(super) fn allocation(mode: i32) -> Result<Allocation> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Allocation::Reserve { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(Allocation::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocation::ZeroRange { keep_size }),
        _ => Err(Errno::ENOTSUP),
    }
}

/// What lseek(2) asks for, where the kernel has to: the offset as it may be in a file.
pub(super) fn seek(offset: i64, whence: i32) -> Result<(u64, Seek)> {
    let what = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(Errno::EINVAL),
    };
    Ok((u64::try_from(offset).map_err(|_| Errno::ENXIO)?, what))
}

pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let offset = Duration::from_nanos(u64::try_from(time.0.unsigned_abs()).unwrap_or(u64::MAX));
    let moved =
        if time.0 < 0 { UNIX_EPOCH.checked_sub(offset) } else { UNIX_EPOCH.checked_add(offset) };
    moved.unwrap_or(UNIX_EPOCH)
}

/// A time that the kernel sent. For one before 1970, which counts nanoseconds upwards from a negative
/// second, fuser takes them away instead (`system_time_from_time` in its time.rs): undone here.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let nanos = |d: Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp(nanos(after)),
        Err(before) => {
            let before = before.duration();
            let whole = nanos(Duration::from_secs(before.as_secs()));
            Timestamp(i128::from(before.subsec_nanos()) - whole)
        }
    }
}

pub(super) fn time_or_now(time: TimeOrNow) -> Timestamp {
    match time {
        TimeOrNow::SpecificTime(time) => timestamp(time),
        TimeOrNow::Now => timestamp(SystemTime::now()),
    }
}

pub(super) fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.mode),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// For replies that carry one period for both: the kernel may keep neither longer than it may.
pub(super) fn shorter_timeout(attr: &Attr) -> Duration {
    attr.entry_timeout.min(attr.attr_timeout)
}

pub(super) fn reply_entry(reply: ReplyEntry, result: Result<Attr>) {
    match result {
        // The attributes' period first. An inode number of 0 says that the name leads nowhere, for as
        // long as the entry's period.
        Ok(attr) => reply.entry_with_ttls(
            &attr.attr_timeout,
            &attr.entry_timeout,
            &file_attr(&attr),
            Generation(attr.generation),
        ),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, result: Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&attr.attr_timeout, &file_attr(&attr)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_write(reply: ReplyWrite, result: Result<u32>) {
    match result {
        Ok(written) => reply.written(written),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_lseek(reply: ReplyLseek, result: Result<u64>) {
    match result.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(fuser::Errno::EOVERFLOW),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn open_flags(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags
}

pub(super) fn reply_open(reply: ReplyOpen, result: Result<Opened>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.fh.0), open_flags(opened)),
        Err(error) => reply.error(errno(error)),
    }
}

/// The two questions of getxattr(2) and listxattr(2): how long (size 0), and what.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>>) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        },
        Err(error) => reply.error(errno(error)),
    }
}
