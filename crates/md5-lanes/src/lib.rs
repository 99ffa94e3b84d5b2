// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! md5 (RFC 1321) of several messages at once.
//!
//! Each step of md5 waits for the one before, so that one message keeps a core busy at about
//! 0.8 GB/s however wide its registers are. Eight messages in the eight lanes of a vector register
//! take little longer than one: about 4.9 GB/s in all, with AVX2.
//!
//! A crate of its own, so that it can be optimised in debug builds too. It knows nothing of blocks
//! or threads.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
mod compress;

pub use compress::CHUNK;
use compress::compress;

/// How many messages are worth hashing together here: 8 with AVX2, else 1.
#[must_use]
pub fn lanes() -> usize {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_here() {
        return avx2::LANES;
    }
    1
}

/// The md5 of a message under way.
///
/// The caller keeps the message: each call is given all that is known of it, from its first byte
/// or from where it was last [`released`](Running::release).
#[derive(Clone, Debug)]
pub struct Running {
    state: [u32; 4],
    /// Bytes of the message as it is given.
    done: usize,
    /// Bytes that are given no more.
    released: u64,
}

impl Default for Running {
    fn default() -> Self {
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        Running { state, done: 0, released: 0 }
    }
}

impl Running {
    /// Bytes that can be hashed now and are not: whole chunks of 64.
    #[must_use]
    pub fn pending(&self, message: &[u8]) -> usize {
        (message.len() - self.done) / CHUNK * CHUNK
    }

    /// Bytes at the front of the message that are hashed; the next call must be given the
    /// message without them.
    #[must_use]
    pub fn release(&mut self) -> usize {
        self.released += self.done as u64;
        std::mem::take(&mut self.done)
    }

    /// Hashes what is pending, at most `limit` bytes of it.
    pub fn advance(&mut self, message: &[u8], limit: usize) {
        let end = self.done + self.pending(message).min(limit / CHUNK * CHUNK);
        compress(&mut self.state, &[&message[self.done..end]]);
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
        let bits = (self.released + message.len() as u64).wrapping_mul(8);
        tail[len - 8..len].copy_from_slice(&bits.to_le_bytes());
        compress(&mut self.state, &[&tail[..len]]);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// Hashes what is pending of each message, at most `limit` bytes of each; of all together as
/// much as the one with the least has. At most [`lanes`] messages at a time are worth it.
pub fn advance_together(messages: &mut [(&mut Running, &[u8])], limit: usize) {
    for group in messages.chunks_mut(lanes()) {
        if let [(running, message)] = group {
            running.advance(message, limit);
            continue;
        }
        #[cfg(target_arch = "x86_64")]
        {
            let least = group.iter().map(|(running, message)| running.pending(message)).min();
            advance_group(group, least.unwrap_or(0).min(limit / CHUNK * CHUNK));
        }
    }
}

/// `len` more bytes of two to eight messages. A lane without a message repeats the first one.
#[cfg(target_arch = "x86_64")]
fn advance_group(group: &mut [(&mut Running, &[u8])], len: usize) {
    let lane = |lane: usize| if lane < group.len() { lane } else { 0 };
    let input = std::array::from_fn(|at| {
        let (running, message) = &group[lane(at)];
        &message[running.done..running.done + len]
    });
    let mut state =
        std::array::from_fn(|word| std::array::from_fn(|at| group[lane(at)].0.state[word]));
    avx2::compress_eight(&mut state, &input);
    for (at, (running, _)) in group.iter_mut().enumerate() {
        running.state = state.map(|words| words[at]);
        running.done += len;
    }
}

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
        for count in 1..=11 {
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

    #[test]
    fn what_is_hashed_may_be_let_go_of() {
        let bytes: Vec<u8> = (0..5000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let (mut running, mut kept) = (Running::default(), Vec::new());
        for piece in bytes.chunks(123) {
            kept.extend_from_slice(piece);
            running.advance(&kept, 1000);
            kept.drain(..running.release());
            assert!(kept.len() < CHUNK);
        }
        assert_eq!(running.finish(&kept), Running::default().finish(&bytes));
    }
}
