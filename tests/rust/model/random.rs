// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Random operations from one thread, each answer compared.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::generators::op;
use super::harness::{Above, Harness};

/// Operations in one file system, on average.
const LENGTH: usize = 100;

/// A number from the environment.
pub(super) fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The seed of this run, and how many operations it has.
pub(super) fn run_of() -> (u64, usize) {
    let seed = setting("TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let count = setting("MODEL_N").map_or(20_000, |n| usize::try_from(n).unwrap());
    println!("TEST_SEED={seed} MODEL_N={count}");
    (seed, count)
}

/// The random numbers of a seed.
pub(super) fn random(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// A runner of so many cases.
pub(super) fn runner(seed: u64, cases: usize) -> TestRunner {
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 30_000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, random(seed))
}

#[test]
fn every_answer_is_that_of_the_reference() {
    let (seed, count) = run_of();
    let above = prop_oneof![
        3 => Just(Above::Never),
        2 => Just(Above::Asked),
        1 => Just(Above::CallsBack),
    ];
    let ops = proptest::collection::vec(op(), 1..LENGTH * 2);
    // Operations until the first failure; what follows is shrinking.
    let (asked, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found = runner(seed, count.div_ceil(LENGTH)).run(&(above, ops), |(above, ops)| {
        if !failed.load(Relaxed) {
            asked.fetch_add(ops.len(), Relaxed);
        }
        Harness::run(above, &ops).map_err(|wrong| {
            failed.store(true, Relaxed);
            TestCaseError::fail(wrong)
        })
    });
    let asked = asked.into_inner();
    match found {
        Ok(()) => {}
        Err(TestError::Fail(wrong, (above, ops))) => {
            let left = ops.len();
            let ops: Vec<String> = ops.iter().map(|op| format!("        Op::{op:?},")).collect();
            panic!(
                "TEST_SEED={seed}\n{wrong}\nfound after {asked} operations, shrunk to {left}, \
                 with Above::{above:?}:\n{}",
                ops.join("\n")
            );
        }
        Err(error) => panic!("TEST_SEED={seed}: {error}"),
    }
}
