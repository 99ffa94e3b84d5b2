// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What to fetch before it is asked for: by how sequentially one open file is read.
//!
//! One [`ReadAhead`] belongs to one open file handle. It follows where the reader is in the file's
//! list of blocks. A run of reads, each near the end of those before it, makes it ask for the
//! blocks ahead: as many bytes as a multiple of the run, so that what a reader gets fetched
//! for nothing when it jumps away stays in proportion to what it has read. A jump starts again from nothing: a random reader
//! causes no fetch but its own. Only who begins at the start of the file with a large read gets the
//! second block at once: it would else come a whole block's time later.

use std::ops::Range;

use super::config::MAX_BLOCK;

/// The kernel reads ahead on its own, several requests at once, and they arrive in any order: so
/// far before or after the end of the run a read still belongs to it.
const OUT_OF_ORDER: u64 = 2 << 20;
/// A run shorter than this may be a look at the head of a file.
const RUN_BEGINS: u64 = 256 << 10;
/// A first read of this size at the start of a file is by a program that reads on: the kernel asks for
/// it where the program's buffer has 32 KiB or more, and for 16 KiB where a look at the head has.
const BEGINNING: u64 = 64 << 10;
/// Bytes asked for ahead, for each byte of the run: up to four large blocks, and further on.
const GROWTH: u64 = 64;
const FURTHER: u64 = 16;
/// Blocks ahead of the reader, at most, and their bytes.
const MAX_BLOCKS: usize = 32;
const MAX_BYTES: u64 = 8 * MAX_BLOCK;

/// How one open file is being read.
#[derive(Clone, Debug, Default)]
pub struct ReadAhead {
    /// End of the furthest read of the run.
    end: u64,
    /// Bytes of the run.
    run: u64,
    /// Entries of the block list below this have been asked for.
    asked: usize,
}

impl ReadAhead {
    /// Tells of a read of `len` bytes at `offset` that ends in entry `last` of the file's block list.
    /// `room` tells for how many bytes there is room ahead of it, and is asked only in a run;
    /// `size_of` gives the bytes of an entry's block, `None` past the end of the list. Returns the
    /// entries to prefetch now, all after `last`; each is returned once in a run.
    pub fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        last: usize,
        room: impl FnOnce() -> u64,
        size_of: impl Fn(usize) -> Option<u64>,
    ) -> Range<usize> {
        let begins = offset == 0 && self.end == 0 && len >= BEGINNING;
        let near = offset <= self.end + OUT_OF_ORDER && offset + len + OUT_OF_ORDER >= self.end;
        if !near {
            (self.run, self.asked) = (0, 0);
            self.end = offset + len;
            // The jump itself is no run yet.
            return last + 1..last + 1;
        }
        // Reads again of what was read do not lengthen the run.
        self.run += (offset + len).saturating_sub(self.end).min(len);
        self.end = self.end.max(offset + len);
        let first = self.asked.max(last + 1);
        let in_run = self.run >= RUN_BEGINS;
        if !in_run && !begins {
            return first..first;
        }
        let max_bytes = room();
        let window = if in_run {
            let first = self.run.saturating_mul(GROWTH).min(4 * MAX_BLOCK);
            self.run.saturating_mul(FURTHER).max(first).min(MAX_BYTES).min(max_bytes)
        } else {
            0
        };
        let (mut next, mut ahead) = (last + 1, 0);
        while next - last <= MAX_BLOCKS {
            let Some(size) = size_of(next) else { break };
            ahead += size;
            // The block after this one always, as soon as there is a run and the cache can hold it.
            if ahead > window && (next > last + 1 || size > max_bytes) {
                break;
            }
            next += 1;
        }
        self.asked = self.asked.max(next);
        first..next.max(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const BLOCK: u64 = MAX_BLOCK;

    fn read(ahead: &mut ReadAhead, offset: u64) -> Range<usize> {
        read_with(ahead, offset, 100 * BLOCK)
    }

    fn read_with(ahead: &mut ReadAhead, offset: u64, max_bytes: u64) -> Range<usize> {
        let len = 128 * KIB;
        let last = ((offset + len - 1) / BLOCK) as usize;
        ahead.on_read(offset, len, last, || max_bytes, |entry| (entry < 100).then_some(BLOCK))
    }

    #[test]
    fn a_sequential_reader_has_more_and_more_fetched_ahead_each_block_once() {
        let mut ahead = ReadAhead::default();
        let mut asked = Vec::new();
        for number in 0..1024 {
            asked.extend(read(&mut ahead, number * 128 * KIB).map(|entry| (number, entry)));
        }
        let entries: Vec<usize> = asked.iter().map(|(_, entry)| *entry).collect();
        assert_eq!(entries, [1, 2, 3, 4, 5, 6, 7, 8, 9], "eight ahead, in the second block");
        assert_eq!(asked[0].0, 0, "the second block at once");
        assert!(asked[3].0 < 64, "four within the first 8 MiB");
        assert!(asked[4].0 > 128, "more only after 16 MiB");
    }

    #[test]
    fn order_within_the_kernels_window_does_not_matter() {
        let mut ahead = ReadAhead::default();
        let mut asked = 0;
        for number in 0..256u64 {
            asked += read(&mut ahead, (number ^ 7) * 128 * KIB).len();
        }
        assert_eq!(asked, 4);
    }

    #[test]
    fn a_random_reader_causes_no_fetch_ahead() {
        let mut ahead = ReadAhead::default();
        let mut position = 1u64;
        for _ in 0..10_000 {
            position = position
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            assert!(read(&mut ahead, (position >> 16) % (100 * BLOCK)).is_empty());
        }
    }

    #[test]
    fn a_head_or_a_reread_causes_none() {
        let mut ahead = ReadAhead::default();
        for _ in 0..100 {
            assert!(ahead.on_read(0, 16 * KIB, 0, || 8 * BLOCK, |_| Some(BLOCK)).is_empty());
        }
        assert_eq!(read(&mut ReadAhead::default(), 0), 1..2, "who begins with a large read");
        for _ in 0..100 {
            assert!(read(&mut ahead, 0).is_empty());
        }
    }

    #[test]
    fn a_small_cache_is_not_flooded() {
        for (max_bytes, most) in [(3 * BLOCK / 2, 1), (BLOCK / 2, 0)] {
            let mut ahead = ReadAhead::default();
            let reads = (0..512).map(|n| read_with(&mut ahead, n * 128 * KIB, max_bytes));
            assert_eq!(reads.map(|asked| asked.len()).sum::<usize>(), most);
        }
    }

    #[test]
    fn small_blocks_are_bounded_by_number_and_the_list_by_its_end() {
        let mut ahead = ReadAhead::default();
        let mut most = 0;
        for number in 0..1000u64 {
            let asked = ahead.on_read(
                number * 4096,
                4096,
                number as usize,
                || BLOCK,
                |n| (n < 1000).then_some(4096),
            );
            assert!(asked.end <= 1000 && asked.start > number as usize);
            most = most.max(asked.end - number as usize - 1);
        }
        assert_eq!(most, MAX_BLOCKS);
    }
}
