// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Any text: refused, or a locator that gives its text back.

#![no_main]

use arvados_fuse::types::{Locator, Pdh, Uuid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(locator) = text.parse::<Locator>() {
        let written = locator.to_string();
        assert_eq!(written.parse(), Ok(locator.clone()));
        assert_eq!(locator.as_ref().hints.is_empty(), written == locator.stripped().to_string());
        assert!(locator.expires_at().is_none() || text.contains("+A"));
    }
    if let Ok(pdh) = text.parse::<Pdh>() {
        assert_eq!(pdh.to_string().parse(), Ok(pdh));
    }
    if let Ok(uuid) = text.parse::<Uuid>() {
        assert_eq!(uuid.to_string(), text);
    }
});
