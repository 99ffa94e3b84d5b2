// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Benchmarks of the core alone: no mount, no Python, no cluster. Run by `make bench-core`.
//!
//! Each grows with what it is given, to show what grows with it and what does not.

mod hit;
mod lru;
mod node;
mod tree;

fn main() {
    let mut criterion = criterion::Criterion::default().configure_from_args();
    tree::benches(&mut criterion);
    lru::benches(&mut criterion);
    hit::benches(&mut criterion);
    criterion.final_summary();
}
