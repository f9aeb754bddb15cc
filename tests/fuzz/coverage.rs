//! That nothing that comes over the wire is left out: every message of an rpc that has fields is
//! named by a decoder, and every name has an example.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use zoneq::api::grpc::{questions, requests, wishes};

use crate::decoders::{ANSWERS, Kind, OPERATORS, PEERS, REGIONS};
use crate::samples;

/// Messages that no decoder names, each with the reason. There is none.
const LEFT_OUT: &[(&str, &str)] = &[];

/// `.zoneq.queue.v1.SendRequest` as decoders name it: `queue.SendRequest`.
fn short(name: &str) -> Option<String> {
    let mut parts = name.trim_start_matches('.').split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("zoneq"), Some(package), Some("v1"), Some(message), None) => {
            Some(format!("{package}.{message}"))
        }
        _ => None,
    }
}

/// The questions and answers of all rpcs, those without fields left out.
fn messages_of_rpcs() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(zoneq::proto::DESCRIPTORS).expect("a descriptor set");
    let mut fields: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files.file {
        for message in &file.message_type {
            let name = short(&format!("{}.{}", file.package(), message.name()));
            fields.extend(name.map(|name| (name, message.field.len())));
        }
    }
    let services = files.file.iter().flat_map(|file| &file.service);
    let rpcs = services.flat_map(|service| &service.method);
    let asked = rpcs.flat_map(|rpc| [short(rpc.input_type()), short(rpc.output_type())]);
    asked.flatten().filter(|name| fields.get(name).is_some_and(|count| *count > 0)).collect()
}

/// The lists of messages, each with the target that reads them.
fn lists() -> Vec<(&'static str, Vec<&'static str>)> {
    let kinds = |list: &[Kind]| list.iter().map(|kind| kind.message).collect();
    vec![
        ("peer-message", kinds(PEERS)),
        ("geo-message", kinds(REGIONS)),
        ("operator-message", kinds(OPERATORS)),
        ("answer", kinds(ANSWERS)),
        ("client-request", requests::MESSAGES.to_vec()),
        ("client-question", questions::MESSAGES.to_vec()),
        ("operator-request", wishes::MESSAGES.to_vec()),
    ]
}

#[test]
fn every_message_of_an_rpc_is_read_by_a_decoder() {
    let wanted = messages_of_rpcs();
    assert!(wanted.len() > 100, "the descriptors were not understood: {wanted:?}");
    let named: BTreeSet<&str> = lists().into_iter().flat_map(|(_, names)| names).collect();
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&String> = wanted
        .iter()
        .filter(|name| !named.contains(name.as_str()) && !left_out.contains(name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "no decoder names these messages of rpcs: {missing:?}; put each into its list in \
         tests/fuzz/decoders, with what is made of it, and an example into messages.rs"
    );
    let unknown: Vec<&&str> = named.iter().filter(|name| !wanted.contains(**name)).collect();
    assert!(unknown.is_empty(), "these are messages of no rpc: {unknown:?}");
    let needless: Vec<&&str> = left_out.intersection(&named).collect();
    assert!(needless.is_empty(), "these are left out and named: {needless:?}");
}

#[test]
fn every_named_message_has_an_example() {
    for (target, names) in lists() {
        let shown: BTreeSet<usize> = samples::of(target)
            .iter()
            .filter_map(|bytes| bytes.first().map(|number| usize::from(*number)))
            .collect();
        let missing: Vec<&&str> = (0..)
            .zip(&names)
            .filter(|(number, _)| !shown.contains(number))
            .map(|(_, name)| name)
            .collect();
        assert!(missing.is_empty(), "{target} has no example of {missing:?}");
    }
}
