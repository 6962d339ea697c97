//! From one catalog through the storage into another, with objects in every state that an import can have.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    backends::{Faulty, MemoryBackend, Payload},
    catalog::{Catalog, FileRow, ImportRow, LayoutKind, ObjectNum, Role},
    storage::{
        manifest::write_manifest,
        sweep::{Sweep, remove_import},
    },
};

type Place = Arc<dyn StorageBackend>;

const LEN: u64 = 1000;

fn catalog() -> (TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    (dir, catalog)
}

fn zeros(len: u64) -> Payload {
    Payload::from_iter([Bytes::from(vec![0; usize::try_from(len).unwrap()])])
}

/// How an import is stored: the ends of its runs, the object that holds each run (`None` for a hole), and which objects
/// are files.
#[derive(Debug, Clone)]
struct Cut {
    ends: Vec<u64>,
    holders: Vec<Option<usize>>,
    files: [bool; 4],
    state: ImportState,
}

fn cut() -> impl Strategy<Value = Cut> {
    let ends =
        prop::collection::btree_set(1..LEN, 0..12).prop_map(|ends| ends.into_iter().collect());
    let holder = prop::option::weighted(0.8, 0..4usize);
    let state = prop::sample::select(vec![ImportState::Importing, ImportState::Imported]);
    (ends, prop::collection::vec(holder, 13), any::<[bool; 4]>(), state)
        .prop_map(|(ends, holders, files, state)| Cut { ends, holders, files, state })
}

