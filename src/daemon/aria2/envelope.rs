//! JSON-RPC: requests and answers. Pure. The depth of a request is bounded by the parser (128).

use serde_json::{Value, json};

use crate::error::Error;

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    /// 1 is aria2's code for all errors of methods; the others are those of JSON-RPC.
    pub(super) code: i32,
    pub(super) message: String,
}

pub(super) type RpcResult<T = Value> = Result<T, RpcError>;

pub(super) const PARSE_ERROR: i32 = -32700;
pub(super) const INVALID_REQUEST: i32 = -32600;

impl RpcError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    pub(super) fn with_code(code: i32, message: &str) -> Self {
        Self { code, message: message.to_owned() }
    }

    pub(super) fn unauthorized() -> Self {
        Self::new("Unauthorized")
    }

    pub(super) fn to_value(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        match error.hint_text() {
            Some(hint) => Self::new(format!("{}; {hint}", error.report())),
            None => Self::new(error.report()),
        }
    }
}

/// A request: one call or several.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    One(Call),
    Batch(Vec<Call>),
}

/// One call. A malformed one has its error already.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) id: Value,
    pub(super) request: RpcResult<(String, Vec<Value>)>,
}

/// Parses the text of a request.
///
/// # Errors
/// When it is no JSON, or a batch with more than `max` calls.
pub(super) fn parse(text: &[u8], max: usize) -> RpcResult<Incoming> {
    let parsed: Value = serde_json::from_slice(text)
        .map_err(|_| RpcError::with_code(PARSE_ERROR, "Parse error."))?;
    match parsed {
        Value::Array(calls) if calls.is_empty() || calls.len() > max => {
            let text = format!("a batch has 1 to {max} calls");
            Err(RpcError::with_code(INVALID_REQUEST, &text))
        }
        Value::Array(calls) => Ok(Incoming::Batch(calls.into_iter().map(call_of).collect())),
        one => Ok(Incoming::One(call_of(one))),
    }
}

fn call_of(value: Value) -> Call {
    let invalid = || RpcError::with_code(INVALID_REQUEST, "Invalid Request.");
    let Value::Object(mut fields) = value else {
        return Call { id: Value::Null, request: Err(invalid()) };
    };
    let id = fields.remove("id").unwrap_or_default();
    // An id is given back, so it is none of the values that can be large.
    let id = if id.is_object() || id.is_array() { Value::Null } else { id };
    let method = match fields.remove("method") {
        Some(Value::String(method)) => method,
        _ => return Call { id, request: Err(invalid()) },
    };
    let request = match fields.remove("params") {
        None | Some(Value::Null) => Ok((method, Vec::new())),
        Some(Value::Array(params)) => Ok((method, params)),
        Some(_) => Err(invalid()),
    };
    Call { id, request }
}

/// The answer to a call.
pub(super) fn answer(id: Value, result: RpcResult) -> Value {
    match result {
        Ok(result) => json!({ "id": id, "jsonrpc": "2.0", "result": result }),
        Err(e) => json!({ "id": id, "jsonrpc": "2.0", "error": e.to_value() }),
    }
}

/// The HTTP status of the answer to a single call.
pub(super) fn status(result: &RpcResult) -> u16 {
    match result {
        Ok(_) => 200,
        Err(RpcError { code: PARSE_ERROR, .. }) => 500,
        Err(_) => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Call {
        match parse(text.as_bytes(), 3).unwrap() {
            Incoming::One(call) => call,
            Incoming::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn calls_without_an_id_or_parameters_are_calls() {
        let call = one(r#"{"method":"m"}"#);
        assert_eq!(call, Call { id: Value::Null, request: Ok(("m".into(), vec![])) });
        let call = one(r#"{"jsonrpc":"2.0","id":"x","method":"m","params":[1]}"#);
        assert_eq!(call.id, "x");
        assert_eq!(call.request.unwrap().1, [1]);
    }

    #[test]
    fn malformed_requests_have_the_codes_of_the_standard() {
        for text in ["", "{", "nonsense", &"[".repeat(10_000), &r#"{"a":"#.repeat(10_000)] {
            assert_eq!(parse(text.as_bytes(), 3).unwrap_err().code, PARSE_ERROR);
        }
        for text in ["1", "{}", r#"{"method":1}"#, r#"{"method":"m","params":{}}"#] {
            assert_eq!(one(text).request.unwrap_err().code, INVALID_REQUEST, "{text}");
        }
        assert_eq!(parse(b"[]", 3).unwrap_err().code, INVALID_REQUEST);
        assert_eq!(parse(b"[1,2,3,4]", 3).unwrap_err().code, INVALID_REQUEST);
        assert!(matches!(parse(b"[1,2,3]", 3), Ok(Incoming::Batch(calls)) if calls.len() == 3));
        assert_eq!(one(r#"{"id":[[]],"method":"m"}"#).id, Value::Null);
    }

    #[test]
    fn an_answer_has_a_result_or_an_error() {
        assert_eq!(answer("q".into(), Ok("OK".into()))["result"], "OK");
        let failed = Err(RpcError::new("Invalid GID zz"));
        assert_eq!(status(&failed), 400);
        let answer = answer("q".into(), failed);
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&1.into(), &"q".into()));
        assert_eq!(status(&Err(RpcError::with_code(PARSE_ERROR, ""))), 500);
    }
}
