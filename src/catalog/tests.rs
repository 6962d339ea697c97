use std::ops::Range;

use rusqlite::Connection;

use super::{
    sql::{scalar, select, values},
    sqlite::schema,
    *,
};

fn new(name: &str) -> NewImport {
    NewImport {
        name: name.into(),
        source: format!("{name}.torrent"),
        info_hash_v1: Some([u8::try_from(name.len()).unwrap(); 20]),
        len: 100,
        storage: "file".into(),
        chunk_len: 16,
        metainfo: b"d4:infodee".to_vec(),
        files: vec![
            FileRow { path: "a".into(), start: 0, len: 60, pad: false },
            FileRow { path: ".pad/40".into(), start: 60, len: 40, pad: true },
        ],
        ..NewImport::default()
    }
}

fn extent(range: Range<u64>, object: ObjectNum, offset: u64) -> Extent {
    Extent { range, object, offset }
}

#[tokio::test]
async fn an_import_is_found_by_id_hash_and_unique_name() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let made = catalog.create_import(new("album")).await.unwrap();
    let twin = catalog.create_import(new("album")).await.unwrap();
    let other = catalog.create_import(new("single")).await.unwrap();
    assert_eq!(catalog.files(&made.id).await.unwrap(), new("album").files);
    assert_eq!(catalog.metainfo(&made.id).await.unwrap(), new("album").metainfo);
    assert_eq!(catalog.find(made.id.as_str()).await.unwrap(), made);
    assert_eq!(catalog.find("single").await.unwrap(), other);
    assert_eq!(catalog.find("060606").await.unwrap(), other);
    assert_eq!(catalog.find("06060").await.unwrap_err().kind(), Kind::NotFound);
    for import_ref in ["album", "050505"] {
        let ambiguous = catalog.find(import_ref).await.unwrap_err();
        assert_eq!(ambiguous.kind(), Kind::InvalidInput);
        assert!(ambiguous.report().contains(twin.id.as_str()), "{}", ambiguous.report());
    }
    catalog.set_state(&made.id, ImportState::Kept).await.unwrap();
    assert_eq!(catalog.find("album").await.unwrap(), twin);
    let by_hash = catalog.find_by_info_hash(Some([5; 20]), None).await.unwrap();
    let ids: Vec<_> = by_hash.into_iter().map(|row| row.id).collect();
    assert_eq!(ids, [twin.id, made.id]);
}

#[tokio::test]
async fn changes_are_stored_and_a_deleted_import_leaves_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    catalog.set_selected(&id, Some(vec![0, 7])).await.unwrap();
    catalog.set_metainfo(&id, vec![1, 2]).await.unwrap();
    catalog.set_state(&id, ImportState::Imported).await.unwrap();
    let row = catalog.get(&id).await.unwrap();
    assert_eq!(row.selected, Some(vec![0, 7]));
    assert!(row.completed_at.is_some_and(|at| at >= row.created_at));
    assert_eq!(catalog.metainfo(&id).await.unwrap(), [1, 2]);
    let object = catalog.intend(&id, 10, false).await.unwrap();
    catalog.commit_object(object.num, vec![extent(0..10, object.num, 0)]).await.unwrap();
    catalog.delete_import(&id).await.unwrap();
    catalog.delete_import(&id).await.unwrap();
    assert_eq!(catalog.get(&id).await.unwrap_err().kind(), Kind::NotFound);
    assert!(catalog.all_keys().await.unwrap().is_empty());
    let late = catalog.intend(&id, 10, false).await.unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound);
}

#[tokio::test]
async fn selecting_more_files_reopens_a_complete_import() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    let (done, open) = (ImportState::Imported, ImportState::Importing);
    for (before, after, state) in [
        (None, Some(vec![0]), done),
        (Some(vec![0, 7]), Some(vec![7]), done),
        (Some(vec![0, 7]), Some(vec![0, 3]), open),
        (Some(vec![0]), None, open),
    ] {
        catalog.set_selected(&id, before).await.unwrap();
        catalog.set_state(&id, done).await.unwrap();
        catalog.set_selected(&id, after.clone()).await.unwrap();
        let row = catalog.get(&id).await.unwrap();
        assert_eq!((row.state, &row.selected), (state, &after));
        assert!(row.completed_at.is_some());
    }
    catalog.set_selected(&id, Some(vec![0])).await.unwrap();
    catalog.set_state(&id, ImportState::Kept).await.unwrap();
    catalog.set_selected(&id, None).await.unwrap();
    assert_eq!(catalog.get(&id).await.unwrap().state, ImportState::Kept);
}

