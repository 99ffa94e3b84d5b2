// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection's record on a server: replaces files as the API does, for several mounts at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arvados_fuse::collection::draft::{
    BlockRef, Directory, MAX_LEN, Piece, Pieces, write_manifest,
};
use arvados_fuse::collection::{NodeId, Tree};
use arvados_fuse::fs::collection::Update;
use arvados_fuse::fs::collection::root::Record;
use arvados_fuse::fs::collection::save::{Refused, Taken};
use arvados_fuse::fs::{Errno, Timestamp};
use parking_lot::Mutex;

use super::mount::LOADED;

/// Files with what they are made of, and directories.
type Files = BTreeMap<String, Option<Pieces>>;

/// What is to happen to an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is made.
    Made,
    /// It is refused, and so is every other until told otherwise.
    Refused,
    /// It is made, and the answer is lost.
    Lost,
}

struct State {
    files: Files,
    version: u64,
}

/// The record, as its server has it.
pub(crate) struct Server {
    state: Mutex<State>,
}

/// What one mount knows of it.
pub(crate) struct Client {
    server: Arc<Server>,
    fate: Mutex<Fate>,
    pause: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

fn files_of(tree: &Arc<Tree>) -> Files {
    let ids = (1..tree.len() as u32).map(NodeId);
    ids.map(|id| {
        let pieces = tree.plan(id, 0, MAX_LEN).map(|range| Piece::Stored {
            block: BlockRef::Own(Arc::new(tree.locator(range.block))),
            offset: range.offset,
            len: range.len,
        });
        (tree.path(id), (!tree.is_dir(id)).then(|| pieces.collect()))
    })
    .collect()
}

fn parsed(manifest: &str) -> Files {
    files_of(&Arc::new(Tree::parse(manifest).expect("a manifest")))
}

/// What is at a path, and below it: by the rest of the path.
fn below<'f>(
    files: &'f Files,
    path: &'f str,
) -> impl Iterator<Item = (&'f str, &'f Option<Pieces>)> {
    files.iter().filter_map(move |(at, content)| {
        let rest = at.strip_prefix(path)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((rest, content))
    })
}

fn remove(files: &mut Files, path: &str) {
    let gone: Vec<String> = below(files, path).map(|(rest, _)| format!("{path}{rest}")).collect();
    for path in gone {
        files.remove(&path);
    }
}

fn make_parents(files: &mut Files, path: &str) {
    for (at, _) in path.match_indices('/') {
        let above = files.entry(path[..at].to_owned()).or_default();
        assert!(above.is_none(), "{path}: a file is above it");
    }
}

impl State {
    fn manifest(&self) -> String {
        let mut directories: BTreeMap<&str, Directory<'_>> = BTreeMap::new();
        directories.insert("", Directory::default());
        for (path, content) in &self.files {
            if content.is_none() {
                directories.insert(path, Directory { path, files: Vec::new() });
            }
        }
        for (path, content) in &self.files {
            if let Some(pieces) = content {
                let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
                let directory = directories.get_mut(above).expect("its directory");
                directory.files.push((name, pieces.clone()));
            }
        }
        write_manifest(directories.into_values().collect(), None).expect("all is stored")
    }

    fn hash(&self) -> String {
        Tree::parse(&self.manifest()).expect("a manifest").portable_data_hash().to_string()
    }

    /// As the API does it, with all that it refuses.
    fn replace(&mut self, update: &Update) -> Result<(), Refused> {
        let old = self.files.clone();
        let given = parsed(&update.files);
        let targets: BTreeSet<&str> = update.replace.iter().map(|(path, _)| &path[1..]).collect();
        assert_eq!(targets.len(), update.replace.len(), "{update:?}");
        for (path, _) in &update.replace {
            assert!(path.starts_with('/') && !path.ends_with('/'), "{update:?}");
            for (at, _) in path[1..].match_indices('/') {
                let above = &path[..=at];
                let source = update.replace.iter().find(|(other, _)| other == above);
                assert!(source.is_none_or(|(_, source)| source.is_empty()), "{update:?}");
            }
        }
        let mut sources = Vec::new();
        for (path, source) in &update.replace {
            let path = &path[1..];
            let (from, inside) = match source.split_once('/') {
                Some(("current", inside)) => (&old, inside),
                Some(("manifest_text", inside)) => (&given, inside),
                _ => {
                    assert!(source.is_empty(), "{update:?}");
                    sources.push((path, None));
                    continue;
                }
            };
            let taken: Vec<_> =
                below(from, inside).map(|(rest, content)| (rest, content.clone())).collect();
            if taken.is_empty() {
                return Err(Refused::Outdated);
            }
            sources.push((path, Some(taken)));
        }
        let used = |source: &String| source.starts_with("manifest_text/");
        let is_used = update.replace.iter().any(|(_, source)| used(source));
        assert_eq!(is_used, !update.files.is_empty(), "{update:?}");
        for (path, _) in &sources {
            remove(&mut self.files, path);
        }
        for (path, taken) in sources {
            for (rest, content) in taken.into_iter().flatten() {
                let at = format!("{path}{rest}");
                make_parents(&mut self.files, &at);
                self.files.insert(at, content);
            }
        }
        for pieces in self.files.values_mut().flatten() {
            exchange(pieces, &update.segments);
        }
        // Neighbours are one segment for whoever reads the text, the server among them.
        self.files = parsed(&self.manifest());
        self.version += 1;
        Ok(())
    }
}

