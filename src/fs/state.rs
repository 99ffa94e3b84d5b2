// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What every inode entry keeps about itself: where it stands, how fresh it is, who uses it.
//!
//! All of it is readable without a lock, so that a request about a fresh entry waits for nobody.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::atomic::{AtomicDuration, AtomicTimestamp};
use super::attr::Timestamp;

/// Stands for a directory that is not known: an entry that nobody gave a parent was not deleted.
pub const UNKNOWN_PARENT: u64 = u64::MAX;

/// The rule of freshness: contents must be refreshed before they are shown where they were marked stale,
/// or where they poll and the time since the last refresh is over. What is not needed is not asked.
///
/// # Errors
/// What asking fails with.
pub fn is_stale<E>(
    marked: impl FnOnce() -> Result<bool, E>,
    polls: impl FnOnce() -> Result<bool, E>,
    overdue: impl FnOnce() -> Result<bool, E>,
) -> Result<bool, E> {
    Ok(marked()? || (polls()? && overdue()?))
}

/// For how long contents count as fresh: what is left until they are due where they poll, otherwise the
/// whole of `poll_time` each time.
///
/// # Errors
/// What asking fails with.
pub fn fresh_for<T, E>(
    poll_time: T,
    polls: impl FnOnce() -> Result<bool, E>,
    left: impl FnOnce(T) -> Result<T, E>,
) -> Result<T, E> {
    if polls()? { left(poll_time) } else { Ok(poll_time) }
}

fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
    }
}

/// The life of one inode entry.
#[derive(Debug)]
pub struct NodeState {
    inode: AtomicU64,
    parent: AtomicU64,
    stale: AtomicBool,
    /// The entry goes stale by itself when it was not refreshed for `poll_time`.
    pub poll: AtomicBool,
    /// When the contents were last brought up to date.
    pub last_update: AtomicTimestamp,
    /// Last access.
    pub atime: AtomicTimestamp,
    /// Last change of the contents.
    pub mtime: AtomicTimestamp,
    /// How long the contents count as fresh; also how long the kernel may cache them.
    pub poll_time: AtomicDuration,
    /// Uses from inside (open handles, calls under way); an entry in use is not cleared.
    pub use_count: AtomicI64,
    /// References that the kernel holds; an entry referenced is not removed.
    pub ref_count: AtomicI64,
    /// What the inode cache counts for this entry, in bytes.
    pub cache_size: AtomicI64,
    /// The kernel may cache the attributes.
    pub allow_attr_cache: AtomicBool,
    /// The kernel may cache the name.
    pub allow_dirent_cache: AtomicBool,
    /// The entries table of a fresh directory is its whole listing.
    pub listing_complete: AtomicBool,
}