#[tokio::test]
async fn committed_objects_survive_a_crash_and_intents_stay_intents() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    let rows = catalog.intend_many(&id, vec![(20, false), (30, true)]).await.unwrap();
    let [stored, intent] = &rows[..] else { panic!("two were requested") };
    let (prefix, random) = stored.key.rsplit_once('-').unwrap();
    assert_eq!(prefix, format!("{}/{id}/{:08x}", catalog.id(), stored.num.0));
    assert!(random.len() == 16 && !intent.key.ends_with(random), "{}", stored.key);
    let extents = vec![extent(40..50, stored.num, 0), extent(0..10, stored.num, 10)];
    for _ in 0..2 {
        catalog.commit_object(stored.num, extents.clone()).await.unwrap();
    }
    // The file and its write-ahead log are copied while open, in the state that a crash would leave.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    let again = Catalog::open(crashed.path()).await.unwrap();
    assert_eq!(again.id(), catalog.id());
    assert_eq!(again.all_keys().await.unwrap(), std::slice::from_ref(&stored.key));
    assert_eq!(again.leftover_intents().await.unwrap(), std::slice::from_ref(intent));
    let starts: Vec<_> = again.extents(&id).await.unwrap().iter().map(|e| e.range.start).collect();
    assert_eq!(starts, [0, 40]);
    again.drop_object(intent.num).await.unwrap();
    let next = again.intend(&id, 1, false).await.unwrap();
    assert!(next.num > intent.num, "a number is never used twice");
}

#[tokio::test]
async fn extents_that_overlap_or_leave_their_object_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    let first = catalog.intend(&id, 10, false).await.unwrap().num;
    catalog.commit_object(first, vec![extent(10..20, first, 0)]).await.unwrap();
    let second = catalog.intend(&id, 30, false).await.unwrap().num;
    for bad in [19..21, 0..11, 12..13, 0..30, 40..71, 5..5] {
        let refused = catalog.commit_object(second, vec![extent(bad.clone(), second, 0)]).await;
        assert!(refused.is_err(), "{bad:?}");
    }
    let twice = vec![extent(30..40, second, 0), extent(35..45, second, 10)];
    assert!(catalog.commit_object(second, twice).await.is_err());
    assert_eq!(catalog.extents(&id).await.unwrap().len(), 1, "a refused commit leaves no extents");
    catalog.commit_object(second, vec![extent(0..10, second, 0)]).await.unwrap();
}

#[tokio::test]
async fn a_failing_command_does_not_affect_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    let no_such: ImportId = "00000000".parse().unwrap();
    let results: Vec<Result<ObjectRow>> = {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100u64 {
            let catalog = catalog.clone();
            let id = if n % 10 == 0 { no_such.clone() } else { id.clone() };
            tasks.spawn(async move { catalog.intend(&id, n, false).await });
        }
        tasks.join_all().await
    };
    assert_eq!(results.iter().filter(|r| r.is_err()).count(), 10);
    assert_eq!(catalog.objects(&id).await.unwrap().len(), 90);
}

#[tokio::test]
async fn a_read_only_catalog_sees_the_writers_commits() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Catalog::open_read_only(dir.path()).await.unwrap_err().kind(), Kind::NotFound);
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let reader = Catalog::open_read_only(dir.path()).await.unwrap();
    let made = catalog.create_import(new("x")).await.unwrap();
    assert_eq!(reader.list().await.unwrap(), std::slice::from_ref(&made));
    let refused = reader.set_state(&made.id, ImportState::Kept).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_newer_catalog_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Catalog::open(dir.path()).await.unwrap());
    let connection = Connection::open(dir.path().join("catalog.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    for opened in [Catalog::open(dir.path()).await, Catalog::open_read_only(dir.path()).await] {
        let refused = opened.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("update bae")));
    }
}

