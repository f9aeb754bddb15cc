//! Rust source as the rules see it: comments and literals blanked, test code told apart.

use std::ops::Range;
use std::path::Path;

/// One file of `src/`.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// As written.
    pub text: String,
    /// Comments, strings and characters replaced by spaces; same length, same lines.
    pub code: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    pub tests: Vec<Range<usize>>,
    /// The whole file is a test module, declared so by its parent.
    pub only_tests: bool,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    /// Reads one text; `path` is only a name.
    pub fn parse(path: &str, text: &str) -> Source {
        let code = blank(text);
        let tests = test_items(&code);
        Source { path: path.into(), text: text.into(), code, tests, only_tests: false }
    }

    /// The room a file of `src/` belongs to: its folder, or its name when it stands alone.
    pub fn room(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// The line, from 1, of a byte.
    pub fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Whether a byte lies in test code.
    pub fn in_test(&self, at: usize) -> bool {
        self.only_tests || self.tests.iter().any(|range| range.contains(&at))
    }

    /// Lines without test code.
    pub fn production_lines(&self) -> usize {
        if self.only_tests {
            return 0;
        }
        let inside: usize =
            self.tests.iter().map(|r| self.line(r.end - 1) - self.line(r.start) + 1).sum();
        self.text.lines().count() - inside
    }

    /// Where `word` stands in production code as a whole word (a leading or trailing symbol of
    /// `word` itself needs no boundary).
    pub fn find(&self, word: &str) -> Vec<usize> {
        let code = self.code.as_bytes();
        let edge = |inner: u8, outer: Option<&u8>| {
            !is_word(inner) || !outer.is_some_and(|byte| is_word(*byte))
        };
        let (first, last) = (word.as_bytes()[0], word.as_bytes()[word.len() - 1]);
        self.code
            .match_indices(word)
            .map(|(at, _)| at)
            .filter(|at| edge(first, at.checked_sub(1).and_then(|before| code.get(before))))
            .filter(|at| edge(last, code.get(at + word.len())))
            .filter(|at| !self.in_test(*at))
            .collect()
    }

    /// The functions of the production code.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.find("fn") {
            let name: String = self.code[at + 2..]
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some(open) = body_start(&self.code, at) else { continue };
            if name.is_empty() {
                continue; // a function pointer type
            }
            let end = matching(&self.code, open);
            let line = self.line(at);
            found.push(Function { name, line, lines: self.line(end) - line + 1 });
        }
        found
    }
}

/// Every `.rs` file under `src/`, sorted by path.
pub fn all(root: &Path) -> Vec<Source> {
    let mut sources: Vec<Source> = files(root, "src")
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| {
            let text = std::fs::read_to_string(root.join(&path)).expect("a source file");
            Source::parse(&path, &text)
        })
        .collect();
    let test_modules: Vec<String> = sources.iter().flat_map(outlined_tests).collect();
    for source in &mut sources {
        source.only_tests = test_modules.iter().any(|stem| {
            source.path == format!("{stem}.rs") || source.path.starts_with(&format!("{stem}/"))
        });
    }
    sources
}

/// Every file under a folder of the root, relative, sorted; none when the folder is missing.
pub fn files(root: &Path, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let inside = path.strip_prefix(root).expect("below the root");
                found.push(inside.to_str().expect("a UTF-8 path").replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// Stems of the files that `#[cfg(test)] mod name;` of this file declares.
fn outlined_tests(source: &Source) -> Vec<String> {
    let folder = match source.path.strip_suffix("/mod.rs") {
        Some(folder) => folder.to_string(),
        None if source.path == "src/lib.rs" || source.path == "src/main.rs" => "src".into(),
        None => source.path.trim_end_matches(".rs").into(),
    };
    let mut stems = Vec::new();
    for range in &source.tests {
        let item = source.code[range.clone()].trim_end();
        let Some(item) = item.strip_suffix(';') else { continue };
        let words: Vec<&str> = item.split_whitespace().collect();
        if let [.., "mod", name] = words.as_slice() {
            stems.push(format!("{folder}/{name}"));
        }
    }
    stems
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Byte ranges of the items whose attribute names the cfg `test`, the attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(") {
        if found.last().is_some_and(|last| last.contains(&at)) {
            continue;
        }
        let close = matching(code, at + 1);
        let condition = &code[at + 6..close];
        let words = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
        if condition.contains("not(") || !words.into_iter().any(|word| word == "test") {
            continue;
        }
        let end = item_end(code, close + 1);
        found.push(at..end);
    }
    found
}

/// The end of the item that starts here: past its `;` or its closing brace.
fn item_end(code: &str, from: usize) -> usize {
    let bytes = code.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b';' | b',' => return at + 1,
            b'{' => return matching(code, at) + 1,
            b'(' | b'[' => at = matching(code, at),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The `{` that opens the body of the `fn` here; `None` for a declaration without one.
fn body_start(code: &str, from: usize) -> Option<usize> {
    let bytes = code.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => return Some(at),
            b';' | b'}' | b')' | b',' | b'=' => return None,
            b'(' | b'[' => at = matching(code, at),
            // Generic arguments may hold commas and `=`.
            b'<' => at = angle_end(bytes, at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn angle_end(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'<' => depth += 1,
            b'>' if bytes[at - 1] != b'-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// The bracket that closes the one here.
pub fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len() - 1
}

/// Replaces comments, strings and characters by spaces, keeping every line break and byte.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                for byte in &mut out[at..end] {
                    if *byte != b'\n' {
                        *byte = b' ';
                    }
                }
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(out).expect("whole literals were blanked")
}

/// The end of the comment or literal that starts here, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let end = match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, b'"'),
        [b'r', ..] if at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b' => {
            raw_string(rest)?
        }
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        [b'\'', second, ..] => {
            let width = match second {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            // Without a closing quote there it is a lifetime.
            (rest.get(1 + width) == Some(&b'\'')).then_some(2 + width)?
        }
        _ => return None,
    };
    Some(at + end)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = 2 + hashes;
    let length = rest[body..].windows(close.len()).position(|window| window == close)?;
    Some(body + length + close.len())
}

#[test]
fn comments_and_literals_are_blanked_and_lifetimes_are_not() {
    let text = "let a = \"x{\"; // {\nlet b = '{'; /* { /* */ */ r#\"{\"#; &'a str; b\"{\"; '\\''";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains('{'), "{code}");
    assert!(code.contains("&'a str"), "{code}");
}

#[test]
fn test_items_are_told_apart_and_functions_measured() {
    let text = "fn a<T: Fn(u8) -> u8>(x: [u8; 2]) -> u8 {\n    1\n}\n#[cfg(test)]\nmod tests {\n    \
                fn b() {\n    }\n}\n#[cfg(not(test))]\nfn c() {}\ntrait D {\n    fn d();\n}\n";
    let source = Source::parse("src/x.rs", text);
    let names: Vec<(String, usize)> =
        source.functions().into_iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(names, [("a".into(), 3), ("c".into(), 1)]);
    assert_eq!(source.production_lines(), 8);
}

#[test]
fn a_test_module_in_its_own_file_is_found() {
    let source = Source::parse("src/queue/mod.rs", "#[cfg(test)]\nmod golden;\nmod state;\n");
    assert_eq!(outlined_tests(&source), ["src/queue/golden"]);
    let source = Source::parse("src/storage/log.rs", "#[cfg(test)]\nmod kill;\n");
    assert_eq!(outlined_tests(&source), ["src/storage/log/kill"]);
}
