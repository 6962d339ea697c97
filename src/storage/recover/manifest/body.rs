//! The JSON of a manifest: the fields as they are written. Unknown fields are refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{Manifest, ManifestObject, corrupt};
use crate::{
    backends::Key,
    catalog::{Encoding, FileRow, ImportState, LayoutKind, Role, hex},
    error::{Error, Kind, Result},
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    catalog: String,
    import: String,
    name: String,
    source: String,
    info_hash_v1: Option<String>,
    info_hash_v2: Option<String>,
    len: u64,
    chunk_len: u64,
    layout: String,
    selected: Option<Vec<u32>>,
    state: String,
    created: i64,
    completed: Option<i64>,
    /// The torrent file in Base64.
    torrent: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    files: Vec<File>,
    objects: Vec<Object>,
}

/// Each file begins where the one before it ends.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    len: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pad: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    key: String,
    len: u64,
    role: String,
    #[serde(default, skip_serializing_if = "is_false")]
    packed: bool,
    /// Start and end in the import, offset in the object.
    extents: Vec<(u64, u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    format: u32,
    /// The header in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    shared: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>> {
    let file = |f: &FileRow| File { path: f.path.clone(), len: f.len, pad: f.pad };
    let object = |o: &ManifestObject| Object {
        key: o.key.to_string(),
        len: o.len,
        role: o.role.as_str().into(),
        packed: o.packed,
        extents: o.extents.iter().map(|(range, at)| (range.start, range.end, *at)).collect(),
        tag: o.tag.clone(),
        format: o.encoding.format,
        header: o.encoding.header.as_ref().map(|header| STANDARD.encode(header)),
        root: o.root.map(|root| hex(&root)),
        shared: o.shared,
    };
    let body = Body {
        catalog: manifest.catalog.clone(),
        import: manifest.import.to_string(),
        name: manifest.name.clone(),
        source: manifest.source.clone(),
        info_hash_v1: manifest.info_hash_v1.map(|hash| hex(&hash)),
        info_hash_v2: manifest.info_hash_v2.map(|hash| hex(&hash)),
        len: manifest.len,
        chunk_len: manifest.chunk_len,
        layout: manifest.layout.as_str().into(),
        selected: manifest.selected.clone(),
        state: manifest.state.as_str().into(),
        created: manifest.created_at,
        completed: manifest.completed_at,
        torrent: STANDARD.encode(&manifest.metainfo),
        remote: manifest.remote.clone(),
        files: manifest.files.iter().map(file).collect(),
        objects: manifest.objects.iter().map(object).collect(),
    };
    serde_json::to_vec(&body)
        .map_err(|e| Error::new(Kind::Internal, "cannot encode the manifest as JSON").because(e))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Manifest> {
    let body: Body =
        serde_json::from_slice(bytes).map_err(|e| corrupt("invalid JSON").because(e))?;
    let field = |name: &'static str| move || corrupt(format!("invalid {name}"));
    Ok(Manifest {
        import: body.import.parse().map_err(|_| field("import")())?,
        catalog: body.catalog,
        name: body.name,
        source: body.source,
        info_hash_v1: body.info_hash_v1.as_deref().map(hash).transpose()?,
        info_hash_v2: body.info_hash_v2.as_deref().map(hash).transpose()?,
        len: body.len,
        chunk_len: body.chunk_len,
        layout: LayoutKind::parse(&body.layout).ok_or_else(field("layout"))?,
        selected: body.selected,
        state: ImportState::parse(&body.state).ok_or_else(field("state"))?,
        created_at: body.created,
        completed_at: body.completed,
        metainfo: STANDARD.decode(&body.torrent).map_err(|_| field("torrent")())?,
        remote: body.remote,
        files: files(body.files)?,
        objects: body.objects.into_iter().map(object).collect::<Result<_>>()?,
    })
}

fn files(files: Vec<File>) -> Result<Vec<FileRow>> {
    let mut start: u64 = 0;
    let row = |file: File| {
        let row = FileRow { path: file.path, start, len: file.len, pad: file.pad };
        start = start.checked_add(file.len).ok_or_else(|| corrupt("the file lengths overflow"))?;
        Ok(row)
    };
    files.into_iter().map(row).collect()
}

fn object(object: Object) -> Result<ManifestObject> {
    if object.format != 0 {
        let text = format!("object {} has format {}", object.key, object.format);
        return Err(Error::new(Kind::Unsupported, text).hint("update bae"));
    }
    let extents = object.extents.into_iter().map(|(start, end, at)| (start..end, at)).collect();
    let header = object.header.as_ref().map(|text| STANDARD.decode(text)).transpose();
    let header = header.map_err(|_| corrupt("an object has an invalid header"))?;
    Ok(ManifestObject {
        role: Role::parse(&object.role).ok_or_else(|| corrupt("an object has an unknown role"))?,
        key: Key::new(&object.key)
            .map_err(|e| corrupt("an object has an invalid key").because(e))?,
        len: object.len,
        packed: object.packed,
        extents,
        tag: object.tag,
        encoding: Encoding { format: object.format, header },
        root: object.root.as_deref().map(hash).transpose()?,
        shared: object.shared,
    })
}

fn hash<const BYTES: usize>(digits: &str) -> Result<[u8; BYTES]> {
    let invalid = || corrupt("invalid hash");
    if digits.len() != 2 * BYTES || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let mut hash = [0; BYTES];
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).map_err(|_| invalid())?;
    }
    Ok(hash)
}
