//! From one catalog through the storage into another, with objects in every state that an import can have.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    backends::{Faulty, MemoryBackend, Payload},
    catalog::{Catalog, Encoding, FileRow, ImportRow, LayoutKind, ObjectNum, Role},
    storage::{
        recover::manifest::write_manifest,
        sweep::{Sweep, remove_import},
    },
};

type SharedBackend = Arc<dyn StorageBackend>;

const LEN: u64 = 1000;

async fn catalog() -> (TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).await.unwrap();
    (dir, catalog)
}

fn zeros(len: u64) -> Payload {
    Payload::from_iter([Bytes::from(vec![0; usize::try_from(len).unwrap()])])
}

/// How an import is stored: the ends of its runs, the object that holds each run (`None` for a hole), and which objects
/// are files.
#[derive(Debug, Clone)]
struct StoredState {
    ends: Vec<u64>,
    holders: Vec<Option<usize>>,
    files: [bool; 4],
    state: ImportState,
}

fn stored_state() -> impl Strategy<Value = StoredState> {
    let ends =
        prop::collection::btree_set(1..LEN, 0..12).prop_map(|ends| ends.into_iter().collect());
    let holder = prop::option::weighted(0.8, 0..4usize);
    let state = prop::sample::select(vec![ImportState::Importing, ImportState::Imported]);
    (ends, prop::collection::vec(holder, 13), any::<[bool; 4]>(), state)
        .prop_map(|(ends, holders, files, state)| StoredState { ends, holders, files, state })
}

fn attached_import(stored_state: &StoredState, catalog: &Catalog) -> ImportWithObjects {
    let mut extents: [Vec<(Range<u64>, u64)>; 4] = Default::default();
    let mut start = 0;
    for (end, holder) in stored_state.ends.iter().copied().chain([LEN]).zip(&stored_state.holders) {
        if let Some(n) = *holder {
            let offset = extents[n].last().map_or(3, |(range, at)| at + range.end - range.start);
            extents[n].push((start..end, offset));
        }
        start = end;
    }
    let object = |(n, extents): (usize, Vec<(Range<u64>, u64)>)| {
        let (range, at) = extents.last()?.clone();
        let (key, role) = match stored_state.files[n] {
            true => (format!("rig/{n}"), Role::File),
            false => (format!("{}/9c4e01ab/{n:08x}", catalog.id()), Role::Chunk),
        };
        let (len, packed) = (at + range.end - range.start, extents.len() > 1);
        Some(ExistingObject {
            key,
            len,
            role,
            packed,
            extents,
            tag: None,
            encoding: Encoding::default(),
            root: (len % 2 == 0).then_some([4; 32]),
            shared: false,
        })
    };
    ImportWithObjects {
        id: "9c4e01ab".parse().unwrap(),
        state: stored_state.state,
        created_at: 5,
        completed_at: (stored_state.state == ImportState::Imported).then_some(7),
        objects: extents.into_iter().enumerate().filter_map(object).collect(),
        manifests: Vec::new(),
        catalogs: Vec::new(),
        new: NewImport {
            name: "rig".into(),
            source: "rig.torrent".into(),
            info_hash_v1: Some([3; 20]),
            len: LEN,
            storage: "file".into(),
            chunk_len: 64,
            layout: LayoutKind::Files,
            metainfo: b"d4:infodee".to_vec(),
            files: vec![FileRow { path: "rig".into(), start: 0, len: LEN, pad: false }],
            selected: Some(vec![0]),
            ..NewImport::default()
        },
    }
}

/// The extents in the catalog, with object keys.
async fn extents_with_keys(catalog: &Catalog, row: &ImportRow) -> Vec<(Range<u64>, String, u64)> {
    let objects = catalog.objects(&row.id).await.unwrap();
    let key = |num: ObjectNum| objects.iter().find(|o| o.num == num).unwrap().key.clone();
    let extents = catalog.extents(&row.id).await.unwrap().into_iter();
    extents.map(|e| (e.range, key(e.object), e.offset)).collect()
}

async fn put_objects(backend: &SharedBackend, catalog: &Catalog, row: &ImportRow) {
    for object in catalog.objects(&row.id).await.unwrap() {
        backend.put(&Key::new(&object.key).unwrap(), zeros(object.len)).await.unwrap();
    }
}

