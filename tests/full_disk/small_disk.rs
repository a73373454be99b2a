//! Small file systems of a test's own.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One file system; unmounted with the value, whatever becomes of the test.
pub struct SmallDisk {
    mounted_at: tempfile::TempDir,
    // The image of a file system that is not in memory; removed with the value.
    _image: Option<tempfile::NamedTempFile>,
}

impl SmallDisk {
    /// One in memory; `None` where nothing can be mounted.
    pub fn in_memory(mib: u32) -> Option<Self> {
        let mounted_at = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted =
            runs("mount", &["-t", "tmpfs", "-o", &size, "valise-test"], mounted_at.path());
        mounted.then_some(Self { mounted_at, _image: None })
    }

    /// One with a journal, in a file; `None` where that cannot be mounted.
    pub fn on_ext4(mib: u32) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(u64::from(mib) << 20).unwrap();
        let mounted_at = tempfile::tempdir().unwrap();
        let from = image.path().display().to_string();
        let mounted = runs("mkfs.ext4", &["-q", "-F"], image.path())
            && runs("mount", &["-o", "loop", &from], mounted_at.path());
        mounted.then_some(Self { mounted_at, _image: Some(image) })
    }

    pub fn path(&self) -> &Path {
        self.mounted_at.path()
    }

    /// Only one in memory can.
    pub fn grow(&self, mib: u32) {
        let options = format!("remount,size={mib}m");
        assert!(runs("mount", &["-o", &options], self.path()), "it does not grow");
    }

    /// Takes every byte that is free, also of what is reserved for root.
    pub fn fill(&self) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.filler()).unwrap();
        for bytes in [1 << 20, 4096, 512] {
            let junk = vec![7; bytes];
            while match file.write(&junk) {
                Ok(written) => written > 0,
                Err(error) if error.kind() == ErrorKind::StorageFull => false,
                Err(error) => panic!("{error}"),
            } {}
        }
    }

    /// Gives it all back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a store that hangs may still have files open.
        runs("umount", &["-l"], self.path());
    }
}

fn runs(command: &str, arguments: &[&str], at: &Path) -> bool {
    let run = Command::new(command).args(arguments).arg(at).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}
