// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A mutex and a condition variable for what outlives a fork.
//!
//! `parking_lot` keeps one table of all threads that wait. A fork inherits it, with waiting threads in
//! it that it does not have: one of those is woken, and the one that is there sleeps on. The standard
//! library's wait in the kernel, which knows the threads that there are.

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Instant;

/// As `parking_lot`'s, of which it has the methods.
pub(super) struct Mutex<T>(std::sync::Mutex<T>);

/// Holds a [`Mutex`].
pub(super) struct Guard<'a, T>(Option<std::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(super) const fn new(value: T) -> Self {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> Guard<'_, T> {
        Guard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(super) fn try_lock(&self) -> Option<Guard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(Guard(Some(guard))),
            Err(TryLockError::Poisoned(poisoned)) => Some(Guard(Some(poisoned.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().expect("only `Condvar` empties it, and fills it again")
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().expect("only `Condvar` empties it, and fills it again")
    }
}

/// As `parking_lot`'s, of which it has the methods.
pub(super) struct Condvar(std::sync::Condvar);

/// How a wait with a limit ended.
pub(super) struct Waited(bool);

impl Waited {
    pub(super) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(super) const fn new() -> Self {
        Condvar(std::sync::Condvar::new())
    }

    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(super) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
        guard.0 = guard.0.take().map(|g| self.0.wait(g).unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, deadline: Instant) -> Waited {
        let Some(inner) = guard.0.take() else { return Waited(false) };
        let left = deadline.saturating_duration_since(Instant::now());
        let (inner, waited) =
            self.0.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(inner);
        Waited(waited.timed_out())
    }
}
