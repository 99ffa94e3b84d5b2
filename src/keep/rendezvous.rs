// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which services may hold a block, and in which order to ask them.
//!
//! Every Arvados client weighs a service for a block by md5(block hash + the last 15 characters
//! of the service's UUID) and asks the heaviest first, so that all of them meet at the same
//! replicas. Services named by the locator's `+K@` hints come before these.

use std::cmp::Reverse;

use super::service::Service;
use crate::types::{Hint, Locator, Md5};

/// Root URLs to ask for a block, best first, each once.
pub(super) fn probe_order(locator: &Locator, services: &[Service]) -> Vec<String> {
    let mut roots: Vec<String> = Vec::new();
    let mut add = |root: String| {
        if !roots.contains(&root) {
            roots.push(root);
        }
    };
    for hint in locator.hints() {
        let Hint::Service(hint) = hint else { continue };
        match hint.len() {
            // Another cluster, by its five-letter prefix.
            5 if hint.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                add(format!("https://keep.{hint}.arvadosapi.com/"));
            }
            27 => {
                if let Some(service) = services.iter().find(|service| service.uuid == hint) {
                    add(service.root.clone());
                }
            }
            _ => {}
        }
    }
    let hash = locator.md5().to_string();
    let mut weighed: Vec<_> = services
        .iter()
        .filter(|service| !service.is_gateway())
        .map(|service| (weight(&hash, &service.uuid), service))
        .collect();
    weighed.sort_by_key(|(weight, _)| Reverse(*weight));
    weighed.into_iter().for_each(|(_, service)| add(service.root.clone()));
    roots
}

fn weight(hash: &str, uuid: &str) -> [u8; 16] {
    let tail = uuid.char_indices().rev().nth(14).map_or(uuid, |(at, _)| &uuid[at..]);
    Md5::of(format!("{hash}{tail}").as_bytes()).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep::service::ServiceType;

    fn disk(number: usize) -> Service {
        Service {
            uuid: format!("zzzzz-bi6l4-{number:015x}"),
            root: format!("http://keep{number:x}/"),
            kind: ServiceType::Disk,
            read_only: false,
        }
    }

    #[test]
    fn services_are_asked_in_the_order_all_clients_agree_on() {
        // The reference sets of the Arvados clients' own tests: sixteen services, numbered 0..16.
        let services: Vec<_> = (0..16).map(disk).collect();
        for (number, order) in [(0u32, "3eab2d5fc9681074"), (1, "097dba52e648f1c3")] {
            let content = format!("{number:064x}");
            let md5 = Md5::of(content.as_bytes());
            let asked: String =
                probe_order(&format!("{md5}+64").parse().expect("a locator"), &services)
                    .iter()
                    .map(|root| root.trim_start_matches("http://keep").trim_end_matches('/'))
                    .collect();
            assert_eq!(asked, order);
        }
    }

    #[test]
    fn hints_come_first_and_gateways_only_by_hint() {
        let mut gateway = disk(0xf);
        gateway.kind = ServiceType::Gateway;
        let services = [disk(1), gateway.clone()];
        let plain: Locator = format!("{}+1", Md5([1; 16])).parse().expect("a locator");
        assert_eq!(probe_order(&plain, &services), ["http://keep1/"]);
        let hinted =
            format!("{plain}+K@abcde+K@{}+K@x.y/z+K@zzzzz-bi6l4-gone00000000000", gateway.uuid);
        assert_eq!(
            probe_order(&hinted.parse().expect("a locator"), &services),
            ["https://keep.abcde.arvadosapi.com/", "http://keepf/", "http://keep1/"]
        );
    }
}
