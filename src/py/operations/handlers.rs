// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The handlers of `Operations`, as names that somebody may override.
//!
//! Unlike methods of the core they are Python functions, known by identity.

use std::sync::LazyLock;

use crate::metrics::Op;
use crate::py::overrides::{Kind, Name};

/// The handler of a request.
#[derive(Clone, Copy)]
pub struct Handler(pub Op);

/// The handlers that `Operations._declare_shipped` named.
pub static HANDLERS: LazyLock<Kind> = LazyLock::new(|| {
    let names: Vec<&str> = Op::REQUESTS.iter().map(|op| op.name()).collect();
    Kind::new(names.leak()).shipped_by_functions()
});

impl Name for Handler {
    fn kind() -> &'static Kind {
        &HANDLERS
    }
    fn place(self) -> usize {
        self.0 as usize
    }
}
