//! Finds the encoding of a torrent's names that are not UTF-8. It is one for all names, because they have one maker.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{BIG5, EUC_KR, Encoding, GBK, SHIFT_JIS, UTF_8, WINDOWS_1252};

/// The most bytes of names that are examined: a guess gains nothing from more.
const MAX_EXAMINED: usize = 256 << 10;

/// The encoding; `None` when all names are UTF-8. The declared encoding counts only if all names can be read in it.
pub(super) fn detect<'a>(
    names: impl Iterator<Item = &'a [u8]> + Clone,
    declared: Option<&[u8]>,
) -> Option<&'static Encoding> {
    let names = names.filter(|name| std::str::from_utf8(name).is_err());
    names.clone().next()?;
    let declared = declared
        .and_then(by_label)
        .filter(|e| decode_quality(e, names.clone()) == DecodeQuality::Clean);
    Some(declared.unwrap_or_else(|| guess(names)))
}

/// The encoding with this web label or code page number.
fn by_label(label: &[u8]) -> Option<&'static Encoding> {
    let label = String::from_utf8_lossy(label).trim().to_ascii_lowercase();
    let page = label.strip_prefix("cp").or_else(|| label.strip_prefix("windows-"));
    let found = match page.unwrap_or(&label).trim_start_matches('-') {
        "932" => Some(SHIFT_JIS),
        "936" => Some(GBK),
        "949" => Some(EUC_KR),
        "950" => Some(BIG5),
        "1250" | "1251" | "1252" | "1253" | "1254" | "1255" | "1256" | "1257" | "1258" => {
            Encoding::for_label(format!("windows-{}", page.unwrap_or(&label)).as_bytes())
        }
        _ => Encoding::for_label(label.as_bytes()),
    };
    found.filter(|e| *e != UTF_8 && e.is_ascii_compatible())
}

#[derive(Debug, PartialEq, Eq)]
enum DecodeQuality {
    Clean,
    /// With separators or control characters, which no maker's file system had in a name.
    Suspicious,
    Fails,
}

fn decode_quality<'a>(
    encoding: &'static Encoding,
    names: impl Iterator<Item = &'a [u8]>,
) -> DecodeQuality {
    let mut quality = DecodeQuality::Clean;
    for name in names {
        match encoding.decode_without_bom_handling_and_without_replacement(name) {
            None => return DecodeQuality::Fails,
            Some(text) if text.contains(['/', '\\']) || text.contains(char::is_control) => {
                quality = DecodeQuality::Suspicious;
            }
            Some(_) => {}
        }
    }
    quality
}

/// The encoding that the names look like. In East Asian encodings the second byte of a letter may be that of `\`. An
/// encoding in which such a byte becomes a `\` is therefore not used if another one fits.
fn guess<'a>(names: impl Iterator<Item = &'a [u8]> + Clone) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let mut examined = 0;
    for name in names.clone() {
        detector.feed(name, false);
        detector.feed(b"\n", false);
        examined += name.len();
        if examined > MAX_EXAMINED {
            break;
        }
    }
    detector.feed(b"", true);
    let likely = detector.guess(None, Utf8Detection::Deny);
    let candidates = [likely, SHIFT_JIS, GBK, BIG5, EUC_KR, WINDOWS_1252];
    let clean =
        candidates.into_iter().find(|e| decode_quality(e, names.clone()) == DecodeQuality::Clean);
    clean.unwrap_or(likely)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&[u8]], declared: Option<&str>) -> Option<&'static Encoding> {
        super::detect(names.iter().copied(), declared.map(str::as_bytes))
    }

    fn read(encoding: &'static Encoding, texts: &[&str]) -> Vec<String> {
        let raw: Vec<Vec<u8>> = texts.iter().map(|t| encoding.encode(t).0.into_owned()).collect();
        let raw: Vec<&[u8]> = raw.iter().map(Vec::as_slice).collect();
        let found = of(&raw, None).expect("not UTF-8");
        raw.iter().map(|raw| found.decode(raw).0.into_owned()).collect()
    }

    #[test]
    fn names_are_decoded_in_the_encoding_they_were_written_in() {
        for (encoding, names) in [
            (SHIFT_JIS, &["表.txt", "ソ.txt"][..]),
            (SHIFT_JIS, &["01 夜に駆ける.mp3", "02 能力.mp3", "ジャケット.jpg"]),
            (GBK, &["第一集 春天的故事.mkv", "字幕.srt"]),
            (BIG5, &["功夫 粵語配音.avi", "說明許可.txt"]),
            (EUC_KR, &["한국어 노래 모음.mp3", "가사.txt"]),
            (encoding_rs::WINDOWS_1251, &["Кино - Группа крови.mp3", "Обложка.jpg"]),
            (WINDOWS_1252, &["café.txt", "Motörhead – Überkill.mp3"]),
            (encoding_rs::EUC_JP, &["日本語の歌 第二集.flac"]),
        ] {
            assert_eq!(read(encoding, names), names, "{}", encoding.name());
        }
    }

    #[test]
    fn the_declared_encoding_is_used_if_it_decodes_all_names() {
        let cyrillic: &[u8] = b"\xea\xe8\xed\xee";
        assert_eq!(of(&[cyrillic], Some("KOI8-R")), Some(encoding_rs::KOI8_R));
        assert_eq!(of(&[cyrillic], Some("cp1251")), Some(encoding_rs::WINDOWS_1251));
        assert_eq!(of(&[b"\x95\x5c"], Some("CP932")), Some(SHIFT_JIS));
        // A declared encoding that is wrong, one that does not exist, and one that is not needed.
        assert_eq!(of(&[b"\x95\x5c.txt", b"\x83\x5c.txt"], Some("UTF-8")), Some(SHIFT_JIS));
        assert_eq!(of(&[b"caf\xe9.txt"], Some("nonsense")), Some(WINDOWS_1252));
        assert_eq!(of(&["ü".as_bytes(), b"a"], Some("GBK")), None);
    }
}
