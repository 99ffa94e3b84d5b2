// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Changing files and directories.

use std::sync::Arc;

use super::{Fh, Handle, Ino, Node, Operations, Outcome};
use crate::fs::attr::Attr;
use crate::fs::errno::{Errno, Refusal};
use crate::fs::flags::{Position, RenameMode};
use crate::fs::inodes::Inodes;
use crate::fs::node::{Acknowledge, Halt, Saving, Write, Written};
use crate::fs::write_buffer::WriteBuffer;
use crate::metrics;

/// A directory in which something was changed, and what is to be saved before that is told; None where nothing is.
pub(super) type Changed<N> = Option<(N, Arc<dyn Saving>)>;

/// A write that may have to wait, for room or until it is saved.
struct PendingWrite<N: Node> {
    handle: Arc<Handle<N>>,
    at: Position,
    retries: u32,
    inodes: Arc<Inodes<N>>,
    metrics: Arc<metrics::Mount>,
}

impl<N: Node> PendingWrite<N> {
    fn tried(&self, data: &[u8]) -> Outcome<Written> {
        let written = self.handle.node().writeto(self.at, data, self.retries)?;
        if let Written::Bytes(written) = written {
            self.metrics.write_ops.add(1);
            self.metrics.write.add(u64::from(written));
        }
        Ok(written)
    }

    /// Tries whenever there may be room, and tells what came of it.
    fn wait(self, buffer: &WriteBuffer, data: Vec<u8>, tell: Acknowledge) {
        let len = data.len() as u64;
        buffer.when_room(
            len,
            Box::new(move || {
                let mut outcome = Err(Refusal::Lost.into());
                self.inodes.upcalls().request(&mut || outcome = self.tried(&data));
                match outcome {
                    Ok(Written::NoRoom(buffer)) => self.wait(&buffer, data, tell),
                    Ok(Written::Bytes(written)) => match self.handle.saved_by_writes() {
                        Ok(Some(saving)) => self.save(&saving, written, tell),
                        Ok(None) => tell(Ok(written)),
                        Err(halt) => tell(Err(self.errno_of(halt))),
                    },
                    Err(halt) => tell(Err(self.errno_of(halt))),
                }
            }),
        );
    }

    /// Tells of it when it is saved.
    fn save(self, saving: &Arc<dyn Saving>, written: u32, tell: Acknowledge) {
        Arc::clone(saving).save_soon(Box::new(move |saved| {
            let mut outcome: Outcome<()> = saved.map(drop).map_err(Halt::from);
            if saved == Ok(false) {
                self.inodes.upcalls().request(&mut || outcome = self.handle.flush(false));
            }
            tell(outcome.map(|()| written).map_err(|halt| self.errno_of(halt)));
        }));
    }

    fn errno_of(&self, halt: Halt) -> Errno {
        match halt {
            Halt::Errno(errno) => errno,
            halt @ Halt::Upcall(_) => self.inodes.upcalls().errno_of(halt),
        }
    }
}

impl<N: Node> Operations<N> {
    /// The directory, where something may be changed in it.
    ///
    /// # Errors
    /// `EROFS` on a read-only mount; `ENOENT`, `ENOTDIR`; `EPERM` for a directory that cannot
    /// be changed.
    pub fn writable_directory(&self, parent: Ino) -> Outcome<N> {
        self.may_write()?;
        let node = self.node(parent)?;
        if !node.is_dir() {
            return Err(Refusal::NotDirectory.into());
        }
        if !node.writable()? {
            return Err(Refusal::NotPermitted.into());
        }
        Ok(node)
    }

    /// The handle, where what it stands for may be changed.
    pub(super) fn writable_handle(&self, fh: Fh) -> Outcome<Arc<Handle<N>>> {
        self.may_write()?;
        let handle = self.handles.get(fh)?;
        if !handle.node().writable()? {
            return Err(Refusal::NotPermitted.into());
        }
        Ok(handle)
    }

    /// Writes; answers the bytes written.
    ///
    /// # Errors
    /// `EROFS`, `EBADF`, `EPERM`; what the node answers.
    pub fn write(&self, fh: Fh, at: Position, data: &[u8]) -> Outcome<Write> {
        let handle = self.writable_handle(fh)?;
        self.inodes.touch(handle.node())?;
        let write = PendingWrite {
            handle,
            at,
            retries: self.retries(),
            inodes: Arc::clone(&self.inodes),
            metrics: Arc::clone(&self.metrics),
        };
        match write.tried(data)? {
            Written::Bytes(written) => match write.handle.saved_by_writes()? {
                None => Ok(Write::Now(written)),
                Some(saving) => {
                    Ok(Write::Later(Box::new(move |tell| write.save(&saving, written, tell))))
                }
            },
            Written::NoRoom(buffer) => {
                let data = data.to_vec();
                Ok(Write::Later(Box::new(move |tell| write.wait(&buffer, data, tell))))
            }
        }
    }

