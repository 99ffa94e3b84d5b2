// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Loads a mount, and tells as JSON how long it took.
//!
//! Where the rate counts, a program as lean as this does the asking, so that the asking is not
//! what is measured. What runs in several processes is ready before the clock starts.
//!
//!     bench-load stat --procs N --list FILE          every path of a list, once
//!     bench-load random --procs N --count K FILE     4 KiB reads at places all over a file
//!     bench-load read --procs N FILE                 a file from end to end, a part a process
//!     bench-load write --mib N FILE                  a new file, closed at the end
//!     bench-load writers --procs N --mib M DIR       new files, one a process, M MiB in all
//!     bench-load create --count K DIR                new files of 4 KiB
//!     bench-load latency --list FILE --seconds S     stat of one path after the other, at a sign
//!     bench-load hold --list FILE                    a reader for each path, until killed
//!     bench-load watch --seconds S PATH              tells when a path is seen
//!     bench-load evict FILE                          drops a file's pages from the kernel's cache
//!
//! Lists hold a path a line, relative to the current directory.

mod crew;
mod latency;
mod transfer;

use std::error::Error;
use std::process::ExitCode;

use crew::Crew;

/// What a command returns.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut args = pico_args::Arguments::from_env();
    let command = args.subcommand()?.ok_or("a command is missing")?;
    match command.as_str() {
        "stat" => latency::stat_all(Crew::new(&mut args)?, args),
        "latency" => latency::one_by_one(args),
        "hold" => latency::hold(args),
        "watch" => latency::watch(args),
        "read" => transfer::read(Crew::new(&mut args)?, args),
        "random" => transfer::random(Crew::new(&mut args)?, args),
        "write" => transfer::write(args),
        "writers" => transfer::writers(Crew::new(&mut args)?, args),
        "create" => transfer::create(args),
        "evict" => transfer::evict(args),
        other => Err(format!("no such command: {other}").into()),
    }
}
