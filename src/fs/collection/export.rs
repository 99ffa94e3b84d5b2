// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection as it is, draft and all, as a manifest: for whoever saves it or takes it over.

use std::sync::Arc;
use std::time::Duration;

use super::draft::TOP;
use super::{Drafted, Host, MountedCollection, State};
use crate::collection::draft::{
    BlockRef, Contents, Directory, MAX_LEN, Unwritable, UnwritableReason, write_manifest, zeros,
    zeros_len,
};
use crate::fs::errno::Refusal;
use crate::fs::node::Outcome;
use crate::report::{phrases, report};

/// How often what others began to store is waited for.
const ATTEMPTS: u32 = 20;
/// Between two looks whether they did.
const PAUSE: Duration = Duration::from_millis(100);

/// A directory as it is at one moment: its path, and the files in it.
struct Listed {
    path: String,
    files: Vec<(Box<str>, Contents)>,
}

impl State {
    /// Everything below a directory, which comes first.
    fn walk(&self, dir: u64, path: &str, into: &mut Vec<Listed>) {
        let mut listed = Listed { path: path.to_owned(), files: Vec::new() };
        let entries = self.entries(dir);
        for entry in entries.iter().filter(|entry| !entry.dir) {
            let contents = match self.drafted(entry.ino) {
                Some(Drafted::File(file)) => file.contents.lock().clone(),
                _ => match self.current.id(entry.ino) {
                    Some(id) => Contents::of_tree(self.current.tree(), id),
                    None => continue,
                },
            };
            listed.files.push((entry.name.clone(), contents));
        }
        into.push(listed);
        for entry in entries.iter().filter(|entry| entry.dir) {
            let name = &entry.name;
            let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            self.walk(entry.ino, &path, into);
        }
    }
}

fn files(all: &[Listed]) -> impl Iterator<Item = &Contents> {
    all.iter().flat_map(|listed| &listed.files).map(|(_, contents)| contents)
}

impl<H: Host> MountedCollection<H> {
    /// Stores everything that was written, and waits for it. Not for a thread of the Keep client.
    ///
    /// # Errors
    /// `EIO` where something could not be stored: the log says why. It is tried again the next time.
    pub fn store(&self) -> Outcome<()> {
        self.uploads.store_all(&self.host.store()).map_err(|_| Refusal::Unwritable.into())
    }

    /// The manifest of what it contains, all of which is stored; signed as the blocks are. May take as
    /// long as storing does.
    ///
    /// # Errors
    /// `EIO` where something could not be stored; `EFBIG` where the holes of a file are too long for a
    /// manifest.
    pub fn manifest(&self) -> Outcome<String> {
        let mut all = Vec::new();
        self.state.read().walk(TOP, "", &mut all);
        let holes = files(&all).flat_map(Contents::holes);
        let zeros = match holes.map(|hole| hole.end - hole.start).max() {
            Some(longest) => Some(self.stored_zeros(zeros_len(longest))?),
            None => None,
        };
        for _ in 0..ATTEMPTS {
            // What was merged or overwritten since in the file itself is stored for this version.
            let missing = files(&all).flat_map(Contents::chunks).map(Arc::clone);
            self.start(self.uploads.add(missing.collect()));
            self.store()?;
            let directories = all.iter().map(|listed| Directory {
                path: &listed.path,
                files: (listed.files.iter())
                    .map(|(name, contents)| (&**name, contents.pieces(0, MAX_LEN)))
                    .collect(),
            });
            match write_manifest(directories.collect(), zeros.as_ref()) {
                Ok(text) => return Ok(text),
                // Another collection is storing it, which it was moved from.
                Err(Unwritable { reason: UnwritableReason::NotStored(_), .. }) => {
                    std::thread::sleep(PAUSE);
                }
                Err(refused) => {
                    report(log::Level::Error, &format!("{}: {refused}", phrases::UNHANDLED));
                    return Err(match refused.reason {
                        UnwritableReason::TooManyZeros => Refusal::TooLarge.into(),
                        _ => Refusal::OddNames.into(),
                    });
                }
            }
        }
        Err(Refusal::Unwritable.into())
    }

    fn stored_zeros(&self, len: u32) -> Outcome<BlockRef> {
        match self.host.store().put_blocking(zeros(len), self.uploads.options()) {
            Ok(locator) => Ok(BlockRef::Own(Arc::new(locator))),
            Err(error) => {
                error.report();
                Err(Refusal::Unwritable.into())
            }
        }
    }
}
