//! Requests and answers. Pure. The depth of a request is bounded by the parser (128).

use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, Result};

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) arguments: Map<String, Value>,
    /// Given back with the answer.
    pub(super) tag: Option<Value>,
}

/// Parses the body of a request.
///
/// # Errors
/// `InvalidInput` when it is no call.
pub(super) fn parse(body: &[u8]) -> Result<Call> {
    let invalid = |text: &str| Error::new(Kind::InvalidInput, text.to_owned());
    let parsed: Value = serde_json::from_slice(body).map_err(|_| invalid("no JSON"))?;
    let Value::Object(mut fields) = parsed else { return Err(invalid("no call")) };
    let Some(Value::String(method)) = fields.remove("method") else {
        return Err(invalid("no method name"));
    };
    let arguments = match fields.remove("arguments") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(invalid("the arguments are no object")),
    };
    let tag = fields.remove("tag").filter(Value::is_number);
    Ok(Call { method, arguments, tag })
}

/// The answer to a call: its status is 200 in any case.
pub(super) fn answer(tag: Option<Value>, result: Result<Value>) -> Value {
    let mut answer = match result {
        Ok(arguments) => json!({ "result": "success", "arguments": arguments }),
        Err(error) => {
            let text = match error.hint_text() {
                Some(hint) => format!("{}; {hint}", error.report()),
                None => error.report(),
            };
            json!({ "result": text, "arguments": {} })
        }
    };
    if let (Some(tag), Some(fields)) = (tag, answer.as_object_mut()) {
        fields.insert("tag".to_owned(), tag);
    }
    answer
}

/// A flag; clients also send numbers.
pub(super) fn flag(arguments: &Map<String, Value>, name: &str) -> Option<bool> {
    match arguments.get(name)? {
        Value::Bool(on) => Some(*on),
        Value::Number(number) => Some(number.as_i64() != Some(0)),
        Value::String(text) => Some(text == "true"),
        _ => None,
    }
}

/// A text.
pub(super) fn text<'a>(arguments: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    arguments.get(name)?.as_str()
}

/// Texts in an array; `None` when it is missing.
///
/// # Errors
/// `InvalidInput` when it is no array of texts.
pub(super) fn texts<'a>(
    arguments: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<Vec<&'a str>>> {
    let Some(value) = arguments.get(name) else { return Ok(None) };
    let texts = value.as_array().and_then(|texts| texts.iter().map(Value::as_str).collect());
    let malformed = || Error::new(Kind::InvalidInput, format!("{name} is no array of texts"));
    texts.map(Some).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_needs_only_its_method() {
        let call = parse(br#"{"method":"session-get"}"#).unwrap();
        assert_eq!(
            (call.method.as_str(), call.arguments.len(), call.tag),
            ("session-get", 0, None)
        );
        let call = parse(br#"{"method":"m","arguments":{"ids":1},"tag":7}"#).unwrap();
        assert_eq!((call.arguments["ids"].as_i64(), call.tag), (Some(1), Some(7.into())));
    }

    #[test]
    fn malformed_requests_are_refused() {
        let (deep, deeper) = ("[".repeat(10_000), r#"{"arguments":"#.repeat(10_000));
        for text in ["", "[]", "1", "{}", r#"{"method":1}"#, r#"{"method":"m","arguments":[]}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(deep.as_bytes()).is_err() && parse(deeper.as_bytes()).is_err());
    }

    #[test]
    fn an_error_is_the_result_of_the_answer() {
        let done = answer(Some(7.into()), Ok(json!({ "a": 1 })));
        assert_eq!(done, json!({ "result": "success", "arguments": { "a": 1 }, "tag": 7 }));
        let failed = answer(None, Err(Error::new(Kind::NotFound, "method name not recognized")));
        assert_eq!(failed["result"], "method name not recognized");
    }
}
