//! A file that is there once it is whole.
//!
//! Laws: what is written goes to a name beside it, is fsynced, and takes its name last; a file that
//! has the name already is never replaced. What a broken run left under the other name, the next
//! run writes anew.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

/// Added to the name while the file is written.
const PARTIAL: &str = ".partial";

/// A file of JSON lines that is being written.
pub struct NewFile {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
}

impl NewFile {
    /// Begins a file.
    ///
    /// # Errors
    /// There is one of that name, or none can be made beside it.
    pub fn begin(path: &Path) -> anyhow::Result<NewFile> {
        if path.symlink_metadata().is_ok() {
            return Err(taken(path));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let out = File::create(&partial).with_context(|| named(&partial))?;
        Ok(NewFile { path: path.to_owned(), partial, out: BufWriter::new(out) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn line(&mut self, line: &Value) -> anyhow::Result<()> {
        writeln!(self.out, "{line}").with_context(|| named(&self.partial))
    }

    /// Gives the file its name, once all of it is on the disk.
    ///
    /// # Errors
    /// It cannot be written, or another file has its name by now.
    pub fn finish(self) -> anyhow::Result<()> {
        let NewFile { path, partial, out } = self;
        let out = out.into_inner().map_err(|error| error.into_error());
        let out = out.with_context(|| named(&partial))?;
        // The copy outlives the region whose only one it may be.
        out.sync_all().with_context(|| named(&partial))?;
        // A link is refused where the name is taken; a rename would replace what has it.
        match std::fs::hard_link(&partial, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(taken(&path)),
            // Not every file system has links.
            Err(_) if path.symlink_metadata().is_err() => {
                std::fs::rename(&partial, &path).with_context(|| named(&path))?;
            }
            Err(error) => return Err(error).with_context(|| named(&path)),
        }
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| named(&partial));
            }
            _ => {}
        }
        let beside = path.parent().filter(|it| !it.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        let synced = File::open(beside).and_then(|beside| beside.sync_all());
        synced.with_context(|| format!("the directory {}", beside.display()))
    }
}

fn named(path: &Path) -> String {
    format!("the file {}", path.display())
}

fn taken(path: &Path) -> anyhow::Error {
    anyhow::anyhow!("the file {} is there already: give another name", path.display())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).expect("listed").map(|it| it.expect("read").file_name());
        let mut names: Vec<_> = names.map(|it| it.into_string().expect("text")).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_file_that_broke_off_has_no_name_yet_and_is_begun_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tail.jsonl");
        let mut broken = NewFile::begin(&path).expect("begun");
        broken.line(&json!({ "id": "of the run that broke off" })).expect("written");
        drop(broken);
        assert!(!path.exists(), "it is not whole");
        let mut again = NewFile::begin(&path).expect("begun again");
        again.line(&json!({ "id": "a" })).expect("written");
        again.finish().expect("finished");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "{\"id\":\"a\"}\n");
        assert_eq!(names(dir.path()), ["tail.jsonl"], "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced_not_even_one_that_came_meanwhile() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tail.jsonl");
        let late = NewFile::begin(&path).expect("begun");
        std::fs::write(&path, "another's").expect("written");
        for refused in [NewFile::begin(&path).err(), late.finish().err()] {
            let why = refused.expect("refused").to_string();
            assert!(why.contains("tail.jsonl is there already"), "{why}");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "another's");
    }
}
