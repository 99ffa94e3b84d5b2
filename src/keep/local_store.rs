// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `KEEP_LOCAL_STORE`: blocks as files named by their md5, instead of any service. For tests.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Failure;
use super::sending::Outgoing;
use crate::types::{Locator, Md5};

/// A block of the local store, checked like any other.
pub(super) async fn read(dir: PathBuf, locator: Locator) -> Result<Vec<u8>, (Failure, String)> {
    let path = dir.join(locator.md5().to_string());
    let read = tokio::task::spawn_blocking(move || {
        let data = std::fs::read(&path)?;
        let right = data.len() == locator.size() as usize && Md5::of(&data) == locator.md5();
        Ok::<_, io::Error>(right.then_some(data))
    });
    match read.await {
        Ok(Ok(Some(data))) => Ok(data),
        Ok(Ok(None)) => Err((Failure::Corrupt, "local store".into())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err((Failure::NotFound, "local store".into()))
        }
        Ok(Err(error)) => Err((Failure::Server, format!("local store: {error}"))),
        Err(_) => Err((Failure::Server, "reading the local store panicked".into())),
    }
}

/// Puts a block in the local store. Nobody finds a part of it there.
pub(super) async fn write(dir: PathBuf, block: Outgoing) -> Result<Locator, (Failure, String)> {
    let locator = block.locator();
    match tokio::task::spawn_blocking(move || write_file(&dir, &block)).await {
        Ok(Ok(())) => Ok(locator),
        Ok(Err(error)) => Err((Failure::Server, format!("local store: {error}"))),
        Err(_) => Err((Failure::Server, "writing the local store panicked".into())),
    }
}

fn write_file(dir: &Path, block: &Outgoing) -> io::Result<()> {
    static TEMPORARIES: AtomicU64 = AtomicU64::new(0);
    let number = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
    let name = block.md5.to_string();
    let temporary = dir.join(format!("{name}.tmp{}-{number}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = block.pieces.as_slice().iter().try_for_each(|piece| file.write_all(piece));
    let renamed = written.and_then(|()| std::fs::rename(&temporary, dir.join(name)));
    if renamed.is_err() {
        // What went wrong is told; a file that stays is nobody's block.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}
