use std::ops::Range;

use super::*;

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
    let catalog = Catalog::open(dir.path()).unwrap();
    let made = catalog.create_import(new("album")).await.unwrap();
    let twin = catalog.create_import(new("album")).await.unwrap();
    let other = catalog.create_import(new("single")).await.unwrap();
    assert_eq!(catalog.files(&made.id).unwrap(), new("album").files);
    assert_eq!(catalog.metainfo(&made.id).unwrap(), new("album").metainfo);
    assert_eq!(catalog.find(made.id.as_str()).unwrap(), made);
    assert_eq!(catalog.find("single").unwrap(), other);
    assert_eq!(catalog.find("060606").unwrap(), other);
    assert_eq!(catalog.find("06060").unwrap_err().kind(), Kind::NotFound);
    for needle in ["album", "050505"] {
        let ambiguous = catalog.find(needle).unwrap_err();
        assert_eq!(ambiguous.kind(), Kind::InvalidInput);
        assert!(ambiguous.report().contains(twin.id.as_str()), "{}", ambiguous.report());
    }
    catalog.set_state(&made.id, ImportState::Kept).await.unwrap();
    assert_eq!(catalog.find("album").unwrap(), twin);
    let by_hash = catalog.find_by_info_hash(Some([5; 20]), None).unwrap();
    let ids: Vec<_> = by_hash.into_iter().map(|row| row.id).collect();
    assert_eq!(ids, [twin.id, made.id]);
}

#[tokio::test]
async fn what_is_set_is_kept_and_deleting_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    catalog.set_selected(&id, Some(vec![0, 7])).await.unwrap();
    catalog.set_metainfo(&id, vec![1, 2]).await.unwrap();
    catalog.set_state(&id, ImportState::Imported).await.unwrap();
    let row = catalog.get(&id).unwrap();
    assert_eq!(row.selected, Some(vec![0, 7]));
    assert!(row.completed_at.is_some_and(|at| at >= row.created_at));
    assert_eq!(catalog.metainfo(&id).unwrap(), [1, 2]);
    let object = catalog.intend(&id, 10, false).await.unwrap();
    catalog.commit_object(object.num, vec![extent(0..10, object.num, 0)]).await.unwrap();
    catalog.delete_import(&id).await.unwrap();
    catalog.delete_import(&id).await.unwrap();
    assert_eq!(catalog.get(&id).unwrap_err().kind(), Kind::NotFound);
    assert!(catalog.all_keys().unwrap().is_empty());
    let late = catalog.intend(&id, 10, false).await.unwrap_err();
    assert_eq!(late.kind(), Kind::NotFound);
}

#[tokio::test]
async fn committed_objects_survive_and_intents_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let id = catalog.create_import(new("x")).await.unwrap().id;
    let rows = catalog.intend_many(&id, vec![(20, false), (30, true)]).await.unwrap();
    let [stored, intent] = &rows[..] else { panic!("two were asked for") };
    assert_eq!(stored.key, format!("{}/{id}/{:08x}", catalog.id(), stored.num.0));
    let extents = vec![extent(40..50, stored.num, 0), extent(0..10, stored.num, 10)];
    for _ in 0..2 {
        catalog.commit_object(stored.num, extents.clone()).await.unwrap();
    }
    // No clean end: the file is copied as a crash would leave it, the write-ahead log beside it.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
    }
    let again = Catalog::open(crashed.path()).unwrap();
    assert_eq!(again.id(), catalog.id());
    assert_eq!(again.all_keys().unwrap(), std::slice::from_ref(&stored.key));
    assert_eq!(again.leftover_intents().unwrap(), std::slice::from_ref(intent));
    let starts: Vec<_> = again.extents(&id).unwrap().iter().map(|e| e.range.start).collect();
    assert_eq!(starts, [0, 40]);
    again.drop_object(intent.num).await.unwrap();
    let next = again.intend(&id, 1, false).await.unwrap();
    assert!(next.num > intent.num, "a number is never used twice");
}

#[tokio::test]
async fn extents_that_overlap_or_leave_their_object_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
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
    assert_eq!(catalog.extents(&id).unwrap().len(), 1, "a refused commit leaves nothing");
    catalog.commit_object(second, vec![extent(0..10, second, 0)]).await.unwrap();
}

#[tokio::test]
async fn commands_of_one_group_fail_alone() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
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
    assert_eq!(catalog.objects(&id).unwrap().len(), 90);
}

#[tokio::test]
async fn a_reader_sees_what_a_writer_beside_it_committed() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Catalog::open_read_only(dir.path()).unwrap_err().kind(), Kind::NotFound);
    let catalog = Catalog::open(dir.path()).unwrap();
    let reader = Catalog::open_read_only(dir.path()).unwrap();
    let made = catalog.create_import(new("x")).await.unwrap();
    assert_eq!(reader.list().unwrap(), std::slice::from_ref(&made));
    let refused = reader.set_state(&made.id, ImportState::Kept).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
}

#[test]
fn a_newer_catalog_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Catalog::open(dir.path()).unwrap());
    let connection = Connection::open(dir.path().join("catalog.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    for opened in [Catalog::open(dir.path()), Catalog::open_read_only(dir.path())] {
        let refused = opened.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("update bae")));
    }
}

#[test]
fn import_ids_are_eight_hex_digits() {
    assert!("9c4e01ab".parse::<ImportId>().is_ok());
    for bad in ["", "9c4e01a", "9C4E01AB", "9c4e01abc", "../../..", "9c4e01ag"] {
        assert!(bad.parse::<ImportId>().is_err(), "{bad}");
    }
}
