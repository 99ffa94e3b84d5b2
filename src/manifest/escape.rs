// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Escapes in stream and file names: a backslash and three octal digits.

use std::borrow::Cow;

/// Reads escapes: `\000` to `\377` are the characters U+0000 to U+00FF, as the SDK reads them.
/// A backslash before anything else stands for itself.
#[must_use]
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        if let [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = rest.as_bytes()[at + 1..] {
            out.push(char::from((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')));
            rest = &rest[at + 4..];
        } else {
            out.push('\\');
            rest = &rest[at + 1..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Writes a name as a manifest holds it: backslash, colon, space and all below it escaped.
pub fn escape_into(name: &str, out: &mut String) {
    let special = |b: u8| b <= b' ' || b == b'\\' || b == b':';
    let mut clean = 0;
    for (at, byte) in name.bytes().enumerate().filter(|(_, byte)| special(*byte)) {
        out.push_str(&name[clean..at]);
        out.push('\\');
        for shift in [6, 3, 0] {
            out.push(char::from(b'0' + (byte >> shift & 7)));
        }
        clean = at + 1;
    }
    out.push_str(&name[clean..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escape(name: &str) -> String {
        let mut out = String::new();
        escape_into(name, &mut out);
        out
    }

    #[test]
    fn escapes_both_ways() {
        for (text, name) in [
            ("plain", "plain"),
            ("a\\040b", "a b"),
            ("\\134\\072\\000\\037", "\\:\0\u{1f}"),
            ("\u{e9}\u{1f600}", "\u{e9}\u{1f600}"),
        ] {
            assert_eq!(unescape(text), name);
            assert_eq!(escape(name), text);
        }
    }

    #[test]
    fn reads_every_octal_and_leaves_the_rest() {
        assert_eq!(unescape("\\377\\101"), "\u{ff}A");
        assert_eq!(unescape("\\400 \\08a \\\\040 \\04 \\"), "\\400 \\08a \\  \\04 \\");
        assert!(matches!(unescape("plain"), Cow::Borrowed(_)));
    }
}
