//! The parts of Drive's query language that bae uses. Any other query is refused as invalid.

use super::{File, Refusal};

pub(super) enum Term {
    Name(String),
    Mime(String),
    Parent(String),
    NotTrashed,
    Property(String, String),
}

impl Term {
    pub(super) fn matches(&self, file: &File) -> bool {
        match self {
            Self::Name(name) => file.name == *name,
            Self::Mime(mime) => file.mime == *mime,
            Self::Parent(id) if id == "root" => file.parent.as_deref() == Some("root-of-my-drive"),
            Self::Parent(id) => file.parent.as_ref() == Some(id),
            Self::NotTrashed => !file.trashed,
            Self::Property(key, value) => file.properties.get(key) == Some(value),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Term>, Refusal> {
    let mut rest = text;
    let mut terms = Vec::new();
    loop {
        let (term, remaining) = term(rest).ok_or(Refusal(400, "invalid"))?;
        terms.push(term);
        if remaining.is_empty() {
            return Ok(terms);
        }
        rest = remaining.strip_prefix(" and ").ok_or(Refusal(400, "invalid"))?;
    }
}

fn term(text: &str) -> Option<(Term, &str)> {
    if let Some(rest) = text.strip_prefix("name = ") {
        let (name, rest) = quoted(rest)?;
        return Some((Term::Name(name), rest));
    }
    if let Some(rest) = text.strip_prefix("mimeType = ") {
        let (mime, rest) = quoted(rest)?;
        return Some((Term::Mime(mime), rest));
    }
    if let Some(rest) = text.strip_prefix("trashed = false") {
        return Some((Term::NotTrashed, rest));
    }
    if let Some(rest) = text.strip_prefix("appProperties has { key=") {
        let (key, rest) = quoted(rest)?;
        let (value, rest) = quoted(rest.strip_prefix(" and value=")?)?;
        return Some((Term::Property(key, value), rest.strip_prefix(" }")?));
    }
    let (id, rest) = quoted(text)?;
    Some((Term::Parent(id), rest.strip_prefix(" in parents")?))
}

/// A quoted string, and the text after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('\'')?;
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 1..])),
            '\\' => out.push(chars.next().map(|(_, c)| c).filter(|c| ['\'', '\\'].contains(c))?),
            c => out.push(c),
        }
    }
    None
}
