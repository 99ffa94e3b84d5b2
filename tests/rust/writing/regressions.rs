// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What was found, by name.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arvados_fuse::fs::write_buffer::{Unsaved, WriteBuffer};
use arvados_fuse::fs::{Allocation, Errno, Ino, RenameMode, Timestamp};

use super::mount::Mount;
use crate::support::taking::Take;
use crate::support::{Server, until};

const ROOM: u64 = 100 << 20;

fn time_of(mount: &Mount, ino: Ino) -> Timestamp {
    mount.getattr(ino).expect("there").mtime
}

/// Numbers for new files are reserved many at a time: with the last file, those left were given back.
#[test]
fn an_emptied_collection_takes_new_files() {
    let mount = Mount::empty(ROOM);
    for round in 0..3 {
        let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
        assert_eq!(mount.write(attr.ino, fh, 0, b"some"), Ok(4), "{round}");
        mount.release(attr.ino, fh);
        mount.unlink(Ino::ROOT, "f").expect("removed");
        mount.forget(attr.ino, 1);
    }
    mount.end();
}

/// The kernel keeps the times that it is told.
#[test]
fn who_cuts_a_file_is_told_the_new_time() {
    let mount = Mount::empty(ROOM);
    let (attr, _) = mount.create(Ino::ROOT, "f").expect("made");
    let cut = mount.set_size(attr.ino, None, 10).expect("cut");
    assert_eq!(cut.mtime, time_of(&mount, attr.ino));
    assert_eq!((cut.size, cut.ctime), (10, cut.mtime));
}

#[test]
fn what_changes_nothing_leaves_the_time_of_the_top() {
    let mount = Mount::empty(ROOM);
    mount.create(Ino::ROOT, "f").expect("made");
    let before = time_of(&mount, Ino::ROOT);
    mount.create(Ino::ROOT, "f").expect("opened");
    assert_eq!(time_of(&mount, Ino::ROOT), before);
    mount.rename((Ino::ROOT, "f"), (Ino::ROOT, "f"), RenameMode::Replace).expect("the same");
    assert_eq!(time_of(&mount, Ino::ROOT), before);
    mount.collection().freeze(true);
    assert_eq!(mount.mkdir(Ino::ROOT, "d").err(), Some(Errno::EROFS));
    assert_eq!(mount.unlink(Ino::ROOT, "f"), Err(Errno::EROFS));
    assert_eq!(time_of(&mount, Ino::ROOT), before);
}

#[test]
fn a_time_is_kept_or_refused() {
    let mount = Mount::empty(ROOM);
    let (attr, _) = mount.create(Ino::ROOT, "f").expect("made");
    for ino in [attr.ino, Ino::ROOT] {
        mount.collection().freeze(true);
        assert_eq!(mount.set_mtime(ino, Timestamp(5)).err(), Some(Errno::EROFS));
        mount.collection().freeze(false);
        assert_eq!(mount.set_mtime(ino, Timestamp(5)).expect("set").mtime, Timestamp(5));
        assert_eq!(time_of(&mount, ino), Timestamp(5));
    }
}

#[test]
fn one_block_that_is_refused_is_told_though_a_later_one_is_stored() {
    let mount = Mount::empty(ROOM);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    // One after the other: the second is answered when the first was.
    mount.server.take(|_, number| {
        if number > 0 {
            return Take::Store(1, Some(""));
        }
        std::thread::sleep(Duration::from_millis(300));
        Take::Status(403)
    });
    mount.write(attr.ino, fh, 0, b"first").expect("room");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| mount.collection().store().is_ok());
        until("the first is on its way", || mount.server.requests() == 1);
        mount.write(attr.ino, fh, 5, b"second").expect("room");
        assert!(mount.collection().store().is_err(), "the first is not stored");
        assert!(!first.join().expect("told"));
    });
    mount.collection().store().expect("now it is");
    assert_eq!(mount.buffer.gauge().bytes(), 0);
}

#[test]
fn what_is_refused_at_once_is_told() {
    let mount = Mount::empty(ROOM);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    mount.write(attr.ino, fh, 0, b"some").expect("room");
    mount.keep.shutdown();
    assert!(mount.collection().store().is_err());
    assert_eq!(mount.read(attr.ino, fh, 0, 9).expect("still there"), b"some");
}

