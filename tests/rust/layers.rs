// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Holds the source tree to the layers of docs/architecture.md: each library has one user, and
//! no layer names one above it.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The layer of a file: the first component under src, without `.rs`.
fn layer(path: &Path) -> String {
    let inside = path.strip_prefix(src()).expect("under src");
    let first = inside.iter().next().expect("not empty").to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Code lines (comments left out) of every source file, with where they stand.
fn code_lines() -> Vec<(PathBuf, usize, String)> {
    let mut files = Vec::new();
    sources(&src(), &mut files);
    assert!(files.len() > 5, "found too few sources to judge");
    let mut lines = Vec::new();
    for file in files {
        for (number, line) in fs::read_to_string(&file).expect("utf-8").lines().enumerate() {
            let code = line.split("//").next().unwrap_or("").to_string();
            lines.push((file.clone(), number + 1, code));
        }
    }
    lines
}

#[test]
fn each_binding_library_has_one_layer() {
    for (file, number, code) in code_lines() {
        let layer = layer(&file);
        if code.contains("pyo3") {
            assert_eq!(layer, "py", "{}:{number} uses pyo3", file.display());
        }
        if code.contains("fuser::") {
            assert_eq!(layer, "fuse", "{}:{number} uses fuser", file.display());
        }
    }
}

#[test]
fn no_layer_names_one_above_it() {
    let above = [
        ("fuse", vec!["py"]),
        ("fs", vec!["py", "fuse"]),
        ("collection", vec!["py", "fuse", "fs"]),
        ("keep", vec!["py", "fuse", "fs", "collection"]),
        ("manifest", vec!["py", "fuse", "fs", "collection"]),
        ("report", vec!["py", "fuse", "fs", "collection", "keep", "manifest", "types"]),
        ("types", vec!["py", "fuse", "fs", "collection", "keep", "manifest"]),
    ];
    for (file, number, code) in code_lines() {
        for (lower, uppers) in &above {
            if layer(&file) == *lower {
                for upper in uppers {
                    assert!(
                        !code.contains(&format!("crate::{upper}")),
                        "{}:{number}: {lower} names {upper}",
                        file.display()
                    );
                }
            }
        }
    }
}