/// Creates a catalog of the first version with two imports, one of them with a selection.
fn first_version(dir: &std::path::Path) {
    let connection = Connection::open(dir.join("catalog.db")).unwrap();
    let insert = "
        INSERT INTO meta VALUES('catalog_id', '0123456789abcdef');
        INSERT INTO imports(num, id, name, source, info_hash_v1, len, storage, chunk_len, metainfo, state,
            created_at, selected)
        VALUES(1, '0000000a', 'a', 'a.torrent', x'0505050505050505050505050505050505050505', 30, 'file', 16,
                zeroblob(1000000), 'imported', 5, NULL),
            (2, '0000000b', 'b', 'http://x/b', NULL, 30, 'file', 16, x'', 'importing', 5, '[0,2]');
        INSERT INTO files VALUES(1, 0, 'a/x', 0, 20, 0), (1, 1, 'a/.pad/10', 20, 10, 1),
            (2, 0, 'b/x', 0, 5, 0), (2, 1, 'b/y', 5, 18, 0), (2, 2, 'b/z', 23, 7, 0);
        PRAGMA user_version = 1;";
    connection.execute_batch(&format!("{}{insert}", schema::MIGRATIONS[0])).unwrap();
}

#[tokio::test]
async fn a_catalog_of_an_older_bae_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    first_version(dir.path());
    for opened in
        [Catalog::open_read_only(dir.path()).await, Catalog::open_shared(dir.path()).await]
    {
        assert_eq!(opened.unwrap_err().kind(), Kind::Unsupported, "these do not migrate");
    }
    let catalog = Catalog::open(dir.path()).await.unwrap();
    assert_eq!(catalog.id(), "0123456789abcdef");
    let [a, b] = &catalog.list().await.unwrap()[..] else { panic!("there are two") };
    assert_eq!(a.wanted, WantedCounts { files: 1, bytes: 20, stored: None });
    assert_eq!(b.wanted, WantedCounts { files: 2, bytes: 12, stored: None });
    assert_eq!(catalog.metainfo(&a.id).await.unwrap(), vec![0; 1_000_000]);
    let free = catalog.read(|db| scalar::<i64>(db, "PRAGMA freelist_count", values![])).await;
    assert_eq!(free.unwrap(), Some(0), "the file has no free pages");
    assert_eq!(catalog.metainfo(&b.id).await.unwrap(), b"");
    assert_eq!(
        catalog.find_by_source("http://x/b", "file").await.unwrap(),
        std::slice::from_ref(b)
    );
    assert!(catalog.find_by_source("a.torrent", "file").await.unwrap().is_empty());
}

#[tokio::test]
async fn two_writing_processes_see_each_others_commits() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Catalog::open_shared(dir.path()).await.unwrap_err().kind(), Kind::NotFound);
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let row = catalog.create_import(new("x")).await.unwrap();
    let shared = Catalog::open_shared(dir.path()).await.unwrap();
    let work = async {
        for n in 0..50u32 {
            catalog.set_selected(&row.id, Some(vec![n])).await.unwrap();
        }
    };
    let other = async {
        for n in 0..50 {
            shared.set_backend_value("file", "n", Some(n.to_string())).await.unwrap();
        }
    };
    tokio::join!(work, other);
    assert_eq!(catalog.backend_value("file", "n").await.unwrap().as_deref(), Some("49"));
    assert_eq!(shared.get(&row.id).await.unwrap().selected, Some(vec![49]));
}

#[test]
fn import_ids_are_eight_hex_digits() {
    assert!("9c4e01ab".parse::<ImportId>().is_ok());
    for bad in ["", "9c4e01a", "9C4E01AB", "9c4e01abc", "../../..", "9c4e01ag"] {
        assert!(bad.parse::<ImportId>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_unusable_data_folder_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (path, words) in [(&file, "is a file, not a folder"), (&link, "is a dangling symlink")] {
        for refused in [Catalog::open(path).await, Catalog::open_read_only(path).await] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.kind(), Kind::InvalidInput, "{}", refused.report());
            assert!(refused.report().contains(words), "{}", refused.report());
        }
    }
}

#[tokio::test]
async fn a_taken_id_is_drawn_again() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let taken = catalog.create_import(new("x")).await.unwrap().id;
    let mut draws = vec!["0badcafe".parse().unwrap(), taken.clone(), taken];
    let id =
        catalog.write(move |db| imports::unused_id(db, || Ok(draws.pop().unwrap()))).await.unwrap();
    assert_eq!(id.as_str(), "0badcafe");
}

#[tokio::test]
async fn imports_are_found_by_any_length_of_their_info_hash() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let hybrid = NewImport {
        info_hash_v1: Some([0xab; 20]),
        info_hash_v2: Some([0xcd; 32]),
        ..new("hybrid")
    };
    let hybrid = catalog.create_import(hybrid).await.unwrap();
    catalog.create_import(new("other")).await.unwrap();
    for len in [6, 7, 39, 40] {
        assert_eq!(catalog.find(&"ab".repeat(20)[..len]).await.unwrap(), hybrid, "{len}");
    }
    for len in [6, 41, 63, 64] {
        assert_eq!(catalog.find(&"CD".repeat(32)[..len]).await.unwrap(), hybrid, "{len}");
    }
    for absent in ["ababa", "ababac", &"ab".repeat(32), &"cd".repeat(33), "abababx"] {
        assert_eq!(catalog.find(absent).await.unwrap_err().kind(), Kind::NotFound, "{absent}");
    }
}

