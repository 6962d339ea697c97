//! Parses lines of `LIST`, which are meant for people, in the formats of Unix, Windows and NetWare, and EPLF. Pure.
//!
//! A Unix line has a mode, a length and a date, then the name. The columns between mode and length vary: the group may
//! be missing, and owner and group may contain spaces. Therefore the length is found as the number before the date.

use super::listing::{ListedChild, ParsedLine};

/// Parses one line.
pub(super) fn parse_list_line(line: &[u8]) -> ParsedLine {
    if line.trim_ascii().is_empty() {
        return ParsedLine::Ignored;
    }
    if let Some(facts) = line.strip_prefix(b"+") {
        return parse_eplf(facts).unwrap_or(ParsedLine::Unparsed);
    }
    if is_total(line) {
        return ParsedLine::Ignored;
    }
    parse_unix(line).or_else(|| parse_dos(line)).unwrap_or(ParsedLine::Unparsed)
}

/// Whether the line is a total such as `total 12`, in several languages.
fn is_total(line: &[u8]) -> bool {
    const TOTAL: [&str; 16] = [
        "total",
        "totaal",
        "totale",
        "totalt",
        "insgesamt",
        "gesamt",
        "razem",
        "celkem",
        "итого",
        "всего",
        "yhteensä",
        "összesen",
        "toplam",
        "合計",
        "总用量",
        "합계",
    ];
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_whitespace();
    let (Some(word), Some(number), None) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    TOTAL.contains(&word.to_lowercase().trim_end_matches(':'))
        && number.starts_with(|c: char| c.is_ascii_digit())
}

/// EPLF: `+i8388621.48594,m825718503,r,s280,`, then a tab and the name.
fn parse_eplf(facts: &[u8]) -> Option<ParsedLine> {
    let tab = facts.iter().position(|b| *b == b'\t')?;
    let (facts, name) = (std::str::from_utf8(&facts[..tab]).ok()?, facts[tab + 1..].to_vec());
    let (mut is_file, mut is_folder, mut len) = (false, false, None);
    for fact in facts.split(',') {
        match fact.split_at_checked(1) {
            Some(("/", "")) => is_folder = true,
            Some(("r", "")) => is_file = true,
            Some(("s", number)) => len = number.parse().ok(),
            _ => {}
        }
    }
    Some(ParsedLine::Child(match (is_folder, is_file) {
        (true, _) => ListedChild::Folder(name),
        // `MDTM` supplies the date, so that it has the form in which dates are compared.
        (false, true) => ListedChild::File { name, len, modified: None },
        // Neither readable nor a folder. Commands find out what it is.
        (false, false) => ListedChild::Unknown(name),
    }))
}

/// A word of a line, and the position where it ends.
struct Word<'a> {
    text: &'a str,
    end: usize,
}

/// Splits a line into words. A word that is not UTF-8 is replaced by a meaningless one.
fn split_words(line: &[u8]) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    for part in line.split(|b| matches!(b, b' ' | b'\t')) {
        if !part.is_empty() {
            let text = std::str::from_utf8(part).unwrap_or("\u{fffd}x");
            words.push(Word { text, end: at + part.len() });
        }
        at += part.len() + 1;
    }
    words
}

fn parse_unix(line: &[u8]) -> Option<ParsedLine> {
    let words = split_words(line);
    let kind = file_type(&words)?;
    if matches!(kind, b'b' | b'c' | b'p' | b's' | b'D' | b'P') {
        // Devices, pipes and sockets cannot be fetched.
        return Some(ParsedLine::Ignored);
    }
    // Names of months are tried first: `1 bob 20 2013 Jan 12 2020 a` contains two texts in the form of a date.
    let date = find_date(&words, is_month).or_else(|| find_date(&words, may_be_month))?;
    let (len, date_end) = date;
    // One space follows the date. The rest is the name, including further spaces.
    let name = line.get(date_end + 1..).filter(|name| !name.is_empty())?.to_vec();
    Some(ParsedLine::Child(match kind {
        b'd' => ListedChild::Folder(name),
        b'l' => {
            let arrow = name.windows(4).position(|part| part == b" -> ");
            ListedChild::Link(arrow.map_or(name.clone(), |at| name[..at].to_vec()))
        }
        _ => ListedChild::File { name, len: Some(len), modified: None },
    }))
}

