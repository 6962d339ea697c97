//! Removes extents of ranges whose bytes are wrong or missing.

use std::{collections::BTreeSet, ops::Range};

use super::{
    Catalog, ImportId, ObjectRow,
    extents::cut_range,
    imports::import_num,
    partial_uploads::discard_uploaded,
    release::release_unused,
    sql::{Sql, values},
};
use crate::error::Result;

fn punch_holes(db: &dyn Sql, import: &ImportId, ranges: &[Range<u64>]) -> Result<Vec<ObjectRow>> {
    let num = import_num(db, import)?;
    let mut touched = BTreeSet::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        touched.extend(cut_range(db, num, range)?.into_iter().map(|cut| cut.object));
    }
    discard_uploaded(db, num, ranges)?;
    let sql = "UPDATE imports SET state = 'importing' WHERE num = ? AND state = 'imported'";
    db.execute(sql, values![num])?;
    release_unused(db, touched)
}

impl Catalog {
    /// Removes the extents of `ranges` in one transaction. The ranges become holes, and an import that was complete
    /// becomes [`ImportState::Importing`](super::ImportState::Importing). Objects without extents are dying then and
    /// are returned for the caller to delete; otherwise the sweep deletes them. Adopted objects are only forgotten.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn punch_holes(
        &self,
        import: &ImportId,
        ranges: Vec<Range<u64>>,
    ) -> Result<Vec<ObjectRow>> {
        let import = import.clone();
        self.write(move |db| punch_holes(db, &import, &ranges)).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{Extent, ImportState, NewImport, ObjectNum};

    const LEN: u64 = 60;

    fn ranges(most: usize) -> impl Strategy<Value = Vec<Range<u64>>> {
        let range = (0..LEN, 0..LEN).prop_map(|(a, b)| a.min(b)..a.max(b));
        prop::collection::vec(range, 0..most)
    }

    /// For each byte, the object that holds it and the offset there.
    async fn cells(catalog: &Catalog, id: &ImportId) -> Vec<Option<(ObjectNum, u64)>> {
        let mut cells = vec![None; usize::try_from(LEN).unwrap()];
        for extent in catalog.extents(id).await.unwrap() {
            for (n, at) in extent.range.clone().enumerate() {
                let cell = &mut cells[usize::try_from(at).unwrap()];
                assert!(cell.is_none(), "two extents hold byte {at}");
                *cell = Some((extent.object, extent.offset + n as u64));
            }
        }
        cells
    }

    async fn run(cuts: &[u64], punched: Vec<Range<u64>>) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = NewImport { len: LEN, storage: "file".into(), ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        // Runs alternate between two objects, so that each can hold several.
        let mut runs = [Vec::new(), Vec::new()];
        let ends = cuts.iter().copied().chain([LEN]);
        let mut start = 0;
        for (n, end) in ends.enumerate() {
            runs[n % 2].push(start..end);
            start = end;
        }
        for runs in runs.into_iter().filter(|runs| !runs.is_empty()) {
            let len = runs.iter().map(|run: &Range<u64>| run.end - run.start).sum();
            let object = catalog.intend(&id, len, true).await.unwrap().num;
            let mut offset = 0;
            let extents = runs.into_iter().map(|range| {
                let extent = Extent { offset, object, range };
                offset += extent.range.end - extent.range.start;
                extent
            });
            let extents = extents.collect();
            catalog.commit_object(object, extents).await.unwrap();
        }
        catalog.set_state(&id, ImportState::Imported).await.unwrap();
        let mut expected = cells(&catalog, &id).await;
        for at in punched.iter().cloned().flatten() {
            expected[usize::try_from(at).unwrap()] = None;
        }
        let freed = catalog.punch_holes(&id, punched).await.unwrap();
        assert_eq!(cells(&catalog, &id).await, expected);
        assert_eq!(catalog.get(&id).await.unwrap().state, ImportState::Importing);
        assert_eq!(catalog.leftover_intents().await.unwrap(), freed);
        for object in catalog.objects(&id).await.unwrap() {
            let used = expected.iter().flatten().any(|(num, _)| *num == object.num);
            assert_eq!(object.is_stored(), used, "an object without extents is dying");
        }
        catalog.drop_objects(freed.into_iter().map(|object| object.num).collect()).await.unwrap();
        assert!(catalog.leftover_intents().await.unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn punched_ranges_are_holes_and_all_other_bytes_keep_their_location(
            cuts in prop::collection::btree_set(1..LEN, 0..6),
            punched in ranges(6),
        ) {
            let cuts: Vec<_> = cuts.into_iter().collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(run(&cuts, punched));
        }
    }
}
