//! Fetches the playlists of a stream, and chooses its renditions.

use std::{collections::HashMap, ops::Range, time::Duration};

use bytes::Bytes;
use url::Url;

use super::{
    media_playlist::MediaPlaylist,
    multivariant::{Multivariant, Rendition, RenditionKind},
    playlist::Playlist,
    variables::Variables,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        self, display_url,
        segments::{
            ListClient, MAX_LIST_LEN, StreamOptions, Traits, best_video, by_language,
            bytes_of_data_url, decode,
        },
    },
};

/// Maximum length of a key file, an initialization section or a subtitle segment in bytes.
const MAX_SMALL_FILE: usize = 8 << 20;

/// One rendition with its playlist.
#[derive(Debug, Clone)]
pub(super) struct Track {
    /// The URL of the playlist, after redirects.
    pub(super) url: Url,
    /// The URL that the multivariant playlist names.
    pub(super) requested_url: Url,
    /// The variables of the multivariant playlist.
    pub(super) imported: Variables,
    /// The text of the playlist, for a mirror.
    pub(super) text: String,
    pub(super) playlist: MediaPlaylist,
    pub(super) traits: Traits,
}

/// The place of a track in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TrackKind {
    /// The variant: video, or all there is.
    Main,
    Audio,
    Subtitles,
}

/// The chosen renditions of a stream.
pub(super) type Tracks = HashMap<TrackKind, Track>;

/// The renditions to fetch, as URIs of the multivariant playlist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen<'a> {
    pub(super) main: usize,
    pub(super) audio: Option<&'a Rendition>,
    pub(super) subtitles: Option<&'a Rendition>,
}

/// Chooses a variant and its renditions.
///
/// # Errors
/// `NotFound` if the options allow none.
pub(super) fn choose<'a>(stream: &'a Multivariant, options: &StreamOptions) -> Result<Chosen<'a>> {
    let traits: Vec<_> = stream.variants.iter().map(|variant| &variant.traits).collect();
    let main = best_video(&traits, options)?;
    let variant = &stream.variants[main];
    let audio = renditions(stream, RenditionKind::Audio, variant.audio_group.as_deref());
    let audio = match (audio.is_empty(), &options.audio) {
        (true, None) => None,
        _ => Some(pick("audio", &audio, options.audio.as_deref())?),
    };
    let subtitles = match &options.subtitles {
        None => None,
        Some(language) => {
            let group = variant.subtitle_group.as_deref();
            let all = renditions(stream, RenditionKind::Subtitles, group);
            Some(pick("subtitle", &all, Some(language))?)
        }
    };
    // Audio without a playlist of its own is in the variant.
    let is_separate =
        |found: &&Rendition| found.uri.as_ref().is_some_and(|uri| *uri != variant.uri);
    Ok(Chosen { main, audio: audio.filter(is_separate), subtitles })
}

/// All renditions of a stream, with a mark on those that the options choose.
pub(super) fn list_renditions(
    stream: &Multivariant,
    options: &StreamOptions,
) -> Vec<protocols::Rendition> {
    let chosen = choose(stream, options).ok();
    let main = stream.variants.iter().enumerate().map(|(index, variant)| protocols::Rendition {
        kind: "video",
        traits: variant.traits.clone(),
        chosen: chosen.as_ref().is_some_and(|chosen| chosen.main == index),
    });
    let is_chosen = |found: &Rendition| {
        let chosen = chosen.as_ref().map(|chosen| [chosen.audio, chosen.subtitles]);
        chosen.into_iter().flatten().flatten().any(|other| std::ptr::eq(other, found))
    };
    let others = stream.renditions.iter().map(|found| protocols::Rendition {
        kind: match found.kind {
            RenditionKind::Audio => "audio",
            RenditionKind::Subtitles => "subtitles",
        },
        traits: found.traits.clone(),
        chosen: is_chosen(found),
    });
    main.chain(others).collect()
}

fn renditions<'a>(
    stream: &'a Multivariant,
    kind: RenditionKind,
    group: Option<&'a str>,
) -> Vec<&'a Rendition> {
    group.map(|group| stream.group(kind, group).collect()).unwrap_or_default()
}

fn pick<'a>(kind: &str, all: &[&'a Rendition], language: Option<&str>) -> Result<&'a Rendition> {
    let traits: Vec<_> = all.iter().map(|rendition| &rendition.traits).collect();
    by_language(kind, &traits, language).map(|index| all[index])
}

/// A playlist that was fetched.
pub(super) struct FetchedPlaylist {
    /// After redirects.
    pub(super) url: Url,
    pub(super) text: String,
    pub(super) playlist: Playlist,
}

/// Fetches a playlist.
pub(super) async fn fetch_playlist(
    client: &ListClient,
    url: &Url,
    imported: &Variables,
) -> Result<FetchedPlaylist> {
    let http = client.http_for(url).await?;
    let (remote, bytes) = http.read_whole(&client.list_url, url, MAX_LIST_LEN).await?;
    let with_url = |e: Error| e.with_context(display_url(&remote.url));
    let text = decode(&bytes).map_err(with_url)?;
    let playlist = Playlist::parse(&text, &remote.url, imported).map_err(with_url)?;
    Ok(FetchedPlaylist { url: remote.url, text, playlist })
}

