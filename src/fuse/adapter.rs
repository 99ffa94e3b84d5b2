// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! From the kernel's requests to calls on a [`FileSystem`], and from what it answers to replies.
//!
//! Each method decodes, makes one call, replies. A panic in that call is logged with the name of
//! the request; the reply, dropped on the way, answers `EIO`, and the mount lives on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use fuser::{
    AccessFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{
    allocation, caller, errno, fh, file_attr, ino, open_flags, position, rename_mode, reply_attr,
    reply_empty, reply_entry, reply_lseek, reply_open, reply_write, reply_xattr, seek,
    shorter_timeout, time_or_now, timestamp,
};
use super::desk::{Desk, guarded};
use super::listing::{list, list_plus};
use super::negotiation::agree;
use super::options::Options;
use crate::fs::{FileSystem, Read, SetAttr, Write};

/// A [`FileSystem`] as fuser calls it.
pub struct Adapter {
    fs: Arc<dyn FileSystem>,
    options: Options,
    desk: Arc<Desk>,
    /// Whether the kernel can expire a name without dropping it: known when the session begins.
    expires: Arc<AtomicBool>,
}

impl Adapter {
    /// Serves `fs` on the terms of `options`, each request in the thread that `desk` says.
    pub fn new(
        fs: Arc<dyn FileSystem>,
        options: Options,
        desk: Arc<Desk>,
        expires: Arc<AtomicBool>,
    ) -> Self {
        Adapter { fs, options, desk, expires }
    }

    /// Answers one request; a panic stays inside.
    fn guarded(&self, operation: &'static str, body: impl FnOnce() + Send) {
        self.desk.answer(|| guarded(operation, body));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let expires = agree(config, &self.options, self.fs.has_readdirplus());
        self.expires.store(expires, Ordering::Relaxed);
        guarded("init", || self.fs.init());
        Ok(())
    }

    fn destroy(&mut self) {
        // In the thread that answered, too; no request is left to wait for.
        let Adapter { fs, desk, .. } = self;
        desk.run(|| guarded("destroy", || fs.destroy()));
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guarded("lookup", || {
            reply_entry(reply, self.fs.lookup(&caller(req, 0), ino(parent), name.as_bytes()));
        });
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        self.guarded("forget", || self.fs.forget(&[(ino(number), nlookup)]));
    }

