// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The floors of src/py: no module names one above it, and none are in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{Modules, read};
use super::{File, modules, sources};

/// The floors, the top one first. Modules of one floor do not name each other.
const FLOORS: &[&[&str]] = &[
    &["session"],
    &["events", "operations"],
    &["inodes"],
    &["nodes"],
    &["api", "keep", "manifest", "metrics"],
    &["exceptions", "request"],
    &["llfuse", "overrides"],
    &["clock", "gil", "modules"],
];

/// Files that are one thing told in several: what is an inode entry may be an object or a part of a
/// collection, either of which leads to other entries.
const KNOT: &[&str] = &[
    "py::nodes::any_node",
    "py::nodes::collection_host",
    "py::nodes::node",
    "py::nodes::legacy_2017",
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The module that a path inside the crate leads into: the longest beginning that is one.
fn module_of(path: &[String], modules: &Modules) -> Option<Vec<String>> {
    (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|module| modules.contains(module))
}

/// What each file of `py` names there, with the first line of each.
type Arrows = BTreeMap<Vec<String>, BTreeMap<Vec<String>, usize>>;

fn arrows(files: &[File]) -> Arrows {
    let modules = modules(files);
    let mut arrows = Arrows::new();
    for file in files.iter().filter(|file| file.layer() == "py") {
        let from = arrows.entry(file.module.clone()).or_default();
        for named in read(&file.module, &file.text, &modules).named {
            let inside = named.inside && named.path.first().is_some_and(|first| first == "py");
            let Some(to) = module_of(&named.path, &modules).filter(|_| inside) else { continue };
            if to != file.module {
                from.entry(to).or_insert(named.line);
            }
        }
    }
    arrows
}

fn floor_faults(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (from, targets) in arrows(files) {
        // The roof names every floor, to register what is there.
        let Some(own) = from.get(1) else { continue };
        let Some(own_floor) = floor(own) else {
            faults.push(format!("{} is on no floor", from.join("::")));
            continue;
        };
        for (to, line) in targets {
            let below = match to.get(1) {
                Some(target) if target == own => true,
                Some(target) => floor(target).is_none_or(|target| target > own_floor),
                None => false,
            };
            if !below {
                faults.push(format!("{}:{line}: names {}", from.join("::"), to.join("::")));
            }
        }
    }
    faults
}

/// Everything that can be reached from `start`.
fn reached<'a>(arrows: &'a Arrows, start: &'a [String]) -> BTreeSet<&'a [String]> {
    let mut found = BTreeSet::new();
    let mut left = vec![start];
    while let Some(module) = left.pop() {
        for to in arrows.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(to.as_slice()) {
                left.push(to);
            }
        }
    }
    found
}

fn circle_faults(files: &[File], knot: &[&str]) -> Vec<String> {
    let mut arrows = arrows(files);
    for (from, targets) in &mut arrows {
        // A module names its parts to give them out or to register them.
        targets.retain(|to, _| !to.starts_with(from));
        if knot.contains(&from.join("::").as_str()) {
            targets.retain(|to, _| !knot.contains(&to.join("::").as_str()));
        }
    }
    let within = |module: &&Vec<String>| reached(&arrows, module).contains(module.as_slice());
    arrows.keys().filter(within).map(|m| format!("{} is in a circle", m.join("::"))).collect()
}

/// What Arvados's modules are called in strings.
fn arvados_faults(files: &[File]) -> Vec<String> {
    let modules = modules(files);
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.module.starts_with(&["py".into(), "llfuse".into()]))
    {
        for (text, line) in read(&file.module, &file.text, &modules).strings {
            if text.starts_with("arvados") {
                faults.push(file.fault(line, &format!("names {text:?}")));
            }
        }
    }
    faults
}

#[test]
fn no_module_of_py_names_one_above_it() {
    super::assert_none(&floor_faults(&sources()));
}

#[test]
fn no_modules_of_py_are_in_a_circle() {
    super::assert_none(&circle_faults(&sources(), KNOT));
}

