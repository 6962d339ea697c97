//! What is stored of an import and where, read at one moment.

use std::ops::Range;

use super::{
    Catalog, Extent, FileRow, ImportId, ObjectRow,
    attach::{AdoptedObject, select_adopted},
    extents::select_extents,
    imports::{import_num, select_files},
    objects::select_objects,
    partial_uploads::select_partial_uploads,
    sql::Sql,
};
use crate::error::{Kind, Result};

/// The files, objects and extents of an import, as of one commit.
#[derive(Debug)]
pub struct ImportContents {
    /// See [`Catalog::files`].
    pub files: Vec<FileRow>,
    /// See [`Catalog::objects`].
    pub objects: Vec<ObjectRow>,
    /// See [`Catalog::extents`].
    pub extents: Vec<Extent>,
    /// See [`Catalog::adopted_objects`].
    pub adopted: Vec<AdoptedObject>,
    /// See [`Catalog::partial_uploads`].
    pub partial_uploads: Vec<(ObjectRow, Range<u64>)>,
}

fn contents(db: &dyn Sql, import: &ImportId) -> Result<ImportContents> {
    let num = import_num(db, import)?;
    Ok(ImportContents {
        files: select_files(db, num)?,
        objects: select_objects(db, num)?,
        extents: select_extents(db, num)?,
        adopted: select_adopted(db, num)?,
        partial_uploads: select_partial_uploads(db, import)?,
    })
}

impl Catalog {
    /// What is stored of an import.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn contents(&self, import: &ImportId) -> Result<ImportContents> {
        let import = import.clone();
        self.read(move |db| contents(db, &import)).await
    }

    /// What is stored of each of `imports`, in one read. `None` for an import that does not exist.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn contents_of_each(
        &self,
        imports: Vec<ImportId>,
    ) -> Result<Vec<Option<ImportContents>>> {
        if imports.is_empty() {
            return Ok(Vec::new());
        }
        self.read(move |db| {
            let found = |import| match contents(db, import) {
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                found => found.map(Some),
            };
            imports.iter().map(found).collect()
        })
        .await
    }
}
