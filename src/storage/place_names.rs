//! Finds the file names of an import that a storage cannot keep: names that are the same name there, and names that it
//! refuses.
//!
//! The names are probed before any byte of the import is stored. File systems differ in what they treat as equal (case,
//! Unicode normal forms, dots at the end), and an S3 server may keep its objects on any of them. Only names that are a
//! problem on some storage are probed, as small objects under the catalog's own key prefix, so that `gc` finds them
//! after a crash. Most imports have no such name, and then no request is made. A name that the storage cannot keep gets
//! a hash, which is the same in every run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;

use super::file_names::usable;
use crate::{
    backends::{Key, Payload, StorageBackend, list_all},
    catalog::FileRow,
    error::{Kind, Result},
};

/// Characters that exFAT, NTFS and SMB refuse in names.
const SPECIAL: [char; 7] = [':', '?', '*', '"', '<', '>', '|'];
/// Names up to this length in bytes fit everywhere: eCryptfs accepts 143 bytes, all others more.
pub(super) const SHORT: usize = 140;
/// The number of groups of possibly equal names that are probed. A storage merges names by a rule: if it merges one of
/// these groups, all further groups count as merged.
const MOST_GROUPS: usize = 64;

/// The folders and files, by path, that cannot keep their own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renamed(BTreeSet<String>);

