//! Makes files of the chosen tracks: one of audio and video where they can be joined, else one of each.

use std::sync::Arc;

use super::{
    live::LiveTrack,
    plan::{Fetched, PlannedFile},
    reload::HlsReload,
    subtitles::merged_subtitles,
    tracks::{Track, TrackKind, Tracks},
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    protocols::segments::{
        BuiltFile, Content, FilePlan, ListClient, Mp4Track, find_ffmpeg, join, live_file,
        muxed_file, start_of,
    },
};

/// A file with its name.
pub(super) type NamedFile = (String, BuiltFile);

/// The files of a stream with the name `stem`.
///
/// # Errors
/// Errors of segments, which they name.
pub(super) async fn build_files(
    client: &Arc<ListClient>,
    mut tracks: Tracks,
    stem: &str,
) -> Result<Vec<NamedFile>> {
    let no_track = || Error::new(Kind::Internal, "a stream has no main track");
    let main = tracks.remove(&TrackKind::Main).ok_or_else(no_track)?;
    let audio = tracks.remove(&TrackKind::Audio);
    let subtitles = tracks.remove(&TrackKind::Subtitles);
    let mut files = if main.playlist.is_complete {
        build_complete(client, &main, audio.as_ref(), stem).await?
    } else {
        build_live(client, main, audio, stem).await?
    };
    if let Some(track) = subtitles {
        files.push(build_subtitles(client, &track, stem).await?);
    }
    Ok(files)
}

async fn build_complete(
    client: &Arc<ListClient>,
    main: &Track,
    audio: Option<&Track>,
    stem: &str,
) -> Result<Vec<NamedFile>> {
    let main_files = plan(client, main).await?;
    let Some(audio) = audio else {
        return build_each(client, TrackKind::Main, main, main_files, stem).await;
    };
    let audio_files = plan(client, audio).await?;
    if let (
        [PlannedFile { init: Some(video_init), segments: video }],
        [PlannedFile { init: Some(audio_init), segments: sound }],
    ) = (&main_files[..], &audio_files[..])
    {
        let tracks = [(video_init, video), (audio_init, sound)]
            .map(|(init, segments)| Mp4Track { init: init.clone(), segments: segments.clone() });
        match build_joined(client, tracks.into()).await {
            Ok(built) => return Ok(vec![(format!("{stem}.mp4"), built)]),
            Err(error) if error.kind() == Kind::Unsupported => {
                tracing::debug!("cannot join fragments: {}", error.report());
            }
            Err(error) => return Err(error),
        }
    }
    let mut files = build_each(client, TrackKind::Main, main, main_files, stem).await?;
    let mut audio = build_each(client, TrackKind::Audio, audio, audio_files, stem).await?;
    if let (1, 1, Some(program)) = (files.len(), audio.len(), find_ffmpeg()) {
        let inputs = files.into_iter().chain(audio).map(|(_, file)| file).collect();
        let joined = muxed_file(client, program, inputs);
        return Ok(vec![(format!("{stem}.{}", joined.content.suffix()), joined)]);
    }
    tracing::warn!(
        "audio and video stay separate files: bae joins only MP4; with ffmpeg installed it joins others too"
    );
    files.append(&mut audio);
    Ok(files)
}

async fn build_joined(client: &Arc<ListClient>, tracks: Vec<Mp4Track>) -> Result<BuiltFile> {
    let reload = HlsReload::new(client, vec![TrackKind::Main, TrackKind::Audio]);
    let segments = join(tracks)?;
    FilePlan { segments, is_mp4: true, reload: Some(Arc::new(reload)) }.build(client).await
}

/// The files of one track, before their segments are measured.
async fn plan(client: &Arc<ListClient>, track: &Track) -> Result<Vec<PlannedFile>> {
    let mut fetched = Fetched::default();
    fetched.add(client, track, &track.playlist.segments).await?;
    let files = fetched.files(track)?;
    match files.is_empty() {
        true => Err(Error::new(Kind::NotFound, "the playlist has no segments")),
        false => Ok(files),
    }
}

async fn build_each(
    client: &Arc<ListClient>,
    kind: TrackKind,
    track: &Track,
    files: Vec<PlannedFile>,
    stem: &str,
) -> Result<Vec<NamedFile>> {
    let mut named = Vec::new();
    for (number, file) in files.into_iter().enumerate() {
        let reload = Arc::new(HlsReload::new(client, vec![kind]));
        let is_mp4 = file.init.is_some();
        let plan = FilePlan { is_mp4, segments: file.into_segments(), reload: Some(reload) };
        let built = plan.build(client).await?;
        named.push((name(stem, kind, track, number, built.content), built));
    }
    Ok(named)
}

async fn build_live(
    client: &Arc<ListClient>,
    main: Track,
    audio: Option<Track>,
    stem: &str,
) -> Result<Vec<NamedFile>> {
    let mut named = Vec::new();
    for (kind, track) in [(TrackKind::Main, Some(main)), (TrackKind::Audio, audio)] {
        let Some(track) = track else { continue };
        let content = live_content(client, &track).await?;
        let name = name(stem, kind, &track, 0, content.unwrap_or(Content::Other));
        let source = Arc::new(LiveTrack::new(client, track));
        named.push((name, live_file(client, content, source)));
    }
    Ok(named)
}

/// The container of a live track, from its last segment, which stays on the server for the longest time.
async fn live_content(client: &Arc<ListClient>, track: &Track) -> Result<Option<Content>> {
    let last = track.playlist.segments.iter().rev().find(|segment| !segment.is_gap);
    let Some(last) = last else {
        return Err(Error::new(Kind::NotFound, "the live playlist has no segments yet"));
    };
    let mut fetched = Fetched::default();
    fetched.add(client, track, std::slice::from_ref(last)).await?;
    start_of(client, &fetched.segment(track, last)?).await
}

async fn build_subtitles(client: &Arc<ListClient>, track: &Track, stem: &str) -> Result<NamedFile> {
    if !track.playlist.is_complete {
        let text = "subtitles of a live stream are not supported";
        return Err(
            Error::new(Kind::Unsupported, text).hint(hint!["leave out ", Setting::Subtitles])
        );
    }
    let mut files = plan(client, track).await?;
    if files.len() == 1 && files[0].init.is_some() {
        let named = build_each(client, TrackKind::Subtitles, track, files, stem).await?;
        let none = || Error::new(Kind::Internal, "the subtitles have no file");
        return named.into_iter().next().ok_or_else(none);
    }
    let segments = files.iter_mut().flat_map(|file| std::mem::take(&mut file.segments)).collect();
    let built = merged_subtitles(client, segments).await?;
    Ok((name(stem, TrackKind::Subtitles, track, 0, built.content), built))
}

/// The name of a file. The first one of a track has no number.
fn name(stem: &str, kind: TrackKind, track: &Track, number: usize, content: Content) -> String {
    let language = track.traits.language.as_deref().map(|language| format!(".{language}"));
    let language = language.unwrap_or_default();
    let number = if number == 0 { String::new() } else { format!(".{}", number + 1) };
    let (label, suffix) = match (kind, content) {
        (TrackKind::Main, content) => (String::new(), content.suffix()),
        (TrackKind::Audio, Content::Mp4) => (format!(".audio{language}"), "m4a"),
        (TrackKind::Audio, content) => (format!(".audio{language}"), content.suffix()),
        (TrackKind::Subtitles, content) => (language, content.suffix()),
    };
    format!("{stem}{label}{number}.{suffix}")
}
