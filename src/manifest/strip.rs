// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Takes the hints off a manifest's text, leaving everything else as it is.

use crate::types::LocatorRef;

/// The text with all hints but the size taken off its locators: what a portable data hash is made
/// of. Lines and their order stay; runs of white space become one space, blank lines go.
#[must_use]
pub fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split('\n') {
        let mut tokens = line.split_ascii_whitespace();
        let Some(stream) = tokens.next() else { continue };
        out.push_str(stream);
        for token in tokens {
            out.push(' ');
            let hints = LocatorRef::parse(token).map_or(0, |locator| locator.hints.len());
            out.push_str(&token[..token.len() - hints]);
            if hints > 0 {
                out.pop();
                keep_numbers(&token[token.len() - hints - 1..], &mut out);
            }
        }
        out.push('\n');
    }
    out
}

/// Appends the hints that begin with a digit, which count as sizes; each begins with `+`.
fn keep_numbers(mut hints: &str, out: &mut String) {
    while let Some(first) = hints.chars().nth(1) {
        let body = 1 + first.len_utf8();
        let end = hints[body..].find('+').map_or(hints.len(), |at| body + at);
        if first.is_ascii_digit() {
            out.push_str(&hints[..end]);
        }
        hints = &hints[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_go_and_the_rest_stays() {
        let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3+Aabc@1+K@zzzzz d41d8cd98f00b204e9800998ecf8427e+0 \
                    0:3:b+Aabc 0:0:a\n./dir d41d8cd98f00b204e9800998ecf8427e+0+Rx-1@2 0:0:\\056\n";
        let stripped = ". acbd18db4cc2f85cedef654fccc4a4d8+3 d41d8cd98f00b204e9800998ecf8427e+0 \
                        0:3:b+Aabc 0:0:a\n./dir d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n";
        assert_eq!(strip(text), stripped);
        assert_eq!(strip(stripped), stripped);
    }

    #[test]
    fn further_numbers_stay() {
        let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3+Abc+5x+K@zzzzz+6 0:3:a";
        assert_eq!(strip(text), ". acbd18db4cc2f85cedef654fccc4a4d8+3+5x+6 0:3:a\n");
    }
}
