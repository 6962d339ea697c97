//! The representations of a manifest (`.mpd`). Pure.

use std::time::Duration;

use url::Url;

use super::{
    segment_list::{Description, Identity, describe},
    xml::Element,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::segments::Traits,
};

/// Systems for digital rights management by the start of their UUIDs.
const DRM_SYSTEMS: [(&str, &str); 4] = [
    ("edef8ba9", "Widevine"),
    ("9a04f079", "PlayReady"),
    ("94ce86fb", "FairPlay"),
    ("e2719d58", "ClearKey"),
];

/// The kind of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum MediaKind {
    Video,
    Audio,
    Text,
}

/// A period of a manifest.
#[derive(Debug, Clone)]
pub(super) struct Period {
    pub(super) representations: Vec<Representation>,
}

/// A representation in one period.
#[derive(Debug, Clone)]
pub(super) struct Representation {
    pub(super) id: String,
    pub(super) kind: MediaKind,
    pub(super) mime_type: String,
    pub(super) traits: Traits,
    /// The URL to which those of its segments are relative.
    pub(super) base: Url,
    /// The base is that of the manifest, and not of a file.
    pub(super) has_own_base: bool,
    pub(super) description: Description,
    /// The system that protects it.
    pub(super) protection: Option<String>,
}

/// Parses the text of a manifest at `url`.
///
/// # Errors
/// `Unsupported` for text that is no manifest, and for live and remote ones.
pub(super) fn parse(text: &str, url: &Url) -> Result<Vec<Period>> {
    let root = Element::parse(text)?;
    let refused = |text: &str| Err(Error::new(Kind::Unsupported, text));
    if root.name != "MPD" {
        return refused("this is not a manifest of DASH");
    }
    if root.get("type").is_some_and(|kind| kind.trim() == "dynamic") {
        return refused("live streams of DASH are not supported");
    }
    if root.has_attribute("xlink:href") {
        return refused("manifests with parts at other URLs (xlink) are not supported");
    }
    let elements: Vec<_> = root.all("Period").collect();
    let total = root.get("mediaPresentationDuration").and_then(parse_duration);
    let base = based_on(url, &root)?;
    let mut periods = Vec::new();
    let mut next_start = Some(Duration::ZERO);
    for (index, element) in elements.iter().enumerate() {
        let start = element.get("start").and_then(parse_duration).or(next_start);
        let following = elements.get(index + 1);
        let following = following.and_then(|next| next.get("start")).and_then(parse_duration);
        let end = following.or(total.filter(|_| index + 1 == elements.len()));
        let own = element.get("duration").and_then(parse_duration);
        let duration = own.or_else(|| end?.checked_sub(start?));
        next_start = start.and_then(|start| start.checked_add(duration?));
        periods.push(parse_period(element, &base.0, base.1, duration)?);
    }
    match periods.is_empty() {
        true => refused("the manifest has no periods"),
        false => Ok(periods),
    }
}

/// Whether `text`, which may be cut, begins like a manifest.
pub(super) fn is_manifest(text: &str) -> bool {
    let text = text.trim_start();
    let root = text.split('<').skip(1).find(|part| !part.starts_with(['?', '!']));
    let name = root.map(|part| part.split(|c: char| c.is_whitespace() || c == '>').next());
    let name = name.flatten().unwrap_or_default();
    text.starts_with('<') && name.rsplit(':').next() == Some("MPD")
}

/// The base URL below `element`, and whether it has one of its own.
fn based_on(base: &Url, element: &Element) -> Result<(Url, bool)> {
    // Several are alternatives.
    let Some(own) = element.child("BaseURL").map(|own| own.text.trim()) else {
        return Ok((base.clone(), false));
    };
    let url = base.join(own).map_err(|e| {
        Error::new(Kind::Unsupported, "a BaseURL of the manifest is not valid").because(e)
    })?;
    Ok((url, true))
}

