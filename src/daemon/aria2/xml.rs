//! XML-RPC: a call as the same values as JSON-RPC's, and an answer. Pure.
//!
//! Bounds: values are nested at most [`MAX_DEPTH`] deep. Only XML's own entities and character references are decoded;
//! a document type is refused, so that nothing expands and nothing is loaded.

use std::fmt::Write as _;

use quick_xml::{
    Reader,
    events::{BytesRef, Event},
};
use serde_json::{Map, Value};

use super::envelope::{PARSE_ERROR, RpcError, RpcResult};

/// Deepest nesting of arrays and structs.
const MAX_DEPTH: usize = 32;

/// Parses a `methodCall`: the method and its parameters.
///
/// # Errors
/// When it is none.
pub(super) fn parse(text: &str) -> RpcResult<(String, Vec<Value>)> {
    let mut parser = Parser { reader: Reader::from_str(text) };
    parser.reader.config_mut().expand_empty_elements = true;
    parser.call().ok_or_else(|| RpcError::with_code(PARSE_ERROR, "Parse error."))
}

struct Parser<'t> {
    reader: Reader<&'t [u8]>,
}

/// What the grammar is made of.
enum Token {
    Open(String),
    Close,
    Text(String),
}

impl Parser<'_> {
    /// The next tag or text; `None` at the end and for what is no XML-RPC.
    fn token(&mut self) -> Option<Token> {
        loop {
            return Some(match self.reader.read_event().ok()? {
                Event::Start(tag) => {
                    let name = tag.local_name();
                    let name: &str = name.as_ref();
                    Token::Open(name.to_owned())
                }
                Event::End(_) => Token::Close,
                Event::Text(text) => Token::Text((*text).to_owned()),
                Event::CData(text) => Token::Text((*text).to_owned()),
                Event::GeneralRef(entity) => Token::Text(decode(&entity)?.to_string()),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => continue,
                Event::DocType(_) | Event::Empty(_) | Event::Eof => return None,
            });
        }
    }

    /// The next tag; text between tags must be blank.
    fn tag(&mut self) -> Option<Option<String>> {
        loop {
            match self.token()? {
                Token::Open(name) => return Some(Some(name)),
                Token::Close => return Some(None),
                Token::Text(text) if text.trim().is_empty() => {}
                Token::Text(_) => return None,
            }
        }
    }

    fn open(&mut self, name: &str) -> Option<()> {
        (self.tag()?? == name).then_some(())
    }

    fn close(&mut self) -> Option<()> {
        self.tag()?.is_none().then_some(())
    }

    /// Text up to the end of the element.
    fn text(&mut self) -> Option<String> {
        let mut all = String::new();
        loop {
            match self.token()? {
                Token::Text(text) => all.push_str(&text),
                Token::Close => return Some(all),
                Token::Open(_) => return None,
            }
        }
    }

    fn call(&mut self) -> Option<(String, Vec<Value>)> {
        self.open("methodCall")?;
        self.open("methodName")?;
        let method = self.text()?.trim().to_owned();
        let mut params = Vec::new();
        match self.tag()? {
            None => return Some((method, params)),
            Some(name) if name == "params" => {}
            Some(_) => return None,
        }
        while let Some(name) = self.tag()? {
            (name == "param").then_some(())?;
            self.open("value")?;
            params.push(self.value(MAX_DEPTH)?);
            self.close()?;
        }
        Some((method, params))
    }

    /// The value whose `value` tag was read, and the end of that tag.
    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        let mut bare = String::new();
        let kind = loop {
            match self.token()? {
                Token::Text(text) => bare.push_str(&text),
                // A value without a type is a string.
                Token::Close => return Some(Value::String(bare)),
                Token::Open(kind) => break kind,
            }
        };
        bare.trim().is_empty().then_some(())?;
        let value = match kind.as_str() {
            "array" => {
                self.open("data")?;
                let mut items = Vec::new();
                while let Some(name) = self.tag()? {
                    (name == "value").then_some(())?;
                    items.push(self.value(depth)?);
                }
                self.close()?;
                Value::Array(items)
            }
            "struct" => {
                let mut fields = Map::new();
                while let Some(name) = self.tag()? {
                    (name == "member").then_some(())?;
                    self.open("name")?;
                    let name = self.text()?;
                    self.open("value")?;
                    fields.insert(name, self.value(depth)?);
                    self.close()?;
                }
                Value::Object(fields)
            }
            simple => simple_value(simple, self.text()?)?,
        };
        self.close()?;
        Some(value)
    }
}

fn simple_value(kind: &str, text: String) -> Option<Value> {
    Some(match kind {
        "string" | "dateTime.iso8601" => Value::String(text),
        "int" | "i4" | "i8" => text.trim().parse::<i64>().ok()?.into(),
        "double" => text.trim().parse::<f64>().ok()?.into(),
        "boolean" => (text.trim() == "1").into(),
        "nil" => Value::Null,
        // Methods decode it, as they do for JSON.
        "base64" => Value::String(text.split_ascii_whitespace().collect()),
        _ => return None,
    })
}

