//! Makes files of the chosen representations: one of audio and video where they can be joined, else one of each.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use url::Url;

use super::{
    index::fragments,
    manifest::{MediaKind, Representation},
    reload::DashReload,
    segment_list::{Description, Location},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{
        RemoteFile,
        http::SamplePart,
        segments::{
            FilePlan, Label, ListClient, Mp4Track, Segment, Source, bytes_of_data_url, join,
        },
    },
};

/// Maximum length of an initialization section, or of an index.
const MAX_INIT_LEN: u64 = 8 << 20;

/// A file with its name.
pub(super) type NamedFile = (String, RemoteFile);

/// What one file is made of.
#[derive(Debug, Clone)]
pub(super) enum Planned {
    Segments {
        init: Option<Bytes>,
        segments: Vec<Segment>,
    },
    /// A file as it is on the server.
    Whole(Url),
}

/// The files of the chosen representations.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) client: &'a Arc<ListClient>,
    /// The answer with the manifest.
    pub(super) list: &'a RemoteFile,
    pub(super) stem: &'a str,
}

impl Builder<'_> {
    pub(super) async fn build(
        &self,
        chosen: &[(MediaKind, Vec<&Representation>)],
    ) -> Result<Vec<NamedFile>> {
        let mut planned = Vec::new();
        for (kind, representations) in chosen {
            planned.push((*kind, representations, self.plan(*kind, representations).await?));
        }
        let mut named = Vec::new();
        let joined = match &planned[..] {
            [(MediaKind::Video, _, video), (MediaKind::Audio, _, audio), ..] => {
                self.joined(video, audio).await?
            }
            _ => None,
        };
        let rest = if joined.is_some() { 2 } else { 0 };
        named.extend(joined);
        for (kind, representations, files) in planned.into_iter().skip(rest) {
            for (number, file) in files.into_iter().enumerate() {
                named.push(self.single(kind, representations[0], number, file).await?);
            }
        }
        Ok(named)
    }

    /// One file of video and audio; `None` where they stay separate.
    async fn joined(&self, video: &[Planned], audio: &[Planned]) -> Result<Option<NamedFile>> {
        let mut tracks = Vec::new();
        for files in [video, audio] {
            match files {
                [Planned::Segments { init: Some(init), segments }] => {
                    tracks.push(Mp4Track { init: init.clone(), segments: segments.clone() });
                }
                [Planned::Whole(_)] => return Ok(None),
                _ => {
                    tracing::warn!("audio and video stay separate files: their encoding changes");
                    return Ok(None);
                }
            }
        }
        let reload = DashReload::new(self.client, vec![MediaKind::Video, MediaKind::Audio]);
        let joined = join(tracks).map(|segments| FilePlan {
            segments,
            is_mp4: true,
            reload: Some(Arc::new(reload)),
        });
        let built = match joined {
            Ok(plan) => plan.build(self.client).await,
            Err(error) => Err(error),
        };
        match built {
            Ok(built) => {
                let name = format!("{}.mp4", self.stem);
                Ok(Some((name.clone(), built.into_remote(self.list, name))))
            }
            Err(error) if error.kind() == Kind::Unsupported => {
                tracing::warn!("audio and video stay separate files: {}", error.report());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn single(
        &self,
        kind: MediaKind,
        representation: &Representation,
        number: usize,
        file: Planned,
    ) -> Result<NamedFile> {
        match file {
            Planned::Whole(url) => {
                let http = self.client.http_for(&url).await?;
                let sample = http.sample(&self.client.list_url, &url, SamplePart::First(1)).await?;
                let suffix = suffix_of(representation);
                let name = self.name(kind, representation, number, suffix);
                Ok((name.clone(), RemoteFile { name: Some(name), ..sample.remote }))
            }
            Planned::Segments { init, segments } => {
                let reload = Arc::new(DashReload::new(self.client, vec![kind]));
                let (is_mp4, init) = (init.is_some(), init.map(init_segment));
                let segments = init.into_iter().chain(segments).collect();
                let plan = FilePlan { segments, is_mp4, reload: Some(reload) };
                let built = plan.build(self.client).await?;
                let name = self.name(kind, representation, number, built.content.suffix());
                Ok((name.clone(), built.into_remote(self.list, name)))
            }
        }
    }

    fn name(
        &self,
        kind: MediaKind,
        representation: &Representation,
        number: usize,
        suffix: &str,
    ) -> String {
        let language = representation.traits.language.as_deref();
        let language = language.map(|language| format!(".{language}")).unwrap_or_default();
        let number = if number == 0 { String::new() } else { format!(".{}", number + 1) };
        let (label, suffix) = match (kind, suffix) {
            (MediaKind::Video, suffix) => (String::new(), suffix),
            (MediaKind::Audio, "mp4") => (format!(".audio{language}"), "m4a"),
            (MediaKind::Audio, suffix) => (format!(".audio{language}"), suffix),
            (MediaKind::Text, suffix) => (language, suffix),
        };
        format!("{}{label}{number}.{suffix}", self.stem)
    }

    /// The files of one kind. A period with another initialization section than the one before begins a new file.
    async fn plan(
        &self,
        kind: MediaKind,
        representations: &[&Representation],
    ) -> Result<Vec<Planned>> {
        let is_only = representations.len() == 1;
        let mut files: Vec<Planned> = Vec::new();
        for representation in representations {
            let planned = match &representation.description {
                Description::WholeFile { index: Some(index), init: Some(init) }
                    if kind != MediaKind::Text =>
                {
                    self.indexed(representation, init.clone(), index.clone()).await?
                }
                Description::WholeFile { .. } => whole_file(representation)?,
                Description::Segments { init, .. } => {
                    let init = match init {
                        Some(location) => Some(self.read(representation, location).await?),
                        None => None,
                    };
                    Planned::Segments { init, segments: segments_of(representation)? }
                }
            };
            match (files.last_mut(), planned) {
                (
                    Some(Planned::Segments { init: before, segments: all }),
                    Planned::Segments { init, segments },
                ) if *before == init => all.extend(segments),
                (_, planned) => files.push(planned),
            }
        }
        if !is_only {
            files.iter_mut().for_each(renumber);
        }
        Ok(files)
    }

    /// A file whose index lists its fragments, so that it can be joined. Without a usable index it stays whole.
    async fn indexed(
        &self,
        representation: &Representation,
        init: Range<u64>,
        index: Range<u64>,
    ) -> Result<Planned> {
        let read = |range: Range<u64>| self.read_range(representation, range);
        let bytes = read(index.clone()).await?;
        let Ok(found) = fragments(&bytes, index.start) else { return whole_file(representation) };
        let init = read(init).await?;
        let segment = |(number, (range, duration)): (u64, (Range<u64>, _))| Segment {
            duration,
            ..Segment::new(
                Label::Media(number),
                Source::Remote(representation.base.clone(), Some(range)),
            )
        };
        let segments = (1..).zip(found).map(segment).collect();
        Ok(Planned::Segments { init: Some(init), segments })
    }

    async fn read_range(
        &self,
        representation: &Representation,
        range: Range<u64>,
    ) -> Result<Bytes> {
        self.read(representation, &Location { uri: None, range: Some(range) }).await
    }

    async fn read(&self, representation: &Representation, location: &Location) -> Result<Bytes> {
        let url = url_of(representation, location)?;
        if let Some(bytes) = bytes_of_data_url(&url)? {
            return Ok(bytes);
        }
        let http = self.client.http_for(&url).await?;
        let list_url = &self.client.list_url;
        match &location.range {
            Some(range) if range.end - range.start <= MAX_INIT_LEN => {
                http.read_range(list_url, &url, range.clone()).await
            }
            Some(_) => {
                let text = "an initialization section is longer than 8 MiB";
                Err(Error::new(Kind::Unsupported, text))
            }
            None => {
                let max_len = usize::try_from(MAX_INIT_LEN).unwrap_or(usize::MAX);
                Ok(http.read_whole(list_url, &url, max_len).await?.1)
            }
        }
    }
}

fn init_segment(bytes: Bytes) -> Segment {
    Segment::new(Label::Init(0), Source::Inline(bytes))
}

/// Numbers of segments start again in each period, and must differ in a file.
fn renumber(file: &mut Planned) {
    if let Planned::Segments { segments, .. } = file {
        for (number, segment) in (1..).zip(segments) {
            segment.label = Label::Media(number);
        }
    }
}

fn whole_file(representation: &Representation) -> Result<Planned> {
    match representation.has_own_base {
        true => Ok(Planned::Whole(representation.base.clone())),
        false => {
            let text = format!("representation {:?} of the manifest has no URL", representation.id);
            Err(Error::new(Kind::Unsupported, text))
        }
    }
}

/// The segments of a representation.
pub(super) fn segments_of(representation: &Representation) -> Result<Vec<Segment>> {
    let Description::Segments { segments, .. } = &representation.description else {
        return Ok(Vec::new());
    };
    let segment = |media: &super::segment_list::MediaSegment| {
        let url = url_of(representation, &media.location)?;
        let source = match bytes_of_data_url(&url)? {
            Some(bytes) => Source::Inline(bytes),
            None => Source::Remote(url, media.location.range.clone()),
        };
        Ok(Segment {
            duration: media.duration,
            may_be_absent: media.may_be_absent,
            ..Segment::new(Label::Media(media.number), source)
        })
    };
    segments.iter().map(segment).collect()
}

fn url_of(representation: &Representation, location: &Location) -> Result<Url> {
    match &location.uri {
        Some(uri) => ListClient::resolve(&representation.base, uri),
        None => Ok(representation.base.clone()),
    }
}

/// The suffix of a file that is not looked into.
fn suffix_of(representation: &Representation) -> &'static str {
    let mime = representation.mime_type.to_ascii_lowercase();
    match mime.split(';').next().unwrap_or_default().trim() {
        "text/vtt" => "vtt",
        "application/ttml+xml" => "ttml",
        "video/webm" | "audio/webm" => "webm",
        "video/mp2t" => "ts",
        _ => "mp4",
    }
}
