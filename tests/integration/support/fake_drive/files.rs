//! The endpoints `files` and `about`: metadata, listings, copies, downloads.

use std::{collections::BTreeMap, sync::Arc};

use md5::{Digest, Md5};
use serde_json::{Map, Value, json};

use super::{
    FOLDER, File, Refusal, State,
    http::{Answer, Request},
    query,
};

pub(super) fn route(state: &mut State, request: &Request) -> Result<Answer, Refusal> {
    let parts: Vec<&str> = request.path.trim_start_matches("/drive/v3/").split('/').collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["about"]) => about(state),
        ("GET", ["files", "generateIds"]) => generate_ids(state, request),
        ("GET", ["files"]) => list(state, request),
        ("POST", ["files"]) => create_folder(state, request),
        ("GET", ["files", id]) if request.param("alt") == Some("media") => {
            media(state, request, id)
        }
        ("GET", ["files", id]) => {
            state.charge(5)?;
            let file = find(state, request, id)?;
            Ok(Answer::json(&metadata(file, request.param("fields"))))
        }
        ("PATCH", ["files", id]) => patch(state, request, id),
        ("DELETE", ["files", id]) => {
            state.charge(50)?;
            let id = find(state, request, id)?.id.clone();
            state.files.remove(&id);
            Ok(Answer::new(204))
        }
        ("POST", ["files", id, "copy"]) => copy(state, request, id),
        _ => Err(Refusal(404, "notFound")),
    }
}

/// Looks up a file. A file in a shared drive is found only by a request with `supportsAllDrives=true`.
fn find<'a>(state: &'a State, request: &Request, id: &str) -> Result<&'a File, Refusal> {
    let id = if id == "root" { "root-of-my-drive" } else { id };
    let file = state.files.get(id).ok_or(Refusal(404, "notFound"))?;
    let supports_all_drives = request.param("supportsAllDrives") == Some("true");
    if file.drive.is_some() && !supports_all_drives {
        Err(Refusal(404, "notFound"))
    } else {
        Ok(file)
    }
}

fn about(state: &mut State) -> Result<Answer, Refusal> {
    state.charge(5)?;
    let mut quota = json!({ "usage": state.used_bytes().to_string() });
    if let Some(limit) = state.rules.quota {
        quota["limit"] = limit.to_string().into();
    }
    Ok(Answer::json(&json!({ "storageQuota": quota })))
}

fn generate_ids(state: &mut State, request: &Request) -> Result<Answer, Refusal> {
    state.charge(5)?;
    let count: u64 = request.param("count").and_then(|n| n.parse().ok()).unwrap_or(10);
    if !(1..=1000).contains(&count) {
        return Err(Refusal(400, "invalid"));
    }
    let new = |state: &mut State| {
        format!("1{:032x}", state.next_number().wrapping_mul(0x9E37_79B9_7F4A_7C15))
    };
    let ids: Vec<String> = (0..count).map(|_| new(state)).collect();
    state.issued.extend(ids.iter().cloned());
    Ok(Answer::json(&json!({ "kind": "drive#generatedIds", "space": "drive", "ids": ids })))
}

fn list(state: &mut State, request: &Request) -> Result<Answer, Refusal> {
    state.charge(100)?;
    let terms = query::parse(request.param("q").ok_or(Refusal(400, "invalid"))?)?;
    let all_drives = ["supportsAllDrives", "includeItemsFromAllDrives"];
    let all_drives = all_drives.iter().all(|name| request.param(name) == Some("true"));
    let drive = request.param("driveId");
    if drive.is_some() != (request.param("corpora") == Some("drive"))
        || (drive.is_some() && !all_drives)
    {
        return Err(Refusal(403, "teamDrivesParentLimit"));
    }
    let in_drive = |file: &&File| file.drive.as_deref() == drive;
    let mut found: Vec<&File> = state.files.values().filter(in_drive).collect();
    found.retain(|file| terms.iter().all(|term| term.matches(file)));
    found.sort_by_key(|file| file.created);
    let page_size: usize = request.param("pageSize").and_then(|n| n.parse().ok()).unwrap_or(100);
    if page_size > 1000 {
        return Err(Refusal(400, "invalid"));
    }
    let after: u64 = request
        .param("pageToken")
        .map_or(Ok(0), str::parse)
        .map_err(|_| Refusal(400, "invalid"))?;
    let limit = page_size.min(state.rules.page_size);
    let rest: Vec<&File> = found.into_iter().filter(|file| file.created > after).collect();
    let next = (rest.len() > limit).then(|| rest[limit - 1].created.to_string());
    let fields = request.param("fields").and_then(|f| f.split_once("files(")?.1.split(')').next());
    let files: Vec<Value> = rest.iter().take(limit).map(|file| metadata(file, fields)).collect();
    let mut out = json!({ "files": files });
    if let Some(next) =
        next.filter(|_| request.param("fields").is_some_and(|f| f.contains("nextPageToken")))
    {
        out["nextPageToken"] = next.into();
    }
    Ok(Answer::json(&out))
}

fn create_folder(state: &mut State, request: &Request) -> Result<Answer, Refusal> {
    state.charge(50)?;
    state.count_create()?;
    let description = request.json()?;
    if description["mimeType"] != FOLDER || !description["id"].is_null() {
        return Err(Refusal(400, "invalid"));
    }
    let id = format!("made-{:020x}", state.next_number());
    let file = create_file(state, request, &description, id, Vec::new())?;
    Ok(Answer::json(&metadata(&file, request.param("fields"))))
}

