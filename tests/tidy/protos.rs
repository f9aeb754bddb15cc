//! The protocols' naming rules (buf's STANDARD set), read from the descriptor set, and the list
//! of field numbers that may never mean anything else.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Each field ever released: `package.Message.field number label type`.
const FIELDS: &str = "tests/tidy/fields.txt";

fn our_files(set: &FileDescriptorSet) -> Vec<&FileDescriptorProto> {
    set.file.iter().filter(|file| file.package().starts_with("zoneq.")).collect()
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(zoneq::proto::DESCRIPTORS).expect("a descriptor set")
}

fn is_lower_snake(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// `MessageState` to `MESSAGE_STATE`.
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

fn file_findings(file: &FileDescriptorProto) -> Vec<String> {
    let mut findings = Vec::new();
    let path = format!("proto/{}", file.name());
    let package = file.package();
    let versioned = package.rsplit('.').next().is_some_and(|last| {
        last.strip_prefix('v').is_some_and(|digits| digits.parse::<u32>().is_ok_and(|n| n > 0))
    });
    if !versioned {
        findings.push(format!("{path}: package {package} has no version: end it with .v1"));
    }
    if !file.name().starts_with(&format!("{}/", package.replace('.', "/"))) {
        findings.push(format!("{path}: package {package} is in another folder than its name"));
    }
    let name = file.name().rsplit('/').next().unwrap_or_default().trim_end_matches(".proto");
    if !is_lower_snake(name) {
        findings.push(format!("{path}: write the file name in lower_snake_case"));
    }
    for message in &file.message_type {
        findings.extend(message_findings(&path, message));
    }
    for item in &file.enum_type {
        findings.extend(enum_findings(&path, item));
    }
    findings
}

fn message_findings(path: &str, message: &DescriptorProto) -> Vec<String> {
    let mut findings = Vec::new();
    let name = message.name();
    if !is_pascal(name) {
        findings.push(format!("{path}: message {name}: write it in PascalCase"));
    }
    let fields = message.field.iter().map(prost_types::FieldDescriptorProto::name);
    let oneofs = message.oneof_decl.iter().map(prost_types::OneofDescriptorProto::name);
    for field in fields.chain(oneofs.filter(|oneof| !oneof.starts_with('_'))) {
        if !is_lower_snake(field) {
            findings.push(format!("{path}: {name}.{field}: write it in lower_snake_case"));
        }
    }
    for nested in &message.nested_type {
        let map = nested.options.as_ref().is_some_and(|options| options.map_entry());
        if !map {
            findings.extend(message_findings(path, nested));
        }
    }
    for item in &message.enum_type {
        findings.extend(enum_findings(path, item));
    }
    findings
}

fn enum_findings(path: &str, item: &EnumDescriptorProto) -> Vec<String> {
    let mut findings = Vec::new();
    let name = item.name();
    if !is_pascal(name) {
        findings.push(format!("{path}: enum {name}: write it in PascalCase"));
    }
    let prefix = format!("{}_", upper_snake(name));
    for value in &item.value {
        let text = value.name();
        if !text.starts_with(&prefix) {
            findings.push(format!("{path}: {text}: begin the value with {prefix}"));
        }
        if value.number() == 0 && text != format!("{prefix}UNSPECIFIED") {
            findings.push(format!("{path}: {text}: the zero value is {prefix}UNSPECIFIED"));
        }
    }
    findings
}

/// Service names, and requests and responses that are named for one call and used by no other.
fn service_findings(set: &FileDescriptorSet) -> Vec<String> {
    let mut findings = Vec::new();
    let mut users: BTreeMap<String, String> = BTreeMap::new();
    for file in our_files(set) {
        let path = format!("proto/{}", file.name());
        for service in &file.service {
            if !service.name().ends_with("Service") || !is_pascal(service.name()) {
                findings.push(format!("{path}: service {}: end it with Service", service.name()));
            }
            for method in &service.method {
                let call = format!("{}.{}", service.name(), method.name());
                if !is_pascal(method.name()) {
                    findings.push(format!("{path}: {call}: write it in PascalCase"));
                }
                let sides = [(method.input_type(), "Request"), (method.output_type(), "Response")];
                for (used, side) in sides {
                    let expected = format!(".{}.{}{side}", file.package(), method.name());
                    if used != expected {
                        findings.push(format!("{path}: {call} uses {used}: name it {expected}"));
                    }
                    if let Some(other) = users.insert(used.to_string(), call.clone()) {
                        findings.push(format!(
                            "{path}: {call} shares {used} with {other}: give each call its own"
                        ));
                    }
                }
            }
        }
    }
    findings
}

/// `package.Message.field` to `number label type`, of every message.
fn fields(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in our_files(set) {
        for message in &file.message_type {
            collect_fields(&format!("{}.{}", file.package(), message.name()), message, &mut found);
        }
        for item in &file.enum_type {
            for value in &item.value {
                let name = format!("{}.{}", file.package(), value.name());
                found.insert(name, format!("{} enum value", value.number()));
            }
        }
    }
    found
}

fn collect_fields(name: &str, message: &DescriptorProto, found: &mut BTreeMap<String, String>) {
    for field in &message.field {
        let label = match field.label() {
            Label::Repeated => "repeated",
            _ if field.proto3_optional() => "optional",
            _ => "single",
        };
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_string(),
            other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        };
        found.insert(
            format!("{name}.{}", field.name()),
            format!("{} {label} {kind}", field.number()),
        );
    }
    for nested in &message.nested_type {
        collect_fields(&format!("{name}.{}", nested.name()), nested, found);
    }
}