#[tokio::test]
async fn imports_are_looked_up_by_index() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let plan = async |condition: &str| {
        let query = format!("EXPLAIN QUERY PLAN SELECT id FROM imports WHERE {condition}");
        let explain = move |db: &dyn Sql| {
            let rows = select(db, &query, values![], |row| row.get::<String>(3))?;
            Ok(rows.join("; "))
        };
        catalog.read(explain).await.unwrap()
    };
    for condition in [
        "state <> 'removing' AND (info_hash_v1 = x'00' OR info_hash_v2 = x'00')",
        "state <> 'kept' AND (id = 'a' OR name = 'a' OR info_hash_v1 BETWEEN x'00' AND x'01'
            OR info_hash_v2 BETWEEN x'00' AND x'01')",
        "source = 'http://x' AND storage = 'file'",
    ] {
        let plan = plan(condition).await;
        assert!(!plan.contains("SCAN"), "{condition}: {plan}");
    }
}

#[tokio::test]
async fn objects_of_an_older_catalog_keep_their_numbers_keys_and_extents() {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("catalog.db")).unwrap();
    schema::MIGRATIONS[..11].iter().for_each(|step| connection.execute_batch(step).unwrap());
    let insert = "
        INSERT INTO meta VALUES('catalog_id', '0123456789abcdef');
        INSERT INTO imports(num, id, name, source, len, storage, chunk_len, state, created_at)
        VALUES(1, '0000000a', 'a', 'a', 30, 'file', 16, 'imported', 5),
            (2, '0000000b', 'b', 'b', 30, 's3', 16, 'importing', 5);
        INSERT INTO objects(num, import, key, len, state, packed, role)
        VALUES(3, 1, 'three', 20, 'stored', 1, 'chunk'), (4, 2, 'b/four', 30, 'intent', 0, 'file'),
            (5, 2, 'mine', 7, 'stored', 0, 'adopted'), (9, 1, 'nine', 1, 'stored', 0, 'chunk');
        DELETE FROM objects WHERE num = 9;
        INSERT INTO extents VALUES(1, 0, 20, 3, 0), (2, 20, 27, 5, 0);
        INSERT INTO streamed VALUES(4, 0, 16);
        INSERT INTO stamps VALUES(5, 'tag');
        PRAGMA user_version = 11;";
    connection.execute_batch(insert).unwrap();
    drop(connection);
    let catalog = Catalog::open(dir.path()).await.unwrap();
    let [a, b]: [ImportId; 2] = ["0000000a", "0000000b"].map(|id| id.parse().unwrap());
    let [three] = &catalog.objects(&a).await.unwrap()[..] else { panic!("one object") };
    assert_eq!((three.num, three.key.as_str(), three.packed), (ObjectNum(3), "three", true));
    assert_eq!(
        (three.is_stored(), &three.encoding, three.root),
        (true, &Encoding::default(), None)
    );
    assert_eq!(catalog.extents(&a).await.unwrap(), [extent(0..20, ObjectNum(3), 0)]);
    let uploads = catalog.partial_uploads(&b).await.unwrap();
    assert_eq!((uploads[0].0.key.as_str(), &uploads[0].1), ("b/four", &(0..16)));
    let adopted = catalog.adopted_objects(&b).await.unwrap();
    assert_eq!(adopted, [("mine".to_owned(), 7, Some("tag".to_owned()))]);
    let broken = "SELECT count(*) FROM pragma_foreign_key_check";
    assert_eq!(catalog.read(|db| scalar(db, broken, values![])).await.unwrap(), Some(0i64));
    assert_eq!(catalog.intend(&a, 1, false).await.unwrap().num, ObjectNum(10));
    catalog.delete_import(&b).await.unwrap();
    catalog.delete_import(&a).await.unwrap();
    let rows = "SELECT (SELECT count(*) FROM objects) + (SELECT count(*) FROM extents)
        + (SELECT count(*) FROM streamed) + (SELECT count(*) FROM stamps)";
    assert_eq!(catalog.read(|db| scalar(db, rows, values![])).await.unwrap(), Some(0i64));
}
