//! Resumable upload sessions.

use super::{
    Refused, SESSION_SECRET, Session, State, files,
    http::{Answer, Request},
};

/// The body of every request but the last must be a multiple of this. Of a broken-off body, a multiple is kept.
const GRAIN: usize = 256 << 10;

pub(super) fn route(state: &mut State, request: &Request, here: &str) -> Result<Answer, Refused> {
    if request.path != "/upload/drive/v3/files" || request.asks("uploadType") != Some("resumable") {
        return Err(Refused(400, "invalid"));
    }
    match (request.method.as_str(), request.asks("upload_id")) {
        ("POST", None) => begin(state, request, here),
        ("PUT", Some(id)) => put(state, request, id),
        ("DELETE", Some(id)) => {
            let gone = state.sessions.remove(id);
            Ok(Answer::new(if gone.is_some() { 499 } else { 404 }))
        }
        _ => Err(Refused(400, "invalid")),
    }
}

fn begin(state: &mut State, request: &Request, here: &str) -> Result<Answer, Refused> {
    state.charge(50)?;
    state.create()?;
    let total = request.header("x-upload-content-length").and_then(|n| n.parse().ok());
    let total: u64 = total.ok_or(Refused(400, "invalid"))?;
    let description = request.json()?;
    let id = files::take_id(state, &description)?;
    files::parent(state, request, &description)?;
    files::properties(&description["appProperties"])?;
    if state.rules.quota.is_some_and(|most| state.used_bytes() + total > most) {
        return Err(Refused(403, "storageQuotaExceeded"));
    }
    let secret = format!("{SESSION_SECRET}-{}", state.number());
    let session = Session {
        description,
        id,
        total,
        data: Vec::new(),
        fields: request.asks("fields").map(str::to_owned),
        made: false,
        requests: 0,
    };
    state.sessions.insert(secret.clone(), session);
    let all = request.asks("supportsAllDrives").unwrap_or("false");
    let location = format!(
        "{here}/upload/drive/v3/files?uploadType=resumable&supportsAllDrives={all}&upload_id={secret}"
    );
    Ok(Answer::new(200).with("Location", location))
}

fn put(state: &mut State, request: &Request, secret: &str) -> Result<Answer, Refused> {
    state.counts.received += request.body.len() as u64;
    let most = state.rules.session_requests;
    let session = state.sessions.get_mut(secret).ok_or(Refused(404, "notFound"))?;
    session.requests += 1;
    if !session.made && most.is_some_and(|most| session.requests > most) {
        state.sessions.remove(secret);
        return Err(Refused(410, "gone"));
    }
    if session.made {
        let file = state.files.get(&session.id).ok_or(Refused(404, "notFound"))?;
        return Ok(Answer::json(&files::described(file, session.fields.as_deref())));
    }
    take(session, request)?;
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
    let file = match files::make(state, request, &description, id, data) {
        Ok(file) => file,
        Err(refused) => {
            state.sessions.remove(secret);
            return Err(refused);
        }
    };
    if let Some(session) = state.sessions.get_mut(secret) {
        session.made = true;
    }
    Ok(Answer::json(&files::described(&file, fields.as_deref())))
}

/// Appends the body of a request to the session. Its range must begin where the session's data ends.
fn take(session: &mut Session, request: &Request) -> Result<(), Refused> {
    let range = request.header("content-range").and_then(|text| text.strip_prefix("bytes "));
    let (range, total) =
        range.and_then(|text| text.split_once('/')).ok_or(Refused(400, "invalid"))?;
    if total.parse() != Ok(session.total) {
        return Err(Refused(400, "totalChanged"));
    }
    if range == "*" {
        return if request.body.is_empty() { Ok(()) } else { Err(Refused(400, "invalid")) };
    }
    let bounds = range.split_once('-');
    let bounds =
        bounds.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
    let (first, last) = bounds.ok_or(Refused(400, "invalid"))?;
    let said: Option<usize> = request.header("content-length").and_then(|n| n.parse().ok());
    if first != session.data.len() || said != Some(last + 1 - first) {
        return Err(Refused(400, "outOfOrder"));
    }
    if last as u64 + 1 > session.total {
        return Err(Refused(400, "tooLong"));
    }
    if (last as u64 + 1) < session.total && (last + 1 - first) % GRAIN != 0 {
        return Err(Refused(400, "notAMultipleOf256KiB"));
    }
    let kept = if request.whole { request.body.len() } else { request.body.len() / GRAIN * GRAIN };
    session.data.extend_from_slice(&request.body[..kept]);
    Ok(())
}