/// The file type at the start of `-rw-r--r--`, `drwxr-xr-x+`, or NetWare's `d [RWCEAFMS]`.
fn file_type(words: &[Word<'_>]) -> Option<u8> {
    let first = words.first()?.text.as_bytes();
    let kind = *first.first()?;
    if !b"-dlbcpsDP".contains(&kind) {
        return None;
    }
    if first.len() == 1 {
        return words.get(1)?.text.starts_with('[').then_some(kind);
    }
    let flags = first[1..].iter().all(|b| b"rwxsStTlLaA-+.@*".contains(b));
    (first.len() >= 10 && first.len() <= 12 && flags).then_some(kind)
}

/// The first number that is followed by a date, and the position where that date ends.
fn find_date(words: &[Word<'_>], is_month: fn(&str) -> bool) -> Option<(u64, usize)> {
    (1..words.len()).find_map(|at| {
        let len = words[at].text.parse().ok()?;
        let used = count_date_words(&words[at + 1..], is_month)?;
        Some((len, words[at + used].end))
    })
}

/// The number of words that form a date at the start of `words`.
fn count_date_words(words: &[Word<'_>], is_month: fn(&str) -> bool) -> Option<usize> {
    let word = |at: usize| words.get(at).map_or("", |word| word.text);
    if is_numeric_date(word(0)) {
        // For example `2020-01-12 07:08:09.000 +0100`, `01-12 07:08` or `2020-01-12`.
        let timed = usize::from(is_time(word(1)));
        let zone = word(2);
        let zoned = timed == 1 && zone.len() == 5 && zone.starts_with(['+', '-']);
        let zoned = zoned && zone[1..].bytes().all(|b| b.is_ascii_digit());
        return Some(1 + timed + usize::from(zoned));
    }
    let pair = |at: usize| {
        is_month(word(at)) && is_day(word(at + 1)) || is_day(word(at)) && is_month(word(at + 1))
    };
    // A weekday may come first, as in `Sun Jan 12 ...`.
    let after = match (pair(0), pair(1) && may_be_month(word(0))) {
        (true, _) => 2,
        (false, true) => 3,
        _ => return None,
    };
    let clock = word(after);
    if is_year(clock) {
        return Some(after + 1);
    }
    // A year may follow a time with seconds: `Jan 12 07:08:09 2020`.
    let seconds = clock.matches(':').count() == 2;
    is_time(clock).then(|| after + 1 + usize::from(seconds && is_year(word(after + 1))))
}

fn is_month(word: &str) -> bool {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let word = word.trim_end_matches(['.', ',']).to_lowercase();
    MONTHS.iter().any(|month| *month == word || month[..3] == word)
}

/// Whether the word may be a month in some language: `Mär`, `août`, `янв`, `1月`.
fn may_be_month(word: &str) -> bool {
    word.chars().any(char::is_alphabetic)
        && word.chars().count() <= 12
        && !word.contains([':', '/'])
}

fn is_day(word: &str) -> bool {
    let digits = word.trim_end_matches(['.', ',', '日', '일']);
    number(digits, 2).is_some_and(|day| (1..=31).contains(&day))
}

fn is_year(word: &str) -> bool {
    word.len() == 4 && number(word, 4).is_some_and(|year| (1900..2200).contains(&year))
}

/// Matches `07:08`, `7:08:09` and `07:08:09.123456789`.
fn is_time(word: &str) -> bool {
    let (clock, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let parts: Vec<_> = clock.split(':').map(|part| number(part, 2)).collect();
    let fits = match parts[..] {
        [Some(hour), Some(minute)] => hour < 24 && minute < 60,
        [Some(hour), Some(minute), Some(second)] => hour < 24 && minute < 60 && second < 61,
        _ => false,
    };
    fits && fraction.bytes().all(|b| b.is_ascii_digit())
}

/// Matches `2020-01-12`, `01-12`, `12.01.2020`, `2020/01/12` and `01-12-20`.
fn is_numeric_date(word: &str) -> bool {
    ['-', '.', '/'].into_iter().any(|mark| {
        let parts: Vec<_> = word.split(mark).map(|part| (part.len(), number(part, 4))).collect();
        let small =
            |(len, n): (usize, Option<u32>)| len <= 2 && n.is_some_and(|n| n <= 31 && n > 0);
        let year = |(len, n): (usize, Option<u32>)| (len == 4 || len == 2) && n.is_some();
        match parts[..] {
            [a, b, c] => year(a) && small(b) && small(c) || small(a) && small(b) && year(c),
            [a, b] => mark == '-' && a.0 == 2 && b.0 == 2 && small(a) && small(b),
            _ => false,
        }
    })
}

fn number(text: &str, most_digits: usize) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits && text.len() <= most_digits { text.parse().ok() } else { None }
}

/// Parses `01-12-20  05:08PM       <DIR>          pub`. Years of four digits and 24-hour clocks are accepted too.
fn parse_dos(line: &[u8]) -> Option<ParsedLine> {
    let words = split_words(line);
    let word = |at: usize| words.get(at).map(|word| word.text);
    if !is_numeric_date(word(0)?) {
        return None;
    }
    let clock = word(1)?.to_ascii_uppercase();
    let clock = clock.strip_suffix("AM").or(clock.strip_suffix("PM")).unwrap_or(&clock);
    if !is_time(clock) {
        return None;
    }
    // `05:08 PM` is two words.
    let after = if matches!(word(2)?, "AM" | "PM" | "am" | "pm") { 3 } else { 2 };
    let size = words.get(after)?;
    let rest = line.get(size.end + 1..).filter(|rest| !rest.is_empty())?;
    if size.text.starts_with('<') {
        let name = rest.trim_ascii_start();
        return Some(match size.text {
            "<DIR>" => ParsedLine::Child(ListedChild::Folder(name.to_vec())),
            _ => ParsedLine::Child(ListedChild::Link(without_target(name).to_vec())),
        });
    }
    let digits: String = size.text.chars().filter(|c| !matches!(c, ',' | '.')).collect();
    let len = digits.parse().ok()?;
    Some(ParsedLine::Child(ListedChild::File {
        name: rest.to_vec(),
        len: Some(len),
        modified: None,
    }))
}

/// The name of a link without its target: `there` for `there [C:\target]`.
fn without_target(name: &[u8]) -> &[u8] {
    let before = name.windows(2).position(|two| two == b" [").filter(|_| name.ends_with(b"]"));
    before.map_or(name, |at| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, len: u64) -> ParsedLine {
        ParsedLine::Child(ListedChild::File { name: name.into(), len: Some(len), modified: None })
    }

    fn folder(name: &str) -> ParsedLine {
        ParsedLine::Child(ListedChild::Folder(name.into()))
    }

    fn link(name: &str) -> ParsedLine {
        ParsedLine::Child(ListedChild::Link(name.into()))
    }

    #[test]
    fn unix_lines_are_parsed() {
        for (text, wanted) in [
            ("-rw-r--r--    1 0        0               5 Nov 27 03:00 a b.bin", file("a b.bin", 5)),
            ("drwxr-xr-x    2 0        0            4096 Nov 27  2025 sub", folder("sub")),
            ("lrwxrwxrwx    1 0        0               4 Nov 27 03:00 l -> /etc", link("l")),
            ("-rw-r--r--+  1 u g        5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--.  1 u g        5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--@  1 u g        5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("drwxrwsr-t   1 u g        5 Jan 12 07:08 a.txt", folder("a.txt")),
            ("-rw-r--r--   1 owner        5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 owner Domain Users   5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 Some One Domain Users   5 Jan 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 12 Jan 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 12. Jan 2020 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 2020-01-12 07:08 a.txt", file("a.txt", 5)),
            (
                "-rw-r--r--   1 u g        5 2020-01-12 07:08:09.000000000 +0100 a.txt",
                file("a.txt", 5),
            ),
            ("-rw-r--r--   1 u g        5 2020-01-12 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 01-12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 12.01.2020 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 Mär 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 12 août 2020 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5  1月 12 07:08 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 Jan 12 07:08:09 2020 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 u g        5 Sun Jan 12 07:08:09 2020 a.txt", file("a.txt", 5)),
            ("-rw-r--r--   1 bob 20 2013 Jan 12 2020 a.txt", file("a.txt", 2013)),
            ("-rw-r--r--   1 maria 20 2013 Jan 12 2020 a.txt", file("a.txt", 2013)),
            ("-rw-r--r--   1 u g        5 Jan 12 07:08 5 Feb 3 2020", file("5 Feb 3 2020", 5)),
            ("-rw-r--r--   1 u g        5 Jan 12 07:08  lead.txt", file(" lead.txt", 5)),
            ("-rw-r--r--   1 u g        5 Jan 12 07:08 trail ", file("trail ", 5)),
            ("- [R----F--] rjohns  1234 Jan 12 07:08 a.txt", file("a.txt", 1234)),
            ("d [R----F--] rjohns   512 Jan 12 07:08 login", folder("login")),
        ] {
            assert_eq!(parse_list_line(text.as_bytes()), wanted, "{text}");
        }
        let latin = b"-rw-r--r--   1 u g        5 Jan 12 07:08 na\xefve.txt";
        let name = b"na\xefve.txt".to_vec();
        assert_eq!(
            parse_list_line(latin),
            ParsedLine::Child(ListedChild::File { name, len: Some(5), modified: None })
        );
        let latin = b"-rw-r--r--   1 u g        5 M\xe4r 12 07:08 a.txt";
        assert_eq!(parse_list_line(latin), file("a.txt", 5));
    }

    #[test]
    fn windows_lines_are_parsed() {
        for (text, wanted) in [
            ("10-19-26  03:19PM       <DIR>          pub", folder("pub")),
            ("04-08-26  03:09PM                  403 readme.txt", file("readme.txt", 403)),
            ("01-12-2020  05:08PM                    5 a b.txt", file("a b.txt", 5)),
            ("2020-01-12  17:08                    5 a.txt", file("a.txt", 5)),
            ("12.01.2020  17:08               1,005 a.txt", file("a.txt", 1005)),
            ("01/12/2020  05:08 PM    <DIR>          pub", folder("pub")),
            ("01-12-20  05:08PM       <JUNCTION>     there", link("there")),
            ("01-12-20  05:08PM       <SYMLINK>      a.txt [b.txt]", link("a.txt")),
        ] {
            assert_eq!(parse_list_line(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn eplf_lines_are_parsed() {
        assert_eq!(
            parse_list_line(b"+i8388621.48594,m825719703,r,s280,\tdjb.html"),
            file("djb.html", 280)
        );
        assert_eq!(parse_list_line(b"+i8388621.50690,m824255907,/,\t514 a"), folder("514 a"));
        assert_eq!(
            parse_list_line(b"+i1,m1,\tx"),
            ParsedLine::Child(ListedChild::Unknown(b"x".to_vec()))
        );
        assert_eq!(parse_list_line(b"+no tab"), ParsedLine::Unparsed);
    }

    #[test]
    fn lines_without_a_file_are_ignored_and_unknown_formats_are_unparsed() {
        for text in [
            "",
            " ",
            "total 12",
            "total 1.2K",
            "insgesamt 12",
            "合計 12",
            "prw-r--r--    1 0        0               0 Nov 27 03:00 pipe",
            "crw-rw-rw-    1 0        0          1,   3 Nov 27 03:00 null",
        ] {
            assert_eq!(parse_list_line(text.as_bytes()), ParsedLine::Ignored, "{text}");
        }
        for text in [
            "a.txt",
            "total",
            "file 12",
            "README.TXT;1  2  12-JAN-2020 07:08:09 [GROUP,OWNER] (RWED,RWED,RE,)",
            "d?????????   ? ?    ?         ?            ? hidden",
            "-rw-r--r--   1 u g        5 a.txt",
            "-rw-r--r--   1 u g        five Jan 12 07:08 a.txt",
            "-rw-r--r--   1 u g        5 Jan 12 07:08",
        ] {
            assert_eq!(parse_list_line(text.as_bytes()), ParsedLine::Unparsed, "{text}");
        }
    }
}
