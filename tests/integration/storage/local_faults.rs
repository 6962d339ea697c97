//! Failing file operations: whichever operation fails, each run completes or ends with an error that names the
//! cause. Nothing durable is lost, and the next run resumes.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use crate::support::{
    KIB, LONG,
    bae::{Bae, CommandOutput, Running},
    file_faults::{FileFault, FileFaults},
    nginx::Nginx,
    peers::{LibtorrentPeer, Release},
    process::Process,
    random,
    torrents::Recipe,
};

/// The errors that an operation fails with.
const ERRORS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EMFILE, libc::EROFS];
/// The allowed exit codes: no signal, no panic, no usage error. A temporary fault may leave no error. SQLite does
/// not always pass on the system's error: it may report damage, a file that is read-only or missing, a full disk,
/// or a missing feature of the file system.
const CODES: &[i32] = &[0, 1, 3, 5, 8, 24, 32];
/// The limit of stderr in bytes. More is a loop that repeats a message.
const STDERR_LIMIT: usize = 64 << 10;

/// A server with a small file, which makes seven objects.
struct Source {
    nginx: Nginx,
    data: Vec<u8>,
}

impl Source {
    fn new() -> Self {
        let (nginx, data) = (Nginx::start(), random(7, 7 * 64 * KIB - 5));
        nginx.serve("f.bin", &data);
        Self { nginx, data }
    }

    fn bae() -> Bae {
        Bae::new().with_storage_options("chunk=64KiB")
    }

    fn import(&self, bae: &Bae, options: &[&str]) -> Vec<String> {
        let url = self.nginx.url("/f/f.bin");
        let storage = bae.storage_url();
        let mut args = vec!["import", &url, "--storage", &storage, "--timeout", "3s"];
        args.extend(options);
        args.into_iter().map(str::to_owned).collect()
    }

    /// Panics unless the next run completes the import, and the bytes are exact before and after `gc`.
    fn assert_resumes(&self, bae: &Bae, case: &str) {
        bae.run(self.import(bae, &[])).expect_after(case);
        assert_eq!(bae.stdout_of(["cat", "f.bin"]), self.data, "{case}: other bytes");
        bae.run(["verify"]).expect_after(case);
        bae.run(["gc", "--yes"]).expect_after(case);
        let report = bae.run(["--json", "gc"]).expect_after(case).json().pop().unwrap();
        assert_eq!(
            (report["objects"].as_u64(), report["failed"].as_u64()),
            (Some(0), Some(0)),
            "{case}"
        );
        assert_eq!(
            bae.stdout_of(["cat", "f.bin"]),
            self.data,
            "{case}: gc removed bytes of the import"
        );
    }
}

trait ExpectSuccess {
    fn expect_after(self, case: &str) -> Self;
}

