// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! One pass over the text: tokens, lines, and what each token must be.

use std::borrow::Cow;

use super::error::{ManifestError, Reason, shown};
use super::escape::unescape;
use crate::types::{LocatorError, LocatorRef};

/// What is built from a manifest: told its parts in the order of the text. A reason returned ends
/// the parse, with the line added.
pub trait Sink<'a> {
    /// A line begins: its stream's name, unescaped.
    ///
    /// # Errors
    /// The reason why the stream cannot be.
    fn stream(&mut self, name: Cow<'a, str>, line: usize) -> Result<(), Reason>;

    /// A block of the stream.
    fn block(&mut self, locator: LocatorRef<'a>);

    /// A piece of a file, or the mark of a directory (a name whose last component is `.`).
    ///
    /// # Errors
    /// The reason why the file cannot be.
    fn segment(&mut self, segment: Segment<'a>) -> Result<(), Reason>;
}

/// A file token: `position:length:name`.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Where it begins in the stream, in bytes.
    pub position: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The name, unescaped: a path below the stream.
    pub name: Cow<'a, str>,
    /// The token, for a message.
    pub token: &'a str,
    /// Its line, from 1.
    pub line: usize,
}

/// Reads a manifest, handing its parts to `sink`. Accepts what the SDK accepts: streams without
/// blocks or without files, any stream name, white space before the first and after the last line.
///
/// # Errors
/// The first thing wrong with the text, and its line.
pub fn parse<'a>(text: &'a str, sink: &mut impl Sink<'a>) -> Result<(), ManifestError> {
    // Offsets into the text are 31 bits wide in what is built from it.
    if text.len() >= 1 << 31 {
        return Err(ManifestError { line: 1, reason: Reason::TooLarge });
    }
    let lead = text.bytes().take_while(|b| is_space(*b)).count();
    let mut line = 1 + newlines(&text[..lead]);
    let mut state = State::Stream;
    let mut rest = &text[lead..];
    while !rest.is_empty() {
        let end = rest.bytes().position(is_space).unwrap_or(rest.len());
        let token = &rest[..end];
        state.take(token, line, sink).map_err(|reason| ManifestError { line, reason })?;
        let gap = rest[end..].bytes().take_while(|b| is_space(*b)).count();
        let separator = &rest[end..end + gap];
        rest = &rest[end + gap..];
        if separator == " " && !rest.is_empty() {
            continue;
        }
        let ended = newlines(separator);
        if matches!(state, State::Named) && (ended > 0 || rest.is_empty()) {
            return Err(ManifestError { line, reason: Reason::NameOnly(shown(token)) });
        }
        if ended > 0 {
            if separator != "\n" && !rest.is_empty() {
                return Err(ManifestError { line, reason: Reason::WhiteSpace });
            }
            line += ended;
            state = State::Stream;
        }
    }
    Ok(())
}

/// What the next token of the line may be.
enum State {
    Stream,
    Named,
    Blocks,
    Segments,
}

impl State {
    fn take<'a>(
        &mut self,
        token: &'a str,
        line: usize,
        sink: &mut impl Sink<'a>,
    ) -> Result<(), Reason> {
        match self {
            Self::Stream => {
                *self = Self::Named;
                return sink.stream(unescape(token), line);
            }
            Self::Named | Self::Blocks => match LocatorRef::parse(token) {
                Ok(locator) => {
                    *self = Self::Blocks;
                    sink.block(locator);
                    return Ok(());
                }
                Err(LocatorError::NotALocator) => *self = Self::Segments,
                Err(error) => return Err(Reason::Locator(unsigned(token), error)),
            },
            Self::Segments => {}
        }
        sink.segment(segment(token, line)?)
    }
}

fn segment(token: &str, line: usize) -> Result<Segment<'_>, Reason> {
    let (position, rest) = number(token, token)?;
    let (length, name) = number(rest, token)?;
    if name.is_empty() {
        return Err(Reason::FileToken(unsigned(token)));
    }
    Ok(Segment { position, length, name: unescape(name), token, line })
}

/// The number that `text` begins with, and what follows the colon after it.
fn number<'a>(text: &'a str, token: &str) -> Result<(u64, &'a str), Reason> {
    let mut value = Some(0u64);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => {
                let digit = u64::from(byte - b'0');
                value = value.and_then(|v| v.checked_mul(10)?.checked_add(digit));
            }
            b':' if at > 0 => {
                let value = value.ok_or_else(|| Reason::Number(shown(token)))?;
                return Ok((value, &text[at + 1..]));
            }
            _ => break,
        }
    }
    Err(Reason::FileToken(unsigned(token)))
}

/// The token for a message, without what may be a signature.
fn unsigned(token: &str) -> String {
    shown(token.split("+A").next().unwrap_or(token))
}

/// White space between tokens: ASCII's, with the separators U+001C to U+001F that Python counts.
fn is_space(byte: u8) -> bool {
    byte <= b' ' && matches!(byte, b' ' | b'\t'..=b'\r' | 0x1c..=0x1f)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}