/// Findings where the protocols differ from the list: changed, reused, or not listed yet.
fn field_findings(listed: &str, now: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (at, line) in listed.lines().enumerate() {
        let Some((name, meaning)) = line.split_once(' ') else { continue };
        if name.starts_with('#') {
            continue;
        }
        known.insert(name.to_string());
        if let Some(number) = slot(name, meaning) {
            owners.insert(number, name.to_string());
        }
        if let Some(found) = now.get(name).filter(|found| *found != meaning) {
            findings.push(format!(
                "{FIELDS}:{}: {name} was `{meaning}` and is `{found}`: give the new meaning a new \
                 name and number",
                at + 1
            ));
        }
    }
    for (name, meaning) in now.iter().filter(|(name, _)| !known.contains(*name)) {
        let owner = slot(name, meaning).and_then(|slot| owners.get(&slot));
        findings.push(match owner {
            Some(owner) => format!(
                "{name} takes the number of {owner}: numbers are never reused, take the next one"
            ),
            None => format!(
                "{name} is not in {FIELDS}: run `ZONEQ_RECORD_FIELDS=1 cargo test --test tidy \
                 field_numbers` and commit the lines it adds"
            ),
        });
    }
    findings
}

/// A field's message and number: what must have one owner for ever. Enum values share a package,
/// so they are told apart by name alone.
fn slot(name: &str, meaning: &str) -> Option<(String, String)> {
    if meaning.ends_with("enum value") {
        return None;
    }
    let (message, _) = name.rsplit_once('.')?;
    let (number, _) = meaning.split_once(' ')?;
    Some((message.to_string(), number.to_string()))
}

#[test]
fn names_follow_the_standard() {
    let set = descriptors();
    let mut findings: Vec<String> = our_files(&set).into_iter().flat_map(file_findings).collect();
    findings.extend(service_findings(&set));
    crate::report("naming rules of the protocols", &findings);
}

#[test]
fn field_numbers_keep_their_meaning() {
    let path = crate::root().join(FIELDS);
    let mut listed = std::fs::read_to_string(&path).unwrap_or_default();
    let now = fields(&descriptors());
    if std::env::var_os("ZONEQ_RECORD_FIELDS").is_some() {
        for (name, meaning) in &now {
            if !listed.lines().any(|line| line.starts_with(&format!("{name} "))) {
                listed.push_str(&format!("{name} {meaning}\n"));
            }
        }
        std::fs::write(&path, &listed).expect(FIELDS);
    }
    crate::report("field numbers of the protocols", &field_findings(&listed, &now));
}

#[test]
fn each_naming_rule_can_fail() {
    use prost_types::{
        EnumValueDescriptorProto, FieldDescriptorProto, MethodDescriptorProto,
        ServiceDescriptorProto,
    };
    let value = EnumValueDescriptorProto {
        name: Some("OTHER".into()),
        number: Some(0),
        ..Default::default()
    };
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.into()),
        input_type: Some(".zoneq.bad.Thing".into()),
        output_type: Some(format!(".zoneq.bad.{name}Response")),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("zoneq/worse/BadName.proto".into()),
        package: Some("zoneq.bad".into()),
        message_type: vec![DescriptorProto {
            name: Some("bad_message".into()),
            field: vec![FieldDescriptorProto {
                name: Some("badField".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        enum_type: vec![EnumDescriptorProto {
            name: Some("State".into()),
            value: vec![value],
            ..Default::default()
        }],
        service: vec![ServiceDescriptorProto {
            name: Some("Things".into()),
            method: vec![method("Get"), method("Set")],
            ..Default::default()
        }],
        ..Default::default()
    };
    let findings = file_findings(&file);
    assert_eq!(
        findings.len(),
        7,
        "version, folder, file, message, field, prefix, zero: {findings:#?}"
    );
    let findings = service_findings(&FileDescriptorSet { file: vec![file] });
    assert_eq!(findings.len(), 4, "service, two requests, one shared: {findings:#?}");
}

#[test]
fn a_changed_and_a_reused_number_are_found() {
    let listed = "zoneq.a.v1.M.x 1 single string\nzoneq.a.v1.M.y 2 single string\n";
    let now = BTreeMap::from([
        ("zoneq.a.v1.M.x".to_string(), "1 single uint64".to_string()),
        ("zoneq.a.v1.M.z".to_string(), "2 single string".to_string()),
        ("zoneq.a.v1.M.new".to_string(), "3 single string".to_string()),
    ]);
    let findings = field_findings(listed, &now);
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(findings[2].contains("takes the number of zoneq.a.v1.M.y"), "{findings:#?}");
}
