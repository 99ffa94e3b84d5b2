// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Reading and writing.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use pico_args::Arguments;

use crate::Outcome;
use crate::crew::{Crew, report};

const PAGE: u64 = 4096;
const MIB: usize = 1 << 20;

fn file_argument(mut args: Arguments) -> Outcome<PathBuf> {
    Ok(args.free_from_os_str(|text| Ok::<_, std::convert::Infallible>(PathBuf::from(text)))?)
}

pub(crate) fn read(crew: Crew, args: Arguments) -> Outcome<()> {
    let path = file_argument(args)?;
    let size = if let Crew::Member(..) = crew { path.metadata()?.len() } else { 0 };
    crew.run(size, |part| {
        let mut buffer = vec![0; MIB];
        Ok(move || {
            // Opened within the time: opening is part of reading.
            let (file, mut at) = (File::open(path)?, part.start);
            let mut ops = 0;
            while at < part.end {
                let want = (part.end - at).min(MIB as u64) as usize;
                match file.read_at(&mut buffer[..want], at)? {
                    0 => return Err(format!("the file ends at {at}").into()),
                    got => at += got as u64,
                }
                ops += 1;
            }
            Ok((ops, part.end - part.start))
        })
    })
}

pub(crate) fn random(crew: Crew, mut args: Arguments) -> Outcome<()> {
    let count: u64 = args.value_from_str("--count")?;
    let path = file_argument(args)?;
    crew.run(count, |part| {
        let file = File::open(path)?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
        let pages = file.metadata()?.len() / PAGE;
        let step = coprime(pages);
        if count > pages {
            return Err(format!("{count} reads of {pages} pages: some would be cached").into());
        }
        Ok(move || {
            let mut buffer = [0; PAGE as usize];
            for number in part.clone() {
                // A walk that meets each page once, so that none is in the page cache already.
                file.read_exact_at(&mut buffer, number * step % pages * PAGE)?;
            }
            Ok((part.end - part.start, (part.end - part.start) * PAGE))
        })
    })
}

/// A step of about 0.6 of `pages` that has no divisor in common with it.
fn coprime(pages: u64) -> u64 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    (pages * 618 / 1000 + 1..=u64::MAX).find(|&step| gcd(step, pages) == 1).unwrap_or(1)
}

/// A MiB that no other number has, as a file's contents are: blocks that are written are new ones.
fn fill(buffer: &mut [u8], number: u64) {
    for (at, chunk) in buffer.chunks_exact_mut(PAGE as usize).enumerate() {
        chunk[..8].copy_from_slice(&((number << 16) | at as u64).to_le_bytes());
    }
}

/// A new file of so many MiB, those of these numbers.
fn write_file(path: PathBuf, numbers: Range<u64>) -> Outcome<()> {
    let mut buffer: Vec<u8> = (0..MIB).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
    let mut file = File::create_new(path)?;
    for number in numbers {
        fill(&mut buffer, number);
        file.write_all(&buffer)?;
    }
    // Not by dropping it: an error of close(2) counts.
    Ok(nix::unistd::close(file)?)
}

pub(crate) fn write(mut args: Arguments) -> Outcome<()> {
    let mib: u64 = args.value_from_str("--mib")?;
    let path = file_argument(args)?;
    let start = Instant::now();
    write_file(path, 0..mib)?;
    report(start.elapsed(), mib, mib << 20);
    Ok(())
}

pub(crate) fn writers(crew: Crew, mut args: Arguments) -> Outcome<()> {
    let mib: u64 = args.value_from_str("--mib")?;
    let folder = file_argument(args)?;
    crew.run(mib, |part| {
        Ok(move || {
            let count = part.end - part.start;
            write_file(folder.join(format!("from{:06}", part.start)), part)?;
            Ok((count, count << 20))
        })
    })
}

pub(crate) fn create(mut args: Arguments) -> Outcome<()> {
    let count: u64 = args.value_from_str("--count")?;
    let folder = file_argument(args)?;
    let mut page = vec![7; PAGE as usize];
    let start = Instant::now();
    for number in 0..count {
        let mut file = File::create_new(folder.join(format!("made{number:06}")))?;
        fill(&mut page, number);
        file.write_all(&page)?;
        nix::unistd::close(file)?;
    }
    report(start.elapsed(), count, count * PAGE);
    Ok(())
}

pub(crate) fn evict(args: Arguments) -> Outcome<()> {
    let file = File::open(file_argument(args)?)?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}
