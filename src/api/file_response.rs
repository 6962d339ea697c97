//! A file of an import as an answer, with ranges and conditions.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::time::timeout;

use super::{
    body::Body,
    content_type::content_type,
    page::percent_encoded,
    range::{RangeOutcome, evaluate},
    routes::set_header,
};
use crate::{
    engine::{StreamedFile, StreamedImport},
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

/// Timeout for the memory of a reader, when other readers have all of it.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers a request for a file. `headers` are those of the request: its range and its conditions.
///
/// # Errors
/// `Unavailable` when too many readers have the memory; the error of the first read from storage.
pub async fn file_response(
    import: &Arc<StreamedImport>,
    file: &StreamedFile,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>> {
    let (etag, len) = (format!("\"{}\"", file.tag), file.bytes);
    let (status, range) = match evaluate(method, headers, &etag, len) {
        RangeOutcome::Whole => (StatusCode::OK, 0..len),
        RangeOutcome::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        RangeOutcome::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
        RangeOutcome::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, 0..0),
        RangeOutcome::NotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let sends = *method == Method::GET && !range.is_empty();
    let body = match sends {
        true => body(import, file, range.clone()).await?,
        false => Body::Ready(Bytes::new()),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    set_header(&mut answer, ETAG, &etag);
    set_header(&mut answer, ACCEPT_RANGES, "bytes");
    set_header(&mut answer, CACHE_CONTROL, "private, no-cache");
    set_header(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    match status {
        StatusCode::RANGE_NOT_SATISFIABLE => {
            set_header(&mut answer, CONTENT_RANGE, &format!("bytes */{len}"));
        }
        StatusCode::PARTIAL_CONTENT => {
            let text = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            set_header(&mut answer, CONTENT_RANGE, &text);
        }
        _ => {}
    }
    if status.is_success() {
        set_header(&mut answer, CONTENT_TYPE, content_type(&file.path));
        set_header(&mut answer, CONTENT_LENGTH, &(range.end - range.start).to_string());
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let name = format!("inline; filename*=UTF-8''{}", percent_encoded(name));
        set_header(&mut answer, CONTENT_DISPOSITION, &name);
    }
    Ok(answer)
}

/// The body of an answer. Stored bytes are read once before the head is sent, so that an error
/// becomes a status code. While the import is being filled, the head is sent at once: players wait
/// longer for a body than for a head.
async fn body(
    import: &Arc<StreamedImport>,
    file: &StreamedFile,
    range: Range<u64>,
) -> Result<Body> {
    let memory = timeout(MEMORY_TIMEOUT, import.reserve_reader()).await.map_err(|_| {
        Error::new(Kind::Unavailable, "too many readers at once")
            .hint(hint!["each reader needs memory: raise ", Setting::Memory])
    })?;
    let mut read = import.read(file, range);
    let first = match import.is_being_filled() {
        true => None,
        false => read.next().await?,
    };
    Ok(Body::feed(read, first, memory))
}
