// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Listing directories.

use std::borrow::Cow;

use super::{Fh, Handle, Ino, NAME_MAX, Node, Operations, Outcome};
use crate::fs::errno::Refusal;
use crate::fs::filesystem::DirSink;
use crate::fs::handles::Listed;

impl<N: Node> Operations<N> {
    /// Opens a directory: its listing is what it is now, until it is closed.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`; `EIO` where the directory above is gone; what the node answers.
    pub fn opendir(&self, ino: Ino) -> Outcome<Fh> {
        let node = self.node(ino)?;
        if !node.is_dir() {
            return Err(Refusal::NotDirectory.into());
        }
        // First: a newer version may have it no more.
        self.freshen(&node)?;
        let Some(parent) = self.parent_of(&node)? else {
            log::warn!("opendir of inode {ino}, whose parent is not in the table");
            return Err(Refusal::Lost.into());
        };
        node.inc_use()?;
        let listed = node.items();
        node.dec_use()?;
        let listing = listed?;
        self.inodes.touch(&node)?;
        let head = vec![(".".into(), node.clone()), ("..".into(), parent)];
        self.handles.open(Handle::Dir { node, head, listing })
    }

    /// Gives entries from `offset` on to `sink` until it is full or the listing ends. With
    /// `referenced`, each one taken counts as looked up, except `.` and `..` (as `FUSE_READDIRPLUS` has
    /// it).
    ///
    /// # Errors
    /// `EBADF`; what the nodes answer.
    pub fn list(
        &self,
        fh: Fh,
        offset: u64,
        referenced: bool,
        sink: &mut DirSink<'_>,
    ) -> Outcome<()> {
        let handle = self.handles.get(fh)?;
        if !handle.node().is_dir() {
            return Err(Refusal::NotDirectory.into());
        }
        for at in offset.. {
            let Some(listed) = handle.listed(at) else { break };
            if let Listed::Entry(name, node) = listed
                && let Some(ino) = node.inode()?
                && self.inodes.contains(ino)
                && !self.list_one(Ino(ino), &name, &node, referenced, at + 1, sink)?
            {
                break;
            }
        }
        Ok(())
    }

    /// The bytes of a name in a listing. One that cannot be a file's name here is left out, so that the
    /// others are listed, and logged.
    fn listed_name<'n>(&self, ino: Ino, name: &'n str) -> Outcome<Option<Cow<'n, [u8]>>> {
        let problem = match self.codec.encode(name) {
            Ok(encoded) if encoded.len() <= NAME_MAX => return Ok(Some(encoded)),
            Ok(_) => "it is longer than 255 bytes",
            Err(halt) if halt.is(Refusal::NotText) => "the mount's encoding has no such characters",
            Err(halt) => return Err(halt),
        };
        if self.left_out.is_new((ino.0, name)) {
            let start: String = name.chars().take(60).collect();
            log::warn!(target: "arvados.arvados_fuse", "name {start:?} is not listed: {problem}");
        }
        Ok(None)
    }

    fn list_one(
        &self,
        ino: Ino,
        name: &str,
        node: &N,
        referenced: bool,
        next: u64,
        sink: &mut DirSink<'_>,
    ) -> Outcome<bool> {
        let attr = match self.attr_of(ino, node) {
            // It is gone since the directory was opened.
            Err(halt) if self.is_gone(ino, &halt) => return Ok(true),
            attr => attr?,
        };
        let Some(encoded) = self.listed_name(ino, name)? else { return Ok(true) };
        let counts = referenced && name != "." && name != "..";
        if counts && !self.inodes.reference(ino.0, node)? {
            return Ok(true);
        }
        let taken = sink(&encoded, &attr, next).is_ok();
        if counts && !taken {
            node.dec_ref(1)?;
        }
        Ok(taken)
    }
}
