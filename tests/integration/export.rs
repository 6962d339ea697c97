//! `export` keeps the user's files, reports each file that it cannot write, and writes the others.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::support::{
    KIB, LONG,
    bae::{Bae, Ran, Running},
    file_faults::{FileFault, FileFaults},
    peers::{LibtorrentPeer, Release},
    process::Process,
    torrents::{Fixture, Recipe},
};

fn imported() -> (Bae, Fixture) {
    let files = [("a.txt", 70 * KIB), ("b/c.txt", 10), ("b/empty", 0), ("z.txt", 300)];
    let files = files.map(|(path, len)| (path.to_owned(), len)).to_vec();
    let torrent = Recipe::folder("An Export", files).piece(32 * KIB).make();
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    bae.import(&torrent, &[seeder.addr()]);
    (bae, torrent)
}

fn export(bae: &Bae, out: &Path, options: &[&str]) -> Ran {
    let mut args = vec!["--json", "export", "An Export", out.to_str().unwrap()];
    args.extend(options);
    bae.run(args)
}

#[test]
fn an_export_leaves_other_files_alone_and_writes_the_rest() {
    let (bae, torrent) = imported();
    let out = bae.home().join("out");
    let mine = out.join("An Export/a.txt");
    fs::create_dir_all(mine.parent().unwrap()).unwrap();
    // The second text has the file's length, so only its bytes differ.
    for text in [b"mine".to_vec(), vec![b'm'; 70 * KIB as usize]] {
        fs::write(&mine, &text).unwrap();
        let ran =
            export(&bae, &out, &[]).expect(1).says("--overwrite").says("a.txt is there already");
        let line = &ran.json()[0];
        assert_eq!((&line["files"], &line["failed"]), (&3.into(), &1.into()), "{line}");
        assert_eq!(fs::read(&mine).unwrap(), text, "written over");
        assert!(out.join("An Export/z.txt").exists(), "the rest is there");
    }
    export(&bae, &out, &["--overwrite"]).expect(0);
    torrent.assert_same(&out.join("An Export"));
    let again = export(&bae, &out, &[]).expect(0).json().remove(0);
    assert_eq!((&again["files"], &again["already"]), (&4.into(), &4.into()), "{again}");
}

#[test]
fn a_file_that_is_called_as_a_temp_file_is_exported_too() {
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
fn an_export_that_broke_off_is_repeated() {
    let (bae, torrent) = imported();
    let out = bae.home().join("out");
    export(&bae, &out, &[]).expect(0);
    fs::remove_file(out.join("An Export/b/c.txt")).unwrap();
    let again = export(&bae, &out, &[]).expect(0).json().remove(0);
    assert_eq!((&again["files"], &again["already"]), (&4.into(), &3.into()), "{again}");
    torrent.assert_same(&out.join("An Export"));
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed_and_a_folder_is_named() {
    let (bae, _torrent) = imported();
    let out = bae.home().join("out");
    let (mine, at) = (bae.home().join("mine"), out.join("An Export"));
    fs::write(&mine, "mine").unwrap();
    fs::create_dir_all(at.join("z.txt")).unwrap();
    std::os::unix::fs::symlink(&mine, at.join("a.txt")).unwrap();
    export(&bae, &out, &["--overwrite"]).expect(1).says("z.txt is there already, a folder");
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    assert_eq!(fs::metadata(at.join("a.txt")).unwrap().len(), 70 * KIB);
    assert_eq!(fs::metadata(at.join("b/c.txt")).unwrap().len(), 10);
    export(&bae, &mine, &[]).expect(2).says("is a file, not a folder");
}

/// Exports while one operation fails below `out`, as on file systems that do not support it.
fn refusing(bae: &Bae, out: &Path, op: &str, import: &str) -> Ran {
    let faults = FileFaults::under(&[out]);
    let mut command = bae.command(["--json", "export", import, out.to_str().unwrap()]);
    faults.spoil(&mut command, FileFault::Only(op, libc::EPERM), 1, 1 << 40);
    Running(Process::start("bae", &command)).ended(LONG)
}

#[test]
fn modes_and_links_that_cannot_be_do_not_end_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("data/kinds");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(source.join("z.txt"), "last").unwrap();
    std::os::unix::fs::symlink("z.txt", source.join("link")).unwrap();
    let torrent =
        Recipe::folder("kinds", Vec::new()).piece(16 * KIB).with_links().make_of(dir.path());
    let seeder = LibtorrentPeer::seed(Release::Debian, &torrent);
    let bae = Bae::new();
    bae.run(bae.import_args(&torrent.torrent, &[seeder.addr()], &[])).expect(0);
    let (modes, links) = (bae.home().join("modes"), bae.home().join("links"));
    let ran = refusing(&bae, &modes, "chmod", "kinds").expect(0);
    assert_eq!(ran.json()[0]["modes"], 1, "{}", ran.stdout);
    assert_eq!(fs::read(modes.join("kinds/z.txt")).unwrap(), b"last");
    let ran = refusing(&bae, &links, "symlink", "kinds").expect(24).says("cannot link");
    assert_eq!(ran.json()[0]["failed"], 1, "{}", ran.stdout);
    assert_eq!(fs::read(links.join("kinds/z.txt")).unwrap(), b"last");
}