    /// Makes a file and opens it; counts a kernel reference.
    ///
    /// # Errors
    /// As [`Operations::writable_directory`]; what the directory answers.
    pub fn create(&self, parent: Ino, name: &[u8]) -> Outcome<(Attr, Fh)> {
        let (directory, node) =
            self.made(parent, name, super::super::node::DirectoryNode::create)?;
        let attr = self.referenced_attr(&node)?;
        let parent = Some(directory);
        let opened = node.reader().and_then(|reader| {
            let node = node.clone();
            self.handles.open(Handle::file(node, parent, true, reader))
        });
        match opened {
            Ok(fh) => Ok((attr, fh)),
            // The kernel is not told of it: its reference is not counted.
            Err(halt) => Err(node.dec_ref(1).err().unwrap_or(halt)),
        }
    }

    /// Makes a file; counts a kernel reference.
    ///
    /// # Errors
    /// `EPERM` for anything but a regular file, as mknod(2) says of file systems that have none such; as
    /// [`Operations::create`].
    pub fn mknod(&self, parent: Ino, name: &[u8], mode: u32) -> Outcome<Attr> {
        if mode & libc::S_IFMT != libc::S_IFREG {
            self.may_write()?;
            return Err(Refusal::NotPermitted.into());
        }
        let (_, node) = self.made(parent, name, super::super::node::DirectoryNode::create)?;
        self.referenced_attr(&node)
    }

    /// Makes a directory; counts a kernel reference.
    ///
    /// # Errors
    /// As [`Operations::create`].
    pub fn mkdir(&self, parent: Ino, name: &[u8]) -> Outcome<Attr> {
        let (_, node) = self.made(parent, name, super::super::node::DirectoryNode::mkdir)?;
        self.referenced_attr(&node)
    }

    fn made(
        &self,
        parent: Ino,
        name: &[u8],
        make: impl Fn(&N, &str) -> Outcome<()>,
    ) -> Outcome<(N, N)> {
        let name = self.decode(name)?;
        let directory = self.writable_directory(parent)?;
        make(&directory, &name)?;
        // The directory adds the entry itself, told by its collection or found in its project.
        let node = directory.child(&name)?.ok_or(Refusal::Lost)?;
        self.inodes.touch(&directory)?;
        Ok((directory, node))
    }

    fn referenced_attr(&self, node: &N) -> Outcome<Attr> {
        let ino = node.inode()?.ok_or(Refusal::Lost)?;
        let attr = self.attr_of(Ino(ino), node)?;
        if self.inodes.reference(ino, node)? { Ok(attr) } else { Err(Refusal::Lost.into()) }
    }

    /// Waits until a change is saved.
    fn wait_saved(changed: Changed<N>) -> Outcome<()> {
        let Some((directory, saving)) = changed else { return Ok(()) };
        // Otherwise saving became the layer above's meanwhile.
        if saving.save_wait()? { Ok(()) } else { directory.flush() }
    }

    /// Removes a file.
    ///
    /// # Errors
    /// As [`Operations::writable_directory`]; what the directory answers.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        Self::wait_saved(self.remove(parent, name, false)?)
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// As [`Operations::writable_directory`]; what the directory answers.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Outcome<()> {
        Self::wait_saved(self.remove(parent, name, true)?)
    }

    /// Removes a file or (`dir`) a directory.
    pub(super) fn remove(&self, parent: Ino, name: &[u8], dir: bool) -> Outcome<Changed<N>> {
        let name = self.decode(name)?;
        let directory = self.writable_directory(parent)?;
        let saving = if dir { directory.rmdir(&name) } else { directory.unlink(&name) }?;
        Ok(saving.map(|saving| (directory, saving)))
    }

    /// Renames.
    ///
    /// # Errors
    /// As [`Operations::writable_directory`], for either directory; what they answer.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Outcome<()> {
        Self::wait_saved(self.rename_unsaved(parent, name, new_parent, new_name, mode)?)
    }

    pub(super) fn rename_unsaved(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Outcome<Changed<N>> {
        let (old, new) = (self.decode(name)?, self.decode(new_name)?);
        let source = self.writable_directory(parent)?;
        let target = self.writable_directory(new_parent)?;
        let moved = source.child(&old)?;
        let rename = || target.rename(&old, &new, &source, mode);
        let saving = self.inodes.renaming(moved.as_ref(), rename)?;
        Ok(saving.map(|saving| (target, saving)))
    }

    /// Has a name lead to a file that has one already; counts a kernel reference.
    ///
    /// # Errors
    /// `EPERM` for a directory; as [`Operations::writable_directory`]; what the directory answers.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Outcome<Attr> {
        let name = self.decode(new_name)?;
        let directory = self.writable_directory(new_parent)?;
        let node = self.node(ino)?;
        if node.is_dir() {
            return Err(Refusal::NotPermitted.into());
        }
        directory.link(&name, &node)?;
        self.inodes.touch(&directory)?;
        self.referenced_attr(&node)
    }

    /// What Keep cannot express: refused, by a read-only mount as such.
    ///
    /// # Errors
    /// Always: `EROFS` or what `refusal` is.
    pub fn unsupported<T>(&self, refusal: Refusal) -> Outcome<T> {
        self.may_write()?;
        Err(refusal.into())
    }
}
