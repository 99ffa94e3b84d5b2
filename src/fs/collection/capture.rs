// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection as it is at one moment, draft and all: its manifest, and what of it is not in the
//! snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::draft::{Draft, TOP, View};
use super::reader::{expires_soon, pieces_of, renewed};
use super::replacements::Replacements;
use super::snapshot::Snapshot;
use super::{Drafted, State};
use crate::collection::draft::{
    BlockRef, Chunk, Contents, Directory, MAX_LEN, Piece, Pieces, Repacked, Unwritable,
    write_manifest,
};
use crate::collection::{NodeId, Tree};
use crate::fs::attr::Timestamp;
use crate::fs::errno::Errno;

/// What a file contained.
pub(super) enum FileContents {
    /// What that node of the snapshot does.
    Snapshot(NodeId),
    /// What the draft's file of that number did.
    Draft,
}

/// A file.
pub(super) struct CapturedFile {
    pub name: Box<str>,
    pub ino: u64,
    pub mtime: Timestamp,
    pub contents: FileContents,
    /// It has no other name.
    is_only: bool,
    /// The name is the first of several.
    is_first: bool,
}

/// A directory, and the files in it.
pub(super) struct CapturedDirectory {
    /// The names from the top to it, joined by `/`; empty for the top.
    pub path: String,
    pub ino: u64,
    pub mtime: Timestamp,
    pub files: Vec<CapturedFile>,
}

/// All of it, as it was at one moment. Taken in the size of the draft; what is as large as the collection is made
/// when it is asked for.
pub(super) struct Captured {
    snapshot: Arc<Snapshot>,
    /// The changes, without contents.
    draft: Draft,
    /// Of the draft's files, by number.
    contents: HashMap<u64, Contents>,
    directories: OnceLock<Vec<CapturedDirectory>>,
}

/// Makes a manifest, or says why that cannot be.
pub type Written = Arc<dyn Fn() -> Result<String, Errno> + Send + Sync>;

/// What a server is sent for a collection to become what was captured.
#[derive(Clone)]
pub struct Update {
    /// The manifest of the version that it is for, made when it is asked for.
    pub base: Written,
    /// Where each path (`/` and names) comes from: `current/` and a path of the collection as it was,
    /// `manifest_text/` and a path of `files`, or nothing where it is removed: `replace_files` of the API.
    pub replace: Vec<(String, String)>,
    /// All that happens is that names of files are gone, whatever they lead to.
    pub only_removes_files: bool,
    /// The manifest of what is new; empty where nothing is.
    pub files: String,
    /// Segments of files (`LOCATOR OFFSET LENGTH`) and those that take their place, whatever file has them, when
    /// all that is done: `replace_segments` of the API.
    pub segments: Vec<(String, String)>,
    /// The manifest of everything, made when it is asked for: it is as large as the collection.
    pub whole: Written,
}

impl std::fmt::Debug for Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Update { replace, files, .. } = self;
        let mut shown = f.debug_struct("Update");
        shown.field("replace", replace).field("files", files).finish_non_exhaustive()
    }
}

impl State {
    /// What the files of the draft contain, but for those that left.
    pub(super) fn contents(&self) -> HashMap<u64, Contents> {
        let nodes = self.draft.nodes.iter().filter(|(_, node)| node.parent.is_some());
        nodes
            .filter_map(|(ino, _)| Some((*ino, self.draft_file(*ino)?.contents.lock().clone())))
            .collect()
    }

    /// The collection as it is, with those contents of its files.
    pub(super) fn capture(&self, contents: HashMap<u64, Contents>) -> Captured {
        Captured {
            snapshot: Arc::clone(&self.current),
            draft: self.draft.outline(),
            contents,
            directories: OnceLock::new(),
        }
    }
}

impl View<'_> {
    /// Everything below a directory, which comes first.
    fn capture_below(&self, dir: u64, path: &str, into: &mut Vec<CapturedDirectory>) {
        let mtime = match self.drafted(dir) {
            Some(Drafted::Dir(mtime)) => mtime,
            _ => self.current.id(dir).map_or(Timestamp(0), |id| self.current.mtime(id)),
        };
        let mut files = Vec::new();
        let entries = self.entries(dir);
        for entry in entries.iter().filter(|entry| !entry.dir) {
            let (contents, mtime) = match self.drafted(entry.ino) {
                Some(Drafted::File(file)) => (FileContents::Draft, file.mtime.load()),
                _ => match self.current.id(entry.ino) {
                    Some(id) => (FileContents::Snapshot(id), self.current.mtime(id)),
                    None => continue,
                },
            };
            let node = self.draft.nodes.get(&entry.ino);
            files.push(CapturedFile {
                is_only: node.is_none_or(|node| node.others.is_empty()),
                is_first: !self.is_further(entry.ino, (dir, &entry.name)),
                name: entry.name.clone(),
                ino: entry.ino,
                mtime,
                contents,
            });
        }
        into.push(CapturedDirectory { path: path.to_owned(), ino: dir, mtime, files });
        for entry in entries.iter().filter(|entry| entry.dir) {
            self.capture_below(entry.ino, &joined(path, &entry.name), into);
        }
    }
}

/// The path of a name in a directory.
pub(super) fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