impl Renamed {
    /// Exactly these paths.
    pub(crate) fn of(paths: impl IntoIterator<Item = String>) -> Self {
        Self(paths.into_iter().collect())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths of the folders and files whose last part is renamed.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

/// Every folder and file of a path, each with its last part.
pub(super) fn prefixes(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.scan(0, move |begin, end| {
        let part = &path[*begin..end];
        *begin = end + 1;
        Some((&path[..end], part))
    })
}

/// A folded form that is equal for any two names that some storage may treat as one.
pub(super) fn fold(name: &str) -> String {
    if name.is_ascii() {
        return name.trim_end_matches(['.', ' ']).to_ascii_lowercase();
    }
    let ignored = |c: &char| {
        matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
    };
    let nfkd = icu_normalizer::DecomposingNormalizerBorrowed::new_nfkd();
    let plain = nfkd.normalize(name).chars().filter(|c| !ignored(c)).collect::<String>();
    let folded = plain.to_lowercase().to_uppercase().to_lowercase();
    nfkd.normalize(&folded).trim_end_matches(['.', ' ']).to_owned()
}

/// Names that are a problem on some storage.
#[derive(Debug, Default, PartialEq, Eq)]
struct Suspects {
    /// Siblings that may be the same name, as paths in the order of the files.
    groups: Vec<Vec<String>>,
    /// Paths whose last part has a special character, or ends with a dot or a space.
    special: Vec<String>,
    /// Paths whose last part is long.
    long: Vec<String>,
}

impl Suspects {
    fn of<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Self {
        // Hashes instead of strings: there may be a million files.
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut merged: HashSet<u64> = HashSet::new();
        let mut suspects = Self::default();
        let mut told = HashSet::new();
        for path in paths.clone() {
            for (whole, part) in prefixes(path) {
                let (own, folded) = (number(whole), sibling(whole, part));
                if *seen.entry(folded).or_insert(own) != own {
                    merged.insert(folded);
                }
                let list = if is_special(part) {
                    &mut suspects.special
                } else if part.len() > SHORT {
                    &mut suspects.long
                } else {
                    continue;
                };
                if told.insert(own) {
                    list.push(whole.to_owned());
                }
            }
        }
        if merged.is_empty() {
            return suspects;
        }
        let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for path in paths {
            for (whole, part) in prefixes(path) {
                let folded = sibling(whole, part);
                if merged.contains(&folded) {
                    let group = groups.entry(folded).or_default();
                    if !group.iter().any(|known| known == whole) {
                        group.push(whole.to_owned());
                    }
                }
            }
        }
        suspects.groups = groups.into_values().collect();
        suspects
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.special.is_empty() && self.long.is_empty()
    }
}

fn number(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Equal for names in one folder that may be the same name.
fn sibling(whole: &str, part: &str) -> u64 {
    number((&whole[..whole.len() - part.len()], fold(part)))
}

fn is_special(part: &str) -> bool {
    part.contains(SPECIAL) || part.ends_with(['.', ' '])
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// Whether any name of `files` has to be probed.
#[must_use]
pub fn are_suspect(files: &[FileRow]) -> bool {
    !Suspects::of(real_paths(files).iter().map(String::as_str)).is_empty()
}

fn real_paths(files: &[FileRow]) -> Vec<String> {
    files.iter().filter(|file| !file.pad).map(|file| usable(&file.path)).collect()
}

/// Probes the problem names among the paths of `files`, under keys that begin with `prefix`, and deletes the probe
/// objects. Of names that are the same there, the first one in `kept` keeps its own, else the first one of `files`.
///
/// # Errors
/// The error of the storage, unless it means that a name is refused.
pub async fn try_names(
    backend: &dyn StorageBackend,
    prefix: &str,
    files: &[FileRow],
    kept: impl FnOnce() -> HashSet<String>,
) -> Result<Renamed> {
    let paths = real_paths(files);
    let mut suspects = Suspects::of(paths.iter().map(String::as_str));
    if suspects.is_empty() {
        return Ok(Renamed::default());
    }
    if !suspects.groups.is_empty() {
        let kept = kept();
        suspects.groups.iter_mut().for_each(|group| group.sort_by_key(|path| !kept.contains(path)));
    }
    let salt = getrandom::u32().unwrap_or_else(|_| std::process::id());
    let mut trial = Trial { backend, prefix: format!("{prefix}names-{salt:08x}"), made: vec![] };
    let tried = trial.run(&suspects).await;
    let cleaned = trial.clean_up().await;
    let renamed = tried?;
    cleaned?;
    Ok(renamed)
}

/// Names being probed in a storage.
struct Trial<'a> {
    backend: &'a dyn StorageBackend,
    prefix: String,
    made: Vec<Key>,
}

impl Trial<'_> {
    async fn run(&mut self, suspects: &Suspects) -> Result<Renamed> {
        let mut renamed = BTreeSet::new();
        let mut merges = false;
        for (number, group) in suspects.groups.iter().enumerate() {
            let (first, others) = group.split_first().expect("two at least");
            if number >= MOST_GROUPS {
                renamed.extend(others.iter().filter(|_| merges).cloned());
                continue;
            }
            self.put(&number.to_string(), last(first)).await?;
            for other in others {
                if self.is_there(&number.to_string(), last(other)).await? {
                    merges = true;
                    renamed.insert(other.clone());
                } else {
                    self.put(&number.to_string(), last(other)).await?;
                }
            }
        }
        let refused = self.refused_characters(&suspects.special).await?;
        let bad = |path: &&String| {
            let part = last(path);
            part.contains(|c: char| refused.contains(&c) && SPECIAL.contains(&c))
                || part.ends_with(|c: char| refused.contains(&c) && matches!(c, '.' | ' '))
        };
        renamed.extend(suspects.special.iter().filter(bad).cloned());
        if let Some(longest) = suspects.long.iter().max_by_key(|path| last(path).len())
            && !self.keeps_name("long", last(longest)).await?
        {
            renamed.extend(suspects.long.iter().cloned());
        }
        Ok(Renamed(renamed))
    }

    /// The characters in `paths` that the storage refuses or drops.
    async fn refused_characters(&mut self, paths: &[String]) -> Result<BTreeSet<char>> {
        let mut tried = BTreeSet::new();
        for path in paths {
            let part = last(path);
            tried.extend(part.chars().filter(|c| SPECIAL.contains(c)));
            tried.extend(part.chars().last().filter(|c| matches!(c, '.' | ' ')));
        }
        let mut refused = BTreeSet::new();
        for c in tried {
            let name = if SPECIAL.contains(&c) { format!("a{c}b") } else { format!("a{c}") };
            if !self.keeps_name(&format!("{:x}", u32::from(c)), &name).await? {
                refused.insert(c);
            }
        }
        Ok(refused)
    }

    /// Whether an object of this name is made and listed under it: a file system may drop a dot at the end, or treat
    /// what follows a colon as something else.
    async fn keeps_name(&mut self, folder: &str, name: &str) -> Result<bool> {
        if !self.put(folder, name).await? {
            return Ok(false);
        }
        let listed = list_all(self.backend, &format!("{}/{folder}/", self.prefix)).await?;
        let key = self.key(folder, name)?;
        Ok(listed.iter().any(|object| object.key == key))
    }

    fn key(&self, folder: &str, name: &str) -> Result<Key> {
        Key::new(&format!("{}/{folder}/{name}", self.prefix))
    }

    /// Whether the storage accepted the name.
    async fn put(&mut self, folder: &str, name: &str) -> Result<bool> {
        let key = self.key(folder, name)?;
        self.made.push(key.clone());
        let body = Payload::from_iter([Bytes::from_static(b"a name that is tried")]);
        match self.backend.put(&key, body).await {
            Err(e) if e.kind() == Kind::InvalidInput => {
                self.made.pop();
                Ok(false)
            }
            put => put.map(|()| true),
        }
    }

    async fn is_there(&self, folder: &str, name: &str) -> Result<bool> {
        match self.backend.head(&self.key(folder, name)?).await {
            // A refused name is reported by the PUT.
            Err(e) if e.kind() == Kind::InvalidInput => Ok(false),
            found => found.map(|found| found.is_some()),
        }
    }

    async fn clean_up(&self) -> Result<()> {
        for key in &self.made {
            self.backend.delete(key).await?;
        }
        Ok(())
    }
}

/// How a storage treats names, for `storage check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRules {
    /// Whether names that differ only in case are different.
    pub tells_case: bool,
    /// Whether names that differ only in Unicode normal form are different.
    pub tells_normal_forms: bool,
    /// Whether `: ? * " < > |` are allowed in names.
    pub takes_special: bool,
}

/// Probes how the storage treats names, under keys that begin with `prefix`. Also returns the keys of the probe
/// objects, for the caller to delete.
///
/// # Errors
/// The error of the storage, unless it means that a name is refused.
pub async fn name_rules(
    backend: &dyn StorageBackend,
    prefix: &str,
) -> (Result<NameRules>, Vec<Key>) {
    let mut trial = Trial { backend, prefix: format!("{prefix}names"), made: vec![] };
    let rules = trial.rules().await;
    (rules, trial.made)
}

impl Trial<'_> {
    async fn rules(&mut self) -> Result<NameRules> {
        self.put("case", "Name").await?;
        self.put("form", "n\u{e4}me").await?;
        let tells_case = !self.is_there("case", "nAME").await?;
        let tells_normal_forms = !self.is_there("form", "na\u{308}me").await?;
        let special: String = ['a'].into_iter().chain(SPECIAL).chain(['b']).collect();
        let takes_special = self.keeps_name("special", &special).await?;
        Ok(NameRules { tells_case, tells_normal_forms, takes_special })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backends::MemoryBackend, storage::one_case::OneCase};

