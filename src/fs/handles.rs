// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Open files and directories.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::attr::Fh;
use super::errno::Refusal;
use super::node::{Listing, Node, Outcome, Reader, Saving};

/// What a file handle stands for. It keeps its entries in use, so that they are not cleared.
pub enum Handle<N> {
    /// An open file.
    File {
        /// The file.
        node: N,
        /// The directory that it was opened in, flushed along with it.
        parent: Option<N>,
        /// Closing it saves.
        for_writing: bool,
        /// The kernel does not tell of closing it: it was opened where nothing is saved.
        unflushed: bool,
        /// How it is read, where not through the node.
        reader: Option<Box<dyn Reader>>,
    },
    /// An open directory.
    Dir {
        /// The directory.
        node: N,
        /// What comes first in its listing: `.` and `..`.
        head: Vec<(Box<str>, N)>,
        /// The rest of its listing, as it was when it was opened.
        listing: Box<dyn Listing<N>>,
    },
}

/// What stands at one position of a listing.
pub enum Listed<'a, N> {
    /// A name, and what it leads to.
    Entry(Cow<'a, str>, N),
    /// An entry that is gone since the directory was opened.
    Gone,
}

impl<N: Node> Handle<N> {
    /// An open file.
    pub fn file(
        node: N,
        parent: Option<N>,
        for_writing: bool,
        reader: Option<Box<dyn Reader>>,
    ) -> Self {
        let unflushed = reader.is_some() && (!for_writing || node.saves_nothing());
        Handle::File { node, parent, for_writing, unflushed, reader }
    }

    /// The file or directory.
    pub fn node(&self) -> &N {
        match self {
            Handle::File { node, .. } | Handle::Dir { node, .. } => node,
        }
    }

    /// How an open file is read, where not through its node.
    pub fn reader(&self) -> Option<&dyn Reader> {
        match self {
            Handle::File { reader, .. } => reader.as_deref(),
            Handle::Dir { .. } => None,
        }
    }

    /// Whether it is an open file that is not read through its node, and closing it, where it was opened,
    /// saves nothing.
    pub fn saves_nothing(&self) -> bool {
        matches!(self, Handle::File { unflushed: true, .. })
    }

    /// What is to be saved before a write through the handle is told: the file is by now where closing it
    /// should save it, and the kernel will not tell of that.
    ///
    /// # Errors
    /// What the node answers.
    pub fn saved_by_writes(&self) -> Outcome<Option<Arc<dyn Saving>>> {
        match self {
            Handle::File { node, unflushed: true, .. } if !node.saves_nothing() => {
                node.saving(false)
            }
            _ => Ok(None),
        }
    }

    /// Everything that the handle keeps in use.
    pub fn used(&self) -> Box<dyn Iterator<Item = &N> + '_> {
        match self {
            Handle::File { node, parent, .. } => Box::new(std::iter::once(node).chain(parent)),
            Handle::Dir { node, head, listing } => {
                let head = head.iter().map(|(_, node)| node);
                Box::new(std::iter::once(node).chain(head).chain(listing.used()))
            }
        }
    }

    /// Name and node at a position of an open directory's listing, `.` and `..` first; None past
    /// the end.
    pub fn listed(&self, at: u64) -> Option<Listed<'_, N>> {
        let Handle::Dir { head, listing, .. } = self else { return None };
        let at = usize::try_from(at).ok()?;
        if let Some((name, node)) = head.as_slice().get(at) {
            return Some(Listed::Entry(Cow::Borrowed(&**name), node.clone()));
        }
        let at = at - head.len();
        match listing.get(at) {
            Some((name, node)) => Some(Listed::Entry(name, node)),
            None if at < listing.len() => Some(Listed::Gone),
            None => None,
        }
    }

    /// Saves what was written through the handle; with `force`, whatever is unsaved.
    ///
    /// # Errors
    /// What the node answers.
    pub fn flush(&self, force: bool) -> Outcome<()> {
        match self {
            Handle::File { node, parent, for_writing, .. } => {
                let save = if force { N::sync } else { N::flush };
                if *for_writing || force {
                    save(node)?;
                    parent.as_ref().map_or(Ok(()), save)?;
                }
                Ok(())
            }
            Handle::Dir { node, .. } => {
                if force {
                    node.sync()?;
                }
                Ok(())
            }
        }
    }

    /// What [`Handle::flush`] would wait for, where that takes no thread.
    ///
    /// # Errors
    /// What the node answers.
    pub fn saving(&self, force: bool) -> Outcome<Option<Arc<dyn Saving>>> {
        match self {
            Handle::File { node, for_writing, .. } if *for_writing || force => node.saving(force),
            Handle::Dir { node, .. } if force => node.saving(force),
            Handle::File { .. } | Handle::Dir { .. } => Ok(None),
        }
    }
}