fn patch(state: &mut State, request: &Request, id: &str) -> Result<Answer, Refusal> {
    state.charge(50)?;
    let id = find(state, request, id)?.id.clone();
    let change = request.json()?;
    let mut file = state.files[&id].clone();
    if let Some(trashed) = change["trashed"].as_bool() {
        file.trashed = trashed;
    }
    file.properties.extend(properties(&change["appProperties"])?);
    state.files.insert(id, file.clone());
    Ok(Answer::json(&metadata(&file, request.param("fields"))))
}

fn copy(state: &mut State, request: &Request, id: &str) -> Result<Answer, Refusal> {
    state.charge(50)?;
    state.count_create()?;
    let source = find(state, request, id)?.clone();
    let mut description = request.json()?;
    let new = take_id(state, &description)?;
    // A copy keeps the properties of its source that the request does not set.
    let mut properties: Map<String, Value> =
        source.properties.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    properties.extend(description["appProperties"].as_object().cloned().unwrap_or_default());
    description["appProperties"] = properties.into();
    let file = create_file(state, request, &description, new, source.data.to_vec())?;
    Ok(Answer::json(&metadata(&file, request.param("fields"))))
}

fn media(state: &mut State, request: &Request, id: &str) -> Result<Answer, Refusal> {
    state.charge(200)?;
    let file = find(state, request, id)?;
    let len = file.data.len();
    let Some(range) = request.header("range") else {
        let mut answer = Answer::new(200);
        answer.body = file.data.to_vec();
        return Ok(answer);
    };
    let bounds = range.strip_prefix("bytes=").and_then(|text| text.split_once('-'));
    let bounds =
        bounds.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
    let (first, last) = bounds.ok_or(Refusal(400, "invalid"))?;
    if first >= len {
        return Ok(Answer::new(416).with("Content-Range", format!("bytes */{len}")));
    }
    let last = last.min(len - 1);
    let mut answer = Answer::new(206).with("Content-Range", format!("bytes {first}-{last}/{len}"));
    answer.body = file.data[first..=last].to_vec();
    Ok(answer)
}

/// The id of a new file: one from `generateIds` that is still unused, or one that the server makes.
pub(super) fn take_id(state: &mut State, description: &Value) -> Result<String, Refusal> {
    let Some(id) = description["id"].as_str() else {
        return Ok(format!("made-{:020x}", state.next_number()));
    };
    if !state.issued.contains(id) {
        return Err(Refusal(400, "invalid"));
    }
    if state.used.contains(id) { Err(Refusal(409, "fileIdInUse")) } else { Ok(id.to_owned()) }
}

/// The folder of a new file.
pub(super) fn parent(
    state: &State,
    request: &Request,
    description: &Value,
) -> Result<File, Refusal> {
    let parents = description["parents"].as_array().map(Vec::as_slice);
    let id = match parents {
        None => "root",
        Some([one]) => one.as_str().ok_or(Refusal(400, "invalid"))?,
        Some(_) => return Err(Refusal(400, "cannotAddParent")),
    };
    let folder = find(state, request, id)?;
    if folder.mime == FOLDER { Ok(folder.clone()) } else { Err(Refusal(403, "parentNotAFolder")) }
}

pub(super) fn create_file(
    state: &mut State,
    request: &Request,
    description: &Value,
    id: String,
    data: Vec<u8>,
) -> Result<File, Refusal> {
    let folder = parent(state, request, description)?;
    let used = state.used_bytes() + data.len() as u64;
    if state.rules.quota.is_some_and(|limit| used > limit) {
        return Err(Refusal(403, "storageQuotaExceeded"));
    }
    if !state.used.insert(id.clone()) {
        return Err(Refusal(409, "fileIdInUse"));
    }
    let digest = Md5::digest(&data);
    let file = File {
        id: id.clone(),
        name: description["name"].as_str().unwrap_or("Untitled").to_owned(),
        mime: description["mimeType"].as_str().unwrap_or("application/octet-stream").to_owned(),
        parent: Some(folder.id),
        properties: properties(&description["appProperties"])?,
        trashed: folder.trashed,
        md5: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        data: Arc::new(data),
        created: state.next_number(),
        drive: folder.drive,
    };
    state.files.insert(id, file.clone());
    Ok(file)
}

pub(super) fn properties(properties: &Value) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(properties) = properties.as_object() else { return Ok(BTreeMap::new()) };
    let text = |(key, value): (&String, &Value)| {
        let value = value.as_str().ok_or(Refusal(400, "invalid"))?;
        if key.len() + value.len() > 124 {
            return Err(Refusal(400, "propertyTooLong"));
        }
        Ok((key.clone(), value.to_owned()))
    };
    if properties.len() > 30 {
        return Err(Refusal(403, "tooManyProperties"));
    }
    properties.iter().map(text).collect()
}

/// The metadata of a file: the requested fields, or Google's four default fields.
pub(super) fn metadata(file: &File, fields: Option<&str>) -> Value {
    let mut all = json!({
        "kind": "drive#file",
        "id": file.id,
        "name": file.name,
        "mimeType": file.mime,
        "trashed": file.trashed,
    });
    if let Some(parent) = &file.parent {
        all["parents"] = json!([parent]);
    }
    if !file.properties.is_empty() {
        all["appProperties"] = json!(file.properties);
    }
    if let Some(drive) = &file.drive {
        all["driveId"] = drive.clone().into();
    }
    if file.mime != FOLDER {
        all["size"] = file.data.len().to_string().into();
        all["md5Checksum"] = file.md5.clone().into();
    }
    let fields = fields.unwrap_or("kind,id,name,mimeType");
    let wanted: Vec<&str> = fields.split(',').collect();
    let all = all.as_object().expect("an object").clone();
    all.into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).collect()
}
