// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The bytes that a read answers with, without an allocation for each read.

use parking_lot::Mutex;

use crate::keep::Block;

/// Bytes kept alive by their owner.
pub trait Bytes: Send {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// What a read answers with.
pub enum ReadData {
    /// Nothing: past the end of the file.
    Empty,
    /// A part of a block in memory.
    Slice(BlockSlice),
    /// Copied into a buffer that is used again.
    Buffer(PooledBuffer),
    /// The layer above's.
    Shared(Box<dyn Bytes>),
}

impl ReadData {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            ReadData::Empty => &[],
            ReadData::Slice(slice) => slice.bytes(),
            ReadData::Buffer(buffer) => &buffer.data[..buffer.len],
            ReadData::Shared(shared) => shared.bytes(),
        }
    }
}

/// A part of a block in memory.
pub struct BlockSlice {
    block: Block,
    offset: usize,
    len: usize,
}

impl BlockSlice {
    /// `len` bytes of the block from `offset` on; None where it is not in memory, or shorter.
    #[must_use]
    pub fn new(block: Block, offset: usize, len: usize) -> Option<Self> {
        block.as_slice()?.get(offset..offset.checked_add(len)?)?;
        Some(BlockSlice { block, offset, len })
    }

    fn bytes(&self) -> &[u8] {
        let data = self.block.as_slice().unwrap_or_default();
        data.get(self.offset..self.offset + self.len).unwrap_or_default()
    }
}

/// Buffers of earlier reads. The last used comes first: it is still in the processor's cache.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// Buffers that are kept for later.
const MAX_BUFFERS: usize = 8;

/// A buffer that goes back to the pool when it is dropped.
pub struct PooledBuffer {
    data: Vec<u8>,
    len: usize,
}

impl PooledBuffer {
    /// A buffer of `len` bytes, of whatever content.
    #[must_use]
    pub fn take(len: usize) -> Self {
        let mut data = POOL.lock().pop().unwrap_or_default();
        if data.len() < len {
            data.resize(len, 0);
        }
        PooledBuffer { data, len }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut pool = POOL.lock();
        if pool.len() < MAX_BUFFERS {
            pool.push(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PooledBuffer, ReadData};

    #[test]
    fn a_buffer_is_used_again_and_shows_its_own_length_only() {
        let mut first = PooledBuffer::take(1000);
        first.bytes_mut().fill(7);
        drop(first);
        let mut second = PooledBuffer::take(3);
        second.bytes_mut().copy_from_slice(b"abc");
        assert_eq!(ReadData::Buffer(second).bytes(), b"abc");
        assert!(ReadData::Empty.bytes().is_empty());
    }
}
