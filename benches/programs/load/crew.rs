// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Several processes that do one piece of work together.
//!
//! The program starts itself once for each; the parent's clock runs from the moment when all are
//! ready to the moment when the last has done its part.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// Which part of the work this process does.
pub(crate) enum Crew {
    /// None; it has so many processes do it.
    Leader(usize),
    /// The one of that number, of so many.
    Member(usize, usize),
}

impl Crew {
    pub(crate) fn new(args: &mut pico_args::Arguments) -> Outcome<Self> {
        let procs = args.opt_value_from_str("--procs")?.unwrap_or(1);
        Ok(match args.opt_value_from_str("--member")? {
            Some(number) => Crew::Member(number, procs),
            None => Crew::Leader(procs),
        })
    }

    /// Has the work done. `part` gets this process's share of `all` units ready and returns what
    /// does it; that returns operations and bytes.
    pub(crate) fn run<P, W>(self, all: u64, part: P) -> Outcome<()>
    where
        P: FnOnce(Range<u64>) -> Outcome<W>,
        W: FnOnce() -> Outcome<(u64, u64)>,
    {
        match self {
            Crew::Leader(procs) => lead(procs),
            Crew::Member(number, procs) => {
                let (number, procs) = (number as u64, procs as u64);
                let work = part(all * number / procs..all * (number + 1) / procs)?;
                println!("ready");
                if std::io::stdin().read_line(&mut String::new())? == 0 {
                    return Err("given up".into());
                }
                let (ops, bytes) = work()?;
                println!("{ops} {bytes}");
                Ok(())
            }
        }
    }
}

struct Member {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Member {
    fn start(number: usize) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args(["--member", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Member { child, lines })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            let mut reason = String::new();
            self.child.stderr.take().ok_or("no errors")?.read_to_string(&mut reason)?;
            return Err(format!("{} ({status})", reason.trim()).into());
        }
        Ok(line)
    }

    fn go(&mut self) -> Outcome<()> {
        Ok(self.child.stdin.as_mut().ok_or("no input")?.write_all(b"\n")?)
    }
}

/// Ends every process when one has failed.
impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lead(procs: usize) -> Outcome<()> {
    let mut members = (0..procs).map(Member::start).collect::<Outcome<Vec<_>>>()?;
    for member in &mut members {
        member.line()?;
    }
    let start = Instant::now();
    for member in &mut members {
        member.go()?;
    }
    let (mut ops, mut bytes) = (0, 0);
    for member in &mut members {
        let line = member.line()?;
        let (o, b) = line.trim().split_once(' ').ok_or("no figures")?;
        ops += o.parse::<u64>()?;
        bytes += b.parse::<u64>()?;
    }
    report(start.elapsed(), ops, bytes);
    Ok(())
}

/// Prints how long it took and how much it was.
pub(crate) fn report(took: Duration, ops: u64, bytes: u64) {
    let seconds = took.as_secs_f64();
    println!(r#"{{"seconds": {seconds:.9}, "ops": {ops}, "bytes": {bytes}}}"#);
}
