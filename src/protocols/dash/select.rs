//! Chooses the representations of a manifest. Pure.

use super::manifest::{MediaKind, Period, Representation};
use crate::{
    error::{Error, Kind, Result},
    protocols::segments::{StreamOptions, best_video, by_language},
};

/// The chosen representations of one kind, one for each period.
pub(super) type Chosen<'a> = (MediaKind, Vec<&'a Representation>);

/// Chooses one representation of each kind.
///
/// # Errors
/// `NotFound` if the options allow none; `Unsupported` if a chosen one is protected.
pub(super) fn choose<'a>(
    periods: &'a [Period],
    options: &StreamOptions,
) -> Result<Vec<Chosen<'a>>> {
    let mut all = Vec::new();
    for kind in [MediaKind::Video, MediaKind::Audio, MediaKind::Text] {
        let chosen = choose_kind(periods, kind, options)?;
        if !chosen.is_empty() {
            all.push((kind, chosen));
        }
    }
    let protection =
        all.iter().flat_map(|(_, chosen)| chosen).find_map(|found| found.protection.as_ref());
    if let Some(system) = protection {
        let text = format!("the stream is protected by {system}: it cannot be downloaded");
        return Err(Error::new(Kind::Unsupported, text));
    }
    match all.iter().any(|(kind, _)| *kind != MediaKind::Text) {
        true => Ok(all),
        false => Err(Error::new(Kind::NotFound, "the manifest has no video and no audio")),
    }
}

fn choose_kind<'a>(
    periods: &'a [Period],
    kind: MediaKind,
    options: &StreamOptions,
) -> Result<Vec<&'a Representation>> {
    let mut chosen: Vec<&Representation> = Vec::new();
    for period in periods {
        let all: Vec<_> = period.representations.iter().filter(|r| r.kind == kind).collect();
        let traits: Vec<_> = all.iter().map(|found| &found.traits).collect();
        // The same representation in the next period continues the file.
        let same = chosen.last().and_then(|last| all.iter().position(|r| r.id == last.id));
        let index = match (same, kind) {
            (Some(index), _) => index,
            (None, MediaKind::Video) if all.is_empty() => continue,
            (None, MediaKind::Video) => best_video(&traits, options)?,
            (None, MediaKind::Audio) if all.is_empty() && options.audio.is_none() => continue,
            (None, MediaKind::Audio) => {
                best_audio(&all, by_language("audio", &traits, options.audio.as_deref())?)
            }
            (None, MediaKind::Text) => match options.subtitles.as_deref() {
                None => continue,
                Some(language) => by_language("subtitle", &traits, Some(language))?,
            },
        };
        chosen.push(all[index]);
    }
    Ok(chosen)
}

/// The best audio of the same language and name as the chosen one.
fn best_audio(all: &[&Representation], chosen: usize) -> usize {
    let same = |r: &&Representation| {
        let (a, b) = (&r.traits, &all[chosen].traits);
        (&a.language, &a.name, a.is_default) == (&b.language, &b.name, b.is_default)
    };
    let mut best = chosen;
    for (index, found) in all.iter().enumerate().filter(|(_, r)| same(r)) {
        if found.traits.bandwidth > all[best].traits.bandwidth {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::dash::manifest::parse;

    const SETS: &str = "<AdaptationSet mimeType='video/mp4'><Representation id='hi' height='720' bandwidth='9'/>\
         <Representation id='lo' height='360' bandwidth='5'/></AdaptationSet>\
         <AdaptationSet mimeType='audio/mp4' lang='en'><Representation id='en-lo' bandwidth='1'/>\
         <Representation id='en-hi' bandwidth='2'/></AdaptationSet>\
         <AdaptationSet mimeType='audio/mp4' lang='de'><Representation id='de' bandwidth='1'/></AdaptationSet>\
         <AdaptationSet mimeType='text/vtt' lang='de'><Representation id='sub'/></AdaptationSet>";

    fn periods(content: &str) -> Vec<Period> {
        let url = "https://x.example/main.mpd".parse().unwrap();
        parse(&format!("<MPD>{content}</MPD>"), &url).unwrap()
    }

    fn ids(periods: &[Period], options: &StreamOptions) -> Result<Vec<String>> {
        let chosen = choose(periods, options)?;
        Ok(chosen.into_iter().flat_map(|(_, all)| all).map(|found| found.id.clone()).collect())
    }

    #[test]
    fn the_best_representation_of_each_kind_is_chosen() {
        let periods = periods(&format!("<Period>{SETS}</Period>"));
        let default = StreamOptions::default;
        assert_eq!(ids(&periods, &default()).unwrap(), ["hi", "en-hi"]);
        let small = StreamOptions {
            height: Some(400),
            audio: Some("de".into()),
            subtitles: Some("de".into()),
            ..default()
        };
        assert_eq!(ids(&periods, &small).unwrap(), ["lo", "de", "sub"]);
        let none = StreamOptions { audio: Some("fr".into()), ..default() };
        assert_eq!(ids(&periods, &none).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn the_same_representation_is_chosen_in_all_periods() {
        let second = "<Period><AdaptationSet mimeType='video/mp4'><Representation id='huge' height='2160'/>\
             <Representation id='hi' height='720'/></AdaptationSet></Period>";
        let periods = periods(&format!("<Period>{SETS}</Period>{second}"));
        assert_eq!(ids(&periods, &StreamOptions::default()).unwrap(), ["hi", "hi", "en-hi"]);
    }

    #[test]
    fn a_protected_representation_is_refused_by_the_name_of_its_system() {
        let protected = "<Period><AdaptationSet mimeType='video/mp4'>\
             <ContentProtection schemeIdUri='urn:uuid:9a04f079-9840-4286-ab92-e65be0885f95'/>\
             <Representation id='v'/></AdaptationSet></Period>";
        let error = ids(&periods(protected), &StreamOptions::default()).unwrap_err();
        assert!(error.report().contains("PlayReady"), "{}", error.report());
        let unknown = protected.replace("urn:uuid:9a04f079-9840-4286-ab92-e65be0885f95", "x");
        let error = ids(&periods(&unknown), &StreamOptions::default()).unwrap_err();
        assert!(error.report().contains("Common Encryption"), "{}", error.report());
        assert!(ids(&periods("<Period/>"), &StreamOptions::default()).is_err());
    }
}