fn parse_period(
    period: &Element,
    base: &Url,
    has_base: bool,
    duration: Option<Duration>,
) -> Result<Period> {
    let (base, own) = based_on(base, period)?;
    let has_base = has_base || own;
    let mut representations = Vec::new();
    for set in period.all("AdaptationSet") {
        let (base, own) = based_on(&base, set)?;
        let has_base = has_base || own;
        for element in set.all("Representation") {
            let get = |name: &str| element.get(name).or_else(|| set.get(name));
            let Some(kind) = kind_of(get("contentType"), get("mimeType"), get("codecs")) else {
                continue;
            };
            let (base, own) = based_on(&base, element)?;
            let id = element.get("id").unwrap_or_default().to_owned();
            let bandwidth = element.number("bandwidth");
            let identity =
                Identity { id: &id, bandwidth: bandwidth.unwrap_or(0), period_duration: duration };
            let description = describe(&[period, set, element], identity)?;
            representations.push(Representation {
                kind,
                mime_type: get("mimeType").unwrap_or_default().to_owned(),
                traits: traits_of(set, element, bandwidth),
                base,
                has_own_base: has_base || own,
                description,
                protection: protection_of(set).or_else(|| protection_of(element)),
                id,
            });
        }
    }
    Ok(Period { representations })
}

fn traits_of(set: &Element, element: &Element, bandwidth: Option<u64>) -> Traits {
    let get = |name: &str| element.get(name).or_else(|| set.get(name));
    let number = |name: &str| get(name).and_then(|text| text.trim().parse().ok());
    let has_role = |value: &str| set.all("Role").any(|role| role.get("value") == Some(value));
    let label = set.child("Label").map(|label| label.text.trim().to_owned());
    Traits {
        width: number("width"),
        height: number("height"),
        bandwidth,
        codecs: get("codecs").map(str::to_owned),
        frame_rate: None,
        language: get("lang").map(str::to_owned),
        name: label.filter(|label| !label.is_empty()),
        is_default: has_role("main"),
        is_autoselect: set.all("Role").next().is_none(),
    }
}

/// The kind by the content type, the MIME type or the codecs. `None` for images and everything else.
fn kind_of(content: Option<&str>, mime: Option<&str>, codecs: Option<&str>) -> Option<MediaKind> {
    let mime = mime.unwrap_or_default().to_ascii_lowercase();
    let codecs = codecs.unwrap_or_default().to_ascii_lowercase();
    let is_text = ["text/", "application/ttml"].iter().any(|start| mime.starts_with(start))
        || ["stpp", "wvtt"].iter().any(|start| codecs.starts_with(start));
    match content.unwrap_or_default() {
        "video" => Some(MediaKind::Video),
        "audio" => Some(MediaKind::Audio),
        "text" => Some(MediaKind::Text),
        _ if is_text => Some(MediaKind::Text),
        _ if mime.starts_with("video/") => Some(MediaKind::Video),
        _ if mime.starts_with("audio/") => Some(MediaKind::Audio),
        _ => None,
    }
}

/// The name of the system that protects a representation.
fn protection_of(element: &Element) -> Option<String> {
    let mut systems = element.all("ContentProtection").peekable();
    systems.peek()?;
    let name = systems.find_map(|system| {
        let scheme = system.get("schemeIdUri").unwrap_or_default().to_ascii_lowercase();
        DRM_SYSTEMS.iter().find(|(start, _)| scheme.contains(start)).map(|(_, name)| *name)
    });
    Some(name.unwrap_or("Common Encryption").to_owned())
}

