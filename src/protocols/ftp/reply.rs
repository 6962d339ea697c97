//! Parses replies of FTP servers (RFC 959, 4.2), including deviations from the standard. Pure.
//!
//! A reply is one line `220 text`, or several: `220-text`, further lines, `220 text`. Servers also end a reply with
//! another code than its first, omit the text with its space (`220`), and insert empty lines.

use crate::protocols::url_paths::one_line_excerpt;

/// Maximum length of a reply in bytes. Greetings may contain terms of use.
pub(super) const MAX_REPLY_LEN: usize = 64 << 10;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// All lines, including their codes.
    text: Vec<u8>,
}

impl Reply {
    /// The command is in progress, and another reply follows.
    pub(super) fn is_preliminary(&self) -> bool {
        self.code / 100 == 1
    }

    pub(super) fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    /// The whole reply, shortened, on one line, for messages.
    pub(super) fn display_text(&self) -> String {
        one_line_excerpt(&String::from_utf8_lossy(&self.text))
    }

    /// All lines with their codes, in lower case.
    pub(super) fn lower_case_text(&self) -> String {
        String::from_utf8_lossy(&self.text).to_lowercase()
    }

    /// The length in `Opening BINARY mode data connection for f.bin (50000 bytes).`
    pub(super) fn announced_len(&self) -> Option<u64> {
        let text = std::str::from_utf8(self.last_text()).ok()?;
        let (before, _) = text.rsplit_once(" bytes")?;
        before.rsplit_once('(')?.1.trim().parse().ok()
    }

    /// The text after the code in the last line.
    pub(super) fn last_text(&self) -> &[u8] {
        let last = self.text.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap_or_default();
        last.get(4..).unwrap_or_default()
    }

    /// The first number in a reply such as `213 5` or `213 5 bytes`. A negative one means unknown and gives `None`.
    pub(super) fn first_number(&self) -> Option<u64> {
        let mut words = self.last_text().split(u8::is_ascii_whitespace);
        let word = words.find(|word| !word.is_empty())?;
        std::str::from_utf8(word).ok()?.parse().ok()
    }
}

#[cfg(test)]
impl Reply {
    /// A reply with these lines.
    pub(super) fn parse(text: &str) -> Self {
        let mut lines = ReplyLines::default();
        text.lines().find_map(|line| lines.push(line.as_bytes()).unwrap()).unwrap()
    }
}

/// The reason why the input is not an FTP reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InvalidReply {
    /// The first line of another protocol.
    NotFtp(String),
    TooLong,
}

/// The lines of a reply that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct ReplyLines {
    code: Option<u16>,
    text: Vec<u8>,
}

impl ReplyLines {
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds a line, with or without its line break. Returns the reply if the line was its last.
    ///
    /// # Errors
    /// If the input is not FTP, or if the reply is too long.
    pub(super) fn push(&mut self, line: &[u8]) -> Result<Option<Reply>, InvalidReply> {
        let line = line.trim_ascii_end();
        let is_last = match (self.code, parse_code(line)) {
            (None, None) if line.is_empty() => return Ok(None),
            (None, None) => {
                return Err(InvalidReply::NotFtp(one_line_excerpt(&String::from_utf8_lossy(line))));
            }
            (None, Some(code)) => {
                self.code = Some(code);
                line.get(3) != Some(&b'-')
            }
            (Some(_), None) => false,
            (Some(first), Some(code)) => match line.get(3) {
                Some(b' ') => true,
                None => code == first,
                Some(_) => false,
            },
        };
        if !self.text.is_empty() {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(line);
        if self.text.len() > MAX_REPLY_LEN {
            return Err(InvalidReply::TooLong);
        }
        if !is_last {
            return Ok(None);
        }
        // The code of the last line is the result of the command, even if the first line has another code.
        let code = parse_code(line).or(self.code).unwrap_or_default();
        Ok(Some(Reply { code, text: std::mem::take(&mut self.text) }))
    }
}

/// The three-digit code at the start of a line.
fn parse_code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3)?;
    let is_code = digits.iter().all(u8::is_ascii_digit) && (b'1'..=b'6').contains(&digits[0]);
    // `2000 files` is text, without a code.
    let ends = line.get(3).is_none_or(|next| !next.is_ascii_digit());
    if is_code && ends { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Result<Option<Reply>, InvalidReply> {
        let mut lines = ReplyLines::default();
        for line in text.lines() {
            if let Some(reply) = lines.push(line.as_bytes())? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_announced_length_of_a_transfer_is_parsed() {
        let len = |text| Reply::parse(text).announced_len();
        assert_eq!(
            len("150 Opening BINARY mode data connection for f (x).bin (50000 bytes)."),
            Some(50000)
        );
        assert_eq!(len("150 Opening data connection for f.bin (50000 bytes)"), Some(50000));
        assert_eq!(len("150 Accepted data connection"), None);
        assert_eq!(len("150 many bytes"), None);
    }

    #[test]
    fn the_last_line_of_a_reply_is_recognised() {
        for (text, code, last) in [
            ("220 ready", 220, "ready"),
            ("220", 220, ""),
            ("\r\n220 ready", 220, "ready"),
            ("220-a\n\n 220 no\nb\n220 end", 220, "end"),
            ("211-Features:\n UTF8\n\n REST STREAM\n211 End", 211, "End"),
            ("230-2000 files\n2000 files\n230 in", 230, "in"),
            ("226-begun\n250 done", 250, "done"),
            ("230-x\n230", 230, ""),
        ] {
            let reply = reply(text).unwrap().unwrap_or_else(|| panic!("{text:?} has no end"));
            assert_eq!((reply.code, reply.last_text()), (code, last.as_bytes()), "{text:?}");
        }
        assert_eq!(reply("220-a\nb").unwrap(), None);
        assert_eq!(reply("SSH-2.0-x"), Err(InvalidReply::NotFtp("SSH-2.0-x".into())));
        let mut endless = ReplyLines::default();
        endless.push(b"220-").unwrap();
        let end = (0..).find_map(|_| endless.push(&[b'x'; 1000]).err());
        assert_eq!(end, Some(InvalidReply::TooLong));
    }

    #[test]
    fn the_first_number_is_found_among_words() {
        for (text, number) in [
            ("213 5", Some(5)),
            ("213  5 bytes", Some(5)),
            ("213-x\n213 7", Some(7)),
            ("213 -1", None),
            ("213", None),
            ("213 unknown", None),
        ] {
            assert_eq!(Reply::parse(text).first_number(), number, "{text}");
        }
    }

    #[test]
    fn a_reply_is_displayed_on_one_line() {
        assert_eq!(Reply::parse("550-no\r\n550 such file").display_text(), "550-no 550 such file");
    }
}
