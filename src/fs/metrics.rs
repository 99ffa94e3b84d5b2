// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How often each operation was answered without Python, and how long that took.
//!
//! The layer above adds these to the Summary `arvmount_fuse_operations_seconds`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

macro_rules! operations {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A request that is counted, by the name that the metric labels it with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Op { $($variant),* }

        impl Op {
            /// Every operation.
            pub const ALL: &'static [Op] = &[$(Op::$variant),*];

            /// The name of the handler and of the metric's label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),* }
            }
        }
    };
}

operations!(
    Access "access", Create "create", Destroy "destroy", Flush "flush", Forget "forget",
    Fsync "fsync", Fsyncdir "fsyncdir", Getattr "getattr", Getxattr "getxattr", Init "init",
    Link "link", Listxattr "listxattr", Lookup "lookup", Mkdir "mkdir", Mknod "mknod",
    Open "open", Opendir "opendir", Read "read", Readdir "readdir", Readlink "readlink",
    Release "release", Releasedir "releasedir", Removexattr "removexattr", Rename "rename",
    Rmdir "rmdir", Setattr "setattr", Setxattr "setxattr", Statfs "statfs", Symlink "symlink",
    Unlink "unlink", Write "write",
);

/// Counts and total nanoseconds by operation.
#[derive(Debug)]
pub struct Metrics(Vec<(AtomicU64, AtomicU64)>);

impl Default for Metrics {
    fn default() -> Self {
        Metrics(Op::ALL.iter().map(|_| Default::default()).collect())
    }
}

impl Metrics {
    /// Runs `body` and counts it as one `op`.
    pub fn time<T>(&self, op: Op, body: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = body();
        let (count, nanos) = &self.0[op as usize];
        count.fetch_add(1, Ordering::Relaxed);
        let taken = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        nanos.fetch_add(taken, Ordering::Relaxed);
        result
    }

    /// Takes what was counted for `op` since it was last taken: times and seconds.
    pub fn take(&self, op: Op) -> (u64, f64) {
        let (count, nanos) = &self.0[op as usize];
        let count = count.swap(0, Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss)]
        let seconds = nanos.swap(0, Ordering::Relaxed) as f64 / 1e9;
        (count, seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Op};

    #[test]
    fn names_index_their_own_counters() {
        let metrics = Metrics::default();
        for op in Op::ALL {
            metrics.time(*op, || ());
        }
        metrics.time(Op::Write, || ());
        for op in Op::ALL {
            let expected = if *op == Op::Write { 2 } else { 1 };
            assert_eq!(metrics.take(*op).0, expected, "{}", op.name());
            assert_eq!(metrics.take(*op).0, 0);
        }
    }
}
