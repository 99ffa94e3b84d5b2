// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Ten thousand random reads while services and the disk misbehave, compared with the truth.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use arvados_fuse::keep::KeepClient;
use arvados_fuse::types::Md5;
use parking_lot::Mutex;

use super::support::{Fault, Scratch, Server, cached, data, locator, services, until};
use crate::seed::seed;

const READS: usize = 10_000;
const READERS: usize = 4;
const BLOCKS: u64 = 200;
const LEN: usize = 300_000;

const FAULTS: [Fault; 14] = [
    Fault::Status(404),
    Fault::Status(429),
    Fault::Status(503),
    Fault::WrongBytes,
    Fault::Shorter,
    Fault::Longer,
    Fault::EndlessBody,
    Fault::EndsEarly,
    Fault::CloseMid,
    Fault::ResetMid,
    Fault::Reset,
    Fault::StallMid,
    Fault::Garbage,
    Fault::NoLength,
];

/// The fault that a service has for the `turn`th request of a block: the same for a seed, in whichever
/// order threads and services come to their requests.
fn fault(seed: u64, service: usize, path: &str, turn: u32) -> Fault {
    let digest = Md5::of(format!("{seed} {service} {path} {turn}").as_bytes()).to_string();
    let digest = u64::from_str_radix(&digest[..16], 16).expect("hexadecimal");
    let mut random = fastrand::Rng::with_seed(digest);
    match random.usize(..100) {
        // One answer in four is bad; a stall takes the whole read time-out, so fewer of them.
        0..24 => match FAULTS[random.usize(..FAULTS.len())] {
            Fault::StallMid if random.usize(..10) > 0 => Fault::WrongBytes,
            fault => fault,
        },
        _ => Fault::None,
    }
}

#[test]
fn faults_come_again_with_their_seed() {
    let faults =
        |seed| -> Vec<_> { (0..1000).map(|turn| fault(seed, 1, "/a-block", turn)).collect() };
    assert_eq!(faults(1), faults(1));
    assert_ne!(faults(1), faults(2));
    let bad = faults(1).iter().filter(|fault| **fault != Fault::None).count();
    assert!((150..350).contains(&bad), "{bad} of 1000");
}

#[test]
fn ten_thousand_reads_under_faults_have_no_wrong_byte() {
    let seed = seed();
    let truth: Vec<_> = (0..BLOCKS).map(|number| data(number, LEN)).collect();
    let servers = [Server::start(), Server::start(), Server::start()];
    for (number, server) in servers.iter().enumerate() {
        truth.iter().for_each(|block| server.add(block));
        let turns = Mutex::new(HashMap::new());
        server.behave(move |seen, _| {
            let mut turns = turns.lock();
            let turn = turns.entry(seen.path.clone()).or_insert(0);
            *turn += 1;
            fault(seed, number, &seen.path, *turn)
        });
    }
    let dir = Scratch::new("random");
    let mut config = cached(&dir);
    config.num_retries = 6;
    config.timeouts.read = Duration::from_millis(200);
    // Less than the blocks take, in memory and on disk.
    config.cache.memory_bytes = 10 * LEN as u64;
    config.cache.max_blocks = 120;
    let client = KeepClient::new(config, services(&servers));
    let (done, failed, spoiled) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let spoiler = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(!seed);
            while !done.load(Relaxed) {
                let path = dir.file(&truth[random.usize(..truth.len())]);
                let open = std::fs::OpenOptions::new().read(true).write(true).open(&path);
                if let Ok(file) = open {
                    let at = random.u64(..LEN as u64);
                    let harm = match random.u8(..4) {
                        0 => file.set_len(at),
                        1 => file.set_len(0),
                        2 => std::fs::remove_file(&path),
                        _ => file.write_all_at(&[random.u8(..)], at),
                    };
                    // It may have gone meanwhile.
                    spoiled.fetch_add(usize::from(harm.is_ok()), Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let readers: Vec<_> = (0..READERS as u64)
            .map(|number| {
                let (client, truth, failed) = (&client, &truth, &failed);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed ^ number);
                    let mut scratch = Vec::new();
                    for _ in 0..READS / READERS {
                        let block = &truth[random.usize(..truth.len())];
                        let offset = random.usize(..LEN);
                        let len = random.usize(1..150_000);
                        let right = &block[offset..(offset + len).min(LEN)];
                        let at = locator(block);
                        // Stale again and again is possible here; a mount would answer EIO too.
                        let read = (0..5).find_map(|_| {
                            let got = match client.try_get(&at) {
                                Some(got) => got,
                                None => match client.get_blocking(&at) {
                                    Ok(got) => got,
                                    Err(_) => return Some(false),
                                },
                            };
                            let bytes = got.read_at(offset, len, &mut scratch).ok()?;
                            assert!(bytes == right, "wrong bytes of {at} at {offset}");
                            Some(true)
                        });
                        failed.fetch_add(usize::from(read != Some(true)), Relaxed);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(ScopedJoinHandle::join).collect();
        done.store(true, Relaxed);
        spoiler.join().expect("it only spoils");
        ended.into_iter().for_each(|ended| ended.expect("no wrong byte"));
    });
    client.shutdown();
    until("no file is left half written", || dir.unfinished() == 0);
    let requests: usize = servers.iter().map(Server::requests).sum();
    let (failed, spoiled) = (failed.into_inner(), spoiled.into_inner());
    println!("{failed} of {READS} failed, {requests} requests, {spoiled} files spoiled");
    assert!(requests > 500 && spoiled > 100, "there were faults to survive");
    assert!(failed < READS / 100, "retries and other replicas save nearly all: {failed} failed");
}
