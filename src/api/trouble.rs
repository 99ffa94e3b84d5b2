// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Why an attempt had no answer, in words for a log.

use std::error::Error;
use std::fmt;
use std::io;

use nix::errno::Errno;

/// Why an attempt had no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Trying again is no use: the whole message.
    Final(String),
    /// The connection was closed instead of an answer: it may have been closed before.
    Closed,
    /// What came is no proper answer.
    Improper(String),
    /// The server cannot be reached; never, unless it was before, where it is `lasting`.
    Unreachable { reason: String, lasting: bool },
}

impl Trouble {
    pub(super) fn unreachable(reason: impl Into<String>) -> Self {
        Trouble::Unreachable { reason: reason.into(), lasting: false }
    }

    /// What the log says of it, after the name of the server.
    pub(super) fn reason(&self) -> String {
        match self {
            Trouble::Final(message) => message.clone(),
            Trouble::Closed => "cannot be reached: the connection was closed".into(),
            Trouble::Improper(why) => format!("gave no proper answer: {why}"),
            Trouble::Unreachable { reason, .. } => format!("cannot be reached: {reason}"),
        }
    }
}

/// There is no host of that name.
#[derive(Debug)]
pub(super) struct NoSuchHost;

impl fmt::Display for NoSuchHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no host of that name")
    }
}

impl Error for NoSuchHost {}

type Cause<'e> = &'e (dyn Error + 'static);

/// Everything that an error came from, what system calls' errors wrap included.
fn causes(error: &reqwest::Error) -> Vec<Cause<'_>> {
    let mut found = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        found.push(cause);
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    found
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        let causes = causes(&error);
        let lasting = |reason: String| Trouble::Unreachable { reason, lasting: true };
        if causes.iter().any(|cause| cause.is::<NoSuchHost>()) {
            return lasting(NoSuchHost.to_string());
        }
        let tls = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return lasting(format!("its certificate is not accepted: {}", refusal(why)));
            }
            Some(error) => return lasting(error.to_string()),
            None => {}
        }
        if error.is_timeout() {
            return Trouble::unreachable("timed out");
        }
        let system = |cause: &Cause<'_>| cause.downcast_ref::<io::Error>()?.raw_os_error();
        if let Some(number) = causes.iter().find_map(system) {
            return Trouble::unreachable(Errno::from_raw(number).desc());
        }
        if error.is_body() || error.is_decode() {
            return Trouble::Improper("the answer was cut short".into());
        }
        let last = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() {
            return Trouble::unreachable(last);
        }
        let ended = |cause: &Cause<'_>| {
            let error = cause.downcast_ref::<io::Error>();
            error.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
                || cause.to_string().contains("connection closed")
        };
        if causes.iter().any(ended) {
            return Trouble::Closed;
        }
        Trouble::Improper(last)
    }
}

fn refusal(error: &rustls::CertificateError) -> String {
    match error {
        rustls::CertificateError::Other(why) => why.0.to_string(),
        other => other.to_string(),
    }
}
