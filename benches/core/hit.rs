// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Keep client: a block that is at hand, which most reads ask for.

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use arvados_fuse::keep::{Config, KeepClient, StaticServices};
use arvados_fuse::types::{Locator, Md5};
use criterion::{BenchmarkId, Criterion};

const SIZE: usize = 4096;

fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(SIZE / 8)
}

/// Answers requests for blocks, of which there are not many.
fn serve(mut stream: TcpStream, blocks: &[(String, Vec<u8>)]) -> io::Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        let Some(path) = line.strip_prefix("GET /") else { continue };
        let found = blocks.binary_search_by(|(md5, _)| md5.as_str().cmp(&path[..32]));
        let (_, data) = &blocks[found.map_err(|_| io::ErrorKind::NotFound)?];
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")?;
        stream.write_all(data)?;
    }
    Ok(())
}

fn service(count: u64) -> io::Result<(String, Vec<Locator>)> {
    let mut blocks: Vec<_> =
        (0..count).map(block).map(|data| (Md5::of(&data).to_string(), data)).collect();
    blocks.sort();
    let locators = blocks.iter().flat_map(|(md5, _)| format!("{md5}+{SIZE}").parse()).collect();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let root = format!("http://{}/", listener.local_addr()?);
    let blocks = Arc::new(blocks);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let blocks = Arc::clone(&blocks);
            std::thread::spawn(move || serve(stream, &blocks));
        }
    });
    Ok((root, locators))
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache_hit");
    for count in [1, 100] {
        let (root, locators) = service(count).expect("loopback");
        let services = StaticServices::from_setting(&root).expect("a URL");
        let client = KeepClient::new(Config::default(), Arc::new(services));
        for locator in &locators {
            client.get_blocking(locator).expect("served");
        }
        let mut next = locators.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let locator = next.next().expect("there is one");
                assert!(client.try_get(black_box(locator)).is_some());
            });
        });
    }
    group.finish();
}
