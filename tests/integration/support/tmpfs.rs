//! Small disks of a test: mounted by root, or with sudo as `scripts/setup` does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// A mounted tmpfs. Dropping it unmounts it.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(dir: &Path, options: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], dir);
        Self(dir.to_owned())
    }
}

/// Runs `program` as root, with sudo if necessary, as `scripts/setup` does.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

fn mount(args: &[&str], dir: &Path) {
    let status = as_root("mount").args(args).arg(dir).status().unwrap();
    assert!(status.success(), "mount {args:?} {}: takes root, or sudo", dir.display());
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A lazy unmount: a bae that is just being killed may still have a file open.
        let _ = as_root("umount").arg("-l").arg(&self.0).status();
    }
}
