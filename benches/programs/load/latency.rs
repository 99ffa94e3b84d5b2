// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Asking for attributes, and waiting.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pico_args::Arguments;

use crate::Outcome;
use crate::crew::Crew;

fn list(args: &mut Arguments) -> Outcome<Vec<String>> {
    let file: PathBuf = args.value_from_str("--list")?;
    Ok(fs::read_to_string(file)?.lines().map(String::from).collect())
}

pub(crate) fn stat_all(crew: Crew, mut args: Arguments) -> Outcome<()> {
    let paths = list(&mut args)?;
    crew.run(paths.len() as u64, |part| {
        let mine = paths[part.start as usize..part.end as usize].to_vec();
        Ok(move || {
            for path in &mine {
                fs::symlink_metadata(path).map_err(|e| format!("{path}: {e}"))?;
            }
            Ok((mine.len() as u64, 0))
        })
    })
}

pub(crate) fn one_by_one(mut args: Arguments) -> Outcome<()> {
    let seconds = args.value_from_str("--seconds")?;
    let paths = list(&mut args)?;
    // In its directory, which it might not get to later.
    println!("ready");
    if std::io::stdin().read_line(&mut String::new())? == 0 {
        return Err("given up".into());
    }
    let begun = Instant::now();
    let mut took = Vec::new();
    for path in paths {
        let start = Instant::now();
        fs::symlink_metadata(&path).map_err(|e| format!("{path}: {e}"))?;
        took.push(start.elapsed());
        if begun.elapsed() >= Duration::from_secs_f64(seconds) {
            break;
        }
    }
    took.sort();
    let at = |part: f64| {
        let rank = (took.len() as f64 * part).ceil() as usize;
        took.get(rank.saturating_sub(1)).copied().ok_or("the list is empty")
    };
    println!(
        r#"{{"p50": {:.9}, "p99": {:.9}, "max": {:.9}, "ops": {}}}"#,
        at(0.5)?.as_secs_f64(),
        at(0.99)?.as_secs_f64(),
        at(1.0)?.as_secs_f64(),
        took.len()
    );
    Ok(())
}

pub(crate) fn hold(mut args: Arguments) -> Outcome<()> {
    let readers: Vec<_> = list(&mut args)?
        .into_iter()
        .map(|path| {
            std::thread::spawn(move || File::open(path).and_then(|mut f| f.read(&mut [0; 1])))
        })
        .collect();
    println!("ready");
    for reader in readers {
        let _ = reader.join();
    }
    Ok(())
}

pub(crate) fn watch(mut args: Arguments) -> Outcome<()> {
    let seconds = args.value_from_str("--seconds")?;
    let path: PathBuf = args.free_from_str()?;
    if fs::symlink_metadata(&path).is_ok() {
        return Err(format!("{} is there already", path.display()).into());
    }
    println!("ready");
    let begun = Instant::now();
    while fs::symlink_metadata(&path).is_err() {
        if begun.elapsed() >= Duration::from_secs_f64(seconds) {
            return Err(format!("not seen within {seconds} s").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("seen");
    Ok(())
}
