// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What files contain: bytes of a few blocks, one of which Keep has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arvados_fuse::collection::Tree;
use arvados_fuse::keep::{CacheConfig, Config, KeepClient, StaticServices};
use arvados_fuse::types::Md5;

/// How many blocks there are.
const BLOCKS: u8 = 6;
/// The block that is nowhere to be found.
const LOST: u8 = BLOCKS - 1;

/// Bytes of a block: its number, from an offset, so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub block: u8,
    pub offset: usize,
    pub len: usize,
}

fn size(block: u8) -> usize {
    100 + usize::from(block) * 37
}

fn bytes(block: u8) -> Vec<u8> {
    (0..size(block)).map(|at| (at as u8).wrapping_mul(7).wrapping_add(block * 31)).collect()
}

/// What a file contains.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Content(pub Vec<Part>);

/// How many contents there are beside none.
pub(crate) const CONTENTS: u8 = 8;

impl Content {
    /// One of [`CONTENTS`], which differ in their bytes.
    pub(crate) fn number(number: u8) -> Self {
        let part = |block, offset, len| Part { block, offset, len };
        let whole = |block| part(block, 0, size(block));
        Content(match number % CONTENTS {
            0 => vec![whole(0)],
            1 => vec![part(1, 0, 50)],
            2 => vec![part(0, 10, 40), whole(2)],
            3 => vec![],
            4 => vec![whole(LOST)],
            5 => vec![whole(3), part(4, 100, 20), part(0, 0, 7)],
            6 => vec![part(2, 20, 60), part(LOST, 3, 9)],
            _ => vec![whole(4), whole(1)],
        })
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.0.iter().map(|part| part.len as u64).sum()
    }

    /// What a read answers; None where a byte of it is lost.
    pub(crate) fn read(&self, offset: u64, size: u32) -> Option<Vec<u8>> {
        let (mut skip, mut wanted) = (usize::try_from(offset).unwrap(), size as usize);
        let mut data = Vec::new();
        for part in &self.0 {
            let from = skip.min(part.len);
            skip -= from;
            let len = (part.len - from).min(wanted);
            wanted -= len;
            if len > 0 {
                if part.block == LOST {
                    return None;
                }
                let begin = part.offset + from;
                data.extend_from_slice(&bytes(part.block)[begin..begin + len]);
            }
        }
        Some(data)
    }
}

/// Paths that a collection may have; a directory hides a file of the same name.
pub(crate) const PATHS: [&str; 9] = ["a", "b", "d", "d/a", "d/b", "d/e/a", "e", "e/x", "d/e/x"];

/// A version of a collection: for each of [`PATHS`], zero or the number of its content, plus one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Version {
    pub slots: [u8; PATHS.len()],
    pub mtime: i128,
}

impl Version {
    /// Its files, by path.
    pub(crate) fn files(&self) -> BTreeMap<&'static str, Content> {
        let there = |path: &str| {
            let below = format!("{path}/");
            PATHS.iter().zip(self.slots).any(|(other, slot)| slot > 0 && other.starts_with(&below))
        };
        let slots = PATHS.iter().zip(self.slots);
        slots
            .filter(|(path, slot)| *slot > 0 && !there(path))
            .map(|(path, slot)| (*path, Content::number(slot - 1)))
            .collect()
    }

    /// Its directories below the top, by path.
    pub(crate) fn directories(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for path in self.files().keys() {
            let parts: Vec<&str> = path.split('/').collect();
            for depth in 1..parts.len() {
                all.insert(parts[..depth].join("/"));
            }
        }
        all
    }

    /// Its manifest, parsed.
    pub(crate) fn tree(&self) -> Tree {
        let mut streams: BTreeMap<String, Vec<(&str, Content)>> = BTreeMap::new();
        for (path, content) in self.files() {
            let (stream, name) = match path.rsplit_once('/') {
                Some((dir, name)) => (format!("./{dir}"), name),
                None => (".".to_owned(), path),
            };
            streams.entry(stream).or_default().push((name, content));
        }
        let mut text = String::new();
        for (stream, files) in streams {
            text += &stream;
            let mut tokens = String::new();
            let mut at = 0;
            for (name, content) in files {
                if content.0.is_empty() {
                    write!(tokens, " 0:0:{name}").unwrap();
                }
                for part in &content.0 {
                    write!(text, " {}+{}", Md5::of(&bytes(part.block)), size(part.block)).unwrap();
                    write!(tokens, " {}:{}:{name}", at + part.offset, part.len).unwrap();
                    at += size(part.block);
                }
            }
            if at == 0 {
                write!(text, " {}+0", Md5::EMPTY).unwrap();
            }
            text += &tokens;
            text.push('\n');
        }
        Tree::parse(&text).expect("a manifest")
    }
}

/// The client that all tests read through. It keeps fewer blocks than there are.
pub(crate) fn keep() -> Arc<KeepClient> {
    static KEEP: OnceLock<Arc<KeepClient>> = OnceLock::new();
    let client = KEEP.get_or_init(|| {
        // The same in every run: they may share it.
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("model-blocks");
        std::fs::create_dir_all(&dir).expect("a folder for blocks");
        for block in (0..BLOCKS).filter(|block| *block != LOST) {
            let data = bytes(block);
            let path = dir.join(Md5::of(&data).to_string());
            let begun = path.with_extension(std::process::id().to_string());
            std::fs::write(&begun, data).expect("a block");
            std::fs::rename(&begun, &path).expect("a block");
        }
        KeepClient::new(
            Config {
                local_store: Some(dir),
                cache: CacheConfig { max_blocks: 3, ..CacheConfig::default() },
                num_retries: 0,
                ..Config::default()
            },
            Arc::new(StaticServices::from_setting("").expect("no service")),
        )
    });
    Arc::clone(client)
}
