// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `KEEP_LOCAL_STORE`: blocks as files named by their md5, instead of any service. For tests.

use std::io;
use std::path::PathBuf;

use super::error::Failure;
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