#[test]
fn writes_go_on_when_blocks_are_no_longer_refused() {
    let mount = Mount::empty(10_000);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    mount.refuse(true);
    assert_eq!(mount.write(attr.ino, fh, 0, &[1; 8000]), Ok(8000));
    assert_eq!(mount.write(attr.ino, fh, 8000, &[2; 8000]), Err(Errno::EIO));
    assert_eq!(mount.write(attr.ino, fh, 8000, &[2; 8000]), Err(Errno::EIO));
    mount.refuse(false);
    until("there is room again", || mount.write(attr.ino, fh, 8000, &[2; 8000]).is_ok());
    assert_eq!(mount.read(attr.ino, fh, 7999, 2).expect("read"), [1, 2]);
}

/// Cuts a file while another write looks for room: after it found none, before the rest is stored.
struct Cutting {
    mount: OnceLock<(Arc<Mount>, Ino)>,
}

impl Unsaved for Cutting {
    fn store_early(&self) {
        if let Some((mount, ino)) = self.mount.get() {
            mount.set_size(*ino, None, 0).expect("cut");
        }
    }
}

#[test]
fn room_that_a_cut_file_gives_back_is_told_to_who_waits() {
    let buffer = Arc::new(WriteBuffer::new(10_000));
    let cutting = Arc::new(Cutting { mount: OnceLock::new() });
    buffer.register(Arc::downgrade(&cutting) as _);
    let mount = Arc::new(Mount::sharing(Server::start(), "", buffer));
    let (full, fh) = mount.create(Ino::ROOT, "full").expect("made");
    mount.write(full.ino, fh, 0, &[1; 10_000]).expect("room");
    assert!(cutting.mount.set((Arc::clone(&mount), full.ino)).is_ok());
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    assert_eq!(mount.write(attr.ino, fh, 0, &[1; 10]), Ok(10));
    assert_eq!(mount.server.requests(), 0, "nothing was to be stored");
}

/// Room that comes because a file is cut, or removed, is told to those who wait, and what was written
/// while they looked is stored for them.
#[test]
fn no_write_that_waits_is_forgotten() {
    let mount = Mount::empty(10_000);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                let name = format!("{thread}");
                for round in 0..400 {
                    let (attr, fh) = mount.create(Ino::ROOT, &name).expect("made");
                    for at in 0..3 {
                        let written = mount.write(attr.ino, fh, at * 3000, &[1; 3000]);
                        assert_eq!(written, Ok(3000));
                    }
                    if round % 2 == 0 {
                        mount.set_size(attr.ino, Some(fh), 0).expect("cut");
                    }
                    mount.unlink(Ino::ROOT, &name).expect("removed");
                    mount.release(attr.ino, fh);
                    mount.forget(attr.ino, 1);
                }
            });
        }
    });
    mount.end();
}

/// Each try to store what another has found its way back to the one who waits, ever deeper.
#[test]
fn who_waits_for_room_that_another_cannot_give_back_is_told() {
    let buffer = Arc::new(WriteBuffer::new(10_000));
    let full = Mount::sharing(Server::start(), "", Arc::clone(&buffer));
    let waiting = Mount::sharing(Server::start(), "", buffer);
    let (attr, fh) = full.create(Ino::ROOT, "f").expect("made");
    full.write(attr.ino, fh, 0, &[1; 10_000]).expect("room");
    full.keep.shutdown();
    let (attr, fh) = waiting.create(Ino::ROOT, "f").expect("made");
    assert_eq!(waiting.write(attr.ino, fh, 0, &[1; 10]), Err(Errno::EIO));
    drop(full);
    assert_eq!(waiting.write(attr.ino, fh, 0, &[1; 10]), Ok(10));
}

