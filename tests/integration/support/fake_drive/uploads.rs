//! Resumable upload sessions.

use super::{
    Refusal, SESSION_SECRET, Session, State, files,
    http::{Answer, Request},
};

/// The body of every request but the last must be a multiple of this. Of a broken-off body, a multiple is kept.
const GRANULARITY: usize = 256 << 10;

pub(super) fn route(
    state: &mut State,
    request: &Request,
    base_url: &str,
) -> Result<Answer, Refusal> {
    if request.path != "/upload/drive/v3/files" || request.param("uploadType") != Some("resumable")
    {
        return Err(Refusal(400, "invalid"));
    }
    match (request.method.as_str(), request.param("upload_id")) {
        ("POST", None) => begin(state, request, base_url),
        ("PUT", Some(id)) => put(state, request, id),
        ("DELETE", Some(id)) => {
            let removed = state.sessions.remove(id);
            Ok(Answer::new(if removed.is_some() { 499 } else { 404 }))
        }
        _ => Err(Refusal(400, "invalid")),
    }
}

fn begin(state: &mut State, request: &Request, base_url: &str) -> Result<Answer, Refusal> {
    state.charge(50)?;
    state.count_create()?;
    let total = request.header("x-upload-content-length").and_then(|n| n.parse().ok());
    let total: u64 = total.ok_or(Refusal(400, "invalid"))?;
    let description = request.json()?;
    let id = files::take_id(state, &description)?;
    files::parent(state, request, &description)?;
    files::properties(&description["appProperties"])?;
    if state.rules.quota.is_some_and(|limit| state.used_bytes() + total > limit) {
        return Err(Refusal(403, "storageQuotaExceeded"));
    }
    let secret = format!("{SESSION_SECRET}-{}", state.next_number());
    let session = Session {
        description,
        id,
        total,
        data: Vec::new(),
        fields: request.param("fields").map(str::to_owned),
        completed: false,
        requests: 0,
    };
    state.sessions.insert(secret.clone(), session);
    let all_drives = request.param("supportsAllDrives").unwrap_or("false");
    let location = format!(
        "{base_url}/upload/drive/v3/files?uploadType=resumable&supportsAllDrives={all_drives}&upload_id={secret}"
    );
    Ok(Answer::new(200).with("Location", location))
}

fn put(state: &mut State, request: &Request, secret: &str) -> Result<Answer, Refusal> {
    state.counts.received += request.body.len() as u64;
    let request_limit = state.rules.session_requests;
    let session = state.sessions.get_mut(secret).ok_or(Refusal(404, "notFound"))?;
    session.requests += 1;
    if !session.completed
        && request_limit.is_some_and(|request_limit| session.requests > request_limit)
    {
        state.sessions.remove(secret);
        return Err(Refusal(410, "gone"));
    }
    if session.completed {
        let file = state.files.get(&session.id).ok_or(Refusal(404, "notFound"))?;
        return Ok(Answer::json(&files::metadata(file, session.fields.as_deref())));
    }
    append(session, request)?;
    if (session.data.len() as u64) < session.total {
        let answer = Answer::new(308);
        // For 0 bytes Google sends no `Range` header.
        return Ok(match session.data.len() {
            0 => answer,
            n => answer.with("Range", format!("bytes=0-{}", n - 1)),
        });
    }
    let (description, id) = (session.description.clone(), session.id.clone());
    let mut data = std::mem::take(&mut session.data);
    let fields = session.fields.clone();
    if request.corrupt && !data.is_empty() {
        let at = data.len() / 2;
        data[at] ^= 1;
    }
    let file = match files::create_file(state, request, &description, id, data) {
        Ok(file) => file,
        Err(refused) => {
            state.sessions.remove(secret);
            return Err(refused);
        }
    };
    if let Some(session) = state.sessions.get_mut(secret) {
        session.completed = true;
    }
    Ok(Answer::json(&files::metadata(&file, fields.as_deref())))
}

/// Appends the body of a request to the session. Its range must begin where the session's data ends.
fn append(session: &mut Session, request: &Request) -> Result<(), Refusal> {
    let range = request.header("content-range").and_then(|text| text.strip_prefix("bytes "));
    let (range, total) =
        range.and_then(|text| text.split_once('/')).ok_or(Refusal(400, "invalid"))?;
    if total.parse() != Ok(session.total) {
        return Err(Refusal(400, "totalChanged"));
    }
    if range == "*" {
        return if request.body.is_empty() { Ok(()) } else { Err(Refusal(400, "invalid")) };
    }
    let bounds = range.split_once('-');
    let bounds =
        bounds.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
    let (first, last) = bounds.ok_or(Refusal(400, "invalid"))?;
    let declared_len: Option<usize> = request.header("content-length").and_then(|n| n.parse().ok());
    if first != session.data.len() || declared_len != Some(last + 1 - first) {
        return Err(Refusal(400, "outOfOrder"));
    }
    if last as u64 + 1 > session.total {
        return Err(Refusal(400, "tooLong"));
    }
    if (last as u64 + 1) < session.total && (last + 1 - first) % GRANULARITY != 0 {
        return Err(Refusal(400, "notAMultipleOf256KiB"));
    }
    let kept_len = if request.is_complete {
        request.body.len()
    } else {
        request.body.len() / GRANULARITY * GRANULARITY
    };
    session.data.extend_from_slice(&request.body[..kept_len]);
    Ok(())
}
