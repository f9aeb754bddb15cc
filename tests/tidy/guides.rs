//! A command that a page tells people to type is one that the program takes.
//!
//! Commands in fenced blocks are parsed as they stand; those that a sentence names, as far as
//! they go. What they do is shown by the README's tour and the integration tests.

use clap::Parser as _;
use clap::error::ErrorKind;
use zoneq::cli::Cli;

use crate::source;

/// A command of a page.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    line: usize,
    text: String,
    is_whole: bool,
}

/// The commands of the program in a page.
fn commands(page: &str) -> Vec<Typed> {
    let mut found = Vec::new();
    // The line of a block that goes on in the next.
    let mut open: Option<(usize, String)> = None;
    let mut block: Option<bool> = None;
    for (at, line) in page.lines().enumerate() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            block = match block {
                Some(_) => None,
                None => Some(matches!(kind.trim(), "sh" | "console")),
            };
            continue;
        }
        match block {
            Some(true) => {
                let (line_of, mut text) = open.take().unwrap_or((at + 1, String::new()));
                text.push_str(line.trim_start().trim_start_matches("$ "));
                if let Some(more) = text.strip_suffix('\\') {
                    open = Some((line_of, more.to_owned()));
                } else if text.starts_with("zoneq ") {
                    found.push(Typed { line: line_of, text, is_whole: true });
                }
            }
            Some(false) => {}
            None => found.extend(named(line).map(|text| Typed {
                line: at + 1,
                text: text.to_owned(),
                is_whole: false,
            })),
        }
    }
    found
}

/// The commands that a line names between backticks.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("zoneq "))
}

/// The words of a command, up to where the shell has its own to say; `None` where a word is one
/// that the reader fills in.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in text.chars() {
        let last = words.last_mut().expect("one at least");
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some('"'), '$') => return None,
            (Some(_), _) => last.push(letter),
            (None, '\'' | '"') => quote = Some(letter),
            (None, '|' | ';' | '&' | '>' | '#' | ')') => break,
            (None, '$' | '…' | '<') => return None,
            (None, ' ') if last.is_empty() => {}
            (None, ' ') => words.push(String::new()),
            (None, _) => last.push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    Some(words)
}

/// Why the program would not take it.
fn refused(typed: &Typed) -> Option<String> {
    let words = words(&typed.text)?;
    let Err(error) = Cli::try_parse_from(&words) else { return None };
    let is_fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !typed.is_whole,
        _ => false,
    };
    // What a sentence shortens to a capital word stands for any value.
    let stands = |word: &String| word.chars().all(|it| it.is_ascii_uppercase() || it == '_');
    let is_fine = is_fine || (!typed.is_whole && words.iter().any(stands));
    (!is_fine).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn every_command_of_the_guides_is_one_that_the_program_takes() {
    let mut pages = source::files(&crate::root(), "docs/operating");
    pages.extend(source::files(&crate::root(), "docs/reference"));
    pages.extend(["README.md", "docs/reliability.md", "benches/README.md"].map(Into::into));
    let (mut findings, mut count) = (Vec::new(), 0);
    for page in pages {
        let text = std::fs::read_to_string(crate::root().join(&page)).expect("a page");
        for typed in commands(&text) {
            count += 1;
            if let Some(why) = refused(&typed) {
                let line = typed.line;
                findings.push(format!("{page}:{line}: `{}`: {why}", typed.text));
            }
        }
    }
    assert!(count > 100, "only {count} commands were found");
    crate::report("commands of the guides", &findings);
}

#[test]
fn a_command_that_is_not_taken_is_found() {
    let page = "say `zoneq region status --wach`, or `zoneq send`\n```sh\n$ zoneq send\nzoneq \
                queue list | head\nzoneq send orders \\\n    \"two words\" --ttl 1h # a note\n```\n\
                ```text\nzoneq nothing\n```\n";
    let found = commands(page);
    assert_eq!(found.iter().map(|it| it.line).collect::<Vec<_>>(), [1, 1, 3, 4, 5]);
    let bad: Vec<usize> =
        found.iter().filter(|it| refused(it).is_some()).map(|it| it.line).collect();
    assert_eq!(bad, [1, 3], "a wrong flag in a sentence, and a send of nothing");
}
