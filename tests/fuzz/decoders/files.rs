//! What people write and copy: ids and tokens, and the files of the command line.

use std::path::Path;

use zoneq::cli::lab::files::Lab;
use zoneq::cli::region::parse_trace;
use zoneq::cli::tail::{exported, read_exported};
use zoneq::proto::admin::v1 as admin;
use zoneq::proto::epoch::KnownEpoch;
use zoneq::queue::PeekToken;
use zoneq::queue::ids::{MessageId, Receipt};
use zoneq::server::ConfigKeys;
use zoneq::server::config::{ElectionMs, Peers};

fn words(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A message id, a receipt, or the token of a page: what is read is written as it was.
pub fn text(data: &[u8]) -> bool {
    let Some(text) = words(data) else { return false };
    let id = MessageId::parse(text).map(|it| it.to_string());
    let receipt = Receipt::parse(text).map(|it| it.to_string());
    let token = PeekToken::parse(text).map(|it| it.to_string());
    let epoch = KnownEpoch::read(data).map(|it| it.to_string());
    let read: Vec<String> = [id, receipt, token, epoch].into_iter().flatten().collect();
    assert!(read.iter().all(|read| read == text));
    assert!(read.len() <= 1, "no text is two things");
    !read.is_empty()
}

/// The file of a node's configuration: the keys, and what they come to.
pub fn config_file(data: &[u8]) -> bool {
    let Some(text) = words(data) else { return false };
    let Ok(keys) = ConfigKeys::from_toml(text) else { return false };
    if let Some(peers) = &keys.peers {
        let again: Peers = peers.to_string().parse().expect("what was written is read");
        assert_eq!(&again, peers);
    }
    if let Some(silence) = keys.election_ms {
        let again: ElectionMs = silence.to_string().parse().expect("what was written is read");
        assert_eq!(again, silence);
    }
    assert_eq!(keys.clone().over(ConfigKeys::default()), keys);
    let Ok(config) = keys.into_config() else { return false };
    config.validate().expect("it was checked");
    true
}

/// The first byte says which file it is of: a trace, `lab.json`, a line of an exported tail.
pub fn files(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else { return false };
    let Some(text) = words(rest) else { return false };
    match kind {
        b't' => parse_trace(text).is_ok_and(|trace| {
            assert!(!trace.steps.is_empty() && trace.steps.iter().all(|step| step.at.is_some()));
            true
        }),
        b'l' => {
            let Ok(lab) = Lab::read(Path::new("lab"), text) else { return false };
            let written = lab.text().expect("what was read is written");
            let again = Lab::read(Path::new("lab"), &written).expect("what was written is read");
            assert_eq!(again.file, lab.file);
            true
        }
        b'e' => {
            let Ok(Some(read)) = read_exported(text) else { return false };
            let message = admin::TailMessage {
                queue: read.queue.clone(),
                id: read.id.clone(),
                body: read.body.clone().into(),
                inserted_at: read.inserted_at,
                expires_at: read.expires_at,
                ..Default::default()
            };
            let again = read_exported(&exported(&message).to_string());
            assert_eq!(again.expect("what was written is read"), Some(read));
            true
        }
        _ => false,
    }
}