/// Fetches the playlists of the chosen renditions. `fetched` is the playlist that the user named.
pub(super) async fn fetch_tracks(client: &ListClient, fetched: FetchedPlaylist) -> Result<Tracks> {
    let FetchedPlaylist { url, text, playlist } = fetched;
    let stream = match playlist {
        Playlist::Multivariant(stream) => stream,
        Playlist::Media(mut playlist) => {
            limit_duration(&mut playlist, client.options.duration);
            let track = Track {
                url,
                requested_url: client.list_url.clone(),
                imported: Variables::default(),
                text,
                playlist,
                traits: Traits::default(),
            };
            return Ok(HashMap::from([(TrackKind::Main, track)]));
        }
    };
    let chosen = choose(&stream, &client.options)?;
    let main = &stream.variants[chosen.main];
    let mut wanted = vec![(TrackKind::Main, Some(&main.uri), &main.traits)];
    wanted.extend(chosen.audio.map(|found| (TrackKind::Audio, found.uri.as_ref(), &found.traits)));
    wanted.extend(
        chosen.subtitles.map(|found| (TrackKind::Subtitles, found.uri.as_ref(), &found.traits)),
    );
    let mut tracks = Tracks::new();
    for (kind, uri, traits) in wanted {
        let no_uri = || Error::new(Kind::Unsupported, "a rendition has no playlist of its own");
        let requested_url = ListClient::resolve(&url, uri.ok_or_else(no_uri)?)?;
        let fetched = fetch_playlist(client, &requested_url, &stream.variables).await?;
        let FetchedPlaylist { url, text, playlist } = fetched;
        let Playlist::Media(mut playlist) = playlist else {
            let text = format!("{}: the playlist of a rendition has variants", display_url(&url));
            return Err(Error::new(Kind::Unsupported, text));
        };
        limit_duration(&mut playlist, client.options.duration);
        let (imported, traits) = (stream.variables.clone(), traits.clone());
        tracks.insert(kind, Track { url, requested_url, imported, text, playlist, traits });
    }
    Ok(tracks)
}

/// Drops the segments after `duration`. For a live playlist, whose segments are counted while they are read, it does
/// nothing.
fn limit_duration(playlist: &mut MediaPlaylist, duration: Option<Duration>) {
    let Some(duration) = duration.filter(|_| playlist.is_complete) else { return };
    let mut total = Duration::ZERO;
    let count = playlist.segments.iter().take_while(|segment| {
        let is_wanted = total < duration;
        total += segment.duration;
        is_wanted
    });
    let count = count.count();
    playlist.segments.truncate(count);
}

/// Reads a small file that a playlist names.
pub(super) async fn read_small(
    client: &ListClient,
    url: &Url,
    range: Option<Range<u64>>,
) -> Result<Bytes> {
    if let Some(bytes) = bytes_of_data_url(url)? {
        return Ok(bytes);
    }
    let http = client.http_for(url).await?;
    match range {
        None => Ok(http.read_whole(&client.list_url, url, MAX_SMALL_FILE).await?.1),
        Some(range) if range.end - range.start > MAX_SMALL_FILE as u64 => {
            let text = format!("{}: a range is longer than 8 MiB", display_url(url));
            Err(Error::new(Kind::Unsupported, text))
        }
        Some(range) => http.read_range(&client.list_url, url, range).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> Multivariant {
        let url = "https://x.example/main.m3u8".parse().unwrap();
        match Playlist::parse(&format!("#EXTM3U\n{text}"), &url, &Variables::default()).unwrap() {
            Playlist::Multivariant(found) => found,
            Playlist::Media(_) => panic!("it is a media playlist"),
        }
    }

    #[test]
    fn audio_is_separate_only_where_it_has_a_playlist_of_its_own() {
        let text = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"e\",LANGUAGE=\"en\",DEFAULT=YES\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"d\",LANGUAGE=\"de\",URI=\"de.m3u8\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"b\",NAME=\"f\",LANGUAGE=\"fr\",URI=\"fr.m3u8\"\n\
             #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"s\",NAME=\"d\",LANGUAGE=\"de\",URI=\"sub.m3u8\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\",SUBTITLES=\"s\"\nv.m3u8\n";
        let stream = stream(text);
        let of = |options: &StreamOptions| {
            let chosen = choose(&stream, options)?;
            let uri = |found: Option<&Rendition>| found.and_then(|found| found.uri.clone());
            Ok::<_, Error>((uri(chosen.audio), uri(chosen.subtitles)))
        };
        let language =
            |audio: &str| StreamOptions { audio: Some(audio.into()), ..Default::default() };
        assert_eq!(of(&StreamOptions::default()).unwrap(), (None, None));
        assert_eq!(of(&language("de")).unwrap().0.as_deref(), Some("de.m3u8"));
        assert_eq!(of(&language("fr")).unwrap_err().kind(), Kind::NotFound, "of another group");
        let both = StreamOptions { subtitles: Some("de".into()), ..Default::default() };
        assert_eq!(of(&both).unwrap().1.as_deref(), Some("sub.m3u8"));
        let none = StreamOptions { subtitles: Some("it".into()), ..Default::default() };
        assert!(of(&none).is_err());
    }

    #[test]
    fn a_duration_keeps_the_segments_that_begin_before_its_end() {
        let text = "#EXTM3U\n#EXTINF:4,\n1\n#EXTINF:4,\n2\n#EXTINF:4,\n3\n#EXT-X-ENDLIST\n";
        let url = "https://x.example/a.m3u8".parse().unwrap();
        for (seconds, count) in [(1, 1), (4, 1), (5, 2), (100, 3)] {
            let Ok(Playlist::Media(mut playlist)) =
                Playlist::parse(text, &url, &Variables::default())
            else {
                panic!("it is a media playlist");
            };
            limit_duration(&mut playlist, Some(Duration::from_secs(seconds)));
            assert_eq!(playlist.segments.len(), count, "{seconds} s");
        }
    }
}
