//! The files of a stream and their names. Pure.

use url::Url;

use crate::protocols::{
    ListedFile, Listing, RemoteFile, UrlTarget, url_paths::last_segment_or_host,
};

/// Suffixes of lists, which the files of the stream do not keep.
const LIST_SUFFIXES: [&str; 4] = [".m3u8", ".m3u", ".mpd", ".gz"];

/// The name of the list at `url` without its suffix.
pub(in crate::protocols) fn stem_of(url: &Url) -> String {
    let mut stem = last_segment_or_host(url);
    while let Some(suffix) =
        LIST_SUFFIXES.iter().find(|suffix| stem.to_ascii_lowercase().ends_with(**suffix))
        && stem.len() > suffix.len()
    {
        stem.truncate(stem.len() - suffix.len());
    }
    stem
}

/// One file as it is; several, each with its path, as the folder `name`.
pub(in crate::protocols) fn as_target(
    list: &RemoteFile,
    name: String,
    mut files: Vec<(String, RemoteFile)>,
) -> UrlTarget {
    if files.len() == 1
        && let Some((_, file)) = files.pop()
    {
        return UrlTarget::File(file);
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let files = files.into_iter().map(|(path, remote)| ListedFile { path, remote }).collect();
    UrlTarget::Folder(Listing { url: list.url.clone(), name, files, skipped: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_suffix_of_a_list() {
        for (url, expected) in [
            ("https://x.example/a/talk.m3u8?token=1", "talk"),
            ("https://x.example/a/TALK.M3U8", "TALK"),
            ("https://x.example/a/talk.mpd.gz", "talk"),
            ("https://x.example/a/talk.v2", "talk.v2"),
            ("https://x.example/.m3u8", ".m3u8"),
            ("https://x.example/", "x.example"),
            ("https://x.example/ü%20.m3u8", "ü "),
        ] {
            assert_eq!(stem_of(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
