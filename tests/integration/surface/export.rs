//! `export` keeps the user's files, reports each file that it cannot write, and writes the others.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::support::{
    KIB, LONG,
    bae::{Bae, CommandOutput, Running},
    file_faults::{FileFault, FileFaults},
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::{Fixture, Recipe},
};

fn import_folder() -> (Bae, Fixture) {
    let files = [("a.txt", 70 * KIB), ("b/c.txt", 10), ("b/empty", 0), ("z.txt", 300)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    let torrent = Recipe::folder("An Export", files).piece(32 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    bae.import(&torrent, &[seeder.addr()]);
    (bae, torrent)
}

fn export(bae: &Bae, out: &Path, options: &[&str]) -> CommandOutput {
    let mut args = vec!["--json", "export", "An Export", out.to_str().unwrap()];
    args.extend(options);
    bae.run(args)
}

#[test]
fn an_export_overwrites_no_existing_file_and_writes_the_others() {
    let (bae, torrent) = import_folder();
    let out = bae.home().join("out");
    let existing = out.join("An Export/a.txt");
    fs::create_dir_all(existing.parent().unwrap()).unwrap();
    // The second text has the file's length, so only its bytes differ.
    for text in [b"mine".to_vec(), vec![b'm'; 70 * KIB as usize]] {
        fs::write(&existing, &text).unwrap();
        let output = export(&bae, &out, &[])
            .expect(1)
            .expect_stderr("--overwrite")
            .expect_stderr("a.txt exists already");
        let line = &output.json()[0];
        assert_eq!((&line["files"], &line["failed"]), (&3.into(), &1.into()), "{line}");
        assert_eq!(fs::read(&existing).unwrap(), text, "the existing file was overwritten");
        assert!(out.join("An Export/z.txt").exists(), "the other files were not exported");
    }
    export(&bae, &out, &["--overwrite"]).expect(0);
    torrent.assert_same(&out.join("An Export"));
    let second = export(&bae, &out, &[]).expect(0).json().remove(0);
    assert_eq!((&second["files"], &second["already"]), (&4.into(), &4.into()), "{second}");
}

#[test]
fn a_file_named_like_a_temporary_file_is_exported() {
    let files = [(".bae-1.part", 300), ("a.txt", 70 * KIB), ("b/.bae-1.part", 20), ("b/c", 9)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    let torrent = Recipe::folder("An Export", files).piece(32 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    bae.import(&torrent, &[seeder.addr()]);
    let out = bae.home().join("out");
    export(&bae, &out, &[]).expect(0);
    torrent.assert_same(&out.join("An Export"));
}

#[test]
fn an_interrupted_export_can_be_repeated() {
    let (bae, torrent) = import_folder();
    let out = bae.home().join("out");
    export(&bae, &out, &[]).expect(0);
    fs::remove_file(out.join("An Export/b/c.txt")).unwrap();
    let second = export(&bae, &out, &[]).expect(0).json().remove(0);
    assert_eq!((&second["files"], &second["already"]), (&4.into(), &3.into()), "{second}");
    torrent.assert_same(&out.join("An Export"));
}

#[test]
fn a_symlink_at_the_path_of_a_file_is_not_followed_and_a_folder_there_is_reported() {
    let (bae, _torrent) = import_folder();
    let out = bae.home().join("out");
    let (target, folder) = (bae.home().join("mine"), out.join("An Export"));
    fs::write(&target, "mine").unwrap();
    fs::create_dir_all(folder.join("z.txt")).unwrap();
    std::os::unix::fs::symlink(&target, folder.join("a.txt")).unwrap();
    export(&bae, &out, &["--overwrite"])
        .expect(1)
        .expect_stderr("z.txt exists already as a folder");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::metadata(folder.join("a.txt")).unwrap().len(), 70 * KIB);
    assert_eq!(fs::metadata(folder.join("b/c.txt")).unwrap().len(), 10);
    export(&bae, &target, &[]).expect(2).expect_stderr("is a file, not a folder");
}

/// Exports while one operation fails below `out`, as on file systems that do not support it.
fn export_with_failing_op(bae: &Bae, out: &Path, op: &str, import: &str) -> CommandOutput {
    let faults = FileFaults::in_folders(&[out]);
    let mut command = bae.command(["--json", "export", import, out.to_str().unwrap()]);
    faults.set_fault(&mut command, FileFault::Only(op, libc::EPERM), 1, 1 << 40);
    Running(Process::start("bae", &command)).wait(LONG)
}

#[test]
fn unsupported_modes_and_symlinks_do_not_end_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("data/kinds");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(source.join("z.txt"), "last").unwrap();
    std::os::unix::fs::symlink("z.txt", source.join("link")).unwrap();
    let torrent =
        Recipe::folder("kinds", Vec::new()).piece(16 * KIB).with_links().make_from(dir.path());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[])).expect(0);
    let (modes, links) = (bae.home().join("modes"), bae.home().join("links"));
    let output = export_with_failing_op(&bae, &modes, "chmod", "kinds").expect(0);
    assert_eq!(output.json()[0]["modes"], 1, "{}", output.stdout);
    assert_eq!(fs::read(modes.join("kinds/z.txt")).unwrap(), b"last");
    let output = export_with_failing_op(&bae, &links, "symlink", "kinds")
        .expect(24)
        .expect_stderr("cannot link");
    assert_eq!(output.json()[0]["failed"], 1, "{}", output.stdout);
    assert_eq!(fs::read(links.join("kinds/z.txt")).unwrap(), b"last");
}
