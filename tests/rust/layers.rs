// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Holds the source tree to the layers of docs/architecture.md: each library has one user, and
//! no layer names one above it; the same for the floors of src/py.

#[path = "layers/floors.rs"]
mod floors;
#[path = "layers/paths.rs"]
mod paths;

use std::fs;
use std::path::{Path, PathBuf};

use paths::{Modules, Named, read};

const ABOVE_THE_LOWEST: &[&str] = &[
    "py",
    "fuse",
    "fs",
    "collection",
    "keep",
    "api",
    "events",
    "net",
    "manifest",
    "report",
    "types",
];

/// Each layer, and those that it may not name.
const LAYERS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("py", &[]),
    ("fuse", &["py"]),
    ("fs", &["py", "fuse"]),
    ("collection", &["py", "fuse", "fs"]),
    ("keep", &["py", "fuse", "fs", "collection", "api", "events"]),
    ("api", &["py", "fuse", "fs", "collection", "keep", "events", "manifest"]),
    ("events", &["py", "fuse", "fs", "collection", "keep", "api", "manifest"]),
    ("net", &["py", "fuse", "fs", "collection", "keep", "api", "events", "manifest", "types"]),
    ("manifest", &["py", "fuse", "fs", "collection", "api", "events", "net"]),
    (
        "report",
        &["py", "fuse", "fs", "collection", "keep", "api", "events", "net", "manifest", "types"],
    ),
    ("types", &["py", "fuse", "fs", "collection", "keep", "api", "events", "net", "manifest"]),
    ("cluster_clock", ABOVE_THE_LOWEST),
    ("metrics", ABOVE_THE_LOWEST),
];

/// Each library that has one layer for its user.
const LIBRARIES: &[(&str, &str)] = &[("pyo3", "py"), ("pyo3_log", "py"), ("fuser", "fuse")];

/// A source file: the module that it is, and its text.
struct File {
    module: Vec<String>,
    text: String,
}

impl File {
    fn new(module: &str, text: &str) -> Self {
        let module = module.split("::").filter(|m| !m.is_empty()).map(str::to_owned).collect();
        File { module, text: text.to_owned() }
    }

    /// The layer: the module below the root, or `lib` for the root itself.
    fn layer(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    fn fault(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.module.join("::"))
    }
}

fn modules(files: &[File]) -> Modules {
    files.iter().map(|file| file.module.clone()).filter(|module| !module.is_empty()).collect()
}

