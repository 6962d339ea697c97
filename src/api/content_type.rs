//! The content type of a file, by the extension of its name. No I/O.

/// Types of media, images and documents; everything else is sent as bytes. HTML, SVG and scripts are left out on
/// purpose: torrents come from strangers, and a browser would run such files with the origin of the stream server.
const TYPES: &[(&str, &str)] = &[
    ("3gp", "video/3gpp"),
    ("aac", "audio/aac"),
    ("aif", "audio/aiff"),
    ("aiff", "audio/aiff"),
    ("ape", "audio/x-ape"),
    ("ass", "text/x-ssa"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("cue", "text/plain; charset=utf-8"),
    ("dsf", "audio/x-dsf"),
    ("flac", "audio/flac"),
    ("flv", "video/x-flv"),
    ("gif", "image/gif"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("log", "text/plain; charset=utf-8"),
    ("m2ts", "video/mp2t"),
    ("m3u", "audio/x-mpegurl"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4b", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("md", "text/plain; charset=utf-8"),
    ("mka", "audio/x-matroska"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("nfo", "text/plain; charset=utf-8"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("srt", "application/x-subrip"),
    ("ssa", "text/x-ssa"),
    ("ts", "video/mp2t"),
    ("txt", "text/plain; charset=utf-8"),
    ("vob", "video/mpeg"),
    ("vtt", "text/vtt"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("wma", "audio/x-ms-wma"),
    ("wmv", "video/x-ms-wmv"),
    ("wv", "audio/x-wavpack"),
];

const DEFAULT_TYPE: &str = "application/octet-stream";

/// The `Content-Type` of a file.
pub(super) fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((_, extension)) = name.rsplit_once('.') else { return DEFAULT_TYPE };
    let extension = extension.to_ascii_lowercase();
    let found = TYPES.binary_search_by_key(&extension.as_str(), |(extension, _)| extension);
    found.map_or(DEFAULT_TYPE, |at| TYPES[at].1)
}

/// Whether a file is audio or video, and so belongs into a playlist.
pub(super) fn is_playable(path: &str) -> bool {
    let kind = content_type(path);
    ["audio/", "video/"].iter().any(|media| kind.starts_with(media)) && !kind.ends_with("mpegurl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_follows_the_extension() {
        assert!(
            TYPES.is_sorted_by_key(|(extension, _)| extension),
            "binary search needs sorted entries"
        );
        assert_eq!(content_type("A/b.c/01 - Jóga.FLAC"), "audio/flac");
        assert_eq!(content_type("film.mkv"), "video/x-matroska");
        for bytes in ["README", "a.html", "x.svg", "a.js", "dir.mp3/x", ".", "x."] {
            assert_eq!(content_type(bytes), DEFAULT_TYPE, "{bytes}");
        }
        assert!(is_playable("x/film.mp4") && is_playable("a.ogg"));
        assert!(!is_playable("a.m3u") && !is_playable("cover.jpg") && !is_playable("x.iso"));
    }
}