    fn rows(paths: &[&str]) -> Vec<FileRow> {
        paths.iter().map(|path| FileRow { path: (*path).into(), ..FileRow::default() }).collect()
    }

    async fn tried(place: &dyn StorageBackend, paths: &[&str], kept: &[&str]) -> Vec<String> {
        let kept = || kept.iter().map(|path| (*path).to_owned()).collect();
        let renamed = try_names(place, "0123/", &rows(paths), kept).await.unwrap();
        assert!(list_all(place, "").await.unwrap().is_empty(), "what was made is gone");
        renamed.paths().map(str::to_owned).collect()
    }

    const TWINS: [&str; 7] = [
        "d/A.txt",
        "d/a.txt",
        "d/Disc/01.flac",
        "d/disc/01.flac",
        "d/disc/02.flac",
        "d/n\u{e4}me",
        "d/na\u{308}me",
    ];

    #[tokio::test]
    async fn names_that_are_one_in_the_place_are_found_and_the_first_keeps_its_own() {
        let place = OneCase::new(MemoryBackend::new());
        let renamed = tried(&place, &TWINS, &[]).await;
        assert_eq!(renamed, ["d/a.txt", "d/disc", "d/na\u{308}me"]);
        let renamed = tried(&place, &TWINS, &["d", "d/a.txt"]).await;
        assert_eq!(renamed, ["d/A.txt", "d/disc", "d/na\u{308}me"], "one is an object already");
        assert!(tried(&MemoryBackend::new(), &TWINS, &[]).await.is_empty());
    }

    #[tokio::test]
    async fn names_that_the_place_refuses_are_found() {
        let long = format!("d/{}", "x".repeat(200));
        let paths = ["d/Part 1: what?", "d/fine", "d/a|b", "d/x.", &long];
        let place = OneCase::new(MemoryBackend::new()).refusing(":?.").with_names_up_to(143);
        let renamed = tried(&place, &paths, &[]).await;
        assert_eq!(renamed, ["d/Part 1: what?", "d/x.", long.as_str()]);
        assert!(tried(&MemoryBackend::new(), &paths, &[]).await.is_empty());
    }

    #[tokio::test]
    async fn only_names_that_may_be_trouble_are_tried_and_not_more_than_tell() {
        let place = OneCase::new(MemoryBackend::new());
        let plain: Vec<String> = (0..1000).map(|n| format!("d/{n}/B\u{f6}rk {n}.flac")).collect();
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        assert!(tried(&place, &plain, &[]).await.is_empty());
        assert_eq!(place.calls(), 0);
        let many: Vec<String> =
            (0..1000).flat_map(|n| [format!("d/{n}/a"), format!("d/{n}/A")]).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(tried(&place, &many, &[]).await.len(), 1000);
        assert!(place.calls() <= 4 * MOST_GROUPS, "{}", place.calls());
    }

    #[tokio::test]
    async fn what_a_place_does_with_names_is_told() {
        let all = NameRules { tells_case: true, tells_normal_forms: true, takes_special: true };
        assert_eq!(name_rules(&MemoryBackend::new(), "check/").await.0.unwrap(), all);
        let place = OneCase::new(MemoryBackend::new()).refusing(":");
        let none = NameRules { tells_case: false, tells_normal_forms: false, takes_special: false };
        let (rules, made) = name_rules(&place, "check/").await;
        assert_eq!((rules.unwrap(), made.len()), (none, 2));
    }
}
