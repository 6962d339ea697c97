//! Turns bytes into tokens: one pass over the input, with a stack of open containers in place of recursion.

use std::{cmp::Ordering, ops::Range};

use super::{Flaws, MAX_DEPTH, MAX_TOKENS, Token, TokenKind, bad};
use crate::error::Result;

/// The most digits of a number, leading zeros included: libtorrent accepts no more.
const MAX_DIGITS: usize = 19;
/// The most digits in the length of a string: libtorrent accepts no more.
const MAX_LENGTH_DIGITS: usize = 15;

/// The tokens of the value at the start of `input`, and the position of its end. `input` is no longer than
/// [`super::MAX_INPUT`].
pub(super) fn tokens(input: &[u8]) -> Result<(Vec<Token>, usize)> {
    let mut parser = Parser { input, at: 0, tokens: Vec::new(), open: Vec::new() };
    parser.run()?;
    Ok((parser.tokens, parser.at))
}

struct Parser<'a> {
    input: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
    open: Vec<OpenContainer>,
}

/// A container whose `e` was not read yet.
struct OpenContainer {
    token: usize,
    dict: bool,
    /// In a dictionary: the last key, to check that keys ascend.
    last_key: Option<Range<usize>>,
    /// In a dictionary: whether the value of the last key was not read yet.
    expects_value: bool,
    flaws: Flaws,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let next = self.peek()?;
            match self.open.last_mut() {
                Some(_) if next == b'e' => self.close()?,
                Some(top) if top.dict && !top.expects_value => {
                    top.expects_value = true;
                    self.key()?;
                    continue;
                }
                Some(top) => {
                    top.expects_value = false;
                    self.value(next)?;
                }
                None => self.value(next)?,
            }
            if self.open.is_empty() {
                return Ok(());
            }
        }
    }

    fn peek(&self) -> Result<u8> {
        let end = || bad("the data is cut short", self.input.len());
        self.input.get(self.at).copied().ok_or_else(end)
    }

    fn push(&mut self, kind: TokenKind, start: usize, aux: usize, flaws: Flaws) -> Result<()> {
        if self.tokens.len() == MAX_TOKENS {
            return Err(bad(format!("more than {MAX_TOKENS} values"), start));
        }
        self.tokens.push(Token {
            start: to_u32(start),
            end: to_u32(self.at),
            aux: to_u32(aux),
            kind,
            flaws,
        });
        Ok(())
    }

    fn value(&mut self, first: u8) -> Result<()> {
        match first {
            b'i' => self.int(),
            b'0'..=b'9' => self.string().map(|_| ()),
            b'l' | b'd' => self.open(first == b'd'),
            other => Err(bad(format!("unexpected {:?}", char::from(other)), self.at)),
        }
    }

    fn open(&mut self, dict: bool) -> Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(bad(format!("nested deeper than {MAX_DEPTH} levels"), self.at));
        }
        let token = self.tokens.len();
        let kind = if dict { TokenKind::Dict } else { TokenKind::List };
        self.at += 1;
        self.push(kind, self.at - 1, 0, Flaws::NONE)?;
        let flaws = Flaws::NONE;
        self.open.push(OpenContainer { token, dict, last_key: None, expects_value: false, flaws });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let top = self.open.pop().expect("only called with an open container");
        if top.expects_value {
            return Err(bad("a dictionary key has no value", self.at));
        }
        self.at += 1;
        let after = to_u32(self.tokens.len());
        let mut flaws = top.flaws;
        if flaws.has(Flaws::UNSORTED_KEYS) && self.has_duplicate_key(top.token) {
            flaws.add(Flaws::DUPLICATE_KEY);
        }
        let token = &mut self.tokens[top.token];
        (token.end, token.aux, token.flaws) = (to_u32(self.at), after, flaws);
        Ok(())
    }

    fn key(&mut self) -> Result<()> {
        let start = self.at;
        if !self.peek()?.is_ascii_digit() {
            return Err(bad("a dictionary key is not a string", start));
        }
        let key = self.string()?;
        let top = self.open.last_mut().expect("only called in a dictionary");
        if let Some(last) = top.last_key.replace(key.clone()) {
            match self.input[last].cmp(&self.input[key]) {
                Ordering::Less => {}
                Ordering::Equal => top.flaws.add(Flaws::DUPLICATE_KEY),
                Ordering::Greater => top.flaws.add(Flaws::UNSORTED_KEYS),
            }
        }
        Ok(())
    }

    /// Adjacent keys are compared while reading. Only in an unsorted dictionary can equal keys be apart.
    fn has_duplicate_key(&self, dict: usize) -> bool {
        let (mut keys, mut next) = (Vec::new(), dict + 1);
        while next < self.tokens.len() {
            let (key, value) = (self.tokens[next], self.tokens[next + 1]);
            keys.push(&self.input[key.aux as usize..key.end as usize]);
            let leaf = matches!(value.kind, TokenKind::Int | TokenKind::Bytes);
            next = if leaf { next + 2 } else { value.aux as usize };
        }
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// Reads a string; returns the position of its content.
    fn string(&mut self) -> Result<Range<usize>> {
        let start = self.at;
        let length = self.digits()?;
        if self.peek()? != b':' {
            return Err(bad("the length of a string does not end with ':'", self.at));
        }
        let (body, text) = (self.at + 1, &self.input[start..self.at]);
        let flaws =
            if text.len() > 1 && text[0] == b'0' { Flaws::LEADING_ZERO } else { Flaws::NONE };
        let remaining = self.input.len() - body;
        match length {
            Some(length) if length <= remaining => self.at = body + length,
            _ => {
                let text = String::from_utf8_lossy(&text[..text.len().min(20)]);
                let what = format!("a string of {text} bytes, but only {remaining} are left");
                return Err(bad(what, start));
            }
        }
        if text.len() > MAX_LENGTH_DIGITS {
            let what = format!("a string length of more than {MAX_LENGTH_DIGITS} digits");
            return Err(bad(what, start));
        }
        self.push(TokenKind::Bytes, start, body, flaws)?;
        Ok(body..self.at)
    }

    /// Reads digits; returns their number, or `None` when it is too large.
    fn digits(&mut self) -> Result<Option<usize>> {
        let mut number = Some(0usize);
        while self.peek()?.is_ascii_digit() {
            let digit = usize::from(self.input[self.at] - b'0');
            number = number.and_then(|n| n.checked_mul(10)?.checked_add(digit));
            self.at += 1;
        }
        Ok(number)
    }

    fn int(&mut self) -> Result<()> {
        let start = self.at;
        self.at += 1;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        let digits = self.at;
        self.digits()?;
        let (text, magnitude) = (&self.input[start + 1..self.at], &self.input[digits..self.at]);
        if self.peek()? != b'e' || magnitude.is_empty() {
            return Err(bad("invalid number", start));
        }
        let zero = magnitude[0] == b'0' && text.len() > 1;
        let flaws = if zero { Flaws::LEADING_ZERO } else { Flaws::NONE };
        let number = std::str::from_utf8(text).ok().and_then(|s| s.parse::<i64>().ok());
        if number.is_none() || magnitude.len() > MAX_DIGITS {
            return Err(bad("the number does not fit 64 bits", start));
        }
        self.at += 1;
        self.push(TokenKind::Int, start, 0, flaws)
    }
}

fn to_u32(offset: usize) -> u32 {
    u32::try_from(offset).expect("offsets stay under MAX_INPUT")
}
