// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Keep client against real HTTP servers on loopback that misbehave in every way we know.

mod seed;

mod keep {
    pub(crate) mod support;

    mod cache;
    mod disk_faults;
    mod faults;
    mod protocol;
    mod put;
    mod put_faults;
    mod random;
    mod tls;
    mod verified;
}
