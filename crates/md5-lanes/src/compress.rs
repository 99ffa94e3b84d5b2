// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The compression function of md5, for any number of lanes.

/// Bytes of a step's input: md5 goes over a message in chunks of so many.
pub const CHUNK: usize = 64;

/// One 32-bit word of each lane.
///
/// A step of md5 waits for the result of the one before, `x` below; all else is early. What the compiler
/// must not move behind it goes through [`Word::settled`]: additions commute, and it likes to put
/// those of constants last, where each costs an eighth of the whole.
pub(crate) trait Word: Copy {
    /// The same value in all lanes.
    fn all(value: u32) -> Self;
    /// The sum, modulo 2^32.
    fn add(self, other: Self) -> Self;
    /// Rotated left by `LEFT` bits; `RIGHT` is 32 less that.
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self;
    /// Itself, computed here.
    fn settled(self) -> Self;
    /// `x & y | !x & z`
    fn f(x: Self, y: Self, z: Self) -> Self;
    /// `x & z`, of which and of [`Word::g_early`] no bit is set in both: their sum is RFC 1321's G.
    fn g_late(x: Self, z: Self) -> Self;
    /// `y & !z`
    fn g_early(y: Self, z: Self) -> Self;
    /// `x ^ y ^ z`
    fn h(x: Self, y: Self, z: Self) -> Self;
    /// `y ^ (x | !z)`
    fn i(x: Self, y: Self, z: Self) -> Self;
    /// The sixteen words of a chunk of each lane, from `at` on in each input; there are as many
    /// inputs as lanes.
    fn load(input: &[&[u8]], at: usize) -> [Self; 16];
}

impl Word for u32 {
    #[inline(always)]
    fn all(value: u32) -> u32 {
        value
    }
    #[inline(always)]
    fn add(self, other: u32) -> u32 {
        self.wrapping_add(other)
    }
    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> u32 {
        self.rotate_left(LEFT as u32)
    }
    #[inline(always)]
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_mut))]
    #[allow(unsafe_code)]
    fn settled(mut self) -> u32 {
        // SAFETY: no instruction at all; the value stays in its register.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        unsafe {
            std::arch::asm!("/* {0:e} */", inout(reg) self, options(pure, nomem, nostack, preserves_flags));
        }
        self
    }
    #[inline(always)]
    fn f(x: u32, y: u32, z: u32) -> u32 {
        z ^ (x & (y ^ z))
    }
    #[inline(always)]
    fn g_late(x: u32, z: u32) -> u32 {
        x & z
    }
    #[inline(always)]
    fn g_early(y: u32, z: u32) -> u32 {
        y & !z
    }
    #[inline(always)]
    fn h(x: u32, y: u32, z: u32) -> u32 {
        x ^ (y ^ z)
    }
    #[inline(always)]
    fn i(x: u32, y: u32, z: u32) -> u32 {
        y ^ (x | !z)
    }
    #[inline(always)]
    fn load(input: &[&[u8]], at: usize) -> [u32; 16] {
        let mut words = [0; 16];
        let chunk = &input[0][at..at + CHUNK];
        for (word, bytes) in words.iter_mut().zip(chunk.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }
}

/// Goes over all whole chunks of the inputs, one for each lane, all of one length.
#[inline(always)]
pub(crate) fn compress<W: Word>(state: &mut [W; 4], input: &[&[u8]]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let mut at = 0;
    while at + CHUNK <= input[0].len() {
        let w = W::load(input, at);
        at += CHUNK;
        let before = [a, b, c, d];
        macro_rules! step {
            ($f:ident, $a:ident, $b:ident, $c:ident, $d:ident, $k:expr, $w:expr, $turn:expr) => {{
                let early = $a.add(w[$w % 16].add(W::all(SINES[$k])));
                let sum = step!(@$f early, $b, $c, $d);
                $a = sum.rotate::<$turn, { 32 - $turn }>().add($b);
            }};
            (@g $early:ident, $x:ident, $y:ident, $z:ident) => {
                $early.add(W::g_early($y, $z)).settled().add(W::g_late($x, $z))
            };
            (@$f:ident $early:ident, $x:ident, $y:ident, $z:ident) => {
                $early.settled().add(W::$f($x, $y, $z))
            };
        }
        macro_rules! round {
            ($f:ident, $first:expr, $stride:expr, $offset:expr, $turns:tt) => {
                round!(@four $f, $first, $stride, $offset, $turns);
                round!(@four $f, $first + 4, $stride, $offset, $turns);
                round!(@four $f, $first + 8, $stride, $offset, $turns);
                round!(@four $f, $first + 12, $stride, $offset, $turns);
            };
            (@four $f:ident, $k:expr, $stride:expr, $offset:expr, [$r:expr, $s:expr, $t:expr, $u:expr]) => {
                step!($f, a, b, c, d, $k, $stride * ($k) + $offset, $r);
                step!($f, d, a, b, c, $k + 1, $stride * ($k + 1) + $offset, $s);
                step!($f, c, d, a, b, $k + 2, $stride * ($k + 2) + $offset, $t);
                step!($f, b, c, d, a, $k + 3, $stride * ($k + 3) + $offset, $u);
            };
        }
        round!(f, 0, 1, 0, [7, 12, 17, 22]);
        round!(g, 16, 5, 1, [5, 9, 14, 20]);
        round!(h, 32, 3, 5, [4, 11, 16, 23]);
        round!(i, 48, 7, 0, [6, 10, 15, 21]);
        [a, b, c, d] = [a.add(before[0]), b.add(before[1]), c.add(before[2]), d.add(before[3])];
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
