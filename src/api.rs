// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Asking the Arvados API: requests with a time limit that all attempts share, told in the log while they wait.
//!
//! Start at [`Api`]. What is asked, and what the answers mean, is known above; here an answer has a status and a
//! body, which is an object in JSON where the status is 200, or there is a line that names the server and says
//! why there is none.

mod connection;
mod http;
mod trouble;
mod wait;

pub use http::{Answer, Api, Config, Failure, Request};
