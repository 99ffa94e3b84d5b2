// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! md5 (RFC 1321) of several messages at once.
//!
//! Each step of md5 waits for the one before, so that one message keeps a core busy at about
//! 0.65 GB/s however wide its registers are. Four messages in the four lanes of a vector register
//! take little longer than one: about 1.9 GB/s in all, with AVX2.
//!
//! A crate of its own, so that it can be optimised in debug builds too. It knows nothing of blocks
//! or threads.

/// How many messages are worth hashing together here: 4 with AVX2, else 1.
#[must_use]
pub fn lanes() -> usize {
    if has_avx2() { LANES } else { 1 }
}

/// Lanes of the vector.
const LANES: usize = 4;

/// Bytes of a step's input.
const CHUNK: usize = 64;

/// The md5 of a message under way. The message is kept by the caller, whole: each call is given
/// all that is known of it, from its first byte.
#[derive(Clone, Debug)]
pub struct Running {
    state: [u32; 4],
    done: usize,
}

impl Default for Running {
    fn default() -> Self {
        Running { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], done: 0 }
    }
}

impl Running {
    /// Bytes that can be hashed now and are not: whole chunks of 64.
    #[must_use]
    pub fn pending(&self, message: &[u8]) -> usize {
        (message.len() - self.done) / CHUNK * CHUNK
    }

    /// Hashes what is pending, at most `limit` bytes of it.
    pub fn advance(&mut self, message: &[u8], limit: usize) {
        let end = self.done + self.pending(message).min(limit / CHUNK * CHUNK);
        let mut state = self.state.map(|word| [word]);
        compress(&mut state, [&message[self.done..end]]);
        self.state = state.map(|[word]| word);
        self.done = end;
    }

