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

use super::file_names::usable_path;
use crate::{
    backends::{Key, Payload, StorageBackend, list_all},
    catalog::FileRow,
    error::{Kind, Result},
};

/// Characters that exFAT, NTFS and SMB refuse in names.
const SPECIAL: [char; 7] = [':', '?', '*', '"', '<', '>', '|'];
/// Names up to this length in bytes fit everywhere: eCryptfs accepts 143 bytes, all others more.
pub(super) const MAX_PORTABLE_LEN: usize = 140;
/// The number of groups of possibly equal names that are probed. A storage merges names by a rule: if it merges one of
/// these groups, all further groups count as merged.
const MAX_GROUPS: usize = 64;

/// The folders and files, by path, that cannot keep their own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenamedPaths(BTreeSet<String>);

impl RenamedPaths {
    /// Exactly these paths.
    pub(crate) fn new(paths: impl IntoIterator<Item = String>) -> Self {
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

    pub(in crate::storage) fn contains(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

/// Every folder and file of a path, each with its last part.
pub(super) fn path_prefixes(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.scan(0, move |begin, end| {
        let part = &path[*begin..end];
        *begin = end + 1;
        Some((&path[..end], part))
    })
}

/// A folded form that is equal for any two names that some storage may treat as one.
pub(in crate::storage) fn fold_name(name: &str) -> String {
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
struct SuspectNames {
    /// Siblings that may be the same name, as paths in the order of the files.
    groups: Vec<Vec<String>>,
    /// Paths whose last part has a special character, or ends with a dot or a space.
    special: Vec<String>,
    /// Paths whose last part is long.
    long: Vec<String>,
}

impl SuspectNames {
    fn of<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Self {
        // Hashes instead of strings: there may be a million files.
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut colliding: HashSet<u64> = HashSet::new();
        let mut suspects = Self::default();
        let mut listed = HashSet::new();
        for path in paths.clone() {
            for (whole, part) in path_prefixes(path) {
                let (own, folded) = (hash_of(whole), sibling_hash(whole, part));
                if *seen.entry(folded).or_insert(own) != own {
                    colliding.insert(folded);
                }
                let list = if is_special(part) {
                    &mut suspects.special
                } else if part.len() > MAX_PORTABLE_LEN {
                    &mut suspects.long
                } else {
                    continue;
                };
                if listed.insert(own) {
                    list.push(whole.to_owned());
                }
            }
        }
        if colliding.is_empty() {
            return suspects;
        }
        let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for path in paths {
            for (whole, part) in path_prefixes(path) {
                let folded = sibling_hash(whole, part);
                if colliding.contains(&folded) {
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

fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Equal for names in one folder that may be the same name.
fn sibling_hash(whole: &str, part: &str) -> u64 {
    hash_of((&whole[..whole.len() - part.len()], fold_name(part)))
}

fn is_special(part: &str) -> bool {
    part.contains(SPECIAL) || part.ends_with(['.', ' '])
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// Whether any name of `files` has to be probed.
#[must_use]
pub fn need_probing(files: &[FileRow]) -> bool {
    !SuspectNames::of(usable_paths(files).iter().map(String::as_str)).is_empty()
}

fn usable_paths(files: &[FileRow]) -> Vec<String> {
    files.iter().filter(|file| !file.pad).map(|file| usable_path(&file.path)).collect()
}

/// Probes the problem names among the paths of `files`, under keys that begin with `prefix`, and deletes the probe
/// objects. Of names that are the same there, the first one in `kept` keeps its own, else the first one of `files`.
///
/// # Errors
/// The error of the storage, unless it means that a name is refused.
pub async fn probe_names(
    backend: &dyn StorageBackend,
    prefix: &str,
    files: &[FileRow],
    kept: impl FnOnce() -> HashSet<String>,
) -> Result<RenamedPaths> {
    let paths = usable_paths(files);
    let mut suspects = SuspectNames::of(paths.iter().map(String::as_str));
    if suspects.is_empty() {
        return Ok(RenamedPaths::default());
    }
    if !suspects.groups.is_empty() {
        let kept = kept();
        suspects.groups.iter_mut().for_each(|group| group.sort_by_key(|path| !kept.contains(path)));
    }
    let salt = getrandom::u32().unwrap_or_else(|_| std::process::id());
    let mut probe =
        NameProbe { backend, prefix: format!("{prefix}names-{salt:08x}"), created: vec![] };
    let result = probe.run(&suspects).await;
    let cleaned = probe.clean_up().await;
    let renamed = result?;
    cleaned?;
    Ok(renamed)
}

/// Names being probed in a storage.
struct NameProbe<'a> {
    backend: &'a dyn StorageBackend,
    prefix: String,
    created: Vec<Key>,
}

impl NameProbe<'_> {
    async fn run(&mut self, suspects: &SuspectNames) -> Result<RenamedPaths> {
        let mut renamed = BTreeSet::new();
        let mut merges = false;
        for (number, group) in suspects.groups.iter().enumerate() {
            let (first, others) = group.split_first().expect("a group has at least two names");
            if number >= MAX_GROUPS {
                renamed.extend(others.iter().filter(|_| merges).cloned());
                continue;
            }
            self.put(&number.to_string(), file_name(first)).await?;
            for other in others {
                if self.exists(&number.to_string(), file_name(other)).await? {
                    merges = true;
                    renamed.insert(other.clone());
                } else {
                    self.put(&number.to_string(), file_name(other)).await?;
                }
            }
        }
        let refused = self.refused_characters(&suspects.special).await?;
        let is_unusable = |path: &&String| {
            let part = file_name(path);
            part.contains(|c: char| refused.contains(&c) && SPECIAL.contains(&c))
                || part.ends_with(|c: char| refused.contains(&c) && matches!(c, '.' | ' '))
        };
        renamed.extend(suspects.special.iter().filter(is_unusable).cloned());
        if let Some(longest) = suspects.long.iter().max_by_key(|path| file_name(path).len())
            && !self.keeps_name("long", file_name(longest)).await?
        {
            renamed.extend(suspects.long.iter().cloned());
        }
        Ok(RenamedPaths(renamed))
    }

    /// The characters in `paths` that the storage refuses or drops.
    async fn refused_characters(&mut self, paths: &[String]) -> Result<BTreeSet<char>> {
        let mut tried = BTreeSet::new();
        for path in paths {
            let part = file_name(path);
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
        self.created.push(key.clone());
        let body = Payload::from_iter([Bytes::from_static(b"name probe")]);
        match self.backend.put(&key, body).await {
            Err(e) if e.kind() == Kind::InvalidInput => {
                self.created.pop();
                Ok(false)
            }
            put => put.map(|()| true),
        }
    }

    async fn exists(&self, folder: &str, name: &str) -> Result<bool> {
        match self.backend.head(&self.key(folder, name)?).await {
            // A refused name is reported by the PUT.
            Err(e) if e.kind() == Kind::InvalidInput => Ok(false),
            found => found.map(|found| found.is_some()),
        }
    }

    async fn clean_up(&self) -> Result<()> {
        for key in &self.created {
            self.backend.delete(key).await?;
        }
        Ok(())
    }
}

/// How a storage treats names, for `storage check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRules {
    /// Whether names that differ only in case are different.
    pub case_sensitive: bool,
    /// Whether names that differ only in Unicode normal form are different.
    pub normalization_sensitive: bool,
    /// Whether `: ? * " < > |` are allowed in names.
    pub allows_special: bool,
}

/// Probes how the storage treats names, under keys that begin with `prefix`. Also returns the keys of the probe
/// objects, for the caller to delete.
///
/// # Errors
/// The error of the storage, unless it means that a name is refused.
pub async fn probe_name_rules(
    backend: &dyn StorageBackend,
    prefix: &str,
) -> (Result<NameRules>, Vec<Key>) {
    let mut probe = NameProbe { backend, prefix: format!("{prefix}names"), created: vec![] };
    let rules = probe.rules().await;
    (rules, probe.created)
}

impl NameProbe<'_> {
    async fn rules(&mut self) -> Result<NameRules> {
        self.put("case", "Name").await?;
        self.put("form", "n\u{e4}me").await?;
        let case_sensitive = !self.exists("case", "nAME").await?;
        let normalization_sensitive = !self.exists("form", "na\u{308}me").await?;
        let special: String = ['a'].into_iter().chain(SPECIAL).chain(['b']).collect();
        let allows_special = self.keeps_name("special", &special).await?;
        Ok(NameRules { case_sensitive, normalization_sensitive, allows_special })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backends::MemoryBackend, storage::tests::case_insensitive::CaseInsensitive};

    fn rows(paths: &[&str]) -> Vec<FileRow> {
        paths.iter().map(|path| FileRow { path: (*path).into(), ..FileRow::default() }).collect()
    }

    async fn probed(backend: &dyn StorageBackend, paths: &[&str], kept: &[&str]) -> Vec<String> {
        let kept = || kept.iter().map(|path| (*path).to_owned()).collect();
        let renamed = probe_names(backend, "0123/", &rows(paths), kept).await.unwrap();
        assert!(list_all(backend, "").await.unwrap().is_empty(), "the probe objects are deleted");
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
    async fn colliding_names_are_found_and_the_first_keeps_its_own() {
        let backend = CaseInsensitive::new(MemoryBackend::new());
        let renamed = probed(&backend, &TWINS, &[]).await;
        assert_eq!(renamed, ["d/a.txt", "d/disc", "d/na\u{308}me"]);
        let renamed = probed(&backend, &TWINS, &["d", "d/a.txt"]).await;
        assert_eq!(renamed, ["d/A.txt", "d/disc", "d/na\u{308}me"], "d/a.txt is stored already");
        assert!(probed(&MemoryBackend::new(), &TWINS, &[]).await.is_empty());
    }

    #[tokio::test]
    async fn refused_names_are_found() {
        let long = format!("d/{}", "x".repeat(200));
        let paths = ["d/Part 1: what?", "d/fine", "d/a|b", "d/x.", &long];
        let backend =
            CaseInsensitive::new(MemoryBackend::new()).refusing(":?.").with_max_name_len(143);
        let renamed = probed(&backend, &paths, &[]).await;
        assert_eq!(renamed, ["d/Part 1: what?", "d/x.", long.as_str()]);
        assert!(probed(&MemoryBackend::new(), &paths, &[]).await.is_empty());
    }

    #[tokio::test]
    async fn only_suspect_names_are_probed_and_a_limited_number_of_them() {
        let backend = CaseInsensitive::new(MemoryBackend::new());
        let plain: Vec<String> = (0..1000).map(|n| format!("d/{n}/B\u{f6}rk {n}.flac")).collect();
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        assert!(probed(&backend, &plain, &[]).await.is_empty());
        assert_eq!(backend.calls(), 0);
        let many: Vec<String> =
            (0..1000).flat_map(|n| [format!("d/{n}/a"), format!("d/{n}/A")]).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(probed(&backend, &many, &[]).await.len(), 1000);
        assert!(backend.calls() <= 4 * MAX_GROUPS, "{}", backend.calls());
    }

    #[tokio::test]
    async fn the_name_rules_of_a_storage_are_probed() {
        let all =
            NameRules { case_sensitive: true, normalization_sensitive: true, allows_special: true };
        assert_eq!(probe_name_rules(&MemoryBackend::new(), "check/").await.0.unwrap(), all);
        let backend = CaseInsensitive::new(MemoryBackend::new()).refusing(":");
        let none = NameRules {
            case_sensitive: false,
            normalization_sensitive: false,
            allows_special: false,
        };
        let (rules, created) = probe_name_rules(&backend, "check/").await;
        assert_eq!((rules.unwrap(), created.len()), (none, 2));
    }
}
