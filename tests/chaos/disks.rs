//! A file system of a zone's own, in a file, whose power can be cut.
//!
//! Laws: a power cut is the file system's own shutdown call without a flush of its journal: what
//! was not synced is lost, as on a machine whose power fails. Nothing stays mounted.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

use crate::machine::run;

/// `EXT4_IOC_SHUTDOWN`, which is also XFS's and F2FS's.
const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
/// At once, without the journal.
const NO_LOG_FLUSH: u32 = 2;
/// Looks at a mount that is still in use.
const TRIES: u32 = 200;

#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    pub mount: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes and mounts one of so many bytes.
    pub fn new(home: &Path, name: &str, bytes: u64) -> Result<Disk, String> {
        let image = home.join(format!("{name}.ext4"));
        let mount = home.join(format!("{name}.disk"));
        let words = |error: std::io::Error| format!("{}: {error}", image.display());
        File::create(&image).and_then(|file| file.set_len(bytes)).map_err(words)?;
        std::fs::create_dir_all(&mount).map_err(words)?;
        run("mkfs.ext4", &["-q", "-F", &image.display().to_string()])?;
        let mut disk = Disk { image, mount, is_mounted: false };
        disk.power_on()?;
        Ok(disk)
    }

    /// Mounts it again.
    pub fn power_on(&mut self) -> Result<(), String> {
        if !self.is_mounted {
            let (image, mount) = (self.image.display(), self.mount.display());
            run("mount", &["-o", "loop", &image.to_string(), &mount.to_string()])?;
            self.is_mounted = true;
        }
        Ok(())
    }

    /// From here on nothing reaches it; whoever has files open gets errors.
    pub fn cut_power(&self) -> Result<(), String> {
        let words = |error: std::io::Error| format!("{}: {error}", self.mount.display());
        let root = File::open(&self.mount).map_err(words)?;
        let flags = NO_LOG_FLUSH;
        // SAFETY: the call reads four bytes where it is told to.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const flags) };
        if result == 0 { Ok(()) } else { Err(words(std::io::Error::last_os_error())) }
    }

    /// Unmounts it once nobody has files open.
    pub async fn unmount(&mut self) -> Result<(), String> {
        if !self.is_mounted {
            return Ok(());
        }
        let mount = self.mount.display().to_string();
        let mut tried = Ok(String::new());
        for _ in 0..TRIES {
            tried = run("umount", &[&mount]);
            if tried.is_ok() {
                self.is_mounted = false;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tried.map(drop)
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes all the space that is left, but for so many bytes.
    pub fn fill(&self, left: u64) -> Result<(), String> {
        let words = |error: std::io::Error| format!("{}: {error}", self.mount.display());
        let file = File::create(self.ballast()).map_err(words)?;
        let known = rustix::fs::statvfs(&self.mount).map_err(|error| words(error.into()))?;
        let free = known.f_bavail * known.f_frsize;
        let taken = free.saturating_sub(left);
        fallocate(&file, FallocateFlags::empty(), 0, taken).map_err(|error| words(error.into()))
    }

    /// Gives it back.
    pub fn free(&self) {
        // It is not there when the disk was never filled.
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a process that is just ending may hold a file for a moment.
            let _ = run("umount", &["-l", &self.mount.display().to_string()]);
        }
    }
}