/// Does the same with each node, also where one fails; answers the first failure.
///
/// # Errors
/// What the first node that fails answers.
pub(super) fn every<'n, N: Node>(
    nodes: impl Iterator<Item = &'n N>,
    each: impl Fn(&N) -> Outcome<()>,
) -> Outcome<()> {
    let mut outcome = Ok(());
    for node in nodes {
        outcome = outcome.and(each(node));
    }
    outcome
}

/// The table of open handles. Its lock is a leaf.
pub struct Handles<N> {
    open: RwLock<HashMap<u64, Arc<Handle<N>>>>,
    next: AtomicU64,
}

impl<N> Default for Handles<N> {
    fn default() -> Self {
        Handles { open: RwLock::default(), next: AtomicU64::new(0) }
    }
}

impl<N: Node> Handles<N> {
    /// Opens a handle.
    ///
    /// # Errors
    /// What the nodes answer; then nothing is open, and nothing is left in use.
    pub fn open(&self, handle: Handle<N>) -> Outcome<Fh> {
        for (done, node) in handle.used().enumerate() {
            if let Err(halt) = node.inc_use() {
                return Err(every(handle.used().take(done), N::dec_use).err().unwrap_or(halt));
            }
        }
        let fh = self.next_number();
        self.open.write().insert(fh, Arc::new(handle));
        Ok(Fh(fh))
    }

    /// The next number; each call takes one.
    pub fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a handle under a number. What it keeps in use was counted by whoever made it.
    pub fn insert(&self, fh: Fh, handle: Handle<N>) {
        self.next.fetch_max(fh.0.saturating_add(1), Ordering::Relaxed);
        let old = self.open.write().insert(fh.0, Arc::new(handle));
        drop(old);
    }

    /// Forgets a handle without letting go of what it keeps in use; answers whether there was one.
    pub fn forget(&self, fh: Fh) -> bool {
        let old = self.open.write().remove(&fh.0);
        old.is_some()
    }

    /// The handle of that number.
    ///
    /// # Errors
    /// `EBADF` where none is open.
    pub fn get(&self, fh: Fh) -> Outcome<Arc<Handle<N>>> {
        self.find(fh).ok_or_else(|| Refusal::BadHandle.into())
    }

    /// The handle of that number, if one is open.
    #[must_use]
    pub fn find(&self, fh: Fh) -> Option<Arc<Handle<N>>> {
        self.open.read().get(&fh.0).cloned()
    }

    /// Closes a handle, if it is open; nothing is in use for it any more, whatever a node answers.
    ///
    /// # Errors
    /// What the first node that fails answers.
    pub fn close(&self, fh: Fh) -> Outcome<()> {
        let removed = self.open.write().remove(&fh.0);
        removed.map_or(Ok(()), |handle| every(handle.used(), N::dec_use))
    }

    /// Numbers of the open handles, in order.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.open.read().keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Forgets every handle.
    pub fn clear(&self) {
        let old = std::mem::take(&mut *self.open.write());
        drop(old);
    }
}