#[test]
fn the_knot_is_one() {
    let files = sources();
    for module in KNOT {
        let rest: Vec<&str> = KNOT.iter().copied().filter(|other| other != module).collect();
        assert!(!circle_faults(&files, &rest).is_empty(), "{module} need not be excused");
    }
}

#[test]
fn llfuse_knows_nothing_of_arvados() {
    super::assert_none(&arvados_faults(&sources()));
}

/// The checker has to see each of these.
mod seen {
    use super::super::File;
    use super::{arvados_faults, circle_faults, floor_faults};

    fn with(module: &str, text: &str) -> Vec<File> {
        let mut files: Vec<File> = ["session", "operations", "inodes", "nodes", "llfuse", "gil"]
            .map(|name| File::new(&format!("py::{name}"), ""))
            .into_iter()
            .chain([File::new("py::inodes::table", ""), File::new("py::llfuse::lock", "")])
            .collect();
        files.retain(|file| file.module.join("::") != module);
        files.push(File::new(module, text));
        files.push(File::new("py", "pub mod gil; fn register() { session::register(); }"));
        files
    }

    #[test]
    fn an_arrow_that_points_up_or_to_the_roof() {
        for (module, text) in [
            ("py::llfuse::lock", "use crate::py::operations;"),
            ("py::llfuse::lock", "use super::super::inodes::table;"),
            ("py::nodes", "use super::inodes::table::Inodes;"),
            ("py::nodes", "use crate::py::{gil, inodes::{table as t}};"),
            ("py::nodes", "use crate::py; fn f() { py::inodes::table::f() }"),
            ("py::nodes", "use super as up; fn f() { up::session::main() }"),
            ("py::nodes", "fn f() { super::operations::f() }"),
            ("py::nodes", "fn f() { log::warn!(\"{}\", crate::py::operations::f()) }"),
            ("py::gil", "use super::llfuse;"),
            ("py::gil", "use crate::py::HELPER;"),
        ] {
            assert!(!floor_faults(&with(module, text)).is_empty(), "not seen: {module}: {text}");
        }
    }

    #[test]
    fn nothing_where_arrows_point_down() {
        for (module, text) in [
            ("py::session", "use super::operations; use crate::py::{gil, llfuse::lock};"),
            ("py::inodes::table", "use super::super::nodes; fn f() { crate::py::gil::f() }"),
            ("py::llfuse", "pub mod lock; fn f() { lock::take() }"),
        ] {
            assert_eq!(floor_faults(&with(module, text)), Vec::<String>::new(), "{text}");
            assert_eq!(circle_faults(&with(module, text), &[]), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_module_that_is_on_no_floor() {
        assert_eq!(floor_faults(&with("py::attic", "")), ["py::attic is on no floor"]);
    }

    #[test]
    fn a_circle() {
        let a_part_names_the_whole = with("py::llfuse::lock", "use super::Errno;");
        assert_eq!(circle_faults(&a_part_names_the_whole, &[]), Vec::<String>::new());
        let mut files = with("py::nodes::a", "use super::b::B;");
        files.push(File::new("py::nodes::b", "fn f() { super::c::f() }"));
        files.push(File::new("py::nodes::c", "use crate::py::nodes::{a};"));
        assert_eq!(
            circle_faults(&files, &[]),
            ["a", "b", "c"].map(|name| format!("py::nodes::{name} is in a circle"))
        );
        assert!(circle_faults(&files, &["py::nodes::a", "py::nodes::b"]).is_empty());
    }

    #[test]
    fn a_name_of_arvados_in_llfuse() {
        for text in [
            "fn f() { import(\"arvados_fuse.apierrors\") }",
            "const NAME: &str = \"arvados.errors\";",
            "fn f() { say!(\"arvados_fuse\") }",
        ] {
            assert_eq!(arvados_faults(&with("py::llfuse::lock", text)).len(), 1, "{text}");
        }
        let documented = "/// arvados_fuse does that.\n#[doc = \"arvados_fuse\"] fn f() {}";
        assert!(arvados_faults(&with("py::llfuse::lock", documented)).is_empty());
    }
}
