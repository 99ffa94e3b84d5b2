// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::time::{Duration, Instant};

use super::*;

/// Notes what it is asked; has something to free as long as `full`.
#[derive(Default)]
struct Notes {
    done: Mutex<Vec<Option<u32>>>,
    full: bool,
    here: Mutex<Vec<std::thread::ThreadId>>,
}

impl Notes {
    fn note(&self, what: Option<u32>) {
        self.done.lock().push(what);
        self.here.lock().push(std::thread::current().id());
    }

    fn is_mine(&self) -> bool {
        self.here.lock().iter().all(|id| *id == std::thread::current().id())
    }
}

impl Remover<u32> for Notes {
    fn remove(&self, node: u32) {
        self.note(Some(node));
    }

    fn evict(&self) -> bool {
        self.note(None);
        self.full
    }
}

fn started() -> (Arc<Removal<u32>>, Arc<Notes>) {
    let (removal, notes) = (Arc::new(Removal::default()), Arc::new(Notes::default()));
    removal.start(Arc::clone(&notes) as Arc<dyn Remover<u32>>).unwrap();
    (removal, notes)
}

#[test]
fn where_no_thread_runs_whoever_waits_does_it() {
    let (removal, notes) = (Removal::default(), Notes::default());
    removal.wait(&notes);
    assert!(notes.done.lock().is_empty());
    removal.remove_later(1);
    removal.evict_later();
    removal.remove_later(2);
    removal.evict_later();
    removal.wait(&notes);
    // What is removed may bring the cache under its limit: one look is enough, and comes last.
    assert_eq!(*notes.done.lock(), [Some(1), Some(2), None]);
    assert!(notes.is_mine());
}

#[test]
fn where_a_thread_runs_it_does_everything_before_the_wait_ends() {
    let (removal, notes) = started();
    for node in 0..100 {
        removal.remove_later(node);
    }
    removal.wait(&*notes);
    let done: Vec<u32> = notes.done.lock().iter().copied().flatten().collect();
    assert_eq!(done, (0..100).collect::<Vec<_>>());
    assert!(!notes.is_mine());
    removal.stop();
}

#[test]
fn a_stop_does_what_was_asked_before() {
    let (removal, notes) = started();
    removal.evict_later();
    removal.remove_later(7);
    removal.stop();
    assert!(notes.done.lock().contains(&Some(7)) && notes.done.lock().contains(&None));
    // Nobody listens any more; the next who waits does it.
    removal.remove_later(8);
    removal.wait(&*notes);
    assert_eq!(notes.here.lock().last(), Some(&std::thread::current().id()));
    // It can begin again.
    removal.start(Arc::clone(&notes) as Arc<dyn Remover<u32>>).unwrap();
    removal.start(Arc::clone(&notes) as Arc<dyn Remover<u32>>).unwrap();
    removal.remove_later(9);
    removal.wait(&*notes);
    assert!(notes.done.lock().contains(&Some(9)));
    removal.stop();
}

#[test]
fn after_a_sweep_that_freed_nothing_the_next_is_put_off_but_not_a_removal() {
    let (removal, notes) = started();
    removal.evict_later();
    removal.wait(&*notes);
    let begin = Instant::now();
    removal.evict_later();
    while notes.done.lock().len() < 2 {
        assert!(begin.elapsed() < Duration::from_secs(30), "it is only put off");
        std::thread::yield_now();
    }
    assert!(begin.elapsed() > FUTILE_PAUSE / 2, "put off: {:?}", begin.elapsed());
    removal.evict_later();
    removal.remove_later(1);
    removal.wait(&*notes);
    assert!(notes.done.lock().contains(&Some(1)));
    removal.stop();
}
