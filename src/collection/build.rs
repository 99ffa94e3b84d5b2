// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Builds the tree: gathers what the parser tells, then lays it out.
//!
//! Gathering finds each token's directory at once, and leaves files of one name apart; laying out
//! sorts them, which most manifests already are, and joins them in the order of the text.

mod layout;

pub use layout::NAME_MAX;

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::RwLock;

use self::layout::Layout;
use super::blocks::{Block, BlockId, Blocks};
use super::hints::Hints;
use super::tree::Tree;
use crate::manifest::{self, ManifestError, Reason, Segment, Sink};
use crate::types::LocatorRef;

pub(super) fn build(text: &str) -> Result<Tree, ManifestError> {
    let mut gathered = Gathered::new();
    manifest::parse(text, &mut gathered)?;
    gathered.finish()
}

/// A name within `Gathered::names`.
#[derive(Clone, Copy)]
struct Name {
    begin: u32,
    end: u32,
}

struct Directory {
    parent: u32,
    name: Name,
    line: u32,
}

/// One or more neighbouring tokens of one file.
struct FilePart {
    dir: u32,
    name: Name,
    first_span: u32,
    line: u32,
}

/// A extent as the text gives it.
struct RawSpan {
    position: u64,
    length: u64,
}

struct Gathered<'a> {
    names: String,
    /// The root first, parents before children.
    dirs: Vec<Directory>,
    /// Directories by parent and name.
    found: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// In the order of the text; each one's extents end where the next one's begin.
    parts: Vec<FilePart>,
    extents: Vec<RawSpan>,
    /// Each different locator once, by number, and those numbers by locator.
    locators: Vec<LocatorRef<'a>>,
    ids: HashTable<u32>,
    starts: Vec<u64>,
    placed: Vec<BlockId>,
    /// The stream's directory, and where its blocks begin and end among those of all streams.
    dir: u32,
    begin: u64,
    end: u64,
}

impl<'a> Sink<'a> for Gathered<'a> {
    fn stream(&mut self, name: Cow<'a, str>, line: usize) -> Result<(), Reason> {
        self.begin = self.end;
        let below = match &*name {
            "." => "",
            path => path.strip_prefix("./").unwrap_or(path),
        };
        self.dir = match below {
            "" => 0,
            path => self.walk_dir(0, path, &name, line)?,
        };
        Ok(())
    }

    fn block(&mut self, locator: LocatorRef<'a>) {
        let Self { locators, ids, hasher, .. } = self;
        let entry = ids.entry(
            hasher.hash_one(locator.md5),
            |id| locators[*id as usize] == locator,
            |id| hasher.hash_one(locators[*id as usize].md5),
        );
        let id = match entry {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let id = locators.len() as u32;
                new.insert(id);
                locators.push(locator);
                id
            }
        };
        self.starts.push(self.end);
        self.placed.push(BlockId(id));
        // Sizes of 32 bits each, from a text of at most 2^31 bytes: no overflow.
        self.end += u64::from(locator.size);
    }

    fn segment(&mut self, segment: Segment<'a>) -> Result<(), Reason> {
        let Segment { position, length, name, token, line } = segment;
        let path = &*name;
        let (above, last) = match path.rsplit_once('/') {
            Some((above, last)) => (Some(above), last),
            None => (None, path),
        };
        if last == "." {
            return match above {
                None | Some("") => Ok(()),
                Some(above) => self.walk_dir(self.dir, above, path, line).map(|_| ()),
            };
        }
        if last.is_empty() {
            return Err(Reason::EmptyComponent(manifest::shown(path)));
        }
        if length > 0 && position.checked_add(length).is_none_or(|end| end > self.end - self.begin)
        {
            return Err(Reason::PastEnd(manifest::shown(token), self.end - self.begin));
        }
        let dir = match above {
            Some(above) => self.walk(self.dir, above, path, line)?,
            None => self.dir,
        };
        let goes_on =
            self.parts.last().is_some_and(|part| part.dir == dir && self.text(part.name) == last);
        if !goes_on {
            let (name, first_span) = (self.keep_name(last), self.extents.len() as u32);
            self.parts.push(FilePart { dir, name, first_span, line: line as u32 });
        }
        if length > 0 {
            self.extents.push(RawSpan { position: self.begin + position, length });
        }
        Ok(())
    }
}

impl Gathered<'_> {
    fn new() -> Self {
        let nothing = Name { begin: 0, end: 0 };
        Self {
            names: String::new(),
            dirs: vec![Directory { parent: 0, name: nothing, line: 0 }],
            found: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            parts: Vec::new(),
            extents: Vec::new(),
            locators: Vec::new(),
            ids: HashTable::new(),
            starts: Vec::new(),
            placed: Vec::new(),
            dir: 0,
            begin: 0,
            end: 0,
        }
    }

    fn text(&self, name: Name) -> &str {
        &self.names[name.begin as usize..name.end as usize]
    }

    // Names are unescaped parts of a text of at most 2^31 bytes, so that their offsets fit: an
    // escape of four bytes becomes one of at most two.
    fn keep_name(&mut self, name: &str) -> Name {
        let begin = self.names.len() as u32;
        self.names.push_str(name);
        Name { begin, end: self.names.len() as u32 }
    }

    /// The directory at a path, which may end in `/`.
    fn walk_dir(&mut self, from: u32, path: &str, all: &str, line: usize) -> Result<u32, Reason> {
        self.walk(from, path.strip_suffix('/').unwrap_or(path), all, line)
    }

    /// The directory at `path` below `from`, made where it is missing. `all` is for the message.
    fn walk(&mut self, from: u32, path: &str, all: &str, line: usize) -> Result<u32, Reason> {
        path.split('/').try_fold(from, |parent, name| match name {
            "" => Err(Reason::EmptyComponent(manifest::shown(all))),
            name => Ok(self.subdirectory(parent, name, line)),
        })
    }

    fn subdirectory(&mut self, parent: u32, name: &str, line: usize) -> u32 {
        let hash = self.hasher.hash_one((parent, name));
        let known = self.found.find(hash, |id| {
            let dir = &self.dirs[*id as usize];
            dir.parent == parent && self.text(dir.name) == name
        });
        if let Some(id) = known {
            return *id;
        }
        let id = self.dirs.len() as u32;
        let name = self.keep_name(name);
        self.dirs.push(Directory { parent, name, line: line as u32 });
        let (dirs, names, hasher) = (&self.dirs, &self.names, &self.hasher);
        let rehash = |id: &u32| {
            let Directory { parent, name, .. } = &dirs[*id as usize];
            hasher.hash_one((*parent, &names[name.begin as usize..name.end as usize]))
        };
        self.found.insert_unique(hash, id, rehash);
        id
    }

    fn finish(self) -> Result<Tree, ManifestError> {
        let Layout { names, nodes, extents, files, odd_names } = Layout::of(&self)?;
        let hints = Hints::gather(self.locators.iter().copied());
        let blocks = Blocks {
            list: self.locators.iter().map(|l| Block { md5: l.md5, size: l.size }).collect(),
            starts: self.starts.into(),
            placed: self.placed.into(),
            hints: RwLock::new(Arc::new(hints)),
        };
        let (names, nodes, extents) = (names.into(), nodes.into(), extents.into());
        Ok(Tree { names, nodes, extents, blocks, files, odd_names })
    }
}