impl NodeState {
    /// A new entry: stale, not polling, unreferenced, without a number.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        NodeState {
            inode: AtomicU64::new(0),
            parent: AtomicU64::new(UNKNOWN_PARENT),
            stale: AtomicBool::new(true),
            poll: AtomicBool::new(false),
            last_update: AtomicTimestamp::new(now),
            atime: AtomicTimestamp::new(now),
            mtime: AtomicTimestamp::default(),
            poll_time: AtomicDuration::new(Duration::from_secs(60)),
            use_count: AtomicI64::new(0),
            ref_count: AtomicI64::new(0),
            cache_size: AtomicI64::new(0),
            allow_attr_cache: AtomicBool::new(true),
            allow_dirent_cache: AtomicBool::new(true),
            listing_complete: AtomicBool::new(true),
        }
    }

    /// The inode number; none before it is added to the table and after it was removed.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        some(self.inode.load(Ordering::Acquire))
    }

    /// Gives or takes the inode number.
    pub fn set_inode(&self, inode: Option<u64>) {
        self.inode.store(inode.unwrap_or(0), Ordering::Release);
    }

    /// The directory that this entry is in, [`UNKNOWN_PARENT`] where nobody said; none once it was
    /// deleted from it.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        some(self.parent.load(Ordering::Acquire))
    }

    /// Sets the directory that this entry is in.
    pub fn set_parent(&self, parent: Option<u64>) {
        self.parent.store(parent.unwrap_or(0), Ordering::Release);
    }

    /// Whether the entry was marked stale by hand or event.
    #[must_use]
    pub fn marked_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Marks the contents as in need of a refresh, or not.
    pub fn mark_stale(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
    }

    /// The contents are up to date as of `now`.
    pub fn mark_fresh(&self, now: Timestamp) {
        self.mark_stale(false);
        self.last_update.store(now);
    }

    /// When what was last brought up to date is due for a refresh.
    fn due(&self) -> Timestamp {
        self.last_update.load().saturating_add(self.poll_time.load())
    }

    /// Whether the contents must be refreshed before they are shown.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let overdue = || Ok(self.due() < self.atime.load());
        sure(is_stale(
            || Ok(self.marked_stale()),
            || Ok(self.poll.load(Ordering::Relaxed)),
            overdue,
        ))
    }

    /// For how much longer, from the last access on, the contents count as fresh.
    #[must_use]
    pub fn time_to_next_poll(&self) -> Duration {
        self.fresh_for(self.atime.load())
    }

    /// For how long from `now` on the contents count as fresh.
    #[must_use]
    pub fn fresh_for(&self, now: Timestamp) -> Duration {
        let left = |_| Ok(self.due().saturating_since(now));
        sure(fresh_for(self.poll_time.load(), || Ok(self.poll.load(Ordering::Relaxed)), left))
    }

    /// Whether something inside uses the entry.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.use_count.load(Ordering::Acquire) > 0
    }

    /// Whether the kernel refers to the entry.
    #[must_use]
    pub fn has_ref(&self) -> bool {
        self.ref_count.load(Ordering::Acquire) > 0
    }

    /// Adds `n` (negative: takes away) to the kernel's references; answers what remains.
    pub fn add_ref(&self, n: i64) -> i64 {
        self.ref_count.fetch_add(n, Ordering::AcqRel) + n
    }

    /// Adds `n` (negative: takes away) to the uses from inside; answers what remains.
    pub fn add_use(&self, n: i64) -> i64 {
        self.use_count.fetch_add(n, Ordering::AcqRel) + n
    }
}

fn some(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{Duration, NodeState, Timestamp};
    use std::sync::atomic::Ordering::Relaxed;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_secs_f64(seconds)
    }

    #[test]
    fn a_new_entry_is_stale_until_it_was_refreshed() {
        let state = NodeState::new(at(1000.0));
        assert!(state.is_stale());
        state.mark_fresh(at(1000.0));
        assert!(!state.is_stale());
        state.mark_stale(true);
        assert!(state.is_stale());
    }

    #[test]
    fn a_polling_entry_goes_stale_by_its_last_access() {
        let state = NodeState::new(at(0.0));
        state.poll.store(true, Relaxed);
        state.poll_time.store(Duration::from_secs(15));
        state.mark_fresh(at(100.0));
        state.atime.store(at(115.0));
        assert!(!state.is_stale());
        assert_eq!(state.time_to_next_poll(), Duration::from_secs(0));
        state.atime.store(at(115.5));
        assert!(state.is_stale());
        assert_eq!(state.time_to_next_poll(), Duration::from_secs(0));
        state.atime.store(at(105.0));
        assert_eq!(state.time_to_next_poll(), Duration::from_secs(10));
    }

    #[test]
    fn without_polling_the_kernel_may_keep_it_for_the_whole_poll_time() {
        let state = NodeState::new(at(0.0));
        state.mark_fresh(at(0.0));
        state.atime.store(at(1e9));
        assert!(!state.is_stale());
        assert_eq!(state.time_to_next_poll(), Duration::from_secs(60));
    }

    #[test]
    fn counts_add_up() {
        let state = NodeState::new(at(0.0));
        assert_eq!(state.add_ref(3), 3);
        assert!(state.has_ref());
        assert_eq!(state.add_ref(-3), 0);
        assert!(!state.has_ref());
        assert_eq!(state.add_use(1), 1);
        assert!(state.in_use());
    }
}
