// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The limit that benchmarks compare with: a mount of a tree that is in memory, whose every request
//! is answered at once.
//!
//!     bench-limit [--blocks DIR] [--tmp PATH] MOUNT_DIR [PATH=MANIFEST_FILE...]
//!
//! It goes through the crate's own `fuse` layer with the options and the workers of arv-mount, so
//! what it leaves out is the file system and nothing else. Each manifest file is shown at its path;
//! reading their files needs the folder of blocks, named by their md5.

mod serve;
mod tree;

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arvados_fuse::fuse::mount::mount_at;
use arvados_fuse::fuse::options::Options;
use arvados_fuse::fuse::session::Session;
use serve::Limit;
use tree::Tree;

/// What arv-mount passes (`_fuse_options` and `_llfuse_main` of its command.py).
const OPTIONS: [&str; 4] =
    ["big_writes", "max_read=1048576", "max_readahead=262144", "fsname=bench-limit"];
const WORKERS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = pico_args::Arguments::from_env();
    let blocks: Option<PathBuf> = args.opt_value_from_str("--blocks")?;
    let tmp: Option<String> = args.opt_value_from_str("--tmp")?;
    let mut free = args.finish().into_iter();
    let path = free.next().ok_or("a mount point is missing")?;

    let mut tree = Tree::default();
    for shown in free {
        let (at, file) = split(&shown)?;
        tree.add_manifest(at, &std::fs::read_to_string(file)?)?;
    }
    let tmp = tmp.map(|at| tree.directory(&at)).transpose()?;
    if let Some(folder) = blocks {
        tree.load_blocks(&folder)?;
    }

    let options = Options::parse(OPTIONS)?;
    let mount = mount_at(Path::new(&path), &options)?;
    Session::begin(mount, &options, Arc::new(Limit::new(tree, tmp)), WORKERS)?.run()?;
    Ok(())
}

fn split(shown: &OsString) -> Result<(&str, &str), Box<dyn Error>> {
    let text = shown.to_str().ok_or("not utf-8")?;
    Ok(text.split_once('=').ok_or_else(|| format!("{text}: not PATH=MANIFEST_FILE"))?)
}
