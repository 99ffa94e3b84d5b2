// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Mounts a collection by its manifest, read-only, without Python.
//!
//!     mount-collection --manifest FILE --keep URL [--keep URL...] [--cache DIR] [--token TOKEN] MOUNTPOINT
//!
//! Serves in the foreground until the mount is taken away (`fusermount3 -u MOUNTPOINT`). The token is
//! otherwise taken from `ARVADOS_API_TOKEN`. Where block signatures have expired, FILE is read again.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arvados_fuse::collection::Tree;
use arvados_fuse::fs::Timestamp;
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::cache::InodeCache;
use arvados_fuse::fs::collection::Settings;
use arvados_fuse::fs::collection::root::{NoUpcalls, RootDirectory, Standalone};
use arvados_fuse::fs::inodes::Inodes;
use arvados_fuse::fs::operations::{Operations, Utf8};
use arvados_fuse::fuse::mount::mount_at;
use arvados_fuse::fuse::options::Options;
use arvados_fuse::fuse::session::Session;
use arvados_fuse::keep::{CacheConfig, Config, KeepClient, StaticServices};

/// What arv-mount passes (`_fuse_options` and `_llfuse_main` of its command.py).
const OPTIONS: [&str; 4] =
    ["big_writes", "max_read=1048576", "max_readahead=262144", "fsname=mount-collection"];
const WORKERS: usize = 10;

fn load(manifest: &Path) -> Result<(Tree, Timestamp), Box<dyn Error>> {
    let tree = Tree::parse(&std::fs::read_to_string(manifest)?)
        .map_err(|error| format!("{}: {error}", manifest.display()))?;
    let modified = manifest.metadata()?.modified()?.duration_since(UNIX_EPOCH)?;
    Ok((tree, Timestamp(i128::try_from(modified.as_nanos())?)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = pico_args::Arguments::from_env();
    let manifest: PathBuf = args.value_from_str("--manifest")?;
    let services: Vec<String> = args.values_from_str("--keep")?;
    let cache: Option<PathBuf> = args.opt_value_from_str("--cache")?;
    let token: Option<String> = args.opt_value_from_str("--token")?;
    let mountpoint: PathBuf = args.free_from_str()?;
    let rest = args.finish();
    if !rest.is_empty() || services.is_empty() {
        return Err("usage: mount-collection --manifest FILE --keep URL... MOUNTPOINT".into());
    }

    let keep = KeepClient::new(
        Config {
            token: token.or_else(|| std::env::var("ARVADOS_API_TOKEN").ok()).unwrap_or_default(),
            cache: CacheConfig { disk_dir: cache, ..CacheConfig::default() },
            ..Config::default()
        },
        Arc::new(StaticServices::from_setting(&services.join(" "))?),
    );
    let (tree, mtime) = load(&manifest)?;
    let cache = Arc::new(InodeCache::new(256 << 20, 4));
    let table: Arc<Inodes<AnyNode<Standalone>>> = Inodes::new(cache, Arc::new(NoUpcalls));
    let again = move || load(&manifest).ok();
    RootDirectory::mount(
        tree,
        mtime,
        Arc::clone(&keep),
        Some(Arc::new(again)),
        Settings::default(),
        &table,
    )
    .map_err(|halt| format!("the collection cannot be shown: {halt:?}"))?;

    let options = Options::parse(OPTIONS)?;
    let mount = mount_at(&mountpoint, &options)?;
    let operations = Arc::new(Operations::new(table, Box::new(Utf8)));
    Session::begin(mount, &options, operations, WORKERS)?.run()?;
    keep.shutdown();
    Ok(())
}