    /// Hashes what is pending and gives the digest.
    #[must_use]
    pub fn finish(mut self, message: &[u8]) -> [u8; 16] {
        self.advance(message, usize::MAX);
        let rest = &message[self.done..];
        let mut tail = [0; 2 * CHUNK];
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()] = 0x80;
        let len = if rest.len() + 9 > CHUNK { 2 * CHUNK } else { CHUNK };
        let bits = (message.len() as u64).wrapping_mul(8);
        tail[len - 8..len].copy_from_slice(&bits.to_le_bytes());
        let mut state = self.state.map(|word| [word]);
        compress(&mut state, [&tail[..len]]);
        let mut digest = [0; 16];
        for (bytes, [word]) in digest.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// Hashes what is pending of each message, at most `limit` bytes of each; of all together as
/// much as the one with the least has. At most [`lanes`] messages at a time are worth it.
pub fn advance_together(messages: &mut [(&mut Running, &[u8])], limit: usize) {
    for group in messages.chunks_mut(LANES) {
        match group {
            [(running, message)] => running.advance(message, limit),
            group if has_avx2() => {
                let least = group.iter().map(|(running, message)| running.pending(message)).min();
                advance_group(group, least.unwrap_or(0).min(limit / CHUNK * CHUNK));
            }
            group => {
                for (running, message) in group {
                    running.advance(message, limit);
                }
            }
        }
    }
}

/// `len` more bytes of two to four messages. A lane without a message repeats the first one.
fn advance_group(group: &mut [(&mut Running, &[u8])], len: usize) {
    let lane = |lane: usize| if lane < group.len() { lane } else { 0 };
    let input = std::array::from_fn(|at| {
        let (running, message) = &group[lane(at)];
        &message[running.done..running.done + len]
    });
    let mut state: [[u32; LANES]; 4] =
        std::array::from_fn(|word| std::array::from_fn(|at| group[lane(at)].0.state[word]));
    compress_lanes(&mut state, input);
    for (at, (running, _)) in group.iter_mut().enumerate() {
        running.state = state.map(|words| words[at]);
        running.done += len;
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[allow(unsafe_code)]
fn compress_lanes(state: &mut [[u32; LANES]; 4], input: [&[u8]; LANES]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        unsafe fn with_avx2(state: &mut [[u32; LANES]; 4], input: [&[u8]; LANES]) {
            compress(state, input);
        }
        if has_avx2() {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { with_avx2(state, input) };
        }
    }
    compress(state, input);
}

/// One word of each lane.
type Words<const N: usize> = [u32; N];

// Plain loops, here and below: closures in `array::map` and `from_fn` are not always inlined, and a
// call for each word costs twenty times the step.

#[inline(always)]
fn add<const N: usize>(mut a: Words<N>, b: Words<N>) -> Words<N> {
    for lane in 0..N {
        a[lane] = a[lane].wrapping_add(b[lane]);
    }
    a
}

#[inline(always)]
fn rotate<const N: usize>(mut a: Words<N>, left: u32) -> Words<N> {
    for word in &mut a {
        *word = word.rotate_left(left);
    }
    a
}

/// The compression function, over all chunks of inputs of one length.
#[inline(always)]
fn compress<const N: usize>(state: &mut [Words<N>; 4], input: [&[u8]; N]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let mut at = 0;
    while at + CHUNK <= input[0].len() {
        let mut w = [[0; N]; 16];
        for lane in 0..N {
            let chunk = &input[lane][at..at + CHUNK];
            for (number, bytes) in chunk.chunks_exact(4).enumerate() {
                w[number][lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        at += CHUNK;
        let before = [a, b, c, d];
        macro_rules! step {
            ($f:expr, $a:ident, $b:ident, $c:ident, $d:ident, $k:expr, $w:expr, $turn:expr) => {{
                // The last result, $b, enters as late as can be: the rest does not wait for it.
                let early = add(add($a, [SINES[$k]; N]), w[$w % 16]);
                let mut f = [0; N];
                for lane in 0..N {
                    f[lane] = $f($b[lane], $c[lane], $d[lane]);
                }
                $a = add(rotate(add(early, f), $turn), $b);
            }};
        }
        macro_rules! round {
            ($f:expr, $first:expr, $stride:expr, $offset:expr, $turns:expr) => {
                round!(@four $f, $first, $stride, $offset, $turns);
                round!(@four $f, $first + 4, $stride, $offset, $turns);
                round!(@four $f, $first + 8, $stride, $offset, $turns);
                round!(@four $f, $first + 12, $stride, $offset, $turns);
            };
            (@four $f:expr, $k:expr, $stride:expr, $offset:expr, $turns:expr) => {
                step!($f, a, b, c, d, $k, $stride * ($k) + $offset, $turns[0]);
                step!($f, d, a, b, c, $k + 1, $stride * ($k + 1) + $offset, $turns[1]);
                step!($f, c, d, a, b, $k + 2, $stride * ($k + 2) + $offset, $turns[2]);
                step!($f, b, c, d, a, $k + 3, $stride * ($k + 3) + $offset, $turns[3]);
            };
        }
        round!(|x: u32, y: u32, z: u32| z ^ (x & (y ^ z)), 0, 1, 0, [7, 12, 17, 22]);
        // The two terms have no bit in common: a sum does as well as an `or`, and `y & !z` is early.
        round!(|x: u32, y: u32, z: u32| (x & z).wrapping_add(y & !z), 16, 5, 1, [5, 9, 14, 20]);
        round!(|x: u32, y: u32, z: u32| x ^ (y ^ z), 32, 3, 5, [4, 11, 16, 23]);
        round!(|x: u32, y: u32, z: u32| y ^ (x | !z), 48, 7, 0, [6, 10, 15, 21]);
        [a, b, c, d] = [add(a, before[0]), add(b, before[1]), add(c, before[2]), add(d, before[3])];
    }
    *state = [a, b, c, d];
}

/// `floor(2^32 * abs(sin(i + 1)))`, the constants of RFC 1321.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: [u8; 16]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_digests_of_the_rfc() {
        let digits = "1234567890".repeat(8);
        for (message, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            (&digits, "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            assert_eq!(hex(Running::default().finish(message.as_bytes())), digest);
        }
    }

    #[test]
    fn together_is_as_alone_whatever_the_lengths() {
        let bytes: Vec<u8> = (0..5000u32).map(|at| ((at * at) >> 3) as u8).collect();
        for count in 1..=7 {
            let messages: Vec<&[u8]> =
                (0..count).map(|n| &bytes[n..1000 * (n % 4 + 1) + n]).collect();
            let mut running = vec![Running::default(); count];
            for _ in 0..40 {
                let mut pairs: Vec<_> = running
                    .iter_mut()
                    .zip(&messages)
                    .map(|(running, all)| (running, *all))
                    .collect();
                advance_together(&mut pairs, 130);
            }
            for (running, message) in running.into_iter().zip(messages) {
                assert!(running.done > 0);
                assert_eq!(running.finish(message), Running::default().finish(message));
            }
        }
    }
}