fn find(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry is readable").path();
        if path.is_dir() {
            find(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every file of src.
fn sources() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    find(&src, &mut paths);
    assert!(paths.len() > 50, "found too few sources to judge");
    let read = |path: &PathBuf| {
        let inside = path.strip_prefix(&src).expect("under src").with_extension("");
        let module = inside.to_string_lossy().replace('/', "::");
        let module = if module == "lib" { "" } else { &module };
        File::new(module, &fs::read_to_string(path).expect("utf-8"))
    };
    paths.iter().map(read).collect()
}

/// Every path that a file names, for `judge`, which answers what is wrong with it.
fn judge(files: &[File], judge: impl Fn(&File, &Named) -> Option<String>) -> Vec<String> {
    let modules = modules(files);
    let mut faults = Vec::new();
    for file in files {
        for named in read(&file.module, &file.text, &modules).named {
            faults.extend(judge(file, &named).map(|what| file.fault(named.line, &what)));
        }
    }
    faults
}

fn library_faults(files: &[File]) -> Vec<String> {
    judge(files, |file, named| {
        let first = named.path.first()?;
        let (library, layer) = LIBRARIES.iter().find(|(library, _)| first == library)?;
        let elsewhere = !named.inside && file.layer() != *layer;
        elsewhere.then(|| format!("{library} is used outside {layer}"))
    })
}

fn layer_faults(files: &[File]) -> Vec<String> {
    judge(files, |file, named| {
        let above = LAYERS.iter().find(|(layer, _)| *layer == file.layer());
        let Some((layer, above)) = above else {
            return Some(format!("{} is in no layer", file.layer()));
        };
        let target = named.path.first().filter(|_| named.inside)?;
        above.contains(&target.as_str()).then(|| format!("{layer} names {target}"))
    })
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The core has one table of errnos: what else of it names one by itself.
fn errno_faults(files: &[File]) -> Vec<String> {
    judge(files, |file, named| {
        let [.., class, errno] = named.path.as_slice() else { return None };
        let is_errno = class == "Errno" && errno.starts_with('E') && errno.len() > 2;
        let is_test = file.module.last().is_some_and(|module| module == "tests");
        let elsewhere = file.layer() == "fs" && file.module != ["fs", "errno"] && !is_test;
        (is_errno && elsewhere).then(|| format!("names {errno} outside of the table"))
    })
}

#[test]
fn the_core_has_one_table_of_errnos() {
    assert_none(&errno_faults(&sources()));
}

#[test]
fn each_binding_library_has_one_layer() {
    assert_none(&library_faults(&sources()));
}

#[test]
fn no_layer_names_one_above_it() {
    assert_none(&layer_faults(&sources()));
}

/// The checker has to see each of these.
mod seen {
    use super::{File, errno_faults, layer_faults, library_faults};

    /// A file of `fs` beside empty modules of the other layers.
    fn in_fs(text: &str) -> Vec<File> {
        vec![
            File::new("fs::inodes", text),
            File::new("fs", "pub mod inodes;"),
            File::new("py", "pub mod gil;"),
            File::new("py::gil", ""),
            File::new("fuse", ""),
            File::new("keep", ""),
        ]
    }

    #[test]
    fn an_arrow_that_points_up_however_it_is_written() {
        for text in [
            "use crate::py::gil;",
            "use crate::py;",
            "use crate::{py};",
            "use crate::{keep, py as python};",
            "use crate::{keep, fuse::{session::{self as s, Session}}};",
            "use crate::fuse::*;",
            "use super::super::py::gil::attach;",
            "use crate as root; use root::py;",
            "pub(crate) use crate::py::gil as g;",
            "fn f() { crate::py::gil::attach(); }",
            "fn f() { super::super::py::gil::attach(); }",
            "fn f(_: &crate::fuse::Session) {}",
            "fn f() -> Vec<Option<crate::fuse::Session>> { vec![] }",
            "impl crate::fuse::Notify for X {}",
            "struct X<T: crate::fuse::Notify>(T);",
            "fn f() { let crate::fuse::Kind::A = x else { return }; }",
            "fn f() { assert!(crate::py::gil::held()); }",
            "macro_rules! m { () => { $crate::py::gil::attach() } }",
            "#[derive(crate::py::Class)] struct X;",
            "#[cfg(test)] mod tests { use super::super::super::py; }",
            "#[cfg(test)] mod tests { fn f() { use crate::{fuse}; } }",
        ] {
            assert!(!layer_faults(&in_fs(text)).is_empty(), "not seen: {text}");
        }
    }

    #[test]
    fn nothing_where_nothing_points_up() {
        for text in [
            "use crate::keep::{self as k, KeepClient};",
            "use crate::fs::{self as f};",
            "use super::inodes; use std::fuse::py;",
            "// use crate::py;\n/// [`crate::py`] and [`super::super::py`]\nfn f() {}",
            "fn f() { log::info!(\"crate::py {}\", 1); let py = 1; g(py); }",
            "pub(in crate::py) fn f() {}",
        ] {
            assert_eq!(layer_faults(&in_fs(text)), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn an_errno_that_is_not_from_the_table() {
        for text in [
            "fn f() -> Result<()> { Err(Errno::EIO.into()) }",
            "fn f() { if let Err(crate::fs::Errno::ENOENT) = g() {} }",
            "use crate::fs::errno::Errno as E; fn f() { E::EPERM; }",
            "fn f() { debug_assert_eq!(g(), Errno::EBADF); }",
        ] {
            assert_eq!(errno_faults(&in_fs(text)).len(), 1, "{text}");
        }
        let text = "use super::errno::Errno; fn f() { Errno::from_raw(1); Halt::Errno(e); }";
        assert_eq!(errno_faults(&in_fs(text)), Vec::<String>::new());
    }

    #[test]
    fn a_module_that_is_in_no_layer() {
        let files = [File::new("elsewhere", "use std::fmt;")];
        assert_eq!(layer_faults(&files), ["elsewhere:1: elsewhere is in no layer"]);
    }

    #[test]
    fn a_library_outside_its_layer() {
        for text in [
            "use pyo3::prelude::*;",
            "use ::pyo3;",
            "use {pyo3 as p};",
            "fn f(_: pyo3::Python<'_>) {}",
            "#[pyo3(name = \"x\")] fn f() {}",
            "#[pyo3::pyfunction] fn f() {}",
            "fn f() { pyo3_log::init(); }",
            "fn f() { fuser::mount2(); }",
            "fn f() { dbg!(fuser::MountOption::RO); }",
        ] {
            assert!(!library_faults(&in_fs(text)).is_empty(), "not seen: {text}");
        }
        let at_home =
            [File::new("fuse::session", "use fuser::Session;"), File::new("py", "use pyo3::Py;")];
        assert_eq!(library_faults(&at_home), Vec::<String>::new());
    }
}
