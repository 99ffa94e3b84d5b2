// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The seed of a random test: `TEST_SEED`, or another each time. A test that fails shows it.

/// Returns the seed, and prints how to run the test with it again.
///
/// # Panics
/// Where `TEST_SEED` is not a decimal number below 2^64.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("TEST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("TEST_SEED={text} is not a number")),
        Err(_) => fastrand::u64(..),
    };
    println!("to run this again: TEST_SEED={seed}");
    seed
}
