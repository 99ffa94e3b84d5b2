// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Directories and files in memory, made of manifests.
//!
//! It knows the manifests that the benchmark's own data set has: streams in order, file names
//! without escapes.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// Number of a node in the tree; its inode number is one more.
pub(crate) type Id = usize;

/// A piece of a file: which block, from where, how many bytes.
pub(crate) struct Segment {
    pub block: usize,
    pub offset: usize,
    pub len: usize,
}

pub(crate) enum Kind {
    Dir { children: Vec<(Box<[u8]>, Id)>, index: HashMap<Box<[u8]>, Id> },
    File { size: u64, segments: Vec<Segment> },
}

pub(crate) struct Node {
    pub parent: Id,
    pub kind: Kind,
}

/// The tree; node 0 is its root.
pub(crate) struct Tree {
    pub nodes: Vec<Node>,
    /// Contents of the blocks; empty until they are loaded.
    pub blocks: Vec<Arc<[u8]>>,
    names: Vec<String>,
    by_name: HashMap<String, usize>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { parent: 0, kind: empty_dir() };
        Tree { nodes: vec![root], blocks: Vec::new(), names: Vec::new(), by_name: HashMap::new() }
    }
}

fn empty_dir() -> Kind {
    Kind::Dir { children: Vec::new(), index: HashMap::new() }
}

impl Tree {
    /// The directory at a path, made where it is missing.
    pub(crate) fn directory(&mut self, path: &str) -> Result<Id, Box<dyn Error>> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            at = match self.child(at, name.as_bytes()) {
                Some(id) => id,
                None => self.add(at, name, empty_dir())?,
            };
        }
        Ok(at)
    }

    pub(crate) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes[dir].kind {
            Kind::Dir { index, .. } => index.get(name).copied(),
            Kind::File { .. } => None,
        }
    }

    fn add(&mut self, parent: Id, name: &str, kind: Kind) -> Result<Id, Box<dyn Error>> {
        let id = self.nodes.len();
        match &mut self.nodes[parent].kind {
            Kind::Dir { children, index } => {
                children.push((name.as_bytes().into(), id));
                index.insert(name.as_bytes().into(), id);
            }
            Kind::File { .. } => return Err(format!("{name} is in a file").into()),
        }
        self.nodes.push(Node { parent, kind });
        Ok(id)
    }

    /// Shows a manifest at a path.
    pub(crate) fn add_manifest(&mut self, at: &str, text: &str) -> Result<(), Box<dyn Error>> {
        for line in text.lines() {
            let mut words = line.split(' ');
            let stream = words.next().unwrap_or_default();
            let dir = self.directory(&format!("{at}/{stream}"))?;
            let mut blocks = Vec::new();
            for word in words {
                match word.splitn(3, ':').collect::<Vec<_>>()[..] {
                    [offset, len, name] => {
                        let (offset, len) = (offset.parse()?, len.parse()?);
                        let segments = plan(&blocks, offset, len);
                        self.add(dir, name, Kind::File { size: len as u64, segments })?;
                    }
                    _ => blocks.push(self.block(word)?),
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, locator: &str) -> Result<(usize, usize), Box<dyn Error>> {
        let mut parts = locator.split('+');
        let hash = parts.next().unwrap_or_default();
        let size = parts.next().ok_or("a locator without a size")?.parse()?;
        let names = &mut self.names;
        let number = *self.by_name.entry(hash.into()).or_insert_with(|| {
            names.push(hash.into());
            names.len() - 1
        });
        Ok((number, size))
    }

    /// Reads the contents of every block that a manifest named.
    pub(crate) fn load_blocks(&mut self, folder: &Path) -> Result<(), Box<dyn Error>> {
        self.blocks = self
            .names
            .iter()
            .map(|name| std::fs::read(folder.join(name)).map(Arc::from))
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

fn plan(blocks: &[(usize, usize)], offset: usize, len: usize) -> Vec<Segment> {
    let (mut segments, mut start, end) = (Vec::new(), 0, offset + len);
    for &(block, size) in blocks {
        let (from, to) = (offset.max(start), end.min(start + size));
        if from < to {
            segments.push(Segment { block, offset: from - start, len: to - from });
        }
        start += size;
    }
    segments
}