impl ExpectSuccess for CommandOutput {
    fn expect_after(self, case: &str) -> Self {
        assert_eq!(self.code, Some(0), "after {case}:\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end.
fn run(command: &Command) -> CommandOutput {
    Running(Process::start("bae", command)).wait(LONG)
}

/// Checks what holds for every run with a fault: the exit code, the amount of output, and a message for each error.
fn assert_reported(output: &CommandOutput, codes: &[i32], case: &str) {
    let output_text = format!("{case}:\n{}\n{}", output.stdout, output.stderr);
    let code = output.code.unwrap_or_else(|| panic!("a signal ended it: {output_text}"));
    assert!(codes.contains(&code), "code {code}: {output_text}");
    assert!(!output.stderr.contains("panicked"), "{output_text}");
    assert!(output.stderr.len() < STDERR_LIMIT, "{} bytes of stderr, {case}", output.stderr.len());
    if code != 0 {
        assert!(output.stderr.contains("bae: "), "no message: {output_text}");
    }
}

/// At most `most` steps of a run that has `total`, at equal distances.
fn sample_steps(total: u64, limit: u64) -> impl Iterator<Item = u64> {
    let stride = total.div_ceil(limit).max(1) as usize;
    (1..=total).step_by(stride)
}

fn faults_of(bae: &Bae) -> FileFaults {
    FileFaults::in_folders(&[&bae.data_dir(), bae.storage_dir()])
}

/// For each errno: runs `args` once to count the steps, then for some of the steps again in a new home, with a
/// fault at that step. `prepare` makes the home; `after` checks what is left.
fn fail_at_steps(
    name: &str,
    limit: u64,
    prepare: impl Fn() -> Bae,
    args: impl Fn(&Bae) -> Vec<String>,
    after: impl Fn(&Bae, &CommandOutput, &str),
) {
    for errno in ERRORS {
        let bae = prepare();
        let faults = faults_of(&bae);
        let mut command = bae.command(args(&bae));
        faults.set_fault(&mut command, FileFault::Error(errno), 0, 1);
        run(&command).expect_after(name);
        let total = faults.operation_count();
        for step in sample_steps(total, limit) {
            let case = format!("{name}, errno {errno} at step {step} of {total}");
            let bae = prepare();
            let faults = faults_of(&bae);
            let mut command = bae.command(args(&bae));
            faults.set_fault(&mut command, FileFault::Error(errno), step, 1);
            let output = run(&command);
            assert_reported(&output, CODES, &case);
            after(&bae, &output, &case);
        }
    }
}

#[test]
fn an_import_ends_and_can_resume_whichever_file_operation_fails() {
    let source = Source::new();
    let import = |bae: &Bae| source.import(bae, &[]);
    fail_at_steps("import", 25, Source::bae, import, |bae, output, case| {
        if output.code == Some(0) {
            assert_eq!(
                bae.stdout_of(["cat", "f.bin"]),
                source.data,
                "{case}: reported as imported with other bytes"
            );
        }
        source.assert_resumes(bae, case);
    });
}

#[test]
fn an_import_of_whole_files_ends_and_can_resume_whichever_file_operation_fails() {
    let source = Source::new();
    let import = |bae: &Bae| source.import(bae, &["--layout", "files"]);
    fail_at_steps("import of files", 20, Source::bae, import, |bae, _, case| {
        bae.run(import(bae)).expect_after(case);
        source.assert_resumes(bae, case);
        assert_eq!(fs::read(bae.storage_dir().join("f.bin")).unwrap(), source.data, "{case}");
    });
}

#[test]
fn commands_that_read_or_sweep_end_whichever_file_operation_fails() {
    let source = Source::new();
    let prepare = || {
        let bae = Source::bae();
        bae.run(source.import(&bae, &[])).expect(0);
        bae
    };
    let exported = |bae: &Bae| {
        let out = bae.storage_dir().join("../out");
        vec!["export".to_owned(), "f.bin".to_owned(), out.to_str().unwrap().to_owned()]
    };
    type Arguments<'a> = &'a dyn Fn(&Bae) -> Vec<String>;
    let commands: [(&str, Arguments<'_>); 4] = [
        ("export", &exported),
        ("verify", &|_| vec!["verify".to_owned()]),
        ("gc", &|_| ["gc", "--yes"].map(str::to_owned).to_vec()),
        ("publish", &|_| ["publish", "f.bin"].map(str::to_owned).to_vec()),
    ];
    for (name, args) in commands {
        fail_at_steps(name, 8, prepare, args, |bae, _, case| source.assert_resumes(bae, case));
    }
}

/// A permanent fault: the run still ends, after its `--timeout` at the latest.
#[test]
fn an_import_ends_when_file_operations_fail_permanently() {
    let source = Source::new();
    for errno in ERRORS {
        let bae = Source::bae();
        let faults = faults_of(&bae);
        let mut command = bae.command(source.import(&bae, &[]));
        faults.set_fault(&mut command, FileFault::Error(errno), 0, 1);
        run(&command).expect_after("import");
        let total = faults.operation_count();
        for step in sample_steps(total, 4) {
            let case = format!("errno {errno} from step {step} of {total} on");
            let bae = Source::bae();
            let faults = faults_of(&bae);
            let mut command = bae.command(source.import(&bae, &[]));
            faults.set_fault(&mut command, FileFault::Error(errno), step, 1 << 40);
            assert_reported(&run(&command), CODES, &case);
            source.assert_resumes(&bae, &case);
        }
    }
}

/// The directory of the objects or of the catalog disappears during the run, as when a disk is unmounted.
#[test]
fn an_import_ends_when_a_folder_disappears_and_resumes_when_it_is_back() {
    let source = Source::new();
    for is_data in [true, false] {
        let folder_of =
            |bae: &Bae| if is_data { bae.data_dir() } else { bae.storage_dir().to_owned() };
        let bae = Source::bae();
        let faults = faults_of(&bae);
        let mut command = bae.command(source.import(&bae, &[]));
        faults.set_fault(&mut command, FileFault::ClockJump(0), 0, 1);
        run(&command).expect_after("import");
        for step in sample_steps(faults.operation_count(), 8) {
            let bae = Source::bae();
            let (faults, folder) = (faults_of(&bae), folder_of(&bae));
            let case = format!("{} gone at step {step}", folder.display());
            let mut command = bae.command(source.import(&bae, &[]));
            faults.set_fault(&mut command, FileFault::RenameFolder(&folder), step, 1);
            let output = run(&command);
            assert_reported(&output, &[0, 3, 5], &case);
            let renamed = folder
                .with_file_name(format!("{}.gone", folder.file_name().unwrap().to_str().unwrap()));
            if renamed.exists() {
                if output.code == Some(0) {
                    assert!(!folder.exists(), "{case}: imported into a new folder");
                }
                let _ = fs::remove_dir_all(&folder);
                fs::rename(&renamed, &folder).unwrap();
            }
            source.assert_resumes(&bae, &case);
        }
    }
}

#[test]
fn a_clock_jump_loses_no_bytes() {
    let source = Source::new();
    for jump in [-86_400 * 365, 86_400 * 365] {
        for step in [1, 20, 60, 100] {
            let bae = Source::bae();
            let case = format!("clock by {jump} s at step {step}");
            let mut command = bae.command(source.import(&bae, &[]));
            faults_of(&bae).set_fault(&mut command, FileFault::ClockJump(jump), step, 1 << 40);
            run(&command).expect_after(&case);
            source.assert_resumes(&bae, &case);
        }
    }
}

#[test]
fn seeding_sends_no_wrong_byte_while_the_disk_fails_and_continues() {
    let torrent = Recipe::single("seeded.bin", 900 * KIB + 7).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Source::bae();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    drop(seeder);
    for step in [1, 5, 9, 20] {
        let faults = FileFaults::in_folders(&[bae.storage_dir()]);
        let listen = bae.listen.to_string();
        let args = ["seed", &id, "--listen", &listen, "--no-dht", "--no-lsd", "--no-utp"];
        let mut command = bae.command(args);
        faults.set_fault(&mut command, FileFault::Error(libc::EIO), step, 3);
        let seeding = Running(Process::start("bae", &command));
        let other = Bae::new();
        let summary = other.import(&torrent, &[bae.listen]);
        other.assert_exact(&summary.id, &torrent);
        seeding.interrupt();
        let output = seeding.wait(LONG);
        assert_reported(&output, &[0, 7], &format!("seed with EIO from step {step}"));
    }
}

/// Limits of the system in place of the fault library: few file descriptors, and a maximum file size.
#[test]
fn system_limits_are_reported_and_the_next_run_resumes() {
    let source = Source::new();
    for (limit, codes) in [
        ("--nofile=16:16", &[0, 5, 6][..]),
        ("--nofile=20:20", &[0, 5, 6]),
        ("--nofile=32:32", &[0, 5, 6]),
        ("--fsize=30000:30000", &[5, 8]),
        ("--fsize=1:1", &[5, 8]),
    ] {
        let bae = Source::bae();
        let plain = bae.command(source.import(&bae, &[]));
        let mut limited = Command::new("prlimit");
        limited.arg(limit).arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        let output = run(&limited);
        assert_reported(&output, codes, limit);
        source.assert_resumes(&bae, limit);
    }
}

#[test]
fn nothing_is_written_below_the_mount_point_of_an_unmounted_disk() {
    let source = Source::new();
    let disk = tempfile::tempdir().unwrap();
    let mount = disk.path().join("disk");
    let bae = Bae::new().with_storage_dir(&mount.join("bae")).with_storage_options("chunk=64KiB");
    fs::create_dir(&mount).unwrap();
    bae.run(source.import(&bae, &[])).expect(0);
    let moved = disk.path().join("elsewhere");
    fs::rename(&mount, &moved).unwrap();
    fs::create_dir(&mount).unwrap();
    let out = disk.path().join("out");
    let commands: [&[&str]; 6] = [
        &["verify"],
        &["verify", "--quick"],
        &["verify", "--repair"],
        &["gc", "--yes"],
        &["cat", "f.bin"],
        &["export", "f.bin", out.to_str().unwrap()],
    ];
    for args in commands {
        let output = bae.run(args.iter().copied()).expect(3).expect_stderr("mounted");
        assert!(!output.stderr.contains("--repair"), "{}", output.stderr);
    }
    source.nginx.serve("other.bin", b"other");
    let url = source.nginx.url("/f/other.bin");
    for layout in ["chunks", "files"] {
        let storage = bae.storage_url();
        let args = ["import", &url, "--storage", &storage, "--layout", layout];
        bae.run(args).expect(3).expect_stderr("mounted");
    }
    assert_eq!(
        fs::read_dir(&mount).unwrap().count(),
        0,
        "something was written below the mount point"
    );
    bae.run(["ls"]).expect(0);
    fs::remove_dir(&mount).unwrap();
    bae.run(["verify"]).expect(3).expect_stderr("mounted");
    assert!(!mount.exists());
    fs::rename(&moved, &mount).unwrap();
    source.assert_resumes(&bae, "the disk is back");
    // An import whose objects are lost for good can be removed.
    fs::rename(&mount, &moved).unwrap();
    bae.run(["rm", "f.bin", "--yes"]).expect(0);
    bae.run(source.import(&bae, &[])).expect(0);
}

#[test]
fn read_only_commands_create_no_storage_folder() {
    let bae = Bae::new();
    for args in [&["ls"][..], &["verify"], &["storage", "list"]] {
        bae.run(args.iter().copied()).expect(0);
    }
    bae.run(["info", "x"]).expect(3).expect_stderr("nothing was imported into it yet");
    bae.run(["gc"]).expect(0);
    let folders: Vec<_> = fs::read_dir(bae.home()).unwrap().flatten().collect();
    let names: Vec<_> = folders.iter().map(fs::DirEntry::file_name).collect();
    assert!(names.iter().all(|name| name == "data"), "{names:?}");
}

#[test]
fn unusable_data_folders_are_explained() {
    let bae = Bae::new();
    let home = bae.home();
    std::os::unix::fs::symlink("nowhere", home.join("link")).unwrap();
    fs::write(home.join("file"), "x").unwrap();
    for (path, message) in [("link", "is a dangling symlink"), ("file", "is a file, not a folder")]
    {
        let path = home.join(path);
        let data = path.as_os_str();
        for command in [&["ls"][..], &["gc"], &["verify"]] {
            let args = [OsStr::new("--data-dir"), data].map(OsStr::to_owned).into_iter();
            let mut plain = Command::new(env!("CARGO_BIN_EXE_bae"));
            plain.args(args).args(command).env("HOME", home);
            run(&plain).expect(2).expect_stderr(message);
        }
    }
}

#[test]
fn an_import_needs_no_working_directory() {
    let torrent = Recipe::single("anywhere.bin", 90 * KIB).piece(32 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let cwd = bae.home().join("gone");
    fs::create_dir(&cwd).unwrap();
    let plain = bae.command(bae.import_args(&torrent.torrent, &[seeder.addr()], &[]));
    let script: OsString = r#"rmdir "$0" && exec "$@""#.into();
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&cwd).arg(plain.get_program()).args(plain.get_args());
    plain.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        command.env(name, value);
    });
    command.current_dir(&cwd);
    run(&command).expect(0);
    assert!(!Path::new(&cwd).exists());
    bae.assert_exact("anywhere.bin", &torrent);
}
