//! The written list of what may break a rule.

use std::cell::Cell;

/// One line of `exemptions.txt`.
struct Exemption {
    line: usize,
    /// Kind, file and, but for `lines`, a name.
    key: Vec<String>,
    limit: usize,
    used: Cell<usize>,
}

/// The exemptions of one kind, each used or complained about.
pub struct Exemptions(Vec<Exemption>);

const FILE: &str = "tests/tidy/exemptions.txt";

impl Exemptions {
    /// Those of one kind in the committed list.
    pub fn of(kind: &str) -> Exemptions {
        let text = std::fs::read_to_string(crate::root().join(FILE)).expect(FILE);
        Exemptions::parse(kind, &text)
    }

    fn parse(kind: &str, text: &str) -> Exemptions {
        let mut found = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() || words[0].starts_with('#') {
                continue;
            }
            let names = match words[0] {
                "lines" => 2,
                "function" | "call" | "import" => 3,
                other => panic!("{FILE}:{}: {other:?} is not a kind of exemption", at + 1),
            };
            assert!(words.len() > names + 1, "{FILE}:{}: a limit and a reason are needed", at + 1);
            let limit = words[names].parse().unwrap_or_else(|_| {
                panic!("{FILE}:{}: {:?} is not a number", at + 1, words[names])
            });
            if words[0] == kind {
                let key = words[..names].iter().map(|word| (*word).to_string()).collect();
                found.push(Exemption { line: at + 1, key, limit, used: Cell::new(0) });
            }
        }
        Exemptions(found)
    }

    /// How much a file (and a name in it) may have; 0 when it is not exempt. `found` is what it
    /// has, which shows whether the exemption is still needed.
    pub fn limit(&self, key: &[&str], found: usize) -> usize {
        let Some(exemption) = self.0.iter().find(|exemption| exemption.key == key) else {
            return 0;
        };
        exemption.used.set(found);
        exemption.limit
    }

    /// Findings for exemptions that nothing needs: `normal` is what needs none.
    pub fn unneeded(&self, normal: usize) -> Vec<String> {
        let needless = |exemption: &&Exemption| {
            exemption.used.get() <= normal || exemption.used.get() < exemption.limit
        };
        let finding = |exemption: &Exemption| {
            let (used, limit) = (exemption.used.get(), exemption.limit);
            let place = exemption.key.join(" ");
            let line = exemption.line;
            if used <= normal {
                format!("{FILE}:{line}: {place} needs no exemption any more: remove the line")
            } else {
                format!("{FILE}:{line}: {place} has shrunk from {limit}: write {used}")
            }
        };
        self.0.iter().filter(needless).map(finding).collect()
    }
}

#[test]
fn an_exemption_that_is_not_needed_is_a_finding() {
    let list = "# a comment\nlines src/a.rs 700 it is a table\nlines src/b.rs 650 it is long\n";
    let exemptions = Exemptions::parse("lines", list);
    assert_eq!(exemptions.limit(&["lines", "src/a.rs"], 700), 700);
    assert_eq!(exemptions.limit(&["lines", "src/b.rs"], 610), 650);
    assert_eq!(exemptions.limit(&["lines", "src/c.rs"], 610), 0);
    let findings = exemptions.unneeded(600);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("exemptions.txt:3"), "{findings:?}");
}

#[test]
#[should_panic(expected = "a reason")]
fn an_exemption_without_a_reason_is_refused() {
    let _ = Exemptions::parse("lines", "lines src/a.rs 700\n");
}
