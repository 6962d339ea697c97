//! Failing file operations: whichever operation fails, each run completes or ends with an error that names the
//! cause. Nothing durable is lost, and the next run resumes.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use crate::{
    get::random,
    support::{
        KIB, LONG,
        bae::{Bae, Ran, Running},
        file_faults::{FileFault, FileFaults},
        nginx::Nginx,
        peers::{LibtorrentPeer, Release},
        process::Process,
        torrents::Recipe,
    },
};

/// The errors that an operation fails with.
const ERRORS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EMFILE, libc::EROFS];
/// The allowed exit codes: no signal, no panic, no usage error. A temporary fault may leave no error. SQLite does
/// not always pass on the system's error: it may report damage, a file that is read-only or missing, a full disk,
/// or a missing feature of the file system.
const CODES: &[i32] = &[0, 1, 3, 5, 8, 24, 32];
/// The limit of stderr in bytes. More is a loop that repeats a message.
const MOST_TOLD: usize = 64 << 10;

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
        Bae::new().storing_with("chunk=64KiB")
    }

    fn import(&self, bae: &Bae, options: &[&str]) -> Vec<String> {
        let url = self.nginx.url("/f/f.bin");
        let storage = bae.storage_url();
        let mut args = vec!["import", &url, "--storage", &storage, "--timeout", "3s"];
        args.extend(options);
        args.into_iter().map(str::to_owned).collect()
    }

    /// Panics unless the next run completes the import, and the bytes are exact before and after `gc`.
    fn assert_goes_on(&self, bae: &Bae, what: &str) {
        bae.run(self.import(bae, &[])).expect_after(what);
        assert_eq!(bae.bytes(["cat", "f.bin"]), self.data, "{what}: other bytes");
        bae.run(["verify"]).expect_after(what);
        bae.run(["gc", "--yes"]).expect_after(what);
        let left = bae.run(["--json", "gc"]).expect_after(what).json().pop().unwrap();
        assert_eq!(
            (left["objects"].as_u64(), left["failed"].as_u64()),
            (Some(0), Some(0)),
            "{what}"
        );
        assert_eq!(bae.bytes(["cat", "f.bin"]), self.data, "{what}: gc took something");
    }
}

trait Expected {
    fn expect_after(self, what: &str) -> Self;
}

