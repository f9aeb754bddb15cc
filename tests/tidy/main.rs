//! The rules of the house, as tests. Each failure says where (`file:line`), what is wrong and
//! what to do about it.
//!
//! The tests read the source as text. That is coarse, and enough: [`source`] blanks comments and
//! literals and takes out test code, so that a rule sees only what ships. What may break a rule
//! stands in `exemptions.txt` with its reason; an exemption that is no longer needed fails too,
//! so the list can only shrink.

mod bans;
mod docs;
mod exemptions;
mod guides;
mod keys;
mod metrics;
mod protos;
mod rooms;
mod seeds;
mod sizes;
mod source;

use std::path::PathBuf;

/// The folder that holds Cargo.toml.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with all findings at once, one a line.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n  {}\n", findings.join("\n  "));
}
