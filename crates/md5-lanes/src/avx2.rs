// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Eight lanes in the 256-bit registers of AVX2.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256,
    _mm256_castsi128_si256, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use crate::compress::{Word, compress};

/// Lanes of the vector.
pub(crate) const LANES: usize = 8;

/// Whether this processor can.
pub(crate) fn is_here() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Goes over all whole chunks of eight inputs of one length.
///
/// # Panics
/// Where the processor has no AVX2.
pub(crate) fn compress_eight(state: &mut [[u32; LANES]; 4], input: &[&[u8]; LANES]) {
    #[target_feature(enable = "avx2")]
    fn with_avx2(state: &mut [[u32; LANES]; 4], input: &[&[u8]; LANES]) {
        // SAFETY: the loads and stores are of whole arrays of 32 bytes.
        unsafe {
            let load = |lanes: &[u32; LANES]| Eight(_mm256_loadu_si256(lanes.as_ptr().cast()));
            let mut words = [load(&state[0]), load(&state[1]), load(&state[2]), load(&state[3])];
            compress(&mut words, input);
            for (lanes, word) in state.iter_mut().zip(words) {
                _mm256_storeu_si256(lanes.as_mut_ptr().cast(), word.0);
            }
        }
    }
    assert!(is_here());
    // SAFETY: the processor has AVX2, which is all that the function asks for.
    unsafe { with_avx2(state, input) }
}

/// A word of each of the eight lanes. It comes into being only in functions for AVX2: this is
/// what makes the calls of its methods sound.
#[derive(Clone, Copy)]
struct Eight(__m256i);

#[target_feature(enable = "avx2")]
#[inline]
fn settle(mut word: __m256i) -> __m256i {
    // SAFETY: no instruction at all; the value stays in its register.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) word, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

/// Sixteen bytes from `at` on of a lane, and of the one four further.
#[target_feature(enable = "avx2")]
#[inline]
fn row(input: &[&[u8]; LANES], lane: usize, at: usize) -> __m256i {
    let (low, high) = (&input[lane][at..at + 16], &input[lane + 4][at..at + 16]);
    // SAFETY: both are sixteen bytes.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(low.as_ptr().cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(high.as_ptr().cast()))
    }
}

/// The words of a chunk of each lane: sixteen bytes of every lane at a time, turned from rows into
/// columns. Plain loops: what `array::map` calls is not always inlined.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose(input: &[&[u8]; LANES], at: usize) -> [Eight; 16] {
    let mut words = [Eight(_mm256_setzero_si256()); 16];
    for quarter in 0..4 {
        let at = at + 16 * quarter;
        let (a, b) = (row(input, 0, at), row(input, 1, at));
        let (c, d) = (row(input, 2, at), row(input, 3, at));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        words[4 * quarter] = Eight(_mm256_unpacklo_epi64(ab, cd));
        words[4 * quarter + 1] = Eight(_mm256_unpackhi_epi64(ab, cd));
        let (ab, cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        words[4 * quarter + 2] = Eight(_mm256_unpacklo_epi64(ab, cd));
        words[4 * quarter + 3] = Eight(_mm256_unpackhi_epi64(ab, cd));
    }
    words
}

// SAFETY, of all calls below: there is an `Eight`, or its like is asked for by a function for AVX2.
impl Word for Eight {
    #[inline(always)]
    fn all(value: u32) -> Self {
        unsafe { Eight(_mm256_set1_epi32(value.cast_signed())) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Eight(_mm256_add_epi32(self.0, other.0)) }
    }
    #[inline(always)]
    fn rotate<const LEFT: i32, const RIGHT: i32>(self) -> Self {
        unsafe {
            let (left, right) =
                (_mm256_slli_epi32::<LEFT>(self.0), _mm256_srli_epi32::<RIGHT>(self.0));
            Eight(_mm256_or_si256(left, right))
        }
    }
    #[inline(always)]
    fn settled(self) -> Self {
        unsafe { Eight(settle(self.0)) }
    }
    #[inline(always)]
    fn f(x: Self, y: Self, z: Self) -> Self {
        unsafe { Eight(_mm256_xor_si256(z.0, _mm256_and_si256(x.0, _mm256_xor_si256(y.0, z.0)))) }
    }
    #[inline(always)]
    fn g_late(x: Self, z: Self) -> Self {
        unsafe { Eight(_mm256_and_si256(x.0, z.0)) }
    }
    #[inline(always)]
    fn g_early(y: Self, z: Self) -> Self {
        unsafe { Eight(_mm256_andnot_si256(z.0, y.0)) }
    }
    #[inline(always)]
    fn h(x: Self, y: Self, z: Self) -> Self {
        unsafe { Eight(_mm256_xor_si256(x.0, _mm256_xor_si256(y.0, z.0))) }
    }
    #[inline(always)]
    fn i(x: Self, y: Self, z: Self) -> Self {
        unsafe {
            let not_z = _mm256_xor_si256(z.0, _mm256_set1_epi32(-1));
            Eight(_mm256_xor_si256(y.0, _mm256_or_si256(x.0, not_z)))
        }
    }
    #[inline(always)]
    fn load(input: &[&[u8]], at: usize) -> [Self; 16] {
        let lanes = input.first_chunk().expect("an input for each lane");
        unsafe { transpose(lanes, at) }
    }
}