fn decode(entity: &BytesRef<'_>) -> Option<char> {
    if let Some(c) = entity.resolve_char_ref().ok()? {
        return Some(c);
    }
    Some(match &**entity {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

/// The answer to a call.
pub(super) fn answer(result: &RpcResult) -> String {
    let mut out = "<?xml version=\"1.0\"?><methodResponse>".to_owned();
    match result {
        Ok(value) => {
            out.push_str("<params><param>");
            write_value(&mut out, value);
            out.push_str("</param></params>");
        }
        Err(e) => {
            out.push_str("<fault>");
            let fault = serde_json::json!({ "faultCode": e.code, "faultString": e.message });
            write_value(&mut out, &fault);
            out.push_str("</fault>");
        }
    }
    out.push_str("</methodResponse>");
    out
}

fn write_value(out: &mut String, value: &Value) {
    out.push_str("<value>");
    match value {
        Value::Null => out.push_str("<string></string>"),
        Value::Bool(on) => {
            let _ = write!(out, "<boolean>{}</boolean>", u8::from(*on));
        }
        Value::Number(number) if number.is_f64() => {
            let _ = write!(out, "<double>{number}</double>");
        }
        Value::Number(number) => {
            let _ = write!(out, "<int>{number}</int>");
        }
        Value::String(text) => {
            out.push_str("<string>");
            escape(out, text);
            out.push_str("</string>");
        }
        Value::Array(items) => {
            out.push_str("<array><data>");
            items.iter().for_each(|item| write_value(out, item));
            out.push_str("</data></array>");
        }
        Value::Object(fields) => {
            out.push_str("<struct>");
            for (name, value) in fields {
                out.push_str("<member><name>");
                escape(out, name);
                out.push_str("</name>");
                write_value(out, value);
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
}

/// XML has no control characters, not even as references.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(params: &str) -> RpcResult<(String, Vec<Value>)> {
        parse(&format!(
            "<?xml version='1.0'?>\n<methodCall>\n<methodName>m</methodName>\n<params>{params}</params>\n</methodCall>\n"
        ))
    }

    fn value(text: &str) -> Value {
        call(&format!("<param>\n<value>{text}</value>\n</param>")).unwrap().1.remove(0)
    }

    #[test]
    fn values_of_each_type_are_read() {
        for (text, expected) in [
            ("plain", json!("plain")),
            ("<string>a &amp; &lt;b&gt; &#233;</string>", json!("a & <b> é")),
            ("<string/>", json!("")),
            ("<int>-3</int>", json!(-3)),
            ("<i4> 7 </i4>", json!(7)),
            ("<boolean>1</boolean>", json!(true)),
            ("<base64>YWJj\n  ZGVm</base64>", json!("YWJjZGVm")),
            (
                "<array><data><value>a</value><value><int>1</int></value></data></array>",
                json!(["a", 1]),
            ),
            (
                "<struct><member><name>dir</name><value><string>x</string></value></member></struct>",
                json!({"dir": "x"}),
            ),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        let none = parse("<methodCall><methodName> a.b </methodName></methodCall>").unwrap();
        assert_eq!(none, ("a.b".to_owned(), vec![]));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]>";
        let deep =
            "<array><data><value>".repeat(MAX_DEPTH) + &"</value></data></array>".repeat(MAX_DEPTH);
        let endless = "<array><data><value>".repeat(100_000);
        for text in [
            "<param><value><int>x</int></value></param>",
            "<param><value><other>x</other></value></param>",
            "<param><value>&a;</value></param>",
            "<param><value>a<int>1</int></value></param>",
            "<param>text<value>a</value></param>",
            "<param><value>a</value>",
            &format!("<param><value>{deep}</value></param>"),
            &format!("<param><value>{endless}"),
        ] {
            assert_eq!(
                call(text).unwrap_err().code,
                PARSE_ERROR,
                "{}",
                &text[..text.len().min(80)]
            );
        }
        for text in ["", "<", "x", "<methodResponse/>", "<methodCall><methodName>m</methodName>"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let with_type = format!("{bomb}<methodCall><methodName>m</methodName></methodCall>");
        assert!(parse(&with_type).is_err());
    }

    #[test]
    fn an_answer_escapes_markup_and_control_characters() {
        let text = answer(&Ok(json!({"a<b": ["x & y\u{1b}", 1, true]})));
        assert!(text.contains("<name>a&lt;b</name>"), "{text}");
        assert!(text.contains("<string>x &amp; y\u{fffd}</string>"), "{text}");
        assert!(text.contains("<int>1</int>") && text.contains("<boolean>1</boolean>"));
        let fault = answer(&Err(RpcError::new("no")));
        assert!(fault.contains("<fault><value><struct><member><name>faultCode</name>"), "{fault}");
    }
}
