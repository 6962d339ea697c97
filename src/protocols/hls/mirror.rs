//! Keeps a stream as files: its playlists, with URIs that are relative to each other, and its segments as they are on
//! the server. The folder is a stream itself, wherever it is served.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use url::Url;

use super::{
    attributes::Attributes,
    tracks::{Track, TrackKind, Tracks},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::{
        ListedFile, Listing, RemoteFile,
        http::SamplePart,
        segments::{Content, Label, ListClient, Outcome, inline_file, with_tries},
    },
};

/// Files that are measured at once.
const MAX_CONCURRENT: usize = 16;
/// Tags whose attribute `URI` names a file of the stream.
const TAGS_WITH_FILES: [&str; 2] = ["#EXT-X-KEY:", "#EXT-X-MAP:"];
/// Tags that would name files that are not kept.
const DROPPED_TAGS: [&str; 6] = [
    "#EXT-X-DEFINE:",
    "#EXT-X-PART:",
    "#EXT-X-PART-INF:",
    "#EXT-X-PRELOAD-HINT:",
    "#EXT-X-RENDITION-REPORT:",
    "#EXT-X-SESSION-DATA:",
];

/// The names of the files of a stream, by URL.
#[derive(Debug, Default)]
struct Names {
    by_url: HashMap<Url, String>,
    in_order: Vec<Url>,
}

impl Names {
    /// The name of the file at `url` in `folder`.
    fn name_of(&mut self, url: Url, folder: &str) -> String {
        let count = self.in_order.len();
        if let Some(name) = self.by_url.get(&url) {
            return name.clone();
        }
        let name = format!("{folder}/{count:05}{}", suffix_of(&url));
        self.in_order.push(url.clone());
        self.by_url.insert(url, name.clone());
        name
    }
}

/// The suffix of the file at `url` with its dot, if it is a short word.
fn suffix_of(url: &Url) -> String {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    let suffix = last.rsplit_once('.').map(|(_, suffix)| suffix).unwrap_or_default();
    let is_word =
        (1..=5).contains(&suffix.len()) && suffix.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_word { format!(".{suffix}") } else { String::new() }
}

/// The folder of a stream with its playlists and segments. `stem` is its name.
///
/// # Errors
/// `Unsupported` for a live stream; errors of the server.
pub(super) async fn mirror(
    client: &Arc<ListClient>,
    list: &RemoteFile,
    tracks: &Tracks,
    stem: &str,
) -> Result<Listing> {
    let mut names = Names::default();
    let mut files = Vec::new();
    let main_name = format!("{stem}.m3u8");
    let is_alone =
        tracks.len() == 1 && tracks.values().all(|track| track.traits == Default::default());
    for kind in [TrackKind::Main, TrackKind::Audio, TrackKind::Subtitles] {
        let Some(track) = tracks.get(&kind) else { continue };
        if !track.playlist.is_complete {
            let text = "a live stream has no mirror: its segments are still being added";
            return Err(Error::new(Kind::Unsupported, text).hint(hint![
                "leave out ",
                Setting::MirrorStream,
                " to record it"
            ]));
        }
        let text = rewrite(track, folder_of(kind), &mut names)?;
        let name = if is_alone { main_name.clone() } else { playlist_of(kind) };
        files.push(playlist_file(client, list, name, text));
    }
    if !is_alone {
        files.push(playlist_file(client, list, main_name, multivariant(tracks)));
    }
    let measure = |index: usize| measure(client, &names, index);
    let measured = stream::iter(0..names.in_order.len()).map(measure).buffered(MAX_CONCURRENT);
    files.extend(measured.try_collect::<Vec<_>>().await?);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing { url: list.url.clone(), name: stem.to_owned(), files, skipped: Vec::new() })
}

fn folder_of(kind: TrackKind) -> &'static str {
    match kind {
        TrackKind::Main => "video",
        TrackKind::Audio => "audio",
        TrackKind::Subtitles => "subtitles",
    }
}

fn playlist_of(kind: TrackKind) -> String {
    format!("{}.m3u8", folder_of(kind))
}

fn playlist_file(
    client: &Arc<ListClient>,
    list: &RemoteFile,
    path: String,
    text: String,
) -> ListedFile {
    let built = inline_file(client, Outcome::default(), Content::Other, text.into());
    let remote = RemoteFile { modified: list.modified, ..built.into_remote(list, path.clone()) };
    ListedFile { path, remote }
}

/// The description of the file with this index.
async fn measure(client: &Arc<ListClient>, names: &Names, index: usize) -> Result<ListedFile> {
    let url = &names.in_order[index];
    let path = names.by_url[url].clone();
    let sample = with_tries(&client.tries, Label::Media(index as u64), || async {
        let http = client.http_for(url).await?;
        http.sample(&client.list_url, url, SamplePart::First(1)).await
    });
    let sample = sample.await?;
    Ok(ListedFile { path, remote: RemoteFile { url: url.clone(), ..sample.remote } })
}