/// Attaches the only import of the storage to `catalog`.
async fn attach_one(backend: &SharedBackend, catalog: &Catalog) -> (ImportRow, u64) {
    let mut survey = survey(&**backend).await.unwrap();
    assert!(survey.refused.is_empty(), "{:?}", survey.refused);
    assert_eq!(survey.imports.len(), 1);
    let found = survey.imports.remove(0);
    let missing_bytes = found.missing_bytes();
    (catalog.attach_import(found.into_attached("file")).await.unwrap(), missing_bytes)
}

async fn round_trip(stored_state: StoredState, lost_index: prop::sample::Index) {
    let faulty = Arc::new(Faulty::new(MemoryBackend::new(), 1));
    let backend: SharedBackend = Arc::clone(&faulty) as _;
    let (_dir, first) = catalog().await;
    let row = first.attach_import(attached_import(&stored_state, &first)).await.unwrap();
    put_objects(&backend, &first, &row).await;
    let written = write_manifest(&first, &backend, &row).await.unwrap();
    let objects = first.objects(&row.id).await.unwrap().len() - usize::from(written);
    assert_eq!(written, objects > 0 || stored_state.state == ImportState::Imported);
    assert!(
        !write_manifest(&first, &backend, &row).await.unwrap(),
        "an unchanged manifest is not written again"
    );
    if !written {
        return;
    }

    let (_dir, second) = catalog().await;
    let (attached, _) = attach_one(&backend, &second).await;
    assert_eq!(faulty.gets(), 1, "only the manifest is read");
    assert_eq!((&attached, second.get(&attached.id).await.unwrap()), (&row, row.clone()));
    assert_eq!(extents_with_keys(&second, &attached).await, extents_with_keys(&first, &row).await);
    assert_eq!(second.files(&row.id).await.unwrap(), first.files(&row.id).await.unwrap());
    assert_eq!(second.metainfo(&row.id).await.unwrap(), first.metainfo(&row.id).await.unwrap());
    let sweep = Sweep { catalog: &second, backend: &backend, storage: "file", idle: None };
    assert!(sweep.find().await.unwrap().is_empty(), "attached objects are no leftovers");

    // The manifest of the second catalog replaces the old one, and a third catalog finds the same import by it.
    assert!(write_manifest(&second, &backend, &attached).await.unwrap());
    assert!(sweep.find().await.unwrap().is_empty());
    let (_dir, third) = catalog().await;
    if objects > 0 {
        let stored: Vec<_> = first.objects(&row.id).await.unwrap();
        let lost_object = &stored[lost_index.index(objects)];
        backend.delete(&Key::new(&lost_object.key).unwrap()).await.unwrap();
        let (row, missing_bytes) = attach_one(&backend, &third).await;
        let mut expected = extents_with_keys(&first, &row).await;
        expected.retain(|(_, key, _)| *key != lost_object.key);
        assert_eq!(extents_with_keys(&third, &row).await, expected);
        assert_eq!(row.state, ImportState::Importing);
        assert!(missing_bytes > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_attached_import_equals_the_original_in_any_state(
        stored_state in stored_state(),
        lost_index in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round_trip(stored_state, lost_index));
    }
}

fn whole() -> StoredState {
    let holders = (0..13).map(|n| Some(n % 4)).collect();
    let ends = vec![250, 500, 750];
    StoredState { ends, holders, files: [false; 4], state: ImportState::Imported }
}

/// An import in a storage, and the catalog that made it.
async fn one_import() -> (TempDir, Catalog, ImportRow, SharedBackend) {
    let backend: SharedBackend = Arc::new(MemoryBackend::new());
    let (dir, catalog) = catalog().await;
    let row = catalog.attach_import(attached_import(&whole(), &catalog)).await.unwrap();
    put_objects(&backend, &catalog, &row).await;
    assert!(write_manifest(&catalog, &backend, &row).await.unwrap());
    (dir, catalog, row, backend)
}

async fn put(backend: &SharedBackend, key: &str, body: &[u8]) {
    let body = Payload::from_iter([Bytes::copy_from_slice(body)]);
    backend.put(&Key::new(key).unwrap(), body).await.unwrap();
}

#[tokio::test]
async fn leftovers_of_an_attached_catalog_are_removed_on_request_and_unclaimed_imports_never() {
    let (_dir, first, row, backend) = one_import().await;
    let own = first.id();
    let (_dir, second) = catalog().await;
    attach_one(&backend, &second).await;
    put(&backend, &format!("{own}/{}/000000ff", row.id), b"left").await;
    put(&backend, &format!("{own}/aaaaaaaa/00000001"), b"never finished").await;
    put(&backend, &format!("{own}/bbbbbbbb/00000001"), b"chunk").await;
    put(&backend, &format!("{own}/bbbbbbbb/manifest-00000002"), b"of a newer bae").await;
    put(&backend, "ffffffffffffffff/aaaaaaaa/00000001", b"another catalog's").await;
    put(&backend, "An Album/01.flac", b"somebody's").await;
    let sweep = Sweep { catalog: &second, backend: &backend, storage: "file", idle: None };
    let found = sweep.find().await.unwrap();
    assert_eq!((found.own.objects, found.adopted.objects, found.adopted.bytes), (0, 2, 18));
    assert_eq!(Vec::from_iter(&found.unclaimed), [&format!("{own}/bbbbbbbb/")]);
    assert_eq!(sweep.remove(&found, false).await.unwrap().tally.objects, 0);
    assert_eq!(sweep.remove(&found, true).await.unwrap().tally, found.adopted);
    let left = sweep.find().await.unwrap();
    assert!(left.is_empty() && left.unclaimed.len() == 1);
    // After the import is removed, only the objects of others are left.
    let row = second.get(&row.id).await.unwrap();
    remove_import(&second, &backend, &row, false).await.unwrap();
    assert_eq!(crate::backends::list_all(&*backend, "").await.unwrap().len(), 4);
    let elsewhere = Sweep { storage: "music", ..sweep };
    assert!(elsewhere.find().await.unwrap().unclaimed.is_empty(), "attached in one storage only");
}

#[tokio::test]
async fn a_damaged_manifest_is_replaced_by_the_one_before_and_that_of_a_newer_bae_is_not() {
    let (_dir, first, row, backend) = one_import().await;
    let folder = format!("{}/{}", first.id(), row.id);
    put(&backend, &format!("{folder}/manifest-000000f0"), b"{\"bae_manifest\":1}\n").await;
    let found = survey(&*backend).await.unwrap();
    assert_eq!((found.imports.len(), found.refused.len()), (1, 1));
    assert_eq!(found.refused[0].kind(), Kind::Corrupt);
    assert_eq!(found.imports[0].manifests.len(), 2, "the damaged manifest is listed too");
    assert_eq!(found.numbers[first.id()], 0xf0);
    put(&backend, &format!("{folder}/manifest-000000f1"), b"{\"bae_manifest\":3}\n").await;
    let found = survey(&*backend).await.unwrap();
    assert_eq!((found.imports.len(), found.refused[0].kind()), (0, Kind::Unsupported));
    let copied = crate::backends::list_all(&*backend, &format!("{folder}/manifest-0000000")).await;
    let copied = &copied.unwrap()[0];
    let bytes = backend.get(&copied.key, 0..copied.len).await.unwrap();
    put(&backend, "ffffffffffffffff/aaaaaaaa/manifest-00000001", &bytes).await;
    let found = survey(&*backend).await.unwrap();
    assert!(
        found.refused.iter().any(|e| e.report().contains("content belongs to ")),
        "a copy in a foreign folder"
    );
}

#[tokio::test]
async fn an_import_with_a_taken_id_gets_another_and_one_with_taken_objects_is_refused() {
    let (_dir, _, row, backend) = one_import().await;
    let (_dir, second) = catalog().await;
    let mut other = attached_import(&whole(), &second);
    other.new.info_hash_v1 = Some([4; 20]);
    let other = second.attach_import(other).await.unwrap();
    assert_eq!(other.id, row.id);
    let (attached, _) = attach_one(&backend, &second).await;
    assert_ne!(attached.id, row.id);
    let duplicate = survey(&*backend).await.unwrap().imports.remove(0).into_attached("elsewhere");
    let refused = second.attach_import(duplicate).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::AlreadyExists);
    assert_eq!(second.list().await.unwrap().len(), 2, "a refused import leaves no row");
    second.skip_numbers(500).await.unwrap();
    second.skip_numbers(20).await.unwrap();
    assert_eq!(second.intend(&attached.id, 1, false).await.unwrap().num, ObjectNum(501));
    let (_dir, fresh) = catalog().await;
    fresh.skip_numbers(7).await.unwrap();
    let made = fresh.create_import(NewImport::default()).await.unwrap();
    assert_eq!(fresh.intend(&made.id, 1, false).await.unwrap().num, ObjectNum(8));
}
