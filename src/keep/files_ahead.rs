// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What to fetch before it is asked for, across files: by how those of a collection are read one after
//! another.
//!
//! One [`FilesAhead`] belongs to one version of a collection. It follows where its readers are in the
//! list of the collection's blocks, which is the order of the manifest. Once two files were read in that
//! order it asks for the blocks ahead: never more bytes that nobody has read yet than were read. A jump
//! starts again from nothing.

use std::ops::Range;

/// Several may read files at once, and some files may be left out: so many blocks before or after the
/// furthest that was read, a file still belongs to the run.
const OUT_OF_ORDER: u32 = 8;
/// Where files share a block: bytes of the block after it, for each byte that was read of files.
const GROWTH: u64 = 8;
/// Blocks ahead of the readers, at most.
const MAX_BLOCKS: u32 = 32;

/// How the files of a collection are being read.
#[derive(Clone, Debug, Default)]
pub struct FilesAhead {
    /// The file that was read last, and the furthest block of the run.
    last: Option<(u32, u32)>,
    /// Which of the 64 blocks up to that one were read, itself in the lowest bit.
    seen: u64,
    /// Files of the run.
    files: u32,
    /// Bytes of these that were read.
    read: u64,
    /// Bytes of the blocks that they are in.
    fetched: u64,
    /// Blocks below this have been asked for.
    asked: u32,
    /// Bytes of those that nobody has read.
    unused: u64,
}

impl FilesAhead {
    /// Tells that somebody begins to read, or comes to the end of, a file: `bytes` of it in `block`. `room`
    /// tells for how many bytes there is room ahead, and is asked only in a run; `size_of` gives the bytes
    /// of a block, `None` past the last. Returns the blocks to prefetch now, all after the furthest that
    /// was read; each is returned once in a run.
    pub fn on_file(
        &mut self,
        file: u32,
        (block, bytes): (u32, u64),
        room: impl FnOnce() -> u64,
        size_of: impl Fn(u32) -> Option<u64>,
    ) -> Range<u32> {
        let near = |last: u32| block.abs_diff(last) <= OUT_OF_ORDER;
        let Some((before, furthest)) = self.last.filter(|(_, last)| near(*last)) else {
            let fetched = size_of(block).unwrap_or_default();
            let (last, asked) = (Some((file, block)), block + 1);
            *self = FilesAhead { last, seen: 1, files: 1, read: bytes, fetched, asked, unused: 0 };
            return asked..asked;
        };
        let last = block.max(furthest);
        // A file that is read again is no further one.
        self.files += u32::from(file != before);
        self.seen = self.seen.checked_shl(last - furthest).unwrap_or(0);
        self.last = Some((file, last));
        self.read += bytes;
        let seen = 1 << (last - block);
        if self.seen & seen == 0 {
            self.seen |= seen;
            let size = size_of(block).unwrap_or_default();
            self.fetched += size;
            if block < self.asked {
                self.unused = self.unused.saturating_sub(size);
            }
        }
        let first = self.asked.max(last + 1);
        if self.files < 2 {
            return first..first;
        }
        let most = self.fetched.min(self.read.saturating_mul(GROWTH)).min(room());
        let mut next = first;
        while next - last <= MAX_BLOCKS {
            let Some(size) = size_of(next) else { break };
            if self.unused + size > most {
                break;
            }
            self.unused += size;
            next += 1;
        }
        self.asked = next;
        first..next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Reads files in that order, each in a block of its own of 1 MiB, of 1,000; answers what was asked for
    /// after each.
    fn read(files: impl IntoIterator<Item = u32>) -> Vec<Range<u32>> {
        let mut ahead = FilesAhead::default();
        let size_of = |block| (block < 1000).then_some(MIB);
        let mut read = |file| ahead.on_file(file, (file, MIB), || 1000 * MIB, size_of);
        files.into_iter().map(&mut read).collect()
    }

    #[test]
    fn one_after_another_more_and_more_are_asked_for_each_once() {
        let asked = read(0..1000);
        assert!(asked[0].is_empty(), "one file is no run");
        assert_eq!(asked[1], 2..4);
        let mut next = 2;
        for (file, range) in (0..).zip(&asked) {
            if !range.is_empty() {
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert!(
                next.saturating_sub(file + 1) <= (file + 1).min(MAX_BLOCKS),
                "{file}: {range:?}"
            );
        }
        assert_eq!(next, 1000, "all of them, and none past the last");
        assert_eq!(asked[100], 132..133);
    }

    #[test]
    fn order_does_not_matter_among_a_few() {
        let asked = read((0..400).map(|file| file ^ 3));
        let blocks: Vec<u32> = asked.into_iter().flatten().collect();
        assert!(blocks.is_sorted() && blocks.len() > 390, "{blocks:?}");
    }

    #[test]
    fn what_nobody_reads_is_no_more_than_what_was_read() {
        for step in [2, 3, 8] {
            let files = (0..1000).step_by(step);
            let asked: Vec<u32> = read(files).into_iter().flatten().collect();
            let unused =
                asked.iter().filter(|block| !(**block as usize).is_multiple_of(step)).count();
            assert!(unused <= 1000 / step + 1, "each {step}th: {unused} of {}", asked.len());
        }
        let jumps =
            (0..10_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 1000);
        let asked: usize = read(jumps).iter().map(Range::len).sum();
        assert!(asked < 500, "{asked} blocks by jumps, in which a few are near each other");
        assert_eq!(read([0, 500, 20, 700, 40]), [1..1, 501..501, 21..21, 701..701, 41..41]);
        assert!(read([7; 100]).iter().all(Range::is_empty), "one file, again and again");
    }

    #[test]
    fn a_block_that_files_share_is_read_for_a_while_first() {
        let mut ahead = FilesAhead::default();
        let size_of = |_| Some(64 * MIB);
        let mut asked = Vec::new();
        for file in 0..100u32 {
            let range = ahead.on_file(file, (file / 64, MIB), || 1000 * MIB, size_of);
            asked.extend(range.map(|block| (file, block)));
        }
        assert_eq!(asked, [(7, 1), (64, 2), (64, 3)]);
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let mut ahead = FilesAhead::default();
        for file in 0..100 {
            let asked = ahead.on_file(file, (file, MIB), || 3 * MIB, |_| Some(MIB));
            assert!(asked.end <= file + 4);
        }
    }
}
