// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Lower-case hexadecimal digits, as digests and signatures are written.

use std::fmt::{self, Write as _};

/// Reads two digits a byte; `None` if one is no lower-case hexadecimal digit or they are too few.
pub(crate) fn read_hex(digits: &[u8], into: &mut [u8]) -> Option<()> {
    let mut pairs = digits.chunks_exact(2);
    for byte in into {
        let pair = pairs.next()?;
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// Writes two digits a byte.
pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        f.write_char(char::from(DIGITS[usize::from(byte >> 4)]))?;
        f.write_char(char::from(DIGITS[usize::from(byte & 15)]))?;
    }
    Ok(())
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}
