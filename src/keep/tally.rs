// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How many copies of a block are stored, and in which storage classes.

use std::collections::BTreeMap;

use super::put::PutOptions;
use crate::types::Locator;

/// What a service has done with a block.
pub(super) struct Receipt {
    /// The block's, with the signature that it can be read by.
    pub locator: Locator,
    /// Copies that it made.
    pub copies: u32,
    /// Copies by storage class; `None` if it does not tell.
    pub classes: Option<Vec<(String, u32)>>,
}

/// What is stored and what is missing of one block.
pub(super) struct Tally {
    wanted: u32,
    stored: u32,
    /// Copies that were confirmed of each class that was asked for. `None`: a service does not tell,
    /// and then copies are all that counts, as in the SDK.
    classes: Option<BTreeMap<String, u32>>,
    /// Of the last who stored it.
    locator: Option<Locator>,
}

impl Tally {
    pub(super) fn new(options: &PutOptions) -> Self {
        let classes = options.classes.iter().map(|class| (class.clone(), 0)).collect();
        Tally { wanted: options.replicas, stored: 0, classes: Some(classes), locator: None }
    }

    /// Copies that are missing, whatever their class.
    pub(super) fn missing_copies(&self) -> u32 {
        self.wanted.saturating_sub(self.stored)
    }

    /// The classes that have too few copies, in alphabetical order.
    pub(super) fn missing_classes(&self) -> Vec<&str> {
        let all = self.classes.iter().flatten();
        all.filter(|(_, copies)| **copies < self.wanted).map(|(class, _)| class.as_str()).collect()
    }

    /// Requests that could be of use, each as if it would store one copy. As in the SDK, each class
    /// that is missing is worth one, too.
    pub(super) fn missing(&self) -> usize {
        (self.missing_copies() as usize).max(self.missing_classes().len())
    }

    /// The locator, once there are enough copies.
    pub(super) fn done(&self) -> Option<Locator> {
        self.locator.clone().filter(|_| self.missing() == 0)
    }

    /// Counts what a service has done. False if it does not tell of the classes that were asked for.
    pub(super) fn count(&mut self, receipt: Receipt) -> bool {
        self.stored = self.stored.saturating_add(receipt.copies);
        self.locator = Some(receipt.locator);
        let Some(wanted) = &mut self.classes else { return true };
        match receipt.classes {
            Some(confirmed) => {
                for (class, copies) in confirmed {
                    if let Some(sum) = wanted.get_mut(&class) {
                        *sum = sum.saturating_add(copies);
                    }
                }
                true
            }
            None if wanted.is_empty() => true,
            None => {
                self.classes = None;
                false
            }
        }
    }
}

/// For a log: what there is of what was wanted.
impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} copies stored", self.stored, self.wanted)?;
        let missing = self.missing_classes();
        if missing.is_empty() {
            return Ok(());
        }
        write!(f, ", too few of storage class {}", missing.join(", "))
    }
}

/// Reads `X-Keep-Storage-Classes-Confirmed`: `class=copies`, separated by commas. `None` where a
/// number is none: it then counts as missing, as in the SDK.
pub(super) fn confirmed(header: &str) -> Option<Vec<(String, u32)>> {
    let pairs = header.split(',').filter_map(|pair| pair.trim().split_once('='));
    let pairs = pairs.filter(|(_, copies)| !copies.is_empty());
    pairs.map(|(class, copies)| Some((class.to_string(), copies.trim().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_are_read_as_the_sdk_reads_them() {
        let read = |header| {
            confirmed(header).map(|all| {
                all.iter().map(|(class, copies)| format!("{class}:{copies}")).collect::<Vec<_>>()
            })
        };
        assert_eq!(
            read("default=1, archive=2"),
            Some(vec!["default:1".into(), "archive:2".into()])
        );
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read("default, archive="), Some(vec![]));
        assert_eq!(read("default=1, archive=many"), None);
    }

    #[test]
    fn every_class_needs_all_copies() {
        let classes = vec!["default".to_string(), "archive".to_string()];
        let mut tally = Tally::new(&PutOptions { replicas: 2, classes });
        let locator: Locator = format!("{}+0", crate::types::Md5::EMPTY).parse().expect("one");
        let mut count = |copies, classes: Option<&str>| {
            let classes = classes.map(|text| confirmed(text).expect("good"));
            assert!(tally.count(Receipt { locator: locator.clone(), copies, classes }));
            (tally.missing_copies(), tally.missing_classes().join(" "), tally.done().is_some())
        };
        assert_eq!(count(1, Some("default=1")), (1, "archive default".into(), false));
        assert_eq!(count(1, Some("default=1,archive=1")), (0, "archive".into(), false));
        assert_eq!(count(1, Some("other=9")), (0, "archive".into(), false));
        assert_eq!(count(1, Some("archive=1")), (0, String::new(), true));

        let silent = Receipt { locator, copies: 1, classes: None };
        assert!(Tally::new(&PutOptions::default()).count(silent), "none was asked for");
    }
}
