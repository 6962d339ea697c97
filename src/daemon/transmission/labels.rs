//! Labels: the category of a download, if it has one, and its tags. Pure.

use std::collections::BTreeSet;

use crate::{
    error::{Error, Kind, Result},
    queue::{Settings, check_tag},
};

/// Most labels of one download.
const MAX_LABELS: usize = 100;

/// The category and the tags of labels: the first label that is the name of a category is the category.
///
/// # Errors
/// `InvalidInput` for a label that is not usable as a tag.
pub(super) fn parse(
    labels: &[&str],
    is_category: impl Fn(&str) -> bool,
) -> Result<(Option<String>, BTreeSet<String>)> {
    if labels.len() > MAX_LABELS {
        let text = format!("a torrent has at most {MAX_LABELS} labels");
        return Err(Error::new(Kind::InvalidInput, text));
    }
    let category = labels.iter().position(|label| is_category(label));
    let mut tags = BTreeSet::new();
    for (at, label) in labels.iter().enumerate().filter(|(at, _)| Some(*at) != category) {
        check_tag(label).map_err(|e| e.with_context(format!("label {at}")))?;
        tags.insert((*label).to_owned());
    }
    Ok((category.map(|at| labels[at].to_owned()), tags))
}

/// The labels of a download.
pub(super) fn shown(settings: &Settings) -> Vec<&str> {
    let tags = settings.tags.iter().map(String::as_str);
    settings.category.as_deref().into_iter().chain(tags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_with_the_name_of_a_category_is_the_category() {
        let parse = |labels: &[&str]| parse(labels, |label| ["tv", "music"].contains(&label));
        let (category, tags) = parse(&["new", "tv", "music"]).unwrap();
        assert_eq!(category.as_deref(), Some("tv"));
        assert_eq!(tags.into_iter().collect::<Vec<_>>(), ["music", "new"]);
        assert_eq!(parse(&[]).unwrap(), (None, BTreeSet::new()));
        for bad in ["a,b", "", " x", "a\nb", "\u{1b}[31m"] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
        assert!(parse(&["x"; 101]).is_err());
    }
}
