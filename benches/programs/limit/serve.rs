// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Requests, answered from the tree.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arvados_fuse::fs::{
    Attr, Bytes, Caller, DirSink, Errno, Fh, FileSystem, Ino, Opened, Position, Read, ReadData,
    Result, SetAttr, Timestamp, Write,
};

use crate::tree::{Id, Kind, Tree};

/// How long arv-mount lets the kernel keep names and attributes of a collection's files.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Files made through the mount have numbers from here on.
const MADE: u64 = 1 << 40;

#[derive(Default)]
struct Made {
    names: HashMap<Box<[u8]>, u64>,
    sizes: Vec<u64>,
}

/// A part of a block.
struct BlockRange {
    block: Arc<[u8]>,
    range: Range<usize>,
}

impl Bytes for BlockRange {
    fn bytes(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

/// The file system.
pub(crate) struct Limit {
    tree: Tree,
    /// The directory in which files may be made. What is written there is counted, not kept.
    tmp: Option<Id>,
    made: Mutex<Made>,
}

fn id(ino: Ino) -> Id {
    usize::try_from(ino.0 - 1).unwrap_or(usize::MAX)
}

fn attr(ino: u64, dir: bool, size: u64) -> Attr {
    let time = Timestamp::from_secs_f64(1.7e9);
    Attr {
        ino: Ino(ino),
        generation: 0,
        entry_timeout: TIMEOUT,
        attr_timeout: TIMEOUT,
        mode: if dir { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        blksize: 512,
        blocks: size / 512 + 1,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

impl Limit {
    pub(crate) fn new(tree: Tree, tmp: Option<Id>) -> Self {
        Limit { tree, tmp, made: Mutex::default() }
    }

    fn attr_of(&self, id: Id) -> Result<Attr> {
        match self.tree.nodes.get(id).map(|node| &node.kind) {
            Some(Kind::Dir { .. }) => Ok(attr(id as u64 + 1, true, 0)),
            Some(Kind::File { size, .. }) => Ok(attr(id as u64 + 1, false, *size)),
            None => Err(Errno::ENOENT),
        }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn list(&self, ino: Ino, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        let node = self.tree.nodes.get(id(ino)).ok_or(Errno::ENOENT)?;
        let Kind::Dir { children, .. } = &node.kind else { return Err(Errno::ENOTDIR) };
        let dots = [(&b"."[..], id(ino)), (&b".."[..], node.parent)];
        let all = dots.into_iter().chain(children.iter().map(|(name, id)| (&**name, *id)));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((name, id), next) in all.skip(from).zip(offset + 1..) {
            if sink(name, &self.attr_of(id)?, next).is_err() {
                break;
            }
        }
        Ok(())
    }
}

const OPENED: Opened = Opened { fh: Fh(0), keep_cache: true, no_flush: true };

impl FileSystem for Limit {
    fn has_readdirplus(&self) -> bool {
        true
    }

    fn lookup(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Result<Attr> {
        if Some(id(parent)) == self.tmp {
            let made = self.made();
            let ino = *made.names.get(name).ok_or(Errno::ENOENT)?;
            return Ok(attr(ino, false, made.sizes[(ino - MADE) as usize]));
        }
        self.attr_of(self.tree.child(id(parent), name).ok_or(Errno::ENOENT)?)
    }

    fn getattr(&self, _caller: &Caller, ino: Ino) -> Result<Attr> {
        if ino.0 >= MADE {
            return Ok(attr(ino.0, false, self.made().sizes[(ino.0 - MADE) as usize]));
        }
        self.attr_of(id(ino))
    }

    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr, _fh: Option<Fh>) -> Result<Attr> {
        if let (Some(size), true) = (set.size, ino.0 >= MADE) {
            self.made().sizes[(ino.0 - MADE) as usize] = size;
        }
        self.getattr(caller, ino)
    }

    fn open(&self, _caller: &Caller, _ino: Ino, _flags: i32) -> Result<Opened> {
        Ok(OPENED)
    }

    fn read(&self, ino: Ino, _fh: Fh, offset: u64, size: u32) -> Result<Read> {
        let Some(Kind::File { segments, .. }) = self.tree.nodes.get(id(ino)).map(|n| &n.kind)
        else {
            return Err(Errno::EBADF);
        };
        let (mut skip, mut left) = (offset as usize, size as usize);
        let mut ranges = Vec::with_capacity(1);
        for segment in segments {
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            let Some(block) = self.tree.blocks.get(segment.block) else {
                return Err(Errno::EIO);
            };
            let len = left.min(segment.len - skip);
            let begin = segment.offset + skip;
            ranges.push(BlockRange { block: Arc::clone(block), range: begin..begin + len });
            left -= len;
            skip = 0;
            if left == 0 {
                break;
            }
        }
        let data: Box<dyn Bytes> = match ranges.pop() {
            Some(only) if ranges.is_empty() => Box::new(only),
            last => {
                let all = ranges.iter().chain(&last).flat_map(arvados_fuse::fs::Bytes::bytes);
                Box::new(all.copied().collect::<Vec<u8>>())
            }
        };
        Ok(Read::Now(ReadData::Shared(data)))
    }

    fn write(&self, ino: Ino, _fh: Fh, at: Position, data: &[u8]) -> Result<Write> {
        let offset = at.offset();
        let mut made = self.made();
        let size = ino
            .0
            .checked_sub(MADE)
            .and_then(|number| made.sizes.get_mut(number as usize))
            .ok_or(Errno::EROFS)?;
        *size = (*size).max(offset + data.len() as u64);
        u32::try_from(data.len()).map(Write::Now).map_err(|_| Errno::EINVAL)
    }

    fn flush(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Ok(())
    }

    fn release(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Ok(())
    }

    fn fsync(&self, _ino: Ino, _fh: Fh, _datasync: bool) -> Result<()> {
        Ok(())
    }

    fn opendir(&self, _caller: &Caller, _ino: Ino) -> Result<Opened> {
        Ok(OPENED)
    }

    fn readdir(&self, ino: Ino, _fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        self.list(ino, offset, sink)
    }

    fn readdirplus(&self, ino: Ino, _fh: Fh, offset: u64, sink: &mut DirSink<'_>) -> Result<()> {
        self.list(ino, offset, sink)
    }

    fn releasedir(&self, _ino: Ino, _fh: Fh) -> Result<()> {
        Ok(())
    }

    fn create(
        &self,
        _caller: &Caller,
        parent: Ino,
        name: &[u8],
        _mode: u32,
        _flags: i32,
    ) -> Result<(Attr, Opened)> {
        if Some(id(parent)) != self.tmp {
            return Err(Errno::EROFS);
        }
        let mut made = self.made();
        let ino = MADE + made.sizes.len() as u64;
        made.sizes.push(0);
        made.names.insert(name.into(), ino);
        Ok((attr(ino, false, 0), OPENED))
    }
}
