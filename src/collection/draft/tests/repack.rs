// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;

use super::super::{BlockRef, Gathered, Piece, Pieces};
use crate::types::{Locator, Md5};

fn block(content: &str) -> BlockRef {
    let locator = format!("{}+{}", Md5::of(content.as_bytes()), content.len());
    BlockRef::Own(Arc::new(locator.parse().expect("a locator")))
}

fn piece(block: &BlockRef, offset: u32, len: u32) -> Piece {
    Piece::Stored { block: block.clone(), offset, len }
}

fn pieces(pieces: impl IntoIterator<Item = Piece>) -> Pieces {
    pieces.into_iter().collect()
}

fn packed() -> Arc<Locator> {
    Arc::new(format!("{}+9+Asigned@ffffffff", Md5::of(b"one block")).parse().expect("a locator"))
}

#[test]
fn each_part_is_taken_once_and_found_in_its_place() {
    let (one, two, large) = (block("one"), block("second"), block("a larger one"));
    let first = pieces([piece(&one, 0, 3), Piece::Hole(5), piece(&large, 2, 7)]);
    let second = pieces([piece(&two, 1, 4), piece(&one, 0, 3), piece(&one, 1, 2)]);
    let mut gathered = Gathered::new(100);
    assert!(gathered.is_empty());
    for pieces in [&first, &second] {
        gathered.add(pieces, |block| block.size() < 10);
    }
    let parts: Vec<_> =
        gathered.parts().map(|(block, offset, len)| (block.size(), offset, len)).collect();
    assert_eq!(parts, [(3, 0, 3), (6, 1, 4), (3, 1, 2)]);
    assert_eq!((gathered.blocks(), gathered.len()), (2, 9));
    let repacked = gathered.stored(packed());
    let moved = |of| format!("{:?}", repacked.moved(of));
    let new = BlockRef::Own(packed());
    assert_eq!(
        moved(first),
        format!("{:?}", [piece(&new, 0, 3), Piece::Hole(5), piece(&large, 2, 7)])
    );
    // What goes on where the last one ends is one piece.
    let expected = [piece(&new, 3, 4), piece(&new, 0, 3), piece(&new, 7, 2)];
    assert_eq!(moved(second), format!("{expected:?}"));
    assert_eq!(
        moved(pieces([piece(&one, 0, 3), piece(&two, 1, 4)])),
        format!("{:?}", [piece(&new, 0, 7)])
    );
    // Other parts of the same blocks stay.
    assert_eq!(moved(pieces([piece(&one, 0, 2)])), format!("{:?}", [piece(&one, 0, 2)]));
    let mut segments: Vec<_> = repacked.segments().collect();
    segments.sort_by_key(|(_, new)| new.clone());
    let (one, two, new) = (one.locator(), two.locator(), packed());
    assert_eq!(
        segments,
        [
            (format!("{one} 0 3"), format!("{new} 0 3")),
            (format!("{two} 1 4"), format!("{new} 3 4")),
            (format!("{one} 1 2"), format!("{new} 7 2")),
        ]
    );
}

#[test]
fn what_there_is_no_room_for_stays() {
    let blocks = ["first", "second", "third"].map(block);
    let mut gathered = Gathered::new(10);
    gathered.add(&blocks.iter().map(|block| piece(block, 0, block.size())).collect(), |_| true);
    let sizes: Vec<_> = gathered.parts().map(|(block, ..)| block.size()).collect();
    assert_eq!((sizes, gathered.len()), (vec![5, 5], 10));
}
