//! PAM for one server alone, with a user and a password that the machine does not have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The pam_wrapper library, which replaces PAM, and the directory of its settings.
#[derive(Debug)]
pub(crate) struct PamWrapper {
    library: PathBuf,
    dir: PathBuf,
}

impl PamWrapper {
    /// Accepts `user` with `password` for `service`. The settings are written to `own`.
    pub(crate) fn new(server_dir: &Path, user: &str, password: &str, service: &str) -> Self {
        let library = find_library();
        let matrix = library.with_file_name("pam_wrapper").join("pam_matrix.so");
        let (dir, passwords) = (server_dir.join("pam.d"), server_dir.join("pam passwords"));
        fs::create_dir(&dir).unwrap();
        fs::write(&passwords, format!("{user}:{password}:{service}\n")).unwrap();
        let checks = |what| {
            format!("{what} required {} [passdb={}]\n", matrix.display(), passwords.display())
        };
        let lines = ["auth", "account"].map(checks).concat();
        fs::write(dir.join(service), lines + "session required pam_permit.so\n").unwrap();
        Self { library, dir }
    }

    /// A command that runs `program` with the wrapper.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("env");
        command.arg(format!("LD_PRELOAD={}", self.library.display())).arg("PAM_WRAPPER=1");
        command.arg(format!("PAM_WRAPPER_SERVICE_DIR={}", self.dir.display())).arg(program);
        command
    }
}

impl Drop for PamWrapper {
    /// Removes the copies of the settings that killed processes left in /tmp: pam_wrapper has few names for them.
    fn drop(&mut self) {
        let server_dir = self.dir.parent().unwrap().to_str().unwrap();
        for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let copy = entry.path();
            let is_copy = entry.file_name().to_string_lossy().starts_with("pam.");
            let is_ours = |file: &fs::DirEntry| {
                fs::read_to_string(file.path()).is_ok_and(|text| text.contains(server_dir))
            };
            if is_copy && fs::read_dir(&copy).into_iter().flatten().flatten().any(|f| is_ours(&f)) {
                let _ = fs::remove_dir_all(copy);
            }
        }
    }
}

fn find_library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = folders.map(|folder| folder.path().join("libpam_wrapper.so"));
    found.find(|file| file.is_file()).expect(
        "libpam_wrapper.so is missing: install the package libpam-wrapper, or run `scripts/setup test`",
    )
}
