//! What this machine can do to a process: each means is tried once, on something small.
//!
//! Laws: a means that does not work has a reason, and every fault that needs it is told as *not
//! run* with that reason; nothing that was tried is left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disks::Disk;
use crate::wires::Namespaces;

/// Where distributions put it.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// What a fault may need besides signals and the transport's own faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// A file system of its own for each zone, and the call that shuts it down.
    Disks,
    /// A network of its own for each zone.
    Namespaces,
    /// The same, and `nft`, which loses packets by chance.
    Loss,
    /// `strace`, which delays and fails system calls.
    Strace,
    /// `libfaketime`, which moves a process's wall clock.
    Faketime,
}

impl Means {
    pub fn name(self) -> &'static str {
        match self {
            Means::Disks => "loop file systems",
            Means::Namespaces => "network namespaces",
            Means::Loss => "packet loss",
            Means::Strace => "strace",
            Means::Faketime => "libfaketime",
        }
    }
}

/// What these faults need, each once.
pub fn needed(means: impl Iterator<Item = Option<Means>>) -> Vec<Means> {
    let mut means: Vec<Means> = means.flatten().collect();
    means.sort_unstable();
    means.dedup();
    means
}

/// What was found.
#[derive(Debug)]
pub struct Machine {
    lacks: BTreeMap<Means, String>,
    pub faketime: Option<PathBuf>,
}

impl Machine {
    /// Tries these, in a folder.
    pub async fn probe(wanted: &[Means], home: &Path) -> Machine {
        let faketime = FAKETIME.iter().map(PathBuf::from).find(|path| path.is_file());
        let mut lacks = BTreeMap::new();
        for means in wanted {
            let tried = match means {
                Means::Disks => try_disk(home).await,
                Means::Namespaces => Namespaces::new(1).map(drop),
                Means::Loss => try_loss(),
                Means::Strace => try_strace(),
                Means::Faketime => try_faketime(faketime.as_deref()),
            };
            if let Err(why) = tried {
                lacks.insert(*means, why);
            }
        }
        Machine { lacks, faketime }
    }

    /// Why a means cannot be used; `None` when it can.
    pub fn lacks(&self, means: Means) -> Option<String> {
        let why = self.lacks.get(&means)?;
        Some(format!("{}: {why}", means.name()))
    }

    /// Those faults that can be run, and why not the others.
    pub fn sort_out<F: Copy>(
        &self,
        wanted: &[F],
        means: impl Fn(&F) -> Option<Means>,
    ) -> (Vec<F>, Vec<(F, String)>) {
        let (mut able, mut not_run) = (Vec::new(), Vec::new());
        for fault in wanted {
            match means(fault).and_then(|means| self.lacks(means)) {
                Some(why) => not_run.push((*fault, why)),
                None => able.push(*fault),
            }
        }
        (able, not_run)
    }
}

/// Runs a program to its end; what it wrote.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let line = || format!("`{program} {}`", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ended with {}: {}", line(), output.status, said.trim()))
}

/// A power cut must lose what was not synced, and keep what was.
async fn try_disk(home: &Path) -> Result<(), String> {
    let mut disk = Disk::new(home, "probe", 32 << 20)?;
    let words = |error: std::io::Error| error.to_string();
    let (kept, lost) = (disk.mount.join("kept"), disk.mount.join("lost"));
    std::fs::write(&kept, "kept").map_err(words)?;
    std::fs::File::open(&kept).and_then(|file| file.sync_all()).map_err(words)?;
    std::fs::write(&lost, "lost").map_err(words)?;
    disk.cut_power()?;
    disk.unmount().await?;
    disk.power_on()?;
    if std::fs::read(&kept).map_err(words)? != b"kept" {
        return Err("what was synced before a power cut is gone".to_owned());
    }
    if std::fs::read(&lost).is_ok_and(|bytes| bytes == b"lost") {
        return Err("what was not synced before a power cut is still there".to_owned());
    }
    Ok(())
}

fn try_loss() -> Result<(), String> {
    let network = Namespaces::new(1)?;
    network.lose_some(1, 50)?;
    network.lose_none()
}

fn try_strace() -> Result<(), String> {
    let inject = "inject=fsync,fdatasync:delay_enter=1000";
    let flags = ["-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", inject];
    run("strace", &[&flags[..], &["true"]].concat()).map(drop)
}

fn try_faketime(library: Option<&Path>) -> Result<(), String> {
    let library = library.ok_or("the library is not installed")?;
    let preload = format!("LD_PRELOAD={}", library.display());
    let year = run("env", &[&preload, "FAKETIME=@1990-01-01 00:00:00", "date", "+%Y"])?;
    if year.trim() == "1990" { Ok(()) } else { Err(format!("the year stays {}", year.trim())) }
}