fn described(cut: &Cut, catalog: &Catalog) -> Attached {
    let mut extents: [Vec<(Range<u64>, u64)>; 4] = Default::default();
    let mut start = 0;
    for (end, holder) in cut.ends.iter().copied().chain([LEN]).zip(&cut.holders) {
        if let Some(n) = *holder {
            let offset = extents[n].last().map_or(3, |(range, at)| at + range.end - range.start);
            extents[n].push((start..end, offset));
        }
        start = end;
    }
    let object = |(n, extents): (usize, Vec<(Range<u64>, u64)>)| {
        let (range, at) = extents.last()?.clone();
        let (key, role) = match cut.files[n] {
            true => (format!("rig/{n}"), Role::File),
            false => (format!("{}/9c4e01ab/{n:08x}", catalog.id()), Role::Chunk),
        };
        let (len, packed) = (at + range.end - range.start, extents.len() > 1);
        Some(AttachedObject { key, len, role, packed, extents, tag: None })
    };
    Attached {
        id: "9c4e01ab".parse().unwrap(),
        state: cut.state,
        created_at: 5,
        completed_at: (cut.state == ImportState::Imported).then_some(7),
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
fn map(catalog: &Catalog, row: &ImportRow) -> Vec<(Range<u64>, String, u64)> {
    let objects = catalog.objects(&row.id).unwrap();
    let key = |num: ObjectNum| objects.iter().find(|o| o.num == num).unwrap().key.clone();
    let extents = catalog.extents(&row.id).unwrap().into_iter();
    extents.map(|e| (e.range, key(e.object), e.offset)).collect()
}

async fn put_objects(place: &Place, catalog: &Catalog, row: &ImportRow) {
    for object in catalog.objects(&row.id).unwrap() {
        place.put(&Key::new(&object.key).unwrap(), zeros(object.len)).await.unwrap();
    }
}

/// Attaches the only import of the storage to `catalog`.
async fn attach_one(place: &Place, catalog: &Catalog) -> (ImportRow, u64) {
    let mut survey = survey(&**place).await.unwrap();
    assert!(survey.refused.is_empty(), "{:?}", survey.refused);
    assert_eq!(survey.imports.len(), 1);
    let found = survey.imports.remove(0);
    let lost = found.lost();
    (catalog.attach_import(found.into_attached("file")).await.unwrap(), lost)
}

async fn round_trip(cut: Cut, lose: prop::sample::Index) {
    let backend = Arc::new(Faulty::new(MemoryBackend::new(), 1));
    let place: Place = Arc::clone(&backend) as _;
    let (_dir, first) = catalog();
    let row = first.attach_import(described(&cut, &first)).await.unwrap();
    put_objects(&place, &first, &row).await;
    let written = write_manifest(&first, &place, &row).await.unwrap();
    let objects = first.objects(&row.id).unwrap().len() - usize::from(written);
    assert_eq!(written, objects > 0 || cut.state == ImportState::Imported);
    assert!(!write_manifest(&first, &place, &row).await.unwrap(), "the same is not written twice");
    if !written {
        return;
    }

    let (_dir, second) = catalog();
    let (again, _) = attach_one(&place, &second).await;
    assert_eq!(backend.gets(), 1, "only the manifest is read");
    assert_eq!((&again, second.get(&again.id).unwrap()), (&row, row.clone()));
    assert_eq!(map(&second, &again), map(&first, &row));
    assert_eq!(second.files(&row.id).unwrap(), first.files(&row.id).unwrap());
    assert_eq!(second.metainfo(&row.id).unwrap(), first.metainfo(&row.id).unwrap());
    let sweep = Sweep { catalog: &second, backend: &place, storage: "file" };
    assert!(sweep.find().await.unwrap().is_empty(), "what was attached is no leftover");

    // The manifest of the second catalog replaces the old one, and a third catalog finds the same import by it.
    assert!(write_manifest(&second, &place, &again).await.unwrap());
    assert!(sweep.find().await.unwrap().is_empty());
    let (_dir, third) = catalog();
    if objects > 0 {
        let stored: Vec<_> = first.objects(&row.id).unwrap();
        let gone = &stored[lose.index(objects)];
        place.delete(&Key::new(&gone.key).unwrap()).await.unwrap();
        let (row, lost) = attach_one(&place, &third).await;
        let mut expected = map(&first, &row);
        expected.retain(|(_, key, _)| *key != gone.key);
        assert_eq!(map(&third, &row), expected);
        assert_eq!(row.state, ImportState::Importing);
        assert!(lost > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_import_in_any_state_comes_back_from_its_place_as_it_was(
        cut in cut(),
        lose in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round_trip(cut, lose));
    }
}

fn whole() -> Cut {
    let holders = (0..13).map(|n| Some(n % 4)).collect();
    let ends = vec![250, 500, 750];
    Cut { ends, holders, files: [false; 4], state: ImportState::Imported }
}

/// An import in a storage, and the catalog that made it.
async fn one_import() -> (TempDir, Catalog, ImportRow, Place) {
    let place: Place = Arc::new(MemoryBackend::new());
    let (dir, catalog) = catalog();
    let row = catalog.attach_import(described(&whole(), &catalog)).await.unwrap();
    put_objects(&place, &catalog, &row).await;
    assert!(write_manifest(&catalog, &place, &row).await.unwrap());
    (dir, catalog, row, place)
}

async fn put(place: &Place, key: &str, body: &[u8]) {
    let body = Payload::from_iter([Bytes::copy_from_slice(body)]);
    place.put(&Key::new(key).unwrap(), body).await.unwrap();
}

#[tokio::test]
async fn leftovers_of_an_adopted_catalog_wait_for_an_order_and_unclaimed_imports_for_their_owner() {
    let (_dir, first, row, place) = one_import().await;
    let own = first.id();
    let (_dir, second) = catalog();
    attach_one(&place, &second).await;
    put(&place, &format!("{own}/{}/000000ff", row.id), b"left").await;
    put(&place, &format!("{own}/aaaaaaaa/00000001"), b"never finished").await;
    put(&place, &format!("{own}/bbbbbbbb/00000001"), b"chunk").await;
    put(&place, &format!("{own}/bbbbbbbb/manifest-00000002"), b"of a newer bae").await;
    put(&place, "ffffffffffffffff/aaaaaaaa/00000001", b"another catalog's").await;
    put(&place, "An Album/01.flac", b"somebody's").await;
    let sweep = Sweep { catalog: &second, backend: &place, storage: "file" };
    let found = sweep.find().await.unwrap();
    assert_eq!((found.own.objects, found.adopted.objects, found.adopted.bytes), (0, 2, 18));
    assert_eq!(Vec::from_iter(&found.unclaimed), [&format!("{own}/bbbbbbbb/")]);
    assert_eq!(sweep.remove(&found, false).await.unwrap().tally.objects, 0);
    assert_eq!(sweep.remove(&found, true).await.unwrap().tally, found.adopted);
    let left = sweep.find().await.unwrap();
    assert!(left.is_empty() && left.unclaimed.len() == 1);
    // After the import is removed, only the objects of others are left.
    let row = second.get(&row.id).unwrap();
    remove_import(&second, &place, &row, false).await.unwrap();
    assert_eq!(crate::backends::list_all(&*place, "").await.unwrap().len(), 4);
    let elsewhere = Sweep { storage: "music", ..sweep };
    assert!(elsewhere.find().await.unwrap().unclaimed.is_empty(), "adopted in one storage only");
}

#[tokio::test]
async fn a_damaged_manifest_gives_way_to_the_one_before_and_a_newer_baes_does_not() {
    let (_dir, first, row, place) = one_import().await;
    let folder = format!("{}/{}", first.id(), row.id);
    put(&place, &format!("{folder}/manifest-000000f0"), b"{\"bae_manifest\":1}\n").await;
    let found = survey(&*place).await.unwrap();
    assert_eq!((found.imports.len(), found.refused.len()), (1, 1));
    assert_eq!(found.refused[0].kind(), Kind::Corrupt);
    assert_eq!(found.imports[0].manifests.len(), 2, "the damaged one is its too");
    assert_eq!(found.numbers[first.id()], 0xf0);
    put(&place, &format!("{folder}/manifest-000000f1"), b"{\"bae_manifest\":2}\n").await;
    let found = survey(&*place).await.unwrap();
    assert_eq!((found.imports.len(), found.refused[0].kind()), (0, Kind::Unsupported));
    let copied = crate::backends::list_all(&*place, &format!("{folder}/manifest-0000000")).await;
    let copied = &copied.unwrap()[0];
    let bytes = place.get(&copied.key, 0..copied.len).await.unwrap();
    put(&place, "ffffffffffffffff/aaaaaaaa/manifest-00000001", &bytes).await;
    let found = survey(&*place).await.unwrap();
    assert!(found.refused.iter().any(|e| e.report().contains("it is of ")), "a copy elsewhere");
}

#[tokio::test]
async fn a_taken_id_is_replaced_and_taken_objects_are_refused() {
    let (_dir, _, row, place) = one_import().await;
    let (_dir, second) = catalog();
    let mut other = described(&whole(), &second);
    other.new.info_hash_v1 = Some([4; 20]);
    let other = second.attach_import(other).await.unwrap();
    assert_eq!(other.id, row.id);
    let (attached, _) = attach_one(&place, &second).await;
    assert_ne!(attached.id, row.id);
    let again = survey(&*place).await.unwrap().imports.remove(0).into_attached("elsewhere");
    let refused = second.attach_import(again).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::AlreadyExists);
    assert_eq!(second.list().unwrap().len(), 2, "a refusal leaves nothing");
    second.skip_numbers(500).await.unwrap();
    second.skip_numbers(20).await.unwrap();
    assert_eq!(second.intend(&attached.id, 1, false).await.unwrap().num, ObjectNum(501));
    let (_dir, fresh) = catalog();
    fresh.skip_numbers(7).await.unwrap();
    let made = fresh.create_import(NewImport::default()).await.unwrap();
    assert_eq!(fresh.intend(&made.id, 1, false).await.unwrap().num, ObjectNum(8));
}