/// The text of a playlist whose URIs are names of files in the mirror.
fn rewrite(track: &Track, folder: &str, names: &mut Names) -> Result<String> {
    let (mut out, mut is_gap) = (String::new(), false);
    for line in track.text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()) {
        if DROPPED_TAGS.iter().any(|tag| line.starts_with(tag)) {
            continue;
        }
        let line = match TAGS_WITH_FILES.iter().find(|tag| line.starts_with(**tag)) {
            Some(tag) => with_local_uri(&line[tag.len()..], tag, track, folder, names)?,
            None if line.starts_with('#') => {
                is_gap |= line == "#EXT-X-GAP";
                line.to_owned()
            }
            // The server does not have it.
            None if std::mem::take(&mut is_gap) => format!("{folder}/gap"),
            None => local_name(line, track, folder, names)?,
        };
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

fn local_name(uri: &str, track: &Track, folder: &str, names: &mut Names) -> Result<String> {
    let uri = track.playlist.variables.replace(uri)?;
    let url = ListClient::resolve(&track.url, &uri)?;
    match url.scheme() {
        "data" => Ok(uri),
        _ => Ok(names.name_of(url, folder)),
    }
}

/// A tag with a local name as its attribute `URI`.
fn with_local_uri(
    value: &str,
    tag: &str,
    track: &Track,
    folder: &str,
    names: &mut Names,
) -> Result<String> {
    let attributes = Attributes::parse(value, |text| track.playlist.variables.replace(text))?;
    let Some(uri) = attributes.text("URI") else { return Ok(format!("{tag}{value}")) };
    let local = local_name(&uri, track, folder, names)?;
    Ok(format!("{tag}{}", attributes.with("URI", &local).to_text()))
}

/// A multivariant playlist of the tracks.
fn multivariant(tracks: &Tracks) -> String {
    let mut out = "#EXTM3U\n".to_owned();
    let mut groups = String::new();
    for (kind, name) in [(TrackKind::Audio, "AUDIO"), (TrackKind::Subtitles, "SUBTITLES")] {
        let Some(track) = tracks.get(&kind) else { continue };
        let quoted = |text: &str| text.replace(['"', '\n', '\r'], "");
        let language = track.traits.language.as_deref().map(quoted);
        let language =
            language.map(|language| format!(",LANGUAGE=\"{language}\"")).unwrap_or_default();
        let label = quoted(track.traits.name.as_deref().unwrap_or(name));
        let (folder, uri) = (folder_of(kind), playlist_of(kind));
        out.push_str(&format!(
            "#EXT-X-MEDIA:TYPE={name},GROUP-ID=\"{folder}\",NAME=\"{label}\"{language},DEFAULT=YES,URI=\"{uri}\"\n"
        ));
        groups.push_str(&format!(",{name}=\"{folder}\""));
    }
    let Some(main) = tracks.get(&TrackKind::Main) else { return out };
    let traits = &main.traits;
    let mut info = format!("BANDWIDTH={}", traits.bandwidth.unwrap_or(1));
    if let (Some(width), Some(height)) = (traits.width, traits.height) {
        info.push_str(&format!(",RESOLUTION={width}x{height}"));
    }
    if let Some(codecs) = &traits.codecs {
        info.push_str(&format!(",CODECS=\"{}\"", codecs.replace('"', "")));
    }
    out.push_str(&format!("#EXT-X-STREAM-INF:{info}{groups}\n{}\n", playlist_of(TrackKind::Main)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::{
        hls::{playlist::Playlist, variables::Variables},
        segments::Traits,
    };

    fn track(text: &str) -> Track {
        let url: Url = "https://x.example/a/list.m3u8?q=1".parse().unwrap();
        let Ok(Playlist::Media(playlist)) = Playlist::parse(text, &url, &Variables::default())
        else {
            panic!("it is a media playlist");
        };
        let traits =
            Traits { bandwidth: Some(5), codecs: Some("avc1".into()), ..Traits::default() };
        Track {
            requested_url: url.clone(),
            url,
            imported: Variables::default(),
            text: text.to_owned(),
            playlist,
            traits,
        }
    }

    #[test]
    fn uris_become_names_of_local_files() {
        let text = "#EXTM3U\r\n#EXT-X-DEFINE:NAME=\"d\",VALUE=\"deep/er\"\r\n\
             #EXT-X-MAP:URI=\"init.mp4?x=1\",BYTERANGE=\"5@0\"\r\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"https://k.example/key\",IV=0x1\r\n\
             #EXTINF:2,\r\n{$d}/1.m4s?token=1\r\n#EXT-X-BYTERANGE:9@9\r\ninit.mp4?x=1\r\n#EXTINF:2,\r\n../z\r\n#EXT-X-GAP\r\ng.ts\r\n#EXT-X-ENDLIST";
        let mut names = Names::default();
        let rewritten = rewrite(&track(text), "video", &mut names).unwrap();
        assert_eq!(
            rewritten,
            "#EXTM3U\n#EXT-X-MAP:URI=\"video/00000.mp4\",BYTERANGE=\"5@0\"\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"video/00001\",IV=0x1\n#EXTINF:2,\nvideo/00002.m4s\n\
             #EXT-X-BYTERANGE:9@9\nvideo/00000.mp4\n#EXTINF:2,\nvideo/00003\n#EXT-X-GAP\nvideo/gap\n#EXT-X-ENDLIST\n"
        );
        assert_eq!(names.in_order[2].as_str(), "https://x.example/a/deep/er/1.m4s?token=1");
    }

    #[test]
    fn the_chosen_renditions_are_in_a_multivariant_playlist() {
        let audio = Track {
            traits: Traits { language: Some("e\"n".into()), ..Traits::default() },
            ..track("#EXTM3U\na.ts\n")
        };
        let tracks =
            Tracks::from([(TrackKind::Main, track("#EXTM3U\na.ts\n")), (TrackKind::Audio, audio)]);
        assert_eq!(
            multivariant(&tracks),
            "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"AUDIO\",LANGUAGE=\"en\",DEFAULT=YES,URI=\"audio.m3u8\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=5,CODECS=\"avc1\",AUDIO=\"audio\"\nvideo.m3u8\n"
        );
    }
}
