//! Changes a number somewhere inside a message of protobuf, and makes the lengths around it right:
//! what changes bytes alone is stopped by the next length.

use proptest::sample::Index;
use prost::encoding::{decode_varint, encode_varint};

/// Messages in messages; what lies deeper stays as it is.
const DEPTH: usize = 12;

enum Value {
    Number(u64),
    /// Of four or eight bytes.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    /// What can be read as a message, whether or not it is one.
    Message(Vec<(u64, Value)>),
}

fn taken(data: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    let (taken, rest) = data.split_at_checked(count)?;
    *data = rest;
    Some(taken.to_vec())
}

/// Fields with their tags.
fn parsed(mut data: &[u8], depth: usize) -> Option<Vec<(u64, Value)>> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let tag = decode_varint(&mut data).ok().filter(|tag| *tag >= 8)?;
        let value = match tag & 7 {
            0 => Value::Number(decode_varint(&mut data).ok()?),
            1 => Value::Fixed(taken(&mut data, 8)?),
            5 => Value::Fixed(taken(&mut data, 4)?),
            2 => {
                let len = usize::try_from(decode_varint(&mut data).ok()?).ok()?;
                let bytes = taken(&mut data, len)?;
                let inner = (depth > 0 && len > 1).then(|| parsed(&bytes, depth - 1)).flatten();
                inner.map_or(Value::Bytes(bytes), Value::Message)
            }
            _ => return None,
        };
        fields.push((tag, value));
    }
    Some(fields)
}

fn write(fields: &[(u64, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    let with_len = |bytes: &[u8], out: &mut Vec<u8>| {
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    };
    for (tag, value) in fields {
        encode_varint(*tag, &mut out);
        match value {
            Value::Number(number) => encode_varint(*number, &mut out),
            Value::Fixed(bytes) => out.extend_from_slice(bytes),
            Value::Bytes(bytes) => with_len(bytes, &mut out),
            Value::Message(fields) => with_len(&write(fields), &mut out),
        }
    }
    out
}

fn numbers(fields: &mut [(u64, Value)]) -> Vec<&mut u64> {
    let mut found = Vec::new();
    for (_, value) in fields {
        match value {
            Value::Number(number) => found.push(number),
            Value::Message(fields) => found.extend(numbers(fields)),
            Value::Fixed(_) | Value::Bytes(_) => {}
        }
    }
    found
}

/// The bytes with another number at one place; `None` where they hold no message with a number,
/// at their beginning or behind one byte that says what it is.
pub fn with_number(bytes: &[u8], at: &Index, to: u64) -> Option<Vec<u8>> {
    (0..2).find_map(|skipped| {
        let (kind, rest) = bytes.split_at_checked(skipped)?;
        let mut fields = parsed(rest, DEPTH)?;
        let mut numbers = numbers(&mut fields);
        if numbers.is_empty() {
            return None;
        }
        *numbers.swap_remove(at.index(numbers.len())) = to;
        Some([kind, &write(&fields)].concat())
    })
}

#[test]
fn a_number_inside_is_changed_and_all_else_stays() {
    use prost::Message as _;
    use zoneq::proto::geo::v1 as geo;
    let queue = |messages| geo::QueueAhead { messages, ..Default::default() };
    let word = |messages| geo::GetStatusResponse {
        region: "east".to_owned(),
        ahead: Some(geo::Ahead { queues: vec![queue(messages)], ..Default::default() }),
        ..Default::default()
    };
    let (before, after) = (word(7).encode_to_vec(), word(u64::MAX).encode_to_vec());
    let changed = |bytes: &[u8]| with_number(bytes, &index(), u64::MAX);
    assert_eq!(changed(&before), Some(after.clone()));
    assert_eq!(changed(&[&[3], &before[..]].concat()), Some([&[3], &after[..]].concat()));
    assert_eq!(changed(b""), None);
}

/// Any place: there is one number only.
fn index() -> Index {
    use proptest::prelude::{Strategy as _, any};
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    any::<Index>().new_tree(&mut runner).expect("an index").current()
}
