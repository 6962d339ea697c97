//! Requests over HTTP.

use std::collections::HashMap;

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{FromRequestParts as _, Query, Request, State, WebSocketUpgrade},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{self, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN},
    },
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;

use super::{
    Aria2, MAX_CALLS,
    call::Caller,
    envelope::{self, INVALID_REQUEST, Incoming, RpcError, RpcResult},
    socket, xml as xml_rpc,
};
use crate::daemon::{
    access::{Peer, guard::foreign_origin},
    problem::Problem,
};
use crate::error::{Error, Kind};

/// Longest body: a torrent of 24 MiB in base64.
const MAX_BODY: usize = 32 << 20;
/// Bodies up to this are read without waiting.
const SMALL_BODY: usize = 1 << 20;
/// Origins of browser extensions. No web page has one of them.
const EXTENSIONS: &[&str] = &["chrome-extension://", "moz-extension://", "safari-web-extension://"];

/// JSON-RPC by POST.
pub(super) async fn post(State(aria2): State<Aria2>, request: Request) -> Response {
    let peer = Peer::of(&request);
    let (parts, body) = request.into_parts();
    let origin = match allowed_origin(&aria2, &parts.method, &parts.headers) {
        Ok(origin) => origin,
        Err(refused) => return *refused,
    };
    let is_small = is_small(&parts.headers);
    let mut caller = Caller::new(peer, parts.headers, true);
    let response = match read(&aria2, is_small, body).await {
        Ok(body) => json_response(aria2.answer_text(&mut caller, &body).await),
        Err(response) => *response,
    };
    with_origin(response, origin)
}

/// A WebSocket, or one call in the query of the URL that only reads.
pub(super) async fn get(State(aria2): State<Aria2>, request: Request) -> Response {
    let peer = Peer::of(&request);
    let (mut parts, _) = request.into_parts();
    let origin = match allowed_origin(&aria2, &parts.method, &parts.headers) {
        Ok(origin) => origin,
        Err(refused) => return *refused,
    };
    if parts.headers.contains_key(header::UPGRADE) {
        return match WebSocketUpgrade::from_request_parts(&mut parts, &aria2).await {
            Ok(upgrade) => socket::upgrade(&aria2, upgrade, Caller::new(peer, parts.headers, true)),
            Err(e) => e.into_response(),
        };
    }
    let query = Query::<HashMap<String, String>>::try_from_uri(&parts.uri);
    let call = query.map_err(|_| invalid_query()).and_then(|Query(query)| call_of_query(query));
    let answer = match call {
        Ok(call) => aria2.answer_text(&mut Caller::new(peer, parts.headers, false), &call).await,
        Err(e) => (envelope::status(&Err(e.clone())), envelope::answer(Value::Null, Err(e))),
    };
    with_origin(json_response(answer), origin)
}

/// XML-RPC.
pub(super) async fn xml(State(aria2): State<Aria2>, request: Request) -> Response {
    let peer = Peer::of(&request);
    let (parts, body) = request.into_parts();
    let origin = match allowed_origin(&aria2, &parts.method, &parts.headers) {
        Ok(origin) => origin,
        Err(refused) => return *refused,
    };
    let is_small = is_small(&parts.headers);
    let mut caller = Caller::new(peer, parts.headers, true);
    let body = match read(&aria2, is_small, body).await {
        Ok(body) => body,
        Err(response) => return with_origin(*response, origin),
    };
    let parsed = match std::str::from_utf8(&body) {
        Ok(text) => xml_rpc::parse(text),
        Err(_) => Err(RpcError::with_code(envelope::PARSE_ERROR, "Parse error.")),
    };
    let result = match parsed {
        Ok((method, params)) => aria2.call(&mut caller, &method, params).await,
        Err(e) => Err(e),
    };
    let headers = [(CONTENT_TYPE, "text/xml; charset=utf-8")];
    with_origin((headers, xml_rpc::answer(&result)).into_response(), origin)
}

/// What a browser asks before it sends a call for an extension or a configured page.
pub(super) async fn preflight(State(aria2): State<Aria2>, request: Request) -> Response {
    match allowed_origin(&aria2, &Method::POST, request.headers()) {
        Ok(origin) => {
            let mut response = with_origin(StatusCode::NO_CONTENT.into_response(), origin);
            let headers = response.headers_mut();
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, authorization"),
                (header::ACCESS_CONTROL_MAX_AGE, "1728000"),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            response
        }
        Err(refused) => *refused,
    }
}