    fn getattr(&self, req: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.guarded("getattr", || {
            reply_attr(reply, self.fs.getattr(&caller(req, 0), ino(number)));
        });
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.guarded("setattr", || {
            let set = SetAttr {
                mode,
                uid,
                gid,
                size,
                atime: atime.map(time_or_now),
                mtime: mtime.map(time_or_now),
                ctime: ctime.map(timestamp),
            };
            reply_attr(reply, self.fs.setattr(&caller(req, 0), ino(number), &set, handle.map(fh)));
        });
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        self.guarded("readlink", || match self.fs.readlink(&caller(req, 0), ino(number)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.guarded("mknod", || {
            let made = self.fs.mknod(&caller(req, umask), ino(parent), name.as_bytes(), mode, rdev);
            reply_entry(reply, made);
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.guarded("mkdir", || {
            let made = self.fs.mkdir(&caller(req, umask), ino(parent), name.as_bytes(), mode);
            reply_entry(reply, made);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("unlink", || {
            let done = Box::new(move |result| reply_empty(reply, result));
            self.fs.remove_later(&caller(req, 0), ino(parent), name.as_bytes(), false, done);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("rmdir", || {
            let done = Box::new(move |result| reply_empty(reply, result));
            self.fs.remove_later(&caller(req, 0), ino(parent), name.as_bytes(), true, done);
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.guarded("symlink", || {
            let target = target.as_os_str().as_bytes();
            reply_entry(
                reply,
                self.fs.symlink(&caller(req, 0), ino(parent), link_name.as_bytes(), target),
            );
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.guarded("rename", || {
            let from = (ino(parent), name.as_bytes());
            let to = (ino(newparent), newname.as_bytes());
            match rename_mode(flags) {
                Ok(mode) => {
                    let done = Box::new(move |result| reply_empty(reply, result));
                    self.fs.rename_later(&caller(req, 0), from, to, mode, done);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn link(
        &self,
        req: &Request,
        number: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.guarded("link", || {
            let made =
                self.fs.link(&caller(req, 0), ino(number), ino(newparent), newname.as_bytes());
            reply_entry(reply, made);
        });
    }

    fn open(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.guarded("open", || {
            reply_open(reply, self.fs.open(&caller(req, 0), ino(number), flags.0));
        });
    }

    fn read(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guarded("read", || match self.fs.read(ino(number), fh(handle), offset, size) {
            Ok(Read::Now(data)) => reply.data(data.bytes()),
            Ok(Read::Later(start)) => start(Box::new(move |result| match result {
                Ok(data) => reply.data(data.bytes()),
                Err(error) => reply.error(errno(error)),
            })),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let at = position(offset, write_flags, flags);
        self.guarded("write", || match self.fs.write(ino(number), fh(handle), at, data) {
            Ok(Write::Now(written)) => reply.written(written),
            Ok(Write::Later(start)) => start(Box::new(move |result| reply_write(reply, result))),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.guarded("flush", || {
            let done = Box::new(move |result| reply_empty(reply, result));
            self.fs.flush_later(ino(number), fh(handle), done);
        });
    }

    fn release(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded("release", || reply_empty(reply, self.fs.release(ino(number), fh(handle))));
    }

    fn fsync(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded("fsync", || {
            let done = Box::new(move |result| reply_empty(reply, result));
            self.fs.fsync_later(ino(number), fh(handle), datasync, false, done);
        });
    }

    fn opendir(&self, req: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.guarded("opendir", || match self.fs.opendir(&caller(req, 0), ino(number)) {
            // The listing is the file system's; the kernel's page cache has no part in it.
            Ok(opened) => reply.opened(FileHandle(opened.fh.0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.guarded("readdir", || {
            list(&*self.fs, (ino(number), fh(handle), offset), reply);
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.guarded("readdirplus", || {
            list_plus(&*self.fs, (ino(number), fh(handle), offset), reply);
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.guarded("releasedir", || {
            reply_empty(reply, self.fs.releasedir(ino(number), fh(handle)));
        });
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded("fsyncdir", || {
            let done = Box::new(move |result| reply_empty(reply, result));
            self.fs.fsync_later(ino(number), fh(handle), datasync, true, done);
        });
    }

    fn statfs(&self, req: &Request, _number: INodeNo, reply: ReplyStatfs) {
        self.guarded("statfs", || match self.fs.statfs(&caller(req, 0)) {
            Ok(s) => reply.statfs(
                s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namemax, s.frsize,
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.guarded("setxattr", || {
            #[cfg(feature = "fault-injection")]
            assert!(name != "user.panic", "asked for by fault injection");
            reply_empty(
                reply,
                self.fs.setxattr(&caller(req, 0), ino(number), name.as_bytes(), value, flags),
            );
        });
    }

    fn getxattr(&self, req: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guarded("getxattr", || {
            reply_xattr(
                reply,
                size,
                self.fs.getxattr(&caller(req, 0), ino(number), name.as_bytes()),
            );
        });
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.guarded("listxattr", || {
            let names = self.fs.listxattr(&caller(req, 0), ino(number)).map(|names| {
                names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect()
            });
            reply_xattr(reply, size, names);
        });
    }

    fn removexattr(&self, req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded("removexattr", || {
            reply_empty(reply, self.fs.removexattr(&caller(req, 0), ino(number), name.as_bytes()));
        });
    }

    fn access(&self, req: &Request, number: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.guarded("access", || {
            reply_empty(reply, self.fs.access(&caller(req, 0), ino(number), mask.bits()));
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.guarded("create", || {
            match self.fs.create(&caller(req, umask), ino(parent), name.as_bytes(), mode, flags) {
                Ok((attr, opened)) => reply.created(
                    &shorter_timeout(&attr),
                    &file_attr(&attr),
                    Generation(attr.generation),
                    FileHandle(opened.fh.0),
                    open_flags(opened),
                ),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.guarded("fallocate", || {
            let done = allocation(mode)
                .and_then(|how| self.fs.fallocate(ino(number), fh(handle), offset, length, how));
            reply_empty(reply, done);
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guarded("lseek", || {
            let found = seek(offset, whence)
                .and_then(|(offset, what)| self.fs.lseek(ino(number), fh(handle), offset, what));
            reply_lseek(reply, found);
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.guarded("copy_file_range", || {
            // None is defined.
            if !flags.is_empty() {
                return reply.error(fuser::Errno::EINVAL);
            }
            let source = (ino(ino_in), fh(fh_in), offset_in);
            let target = (ino(ino_out), fh(fh_out), offset_out);
            reply_write(reply, self.fs.copy_file_range(source, target, len));
        });
    }

    // Requests that no file system of ours answers. The kernel does without, and does not ask for
    // most of them again.

    fn ioctl(
        &self,
        _req: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn bmap(&self, _req: &Request, _number: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _req: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
