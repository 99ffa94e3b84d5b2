// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Certificates: the named authority's are trusted, others only if told to trust any.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use arvados_fuse::keep::{Failure, KeepClient, StaticServices};

use super::support::{Scratch, Server, data, locator, quick, service, services, until};

/// `openssl s_server`, answering with files that hold whole responses.
struct TlsServer(Child);

impl TlsServer {
    fn start(dir: &Path, port: u16) -> Self {
        let openssl = |args: &str| {
            let mut command = Command::new("openssl");
            command.args(args.split(' ')).current_dir(dir);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let made = openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout key.pem -out cert.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost \
             -addext basicConstraints=critical,CA:FALSE",
        )
        .status();
        assert!(made.expect("openssl is installed").success());
        let serve = format!("s_server -quiet -HTTP -key key.pem -cert cert.pem -accept {port}");
        let child = openssl(&serve).spawn().expect("openssl is installed");
        until("it listens", || TcpStream::connect(("localhost", port)).is_ok());
        TlsServer(child)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("our child");
    }
}

#[test]
fn only_trusted_certificates_are_accepted_unless_told_otherwise() {
    let block = data(1, 100_000);
    let dir = Scratch::new("tls");
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", block.len()).into_bytes();
    response.extend_from_slice(&block);
    std::fs::write(dir.0.join(locator(&block).to_string()), response).expect("writable");
    // Free a moment ago, and asked for at once.
    let port = TcpListener::bind("localhost:0")
        .and_then(|free| free.local_addr())
        .expect("loopback")
        .port();
    let _server = TlsServer::start(&dir.0, port);
    let list =
        || Arc::new(StaticServices::new(vec![service(0, format!("https://localhost:{port}/"))]));

    let mut trusting = quick();
    trusting.ca_file = Some(dir.0.join("cert.pem"));
    let mut careless = quick();
    careless.insecure = true;
    for (config, trusted) in [(quick(), false), (trusting, true), (careless, true)] {
        let outcome = KeepClient::new(config, list()).get_blocking(&locator(&block));
        match outcome {
            Ok(got) => assert!(trusted && got.as_slice() == Some(&block[..])),
            Err(error) => {
                assert!(!trusted, "{error}");
                assert_eq!(error.failure(), Failure::Server);
                assert!(error.to_string().contains("certificate"), "{error}");
            }
        }
    }
}

#[test]
fn certificates_are_read_for_services_that_want_tls_only() {
    let block = data(2, 1000);
    let servers = [Server::start()];
    servers[0].add(&block);
    let dir = Scratch::new("no-certificates");
    let mut config = quick();
    config.ca_file = Some(dir.0.join("missing.pem"));
    let plain = KeepClient::new(config.clone(), services(&servers));
    assert_eq!(plain.get_blocking(&locator(&block)).expect("plain").as_slice(), Some(&block[..]));
    let list = StaticServices::new(vec![service(0, "https://127.0.0.1:9/".into())]);
    let error = KeepClient::new(config, Arc::new(list)).get_blocking(&locator(&block));
    let error = error.expect_err("no certificates");
    assert!(error.to_string().contains("missing.pem: No such file"), "{error}");
}
