//! The positional parameters of a call.

use serde_json::{Map, Value};

use super::{
    MAX_CALLS,
    envelope::{RpcError, RpcResult},
};

/// What is before the secret in the first parameter.
const TOKEN: &str = "token:";

/// A call of a multicall: the method with its parameters.
type ListedCall = RpcResult<(String, Vec<Value>)>;

/// The parameters of a call, without the token.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(Vec<Value>);

impl Params {
    /// Splits off the token, if the first parameter is one.
    pub(super) fn split_token(mut params: Vec<Value>) -> (Option<String>, Self) {
        let token = match params.first() {
            Some(Value::String(first)) => first.strip_prefix(TOKEN).map(str::to_owned),
            _ => None,
        };
        if token.is_some() {
            params.remove(0);
        }
        (token, Self(params))
    }

    fn given(&self, at: usize) -> Option<&Value> {
        self.0.get(at).filter(|value| !value.is_null())
    }

    fn required(&self, at: usize) -> RpcResult<&Value> {
        self.given(at)
            .ok_or_else(|| RpcError::new(format!("The parameter at {at} is required but missing.")))
    }

    pub(super) fn text(&self, at: usize) -> RpcResult<&str> {
        self.required(at)?.as_str().ok_or_else(|| wrong_type(at))
    }

    pub(super) fn int(&self, at: usize) -> RpcResult<i64> {
        int_of(self.required(at)?).ok_or_else(|| wrong_type(at))
    }

    pub(super) fn optional_int(&self, at: usize) -> RpcResult<Option<i64>> {
        self.given(at).map(|value| int_of(value).ok_or_else(|| wrong_type(at))).transpose()
    }

    pub(super) fn texts(&self, at: usize) -> RpcResult<Vec<&str>> {
        let texts = self.required(at)?.as_array().ok_or_else(|| wrong_type(at))?;
        let texts = texts.iter().map(|text| text.as_str().ok_or_else(|| wrong_type(at)));
        texts.collect()
    }

    pub(super) fn optional_texts(&self, at: usize) -> RpcResult<Vec<&str>> {
        if self.given(at).is_none() { Ok(Vec::new()) } else { self.texts(at) }
    }

    /// The calls of a multicall.
    pub(super) fn calls(&self, at: usize) -> RpcResult<Vec<ListedCall>> {
        let calls = self.required(at)?.as_array().ok_or_else(|| wrong_type(at))?;
        if calls.len() > MAX_CALLS {
            return Err(RpcError::new(format!("A request has at most {MAX_CALLS} calls.")));
        }
        let call = |call: &Value| {
            let method = call.get("methodName").and_then(Value::as_str);
            let method = method.ok_or_else(|| RpcError::new("Missing methodName."))?;
            match call.get("params") {
                None | Some(Value::Null) => Ok((method.to_owned(), Vec::new())),
                Some(Value::Array(params)) => Ok((method.to_owned(), params.clone())),
                Some(_) => Err(RpcError::new("params is no array.")),
            }
        };
        Ok(calls.iter().map(call).collect())
    }

    /// A struct of options; an empty one when it is left out.
    pub(super) fn options(&self, at: usize) -> RpcResult<Map<String, Value>> {
        match self.given(at) {
            None => Ok(Map::new()),
            Some(Value::Object(options)) => Ok(options.clone()),
            Some(_) => Err(wrong_type(at)),
        }
    }
}

fn int_of(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn wrong_type(at: usize) -> RpcError {
    RpcError::new(format!("The parameter at {at} has wrong type."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_first_parameter_can_be_the_token() {
        let split = |value: Value| {
            let (token, rest) = Params::split_token(value.as_array().unwrap().clone());
            (token, rest.0.len())
        };
        assert_eq!(split(json!(["token:a:b", "gid"])), (Some("a:b".into()), 1));
        assert_eq!(split(json!(["gid", "token:x"])), (None, 2));
        assert_eq!(split(json!([["token:x"]])), (None, 1));
        assert_eq!(split(json!([])), (None, 0));
    }

    #[test]
    fn parameters_of_another_type_are_named() {
        let params = Params(vec![json!("a"), json!(1), json!(["x"]), json!({}), json!(null)]);
        assert_eq!((params.text(0).unwrap(), params.int(1).unwrap()), ("a", 1));
        assert_eq!(params.texts(2).unwrap(), ["x"]);
        assert!(params.options(3).unwrap().is_empty() && params.options(4).unwrap().is_empty());
        assert!(params.text(1).unwrap_err().message.contains("at 1 has wrong type"));
        assert!(params.int(9).unwrap_err().message.contains("at 9 is required"));
        assert!(params.optional_texts(1).is_err() && params.optional_texts(4).unwrap().is_empty());
    }
}
