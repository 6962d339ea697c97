//! Text of feeds: the encoding of a document, and titles that contain markup. Pure.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// Bytes at the start of a document that hold its XML declaration.
const DECLARATION_LEN: usize = 256;

/// Decodes a document. A byte order mark decides, then the `Content-Type`, then the XML declaration; without any, the
/// text is UTF-8, or Windows-1252 if it is not valid UTF-8. Invalid bytes become U+FFFD.
pub(super) fn decode(bytes: &[u8], content_type: Option<&str>) -> String {
    let marked = Encoding::for_bom(bytes).map(|(encoding, _)| encoding);
    let named = marked.or_else(|| charset(content_type?)).or_else(|| declared(bytes));
    let encoding = named.unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(_) => UTF_8,
        Err(_) => WINDOWS_1252,
    });
    encoding.decode_with_bom_removal(bytes).0.into_owned()
}

/// The encoding that a `Content-Type` names.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let lower = content_type.to_ascii_lowercase();
    let (_, rest) = lower.split_once("charset=")?;
    let label = rest.trim_start_matches(['"', '\'', ' ']);
    Encoding::for_label(label.split(['"', '\'', ';', ' ']).next()?.as_bytes())
}

/// The encoding that the XML declaration names.
fn declared(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = &bytes[..bytes.len().min(DECLARATION_LEN)];
    let head = String::from_utf8_lossy(head);
    let declaration = head.trim_start().strip_prefix("<?xml")?.split("?>").next()?;
    let (_, rest) = declaration.split_once("encoding")?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| "\"'".contains(*c))?;
    Encoding::for_label(value[1..].split(quote).next()?.as_bytes())
}

/// A text of at most `max` bytes, cut between two characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// A title on one line, without control characters. Markup is removed from HTML, and its references are resolved once.
pub(super) fn plain(text: &str, is_html: bool) -> String {
    let text = match is_html {
        true => resolve(&without_tags(text)),
        false => text.to_owned(),
    };
    let is_hidden = |c: char| c.is_control() || matches!(c, '\u{200b}' | '\u{202a}'..='\u{202e}');
    let text: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_tags(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let is_tag = tag[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c));
        match tag.find('>').filter(|_| is_tag) {
            Some(end) => {
                out.push(' ');
                rest = &tag[end + 1..];
            }
            None => {
                out.push('<');
                rest = &tag[1..];
                // Without an end, nothing behind it is a tag.
                if is_tag {
                    break;
                }
            }
        }
    }
    out.push_str(rest);
    out
}

/// Resolves the references of XML and the common ones of HTML. Others stay as they are.
pub(super) fn resolve(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let end = after.bytes().take(MAX_REFERENCE).position(|b| b == b';');
        let found = end.and_then(|end| Some((character(&after[..end])?, &after[end + 1..])));
        match found {
            Some((c, left)) => {
                out.push(c);
                rest = left;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Longest name of a reference, with its `;`.
const MAX_REFERENCE: usize = 12;

/// The character of a reference, without `&` and `;`.
pub(super) fn character(name: &str) -> Option<char> {
    if let Some(digits) = name.strip_prefix('#') {
        let number = match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        return number.ok().and_then(char::from_u32);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "laquo" => '«',
        "raquo" => '»',
        "middot" => '·',
        "times" => '×',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_mark_the_header_or_the_declaration() {
        let declared = b"<?xml version='1.0' encoding='windows-1251'?><t>\xcf\xf0</t>";
        assert!(decode(declared, None).ends_with("<t>Пр</t>"));
        assert!(decode(declared, Some("text/xml; charset=\"ISO-8859-1\"")).contains("Ïð"));
        assert_eq!(decode(b"\xef\xbb\xbf<t>\xc3\xa9</t>", Some("x; charset=latin1")), "<t>é</t>");
        let utf16: Vec<u8> = "\u{feff}<t>é</t>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(&utf16, None), "<t>é</t>");
        assert_eq!(decode(b"<t>\xc3\xa9</t>", Some("text/xml")), "<t>é</t>");
        assert_eq!(decode(b"<t>\xe9</t>", None), "<t>é</t>");
        let shift_jis = b"<?xml version=\"1.0\" encoding=\"Shift_JIS\" ?><t>\x83\x65</t>";
        assert!(decode(shift_jis, None).contains("テ"));
    }

    #[test]
    fn titles_lose_markup_and_control_characters() {
        let html = "  <b>New</b>:<br/>a &amp;lt; b&nbsp;&#8211; 1 < 2 <!-- x -->\u{202e}\n";
        assert_eq!(plain(html, true), "New : a &lt; b – 1 < 2");
        assert_eq!(plain("a <b> c &amp;", false), "a <b> c &amp;");
        assert_eq!(plain("a <b without end > x <i", true), "a x <i");
        assert_eq!(
            plain("&unknown; &; & &#xD800; &#99999999;", true),
            "&unknown; &; & &#xD800; &#99999999;"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(
            text in "(<|>|&|;|#|x|é|b|amp|/| ){0,60}", bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = (plain(&text, true), cut(&text, 7), decode(&bytes, None), resolve(&text));
        }
    }
}