impl Captured {
    /// What it is.
    pub(super) fn view(&self) -> View<'_> {
        View { current: &self.snapshot, draft: &self.draft }
    }

    fn directories(&self) -> &[CapturedDirectory] {
        self.directories.get_or_init(|| {
            let mut directories = Vec::new();
            self.view().capture_below(TOP, "", &mut directories);
            directories
        })
    }

    /// How many files and directories the draft has.
    pub(super) fn changes(&self) -> usize {
        self.draft.nodes.len()
    }

    /// Memory that it takes beside the files' bytes, in bytes, about.
    pub(super) fn memory(&self) -> usize {
        self.draft.memory() + self.contents.len() * size_of::<Contents>()
    }

    /// The version that the draft is over.
    pub(super) fn base(&self) -> &Arc<Tree> {
        self.snapshot.tree()
    }

    /// Blocks that are known from earlier versions get the signatures that this one has, where theirs end
    /// soon.
    pub(super) fn renew_signatures(&self) {
        let mut seen = HashSet::new();
        for contents in self.contents.values() {
            for piece in contents.pieces(0, MAX_LEN) {
                if let Piece::Stored { block: BlockRef::Tree(tree, _), .. } = piece
                    && seen.insert(Arc::as_ptr(&tree))
                    && expires_soon(tree.expires_at())
                {
                    tree.renew_locators(self.base());
                }
            }
        }
    }

    /// The chunks that are not stored.
    pub(super) fn chunks(&self) -> Vec<Arc<Chunk>> {
        self.contents.values().flat_map(Contents::chunks).map(Arc::clone).collect()
    }

    /// Length of the longest hole in bytes; None where there are none.
    pub(super) fn longest_hole(&self) -> Option<u64> {
        self.contents.values().flat_map(Contents::holes).map(|hole| hole.end - hole.start).max()
    }

    fn pieces_of_draft(&self, ino: u64) -> Pieces {
        renewed(self.contents[&ino].pieces(0, MAX_LEN), self.base())
    }

    fn pieces(&self, file: &CapturedFile) -> Pieces {
        match &file.contents {
            // What a name leads to has not left.
            FileContents::Draft => self.pieces_of_draft(file.ino),
            FileContents::Snapshot(id) => pieces_of(self.snapshot.tree(), *id, 0, MAX_LEN),
        }
    }

    /// What each file contains, in order of the paths; of blocks that were stored from here, with the
    /// signatures that they got then.
    pub(super) fn all_pieces(&self) -> impl Iterator<Item = Pieces> {
        let files = self.directories().iter().flat_map(|directory| &directory.files);
        files.map(|file| match &file.contents {
            FileContents::Draft => self.contents[&file.ino].pieces(0, MAX_LEN),
            FileContents::Snapshot(_) => self.pieces(file),
        })
    }

    /// The manifest of everything; `zeros` is a block for the holes, and `repacked` has what is to be found
    /// elsewhere by now.
    ///
    /// # Errors
    /// What is not stored, or cannot be written.
    pub(super) fn manifest(
        &self,
        zeros: Option<&BlockRef>,
        repacked: Option<&Repacked>,
    ) -> Result<String, Unwritable> {
        let moved = |pieces| match repacked {
            Some(repacked) => repacked.moved(pieces),
            None => pieces,
        };
        let directories = self.directories().iter().map(|directory| Directory {
            path: &directory.path,
            files: (directory.files.iter())
                .map(|file| (&*file.name, moved(self.pieces(file))))
                .collect(),
        });
        write_manifest(directories.collect(), zeros)
    }

    /// The manifest of what is new.
    ///
    /// # Errors
    /// As [`Captured::manifest`].
    pub(super) fn manifest_of(
        &self,
        replacements: &Replacements,
        zeros: Option<&BlockRef>,
    ) -> Result<String, Unwritable> {
        let mut directories: HashMap<&str, Directory<'_>> = HashMap::new();
        for path in &replacements.directories {
            directories.insert(path, Directory { path, files: Vec::new() });
        }
        for (path, ino) in &replacements.files {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let directory = directories.entry(above);
            let directory = directory.or_insert(Directory { path: above, files: Vec::new() });
            // What is new is the draft's.
            directory.files.push((name, self.pieces_of_draft(*ino)));
        }
        write_manifest(directories.into_values().collect(), zeros)
    }

    /// How many names of files are not their first, at most.
    pub(super) fn further_names(&self) -> usize {
        let nodes = self.draft.nodes.values().filter(|node| !node.others.is_empty());
        nodes.map(|node| node.others.len() + 1).sum()
    }

    /// What a file of the draft contained.
    pub(super) fn contents_of(&self, ino: u64) -> Option<&Contents> {
        self.contents.get(&ino)
    }

    /// What the version that it is over has of a file.
    pub(super) fn base_of(&self, ino: u64) -> Option<Contents> {
        let id = self.snapshot.id(ino).filter(|id| !self.base().is_dir(*id))?;
        Some(Contents::of_tree(self.base(), id))
    }

    /// The edits that each file of the draft had, by number.
    pub(super) fn edits(&self) -> HashMap<u64, u64> {
        self.contents.iter().map(|(ino, contents)| (*ino, contents.edits())).collect()
    }

    /// The version that it is: `tree` is that of its manifest. None where that has something else. A file
    /// that has several names is one for each there: `numbers` are for the further ones.
    pub(super) fn snapshot(&self, tree: Arc<Tree>, mut numbers: Vec<u64>) -> Option<Snapshot> {
        let mut of = vec![(0, Timestamp(0)); tree.len()];
        let (mut known, mut linked) = (0, HashSet::new());
        for directory in self.directories() {
            let dir = tree.find(&directory.path)?;
            if directory.ino != TOP {
                of[dir.0 as usize] = (directory.ino, directory.mtime);
                known += 1;
            }
            for file in &directory.files {
                let id = tree.child(dir, &file.name)?;
                let is_first = file.is_only || (file.is_first && linked.insert(file.ino));
                let ino = if is_first { file.ino } else { numbers.pop()? };
                of[id.0 as usize] = (ino, file.mtime);
                known += 1;
            }
        }
        (known + 1 == tree.len()).then(|| Snapshot::numbered(tree, of))
    }
}
