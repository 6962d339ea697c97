//! The pages of the stream server: lists of imports and files in HTML, and playlists. No I/O.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::content_type::is_playable;
use crate::{
    engine::{StreamedFile, StreamedImport},
    units::{ByteSize, pluralize},
};

/// Characters that are not percent-encoded in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes each `/`-separated part of `text` for a URL.
pub(super) fn percent_encoded(text: &str) -> String {
    let parts = text.split('/').map(|part| utf8_percent_encode(part, PART).to_string());
    parts.collect::<Vec<_>>().join("/")
}

/// Prefix and suffix of every link.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// Prefix, with `/` at its end.
    pub(super) base: String,
    /// Query with the token, if the request had it there.
    pub(super) query: String,
}

impl Links {
    pub(super) fn to_file(&self, import: &str, path: &str) -> String {
        format!("{}{import}/{}{}", self.base, percent_encoded(path), self.query)
    }

    fn to_import(&self, import: &str) -> String {
        format!("{}{import}/{}", self.base, self.query)
    }

    fn to_playlist(&self, import: &str) -> String {
        format!("{}{import}.m3u{}", self.base, self.query)
    }
}

/// The page of all imports.
pub(super) fn imports(imports: &[(&str, &str, usize)], links: &Links) -> String {
    let mut rows = String::new();
    for (id, name, files) in imports {
        let (link, name) = (escaped(&links.to_import(id)), escaped(name));
        row(&mut rows, &link, &name, &pluralize(*files, "file"));
    }
    page("bae", "", &rows)
}

/// The page of an import's files.
pub(super) fn files(import: &StreamedImport, links: &Links) -> String {
    let playlist = match import.files().iter().any(|file| is_playable(&file.path)) {
        true => format!(
            "<p><a href=\"{}\">playlist</a></p>\n",
            escaped(&links.to_playlist(import.id()))
        ),
        false => String::new(),
    };
    let mut rows = String::new();
    for StreamedFile { path, bytes, .. } in import.files() {
        let link = escaped(&links.to_file(import.id(), path));
        row(&mut rows, &link, &escaped(path), &ByteSize(*bytes).to_string());
    }
    page(import.name(), &playlist, &rows)
}

fn row(rows: &mut String, link: &str, name: &str, more: &str) {
    writeln!(rows, "<tr><td><a href=\"{link}\">{name}</a></td><td>{more}</td></tr>")
        .expect("a String takes all text");
}

fn page(title: &str, before: &str, rows: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{before}<table>\n{rows}</table>\n</body></html>\n"
    )
}

/// An M3U playlist of an import's audio and video files.
pub(super) fn playlist(import: &StreamedImport, links: &Links) -> String {
    let titles = import.files().iter().filter(|file| is_playable(&file.path));
    let titles = titles.map(|file| {
        // One entry is one line: replace line breaks in the name.
        let name = file.path.replace(|c: char| c.is_control(), " ");
        format!("#EXTINF:-1,{name}\n{}\n", links.to_file(import.id(), &file.path))
    });
    std::iter::once("#EXTM3U\n".to_owned()).chain(titles).collect()
}

/// Escapes text for HTML. File names come from strangers' torrents.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_pages_and_links() {
        assert_eq!(percent_encoded("A b/ö?#%.mkv"), "A%20b/%C3%B6%3F%23%25.mkv");
        let links = Links { base: "/t/".into(), query: "?token=x".into() };
        assert_eq!(links.to_file("9c4e01ab", "a/b c"), "/t/9c4e01ab/a/b%20c?token=x");
        let page = imports(&[("9c4e01ab", "<script>\"&'", 1)], &links);
        assert!(page.contains("&lt;script&gt;&quot;&amp;&#39;") && !page.contains("<script"));
    }
}