/// Has segments of a file take the place of others.
fn exchange(pieces: &mut Pieces, segments: &[(String, String)]) {
    for piece in pieces {
        let Piece::Stored { block, offset, len } = piece else { continue };
        let known = format!("{block:?} {offset} {len}");
        let Some((_, other)) = segments.iter().find(|(segment, _)| *segment == known) else {
            continue;
        };
        let mut other = other.split(' ');
        let mut next = || other.next().expect("three words");
        *block = BlockRef::Own(Arc::new(next().parse().expect("a locator")));
        *offset = next().parse().expect("a number");
        assert_eq!(next(), len.to_string());
    }
}

impl Server {
    pub(crate) fn new(manifest: &str) -> Arc<Self> {
        Arc::new(Server { state: Mutex::new(State { files: parsed(manifest), version: 0 }) })
    }

    pub(crate) fn manifest(&self) -> String {
        self.state.lock().manifest()
    }

    /// A client of its own.
    pub(crate) fn client(self: &Arc<Self>) -> Arc<Client> {
        let (fate, pause) = (Mutex::new(Fate::Made), Mutex::default());
        Arc::new(Client { server: Arc::clone(self), fate, pause })
    }

    /// A change of somebody's who has no mount: what `files` has is at those paths, and there is nothing
    /// at `removed`.
    pub(crate) fn change(&self, files: &str, removed: &[String]) {
        let mut state = self.state.lock();
        for path in removed {
            remove(&mut state.files, path);
        }
        for (path, content) in parsed(files) {
            make_parents(&mut state.files, &path);
            state.files.insert(path, content);
        }
        state.version += 1;
    }
}

/// When a version was made.
fn time_of(version: u64) -> Timestamp {
    LOADED.saturating_add(std::time::Duration::from_millis(500 * version))
}

impl Client {
    pub(crate) fn manifest(&self) -> String {
        self.server.manifest()
    }

    /// Has the next update tell that it is there, and wait until it is told to go on.
    pub(crate) fn pause(&self) -> (Receiver<()>, Sender<()>) {
        let ((begun, is_there), (go, told)) = (channel(), channel());
        *self.pause.lock() = Some((begun, told));
        (is_there, go)
    }

    /// What is to happen to the next update.
    pub(crate) fn fate(&self, fate: Fate) {
        *self.fate.lock() = fate;
    }
}

impl Record for Client {
    fn newest(&self) -> Option<(Tree, Timestamp)> {
        let state = self.server.state.lock();
        Some((Tree::parse(&state.manifest()).expect("a manifest"), time_of(state.version)))
    }

    fn save(&self, update: &Update) -> Result<Taken, Refused> {
        let pause = self.pause.lock().take();
        if let Some((begun, told)) = pause {
            begun.send(()).expect("waited for");
            told.recv().expect("told");
        }
        let mut next = self.fate.lock();
        let fate = *next;
        if fate != Fate::Refused {
            *next = Fate::Made;
        }
        drop(next);
        if fate == Fate::Refused {
            return Err(Refused::Failed(Errno::EACCES));
        }
        let mut state = self.server.state.lock();
        // As by an event of somebody else's change, which comes at once.
        let base = Tree::parse(&(update.base)().expect("a manifest")).expect("a manifest");
        if base.portable_data_hash().to_string() != state.hash() {
            return Err(Refused::Outdated);
        }
        let version = state.version;
        state.replace(update)?;
        assert_eq!(version + 1, state.version);
        let whole = Tree::parse(&(update.whole)().expect("a manifest")).expect("a manifest");
        let made = Tree::parse(&state.manifest()).expect("a manifest");
        assert_eq!(made.stripped(), whole.stripped(), "{update:?}");
        if fate == Fate::Lost {
            return Err(Refused::Failed(Errno::EIO));
        }
        // Now and then, of what is told nothing, the hash is looked at.
        let (hash, at) = (state.hash(), time_of(state.version));
        Ok(Taken { hash, at, contested: None, told: !version.is_multiple_of(8) })
    }
}