#[test]
fn what_is_copied_before_it_is_stored_is_stored_once() {
    let mount = Mount::empty(ROOM);
    let data = crate::support::data(1, 100_000);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    mount.write(attr.ino, fh, 0, &data).expect("room");
    for name in ["g", "h", "i"] {
        let (copy, to) = mount.create(Ino::ROOT, name).expect("made");
        let whole = mount.copy((attr.ino, fh, 0), (copy.ino, to, 7), u64::MAX);
        assert_eq!(whole, Ok(100_000));
        assert!(mount.read(copy.ino, to, 7, 200_000).expect("read") == *data);
    }
    assert_eq!(mount.buffer.gauge().bytes(), 100_000, "sharing costs nothing");
    mount.set_size(attr.ino, Some(fh), 0).expect("cut");
    assert_eq!(mount.buffer.gauge().bytes(), 100_000);
    mount.collection().store().expect("stored");
    // The bytes, and a block of zeros for the holes before them.
    assert_eq!(mount.server.requests(), 1);
    assert!(mount.saved()["i"].as_ref().expect("a file")[7..] == *data);
    assert_eq!(mount.server.requests(), 2);
}

/// What a copy cannot share takes room, for which whoever writes it waits.
#[test]
fn a_copy_takes_no_room_that_is_not_there() {
    let mount = Mount::empty(10_000);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    mount.write(attr.ino, fh, 0, &[1; 9000]).expect("room");
    let copy = |len| mount.copy((attr.ino, fh, 0), (attr.ino, fh, 20_000), len);
    assert_eq!(copy(2000), Err(Errno::EXDEV));
    assert_eq!((copy(1000), copy(8000)), (Ok(1000), Ok(8000)));
    assert_eq!(copy(2000), Err(Errno::EXDEV));
    mount.collection().store().expect("stored");
    assert_eq!(copy(2000), Ok(2000));
    let other = Mount::empty(10_000);
    let (elsewhere, to) = other.create(Ino::ROOT, "f").expect("made");
    assert_eq!(elsewhere.ino, attr.ino, "a number of its own");
    assert_eq!(other.copy((elsewhere.ino, to, 0), (elsewhere.ino, to, 0), 9), Ok(0));
}

#[test]
fn no_range_goes_beyond_the_largest_file() {
    let mount = Mount::empty(ROOM);
    let (attr, fh) = mount.create(Ino::ROOT, "f").expect("made");
    let most = i64::MAX as u64;
    mount.write(attr.ino, fh, 0, b"some").expect("room");
    for how in [Allocation::PunchHole, Allocation::Reserve { keep_size: false }] {
        assert_eq!(mount.allocate(attr.ino, fh, most, 1, how), Err(Errno::EFBIG));
        assert_eq!(mount.allocate(attr.ino, fh, u64::MAX, 1, how), Err(Errno::EFBIG));
    }
    assert_eq!(mount.copy((attr.ino, fh, 0), (attr.ino, fh, most - 2), 4), Err(Errno::EFBIG));
    assert_eq!(mount.copy((attr.ino, fh, 0), (attr.ino, fh, most - 4), 4), Ok(4));
    assert_eq!(mount.getattr(attr.ino).expect("there").size, most);
    let all = Allocation::ZeroRange { keep_size: true };
    assert_eq!(mount.allocate(attr.ino, fh, 0, most, all), Ok(()));
    assert_eq!(mount.read(attr.ino, fh, 0, 5).expect("read"), [0; 5]);
}

/// Saved by making another file, linking that and removing its first name, while it is written.
#[test]
fn who_links_and_removes_the_first_name_loses_nothing() {
    let mount = Mount::empty(ROOM);
    let dir = mount.mkdir(Ino::ROOT, "d").expect("made");
    let (attr, fh) = mount.create(dir.ino, "new").expect("made");
    mount.write(attr.ino, fh, 0, b"one").expect("room");
    let linked = mount.link(attr.ino, (Ino::ROOT, "f")).expect("linked");
    assert_eq!((linked.ino, linked.nlink), (attr.ino, 2));
    mount.write(attr.ino, fh, 3, b"two").expect("room");
    assert_eq!(mount.saved().values().flatten().collect::<Vec<_>>(), [b"onetwo", b"onetwo"]);
    mount.unlink(dir.ino, "new").expect("removed");
    mount.rmdir(Ino::ROOT, "d").expect("empty");
    mount.write(attr.ino, fh, 6, b"three").expect("room");
    mount.release(attr.ino, fh);
    mount.forget(attr.ino, 2);
    mount.forget(dir.ino, 1);
    assert_eq!(mount.lookup(Ino::ROOT, "f").map(|attr| (attr.size, attr.nlink)), Ok((11, 1)));
    assert_eq!(mount.saved()["f"].as_deref(), Some(&b"onetwothree"[..]));
}