/// Parses a duration of XML Schema, such as `PT1H2M3.5S`.
fn parse_duration(text: &str) -> Option<Duration> {
    let (date, time) = match text.trim().strip_prefix('P')?.split_once('T') {
        Some((date, time)) => (date, time),
        None => (text.trim().strip_prefix('P')?, ""),
    };
    let mut seconds = 0.0;
    for (part, units) in [
        (date, &[('Y', 31_536_000.0), ('M', 2_592_000.0), ('W', 604_800.0), ('D', 86_400.0)][..]),
        (time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)][..]),
    ] {
        let mut rest = part;
        while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
            let unit = rest[end..].chars().next()?;
            let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
            seconds += rest[..end].parse::<f64>().ok()? * factor;
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            return None;
        }
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url() -> Url {
        "https://x.example/a/main.mpd?token=1".parse().unwrap()
    }

    fn mpd(attributes: &str, content: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011' {attributes}>{content}</MPD>"
        )
    }

    #[test]
    fn durations_have_days_hours_and_fractions() {
        for (text, seconds) in [
            ("PT30.024S", 30.024),
            ("PT1H2M3S", 3723.0),
            ("P1DT1S", 86401.0),
            ("P0Y0M0DT0H3M0.5S", 180.5),
        ] {
            assert_eq!(parse_duration(text), Duration::try_from_secs_f64(seconds).ok(), "{text}");
        }
        for bad in ["", "30", "PT30", "PTxS", "P1H", "PT-5S"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_manifest_is_recognised_by_its_root() {
        assert!(is_manifest("<?xml version='1.0'?>\n<!-- made by x -->\n<MPD type='static'"));
        assert!(is_manifest("<mpd:MPD>") && is_manifest(" <MPD\n"));
        for no in ["<html><MPD>", "MPD", "<?xml?>", "", "<MPDx>"] {
            assert!(!is_manifest(no), "{no}");
        }
    }

    #[test]
    fn representations_have_their_traits_and_the_base_of_all_levels() {
        let text = mpd(
            "mediaPresentationDuration='PT20S'",
            "<BaseURL>https://cdn.example/</BaseURL><BaseURL>https://b.example/</BaseURL>\
             <Period start='PT0S'><BaseURL>p/</BaseURL>\
             <AdaptationSet contentType='video' mimeType='video/mp4'><Role value='main'/>\
             <Representation id='v' width='640' height='360' bandwidth='500' codecs='avc1.4d'><BaseURL>v/</BaseURL>\
             <SegmentTemplate media='$Number$' duration='10'/></Representation></AdaptationSet>\
             <AdaptationSet mimeType='audio/mp4' lang='en'><Label>English</Label>\
             <ContentProtection schemeIdUri='urn:mpeg:dash:mp4protection:2011'/>\
             <ContentProtection schemeIdUri='urn:uuid:EDEF8BA9-79d6-4ace-a3c8-27dcd51d21ed'/>\
             <Representation id='a' bandwidth='64'/></AdaptationSet>\
             <AdaptationSet mimeType='image/jpeg'><Representation id='i'/></AdaptationSet></Period>\
             <Period start='PT10S'/>",
        );
        let periods = parse(&text, &url()).unwrap();
        assert_eq!(periods.len(), 2);
        let [video, audio] = &periods[0].representations[..] else { panic!("two are usable") };
        assert_eq!(
            (video.kind, video.base.as_str()),
            (MediaKind::Video, "https://cdn.example/p/v/")
        );
        assert_eq!((video.traits.height, video.traits.is_default), (Some(360), true));
        let Description::Segments { segments, .. } = &video.description else { panic!("segments") };
        assert_eq!(segments.len(), 2, "of a period of 10 s, and one more");
        assert_eq!(audio.traits.language.as_deref(), Some("en"));
        assert_eq!(audio.traits.name.as_deref(), Some("English"));
        assert_eq!(audio.protection.as_deref(), Some("Widevine"));
        assert!(video.protection.is_none() && audio.has_own_base);
    }

    #[test]
    fn live_and_remote_manifests_are_refused() {
        for (text, word) in [
            (mpd("type='dynamic'", "<Period/>"), "live"),
            (mpd("", "<Period xmlns:xlink='x' xlink:href='p.xml'/>"), "xlink"),
            (mpd("", ""), "no periods"),
            ("<html></html>".to_owned(), "not a manifest"),
        ] {
            let error = parse(&text, &url()).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.report().contains(word), "{word}: {}", error.report());
        }
    }

    proptest! {
        #[test]
        fn any_attributes_give_periods_or_an_error(
            total in "P?T?[0-9.]{0,4}[HMS]?", start in "PT[0-9]{0,3}S", duration in "[0-9]{0,20}", base in "[a-z:/.]{0,8}",
        ) {
            let content = format!(
                "<Period start='{start}'><BaseURL>{base}</BaseURL><AdaptationSet mimeType='video/mp4'>\
                 <Representation><SegmentTemplate media='$Number$' duration='{duration}'/></Representation>\
                 </AdaptationSet></Period>"
            );
            let _ = parse(&mpd(&format!("mediaPresentationDuration='{total}'"), &content), &url());
        }
    }
}