impl Expected for Ran {
    fn expect_after(self, what: &str) -> Self {
        assert_eq!(self.code, Some(0), "after {what}:\n{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs `command` to its end.
fn run(command: &Command) -> Ran {
    Running(Process::start("bae", command)).ended(LONG)
}

/// Checks what holds for every run with a fault: the exit code, the amount of output, and a message for each error.
fn assert_told(ran: &Ran, codes: &[i32], what: &str) {
    let said = format!("{what}:\n{}\n{}", ran.stdout, ran.stderr);
    let code = ran.code.unwrap_or_else(|| panic!("a signal ended it: {said}"));
    assert!(codes.contains(&code), "code {code}: {said}");
    assert!(!ran.stderr.contains("panicked"), "{said}");
    assert!(ran.stderr.len() < MOST_TOLD, "{} bytes told, {what}", ran.stderr.len());
    if code != 0 {
        assert!(ran.stderr.contains("bae: "), "nothing is said: {said}");
    }
}

/// At most `most` steps of a run that has `total`, at equal distances.
fn some(total: u64, most: u64) -> impl Iterator<Item = u64> {
    let by = total.div_ceil(most).max(1) as usize;
    (1..=total).step_by(by)
}

fn faults_of(bae: &Bae) -> FileFaults {
    FileFaults::under(&[&bae.data_dir(), bae.objects()])
}

/// For each errno: runs `args` once to count the steps, then for some of the steps again in a new home, with a
/// fault at that step. `prepare` makes the home; `after` checks what is left.
fn sweep(
    name: &str,
    most: u64,
    prepare: impl Fn() -> Bae,
    args: impl Fn(&Bae) -> Vec<String>,
    after: impl Fn(&Bae, &Ran, &str),
) {
    for errno in ERRORS {
        let bae = prepare();
        let faults = faults_of(&bae);
        let mut command = bae.command(args(&bae));
        faults.spoil(&mut command, FileFault::Error(errno), 0, 1);
        run(&command).expect_after(name);
        let total = faults.steps();
        for step in some(total, most) {
            let what = format!("{name}, errno {errno} at step {step} of {total}");
            let bae = prepare();
            let faults = faults_of(&bae);
            let mut command = bae.command(args(&bae));
            faults.spoil(&mut command, FileFault::Error(errno), step, 1);
            let ran = run(&command);
            assert_told(&ran, CODES, &what);
            after(&bae, &ran, &what);
        }
    }
}

#[test]
fn an_import_ends_and_goes_on_whichever_file_operation_fails() {
    let source = Source::new();
    let import = |bae: &Bae| source.import(bae, &[]);
    sweep("import", 25, Source::bae, import, |bae, ran, what| {
        if ran.code == Some(0) {
            assert_eq!(bae.bytes(["cat", "f.bin"]), source.data, "{what}: said to be imported");
        }
        source.assert_goes_on(bae, what);
    });
}

#[test]
fn an_import_of_whole_files_ends_and_goes_on_whichever_file_operation_fails() {
    let source = Source::new();
    let import = |bae: &Bae| source.import(bae, &["--layout", "files"]);
    sweep("import of files", 20, Source::bae, import, |bae, _, what| {
        bae.run(import(bae)).expect_after(what);
        source.assert_goes_on(bae, what);
        assert_eq!(fs::read(bae.objects().join("f.bin")).unwrap(), source.data, "{what}");
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
        let out = bae.objects().join("../out");
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
        sweep(name, 8, prepare, args, |bae, _, what| source.assert_goes_on(bae, what));
    }
}

/// A permanent fault: the run still ends, after its `--timeout` at the latest.
#[test]
fn an_import_ends_when_the_files_fail_for_good() {
    let source = Source::new();
    for errno in ERRORS {
        let bae = Source::bae();
        let faults = faults_of(&bae);
        let mut command = bae.command(source.import(&bae, &[]));
        faults.spoil(&mut command, FileFault::Error(errno), 0, 1);
        run(&command).expect_after("import");
        let total = faults.steps();
        for step in some(total, 4) {
            let what = format!("errno {errno} from step {step} of {total} on");
            let bae = Source::bae();
            let faults = faults_of(&bae);
            let mut command = bae.command(source.import(&bae, &[]));
            faults.spoil(&mut command, FileFault::Error(errno), step, 1 << 40);
            assert_told(&run(&command), CODES, &what);
            source.assert_goes_on(&bae, &what);
        }
    }
}

/// The directory of the objects or of the catalog disappears during the run, as when a disk is unmounted.
#[test]
fn an_import_ends_when_a_folder_goes_away_and_goes_on_when_it_is_back() {
    let source = Source::new();
    for is_data in [true, false] {
        let gone = |bae: &Bae| if is_data { bae.data_dir() } else { bae.objects().to_owned() };
        let bae = Source::bae();
        let faults = faults_of(&bae);
        let mut command = bae.command(source.import(&bae, &[]));
        faults.spoil(&mut command, FileFault::Clock(0), 0, 1);
        run(&command).expect_after("import");
        for step in some(faults.steps(), 8) {
            let bae = Source::bae();
            let (faults, folder) = (faults_of(&bae), gone(&bae));
            let what = format!("{} gone at step {step}", folder.display());
            let mut command = bae.command(source.import(&bae, &[]));
            faults.spoil(&mut command, FileFault::Gone(&folder), step, 1);
            let ran = run(&command);
            assert_told(&ran, &[0, 3, 5], &what);
            let aside = folder
                .with_file_name(format!("{}.gone", folder.file_name().unwrap().to_str().unwrap()));
            if aside.exists() {
                if ran.code == Some(0) {
                    assert!(!folder.exists(), "{what}: imported, into a folder that was made anew");
                }
                let _ = fs::remove_dir_all(&folder);
                fs::rename(&aside, &folder).unwrap();
            }
            source.assert_goes_on(&bae, &what);
        }
    }
}

#[test]
fn a_clock_that_jumps_loses_nothing() {
    let source = Source::new();
    for jump in [-86_400 * 365, 86_400 * 365] {
        for step in [1, 20, 60, 100] {
            let bae = Source::bae();
            let what = format!("clock by {jump} s at step {step}");
            let mut command = bae.command(source.import(&bae, &[]));
            faults_of(&bae).spoil(&mut command, FileFault::Clock(jump), step, 1 << 40);
            run(&command).expect_after(&what);
            source.assert_goes_on(&bae, &what);
        }
    }
}

#[test]
fn a_seeding_bae_gives_no_wrong_byte_when_its_disk_fails_and_goes_on() {
    let torrent = Recipe::single("seeded.bin", 900 * KIB + 7).piece(64 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Source::bae();
    let id = bae.import(&torrent, &[seeder.addr()]).id;
    drop(seeder);
    for step in [1, 5, 9, 20] {
        let faults = FileFaults::under(&[bae.objects()]);
        let listen = bae.listen.to_string();
        let args = ["seed", &id, "--listen", &listen, "--no-dht", "--no-lsd", "--no-utp"];
        let mut command = bae.command(args);
        faults.spoil(&mut command, FileFault::Error(libc::EIO), step, 3);
        let seeding = Running(Process::start("bae", &command));
        let other = Bae::new();
        let got = other.import(&torrent, &[bae.listen]);
        other.assert_exact(&got.id, &torrent);
        seeding.interrupt();
        let ran = seeding.ended(LONG);
        assert_told(&ran, &[0, 7], &format!("seed with EIO from step {step}"));
    }
}

/// Limits of the system in place of the fault library: few file descriptors, and a maximum file size.
#[test]
fn limits_of_the_system_are_named() {
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
        let ran = run(&limited);
        assert_told(&ran, codes, limit);
        source.assert_goes_on(&bae, limit);
    }
}

#[test]
fn nothing_is_imported_onto_the_disk_below_one_that_is_not_mounted() {
    let source = Source::new();
    let disk = tempfile::tempdir().unwrap();
    let mount = disk.path().join("disk");
    let bae = Bae::new().storing_in(&mount.join("bae")).storing_with("chunk=64KiB");
    fs::create_dir(&mount).unwrap();
    bae.run(source.import(&bae, &[])).expect(0);
    let away = disk.path().join("elsewhere");
    fs::rename(&mount, &away).unwrap();
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
        let ran = bae.run(args.iter().copied()).expect(3).says("mounted");
        assert!(!ran.stderr.contains("--repair"), "{}", ran.stderr);
    }
    source.nginx.serve("other.bin", b"other");
    let url = source.nginx.url("/f/other.bin");
    for layout in ["chunks", "files"] {
        let storage = bae.storage_url();
        let args = ["import", &url, "--storage", &storage, "--layout", layout];
        bae.run(args).expect(3).says("mounted");
    }
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0, "something is on the disk below");
    bae.run(["ls"]).expect(0);
    fs::remove_dir(&mount).unwrap();
    bae.run(["verify"]).expect(3).says("mounted");
    assert!(!mount.exists());
    fs::rename(&away, &mount).unwrap();
    source.assert_goes_on(&bae, "the disk is back");
    // An import whose objects are lost for good can be removed.
    fs::rename(&mount, &away).unwrap();
    bae.run(["rm", "f.bin", "--yes"]).expect(0);
    bae.run(source.import(&bae, &[])).expect(0);
}

#[test]
fn nothing_that_only_looks_makes_a_folder() {
    let bae = Bae::new();
    for args in [&["ls"][..], &["verify"], &["storage", "list"]] {
        bae.run(args.iter().copied()).expect(0);
    }
    bae.run(["info", "x"]).expect(3).says("nothing was imported there yet");
    bae.run(["gc"]).expect(0);
    let folders: Vec<_> = fs::read_dir(bae.home()).unwrap().flatten().collect();
    let names: Vec<_> = folders.iter().map(fs::DirEntry::file_name).collect();
    assert!(names.iter().all(|name| name == "data"), "{names:?}");
}

#[test]
fn folders_that_cannot_be_are_named() {
    let bae = Bae::new();
    let home = bae.home();
    std::os::unix::fs::symlink("nowhere", home.join("link")).unwrap();
    fs::write(home.join("file"), "x").unwrap();
    for (place, words) in [("link", "is a link to nothing"), ("file", "is a file, not a folder")] {
        let place = home.join(place);
        let data = place.as_os_str();
        for command in [&["ls"][..], &["gc"], &["verify"]] {
            let args = [OsStr::new("--data-dir"), data].map(OsStr::to_owned).into_iter();
            let mut plain = Command::new(env!("CARGO_BIN_EXE_bae"));
            plain.args(args).args(command).env("HOME", home);
            run(&plain).expect(2).says(words);
        }
    }
}

#[test]
fn an_import_needs_no_working_directory() {
    let torrent = Recipe::single("anywhere.bin", 90 * KIB).piece(32 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    let gone = bae.home().join("gone");
    fs::create_dir(&gone).unwrap();
    let plain = bae.command(bae.import_args(&torrent.torrent, &[seeder.addr()], &[]));
    let script: OsString = r#"rmdir "$0" && exec "$@""#.into();
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&gone).arg(plain.get_program()).args(plain.get_args());
    plain.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        command.env(name, value);
    });
    command.current_dir(&gone);
    run(&command).expect(0);
    assert!(!Path::new(&gone).exists());
    bae.assert_exact("anywhere.bin", &torrent);
}