/// The origin to name in the answer, if the request has one that may read it.
fn allowed_origin(
    aria2: &Aria2,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>, Box<Response>> {
    let origin = headers.get(ORIGIN);
    let text = origin.and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    if EXTENSIONS.iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(origin.cloned());
    }
    match foreign_origin(method, headers, aria2.state().options()) {
        None => Ok(origin.cloned()),
        Some(text) => {
            let problem = Problem::from(Error::new(Kind::PermissionDenied, text));
            Err(Box::new(problem.into_response()))
        }
    }
}

fn with_origin(mut response: Response, origin: Option<HeaderValue>) -> Response {
    if let Some(origin) = origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn json_response((status, answer): (u16, Value)) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = (status, Json(answer)).into_response();
    let kind = HeaderValue::from_static("application/json-rpc");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Reads a body. A long one waits until only few others are read: whether its token is right is known only behind it.
async fn read(aria2: &Aria2, is_small: bool, body: Body) -> Result<Bytes, Box<Response>> {
    let _permit = match is_small {
        true => None,
        false => aria2.0.large_bodies.acquire().await.ok(),
    };
    to_bytes(body, MAX_BODY).await.map_err(|_| {
        let text = format!("the body is longer than {MAX_BODY} bytes, or was cut off");
        let error = Error::new(Kind::InvalidInput, text);
        Box::new(Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, error).into_response())
    })
}

fn is_small(headers: &HeaderMap) -> bool {
    let len = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    len.is_some_and(|len| len <= SMALL_BODY)
}

fn invalid_query() -> RpcError {
    RpcError::with_code(INVALID_REQUEST, "Invalid Request.")
}

/// A call in a query, as JSON: `method`, `id`, and `params` in base64. JSONP is refused: any page could read the answer.
fn call_of_query(mut query: HashMap<String, String>) -> RpcResult<Vec<u8>> {
    if query.contains_key("jsoncallback") {
        return Err(RpcError::with_code(INVALID_REQUEST, "JSONP is not supported."));
    }
    let params = match query.remove("params") {
        Some(params) => {
            // A plus sign of base64 may have become a space.
            let decoded = STANDARD.decode(params.replace(' ', "+")).map_err(|_| invalid_query())?;
            serde_json::from_slice(&decoded).map_err(|_| invalid_query())?
        }
        None => Value::Array(Vec::new()),
    };
    match query.remove("method") {
        Some(method) => {
            let id = query.remove("id").map_or(Value::Null, Value::String);
            let call = serde_json::json!({ "id": id, "method": method, "params": params });
            Ok(call.to_string().into_bytes())
        }
        // A batch is in the parameters alone.
        None if params.as_array().is_some_and(|calls| !calls.is_empty()) => {
            Ok(params.to_string().into_bytes())
        }
        None => Err(invalid_query()),
    }
}

impl Aria2 {
    /// Answers the text of a request: the status for HTTP, and the answer.
    pub(super) async fn answer_text(&self, caller: &mut Caller, text: &[u8]) -> (u16, Value) {
        let incoming = match envelope::parse(text, MAX_CALLS) {
            Ok(incoming) => incoming,
            Err(e) => {
                let status = envelope::status(&Err(e.clone()));
                return (status, envelope::answer(Value::Null, Err(e)));
            }
        };
        match incoming {
            Incoming::One(call) => {
                let result = match call.request {
                    Ok((method, params)) => self.call(caller, &method, params).await,
                    Err(e) => Err(e),
                };
                (envelope::status(&result), envelope::answer(call.id, result))
            }
            Incoming::Batch(calls) => {
                let mut answers = Vec::with_capacity(calls.len());
                for call in calls {
                    let result = match call.request {
                        Ok((method, params)) => self.call(caller, &method, params).await,
                        Err(e) => Err(e),
                    };
                    answers.push(envelope::answer(call.id, result));
                }
                (200, Value::Array(answers))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> RpcResult<Value> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let call = call_of_query(pairs.collect())?;
        Ok(serde_json::from_slice(&call).unwrap())
    }

    #[test]
    fn a_query_is_a_call() {
        let call = query(&[("method", "m"), ("id", "q"), ("params", "WyJhIl0=")]).unwrap();
        assert_eq!(call, serde_json::json!({ "id": "q", "method": "m", "params": ["a"] }));
        let batch = query(&[("params", "W3sibWV0aG9kIjoibSJ9XQ==")]).unwrap();
        assert!(batch.is_array());
        assert!(query(&[("method", "m"), ("jsoncallback", "f")]).is_err());
        assert!(query(&[("method", "m"), ("params", "?")]).is_err());
        assert!(query(&[]).is_err());
    }
}
