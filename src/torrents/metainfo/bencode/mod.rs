//! Bencode: parses it strictly from bytes that a stranger sent, and writes it.
//!
//! The parser makes one flat array of tokens that point into the input. Nothing is copied, and nothing recurses. A
//! token takes 16 bytes, and the shortest one takes 2 bytes of input (`0:`). Memory therefore stays within a small
//! factor of the input, and the stack does not grow with nesting.
//!
//! Irregularities that real torrents have and every client accepts are accepted: keys out of order, leading zeros, a
//! duplicate key (the first counts, as in libtorrent), and bytes behind the end of a file. [`Flaws`] records them,
//! because libtorrent rejects a v2 torrent that has them. All other irregularities are errors.

mod parse;

use std::{fmt, ops::Range};

use crate::error::{Error, Kind, Result};

/// The longest input in bytes: libtorrent's own limit for a `.torrent` file (80 MB).
pub const MAX_INPUT: usize = 80_000_000;
/// The deepest nesting: a v2 file tree uses one level per folder, and real ones have fewer than 50.
pub const MAX_DEPTH: usize = 64;
/// The most values: 4 Mi tokens take 64 MiB, and a list of half a million files needs 3.5 million.
pub const MAX_TOKENS: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Int,
    Bytes,
    List,
    Dict,
}

/// One value: `input[start..end]` is all of it. For a string, `aux` is the start of its content; for a container, the
/// token behind its last descendant. `u32` is enough because of [`MAX_INPUT`].
#[derive(Debug, Clone, Copy)]
struct Token {
    start: u32,
    end: u32,
    aux: u32,
    kind: TokenKind,
    flaws: Flaws,
}

/// Deviations of a value from strict bencode. Values inside it have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaws(u8);

impl Flaws {
    const NONE: Self = Self(0);
    /// Keys are not in ascending order.
    pub const UNSORTED_KEYS: Self = Self(1);
    /// A key occurs more than once.
    pub const DUPLICATE_KEY: Self = Self(2);
    /// A leading zero, or -0.
    pub const LEADING_ZERO: Self = Self(4);

    #[must_use]
    pub fn has(self, flaw: Self) -> bool {
        self.0 & flaw.0 != 0
    }

    fn add(&mut self, flaw: Self) {
        self.0 |= flaw.0;
    }
}

/// A parsed input. Reading starts at [`Document::root`].
pub struct Document<'a> {
    input: &'a [u8],
    tokens: Vec<Token>,
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("bytes", &self.input.len())
            .field("tokens", &self.tokens.len())
            .finish()
    }
}

impl<'a> Document<'a> {
    /// Parses all of `input` as one value.
    ///
    /// # Errors
    /// `InvalidInput`, with the byte offset, for bytes that are not bencode or exceed a limit of this module.
    pub fn parse(input: &'a [u8]) -> Result<Self> {
        let doc = Self::parse_beginning(input)?;
        let end = doc.root().span().end;
        match input.len() - end {
            0 => Ok(doc),
            extra => Err(bad(format!("{extra} bytes follow the end of the data"), end)),
        }
    }

    /// Parses the value at the start of `input`, and ignores the bytes behind it.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_beginning(input: &'a [u8]) -> Result<Self> {
        if input.len() > MAX_INPUT {
            return Err(bad(format!("{} bytes is more than {MAX_INPUT}", input.len()), MAX_INPUT));
        }
        let (tokens, end) = parse::tokens(input)?;
        Ok(Self { input: &input[..end], tokens })
    }

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node { doc: self, index: 0 }
    }
}

/// One value of a [`Document`], decoded on demand. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    doc: &'a Document<'a>,
    index: usize,
}

/// The content of a [`Node`].
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List(List<'a>),
    Dict(Dict<'a>),
}

impl<'a> Node<'a> {
    fn token(self) -> Token {
        self.doc.tokens[self.index]
    }

    /// The token behind this value and everything in it.
    fn after(self) -> usize {
        match self.token() {
            Token { kind: TokenKind::List | TokenKind::Dict, aux, .. } => aux as usize,
            _ => self.index + 1,
        }
    }

    /// The content of the value.
    #[must_use]
    pub fn value(self) -> Value<'a> {
        let token = self.token();
        match token.kind {
            TokenKind::Int => Value::Int(integer(&self.raw()[1..self.raw().len() - 1])),
            TokenKind::Bytes => {
                Value::Bytes(&self.doc.input[token.aux as usize..token.end as usize])
            }
            TokenKind::List => Value::List(List(self)),
            TokenKind::Dict => Value::Dict(Dict(self)),
        }
    }

    /// Position of its bytes in the input.
    #[must_use]
    pub fn span(self) -> Range<usize> {
        self.token().start as usize..self.token().end as usize
    }

    /// Its exact bytes in the input. An info hash is computed from them.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        &self.doc.input[self.span()]
    }

    /// Position and flaws of the first value that has flaws: this value, or one inside it.
    #[must_use]
    pub fn flaw(self) -> Option<(usize, Flaws)> {
        self.flaws().next()
    }

    fn flaws(self) -> impl Iterator<Item = (usize, Flaws)> {
        let tokens = &self.doc.tokens[self.index..self.after()];
        let flawed = tokens.iter().filter(|t| t.flaws != Flaws::NONE);
        flawed.map(|t| (t.start as usize, t.flaws))
    }

    /// Position of the first dictionary with a duplicate key: this value, or one inside it.
    #[must_use]
    pub fn duplicate_key(self) -> Option<usize> {
        self.flaws().find(|(_, flaws)| flaws.has(Flaws::DUPLICATE_KEY)).map(|(at, _)| at)
    }

    #[must_use]
    pub fn as_int(self) -> Option<i64> {
        if let Value::Int(n) = self.value() { Some(n) } else { None }
    }

    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if let Value::Bytes(b) = self.value() { Some(b) } else { None }
    }

    #[must_use]
    pub fn as_list(self) -> Option<List<'a>> {
        if let Value::List(l) = self.value() { Some(l) } else { None }
    }

    #[must_use]
    pub fn as_dict(self) -> Option<Dict<'a>> {
        if let Value::Dict(d) = self.value() { Some(d) } else { None }
    }
}

/// A list.
#[derive(Debug, Clone, Copy)]
pub struct List<'a>(Node<'a>);

impl<'a> List<'a> {
    /// Its values in order.
    pub fn iter(self) -> impl Iterator<Item = Node<'a>> {
        children(self.0)
    }
}

/// A dictionary.
#[derive(Debug, Clone, Copy)]
pub struct Dict<'a>(Node<'a>);

impl<'a> Dict<'a> {
    /// Its keys and values in the order of the input. A duplicate key occurs twice.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Node<'a>)> {
        let mut all = children(self.0);
        std::iter::from_fn(move || {
            let key = all.next()?.as_bytes().expect("the parser takes only strings as keys");
            Some((key, all.next().expect("the parser takes no key without a value")))
        })
    }

    /// The first value at `key`. Scans the dictionary: meant for the few fixed keys of a torrent.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Node<'a>> {
        self.iter().find(|(k, _)| *k == key.as_bytes()).map(|(_, node)| node)
    }

    /// The number at `key`; `None` when there is no such key.
    ///
    /// # Errors
    /// `InvalidInput` when the value has another type. The same holds for the three functions below.
    pub fn int(self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "a number", Node::as_int)
    }

    /// The string at `key`.
    pub fn bytes(self, key: &str) -> Result<Option<&'a [u8]>> {
        self.typed(key, "a string", Node::as_bytes)
    }

    /// The list at `key`.
    pub fn list(self, key: &str) -> Result<Option<List<'a>>> {
        self.typed(key, "a list", Node::as_list)
    }

    /// The dictionary at `key`.
    pub fn dict(self, key: &str) -> Result<Option<Dict<'a>>> {
        self.typed(key, "a dictionary", Node::as_dict)
    }

    fn typed<T>(
        self,
        key: &str,
        what: &str,
        as_type: impl Fn(Node<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match as_type(node) {
            Some(value) => Ok(Some(value)),
            None => Err(bad(format!("{key:?} is not {what}"), node.span().start)),
        }
    }
}

fn children<'a>(of: Node<'a>) -> impl Iterator<Item = Node<'a>> {
    let (mut next, end) = (of.index + 1, of.after());
    std::iter::from_fn(move || {
        let node = (next < end).then_some(Node { doc: of.doc, index: next })?;
        next = node.after();
        Some(node)
    })
}

/// The number that `digits` spell. The parser has checked that they are digits, and that the number fits.
fn integer(digits: &[u8]) -> i64 {
    std::str::from_utf8(digits).ok().and_then(|s| s.parse().ok()).expect("checked by the parser")
}

fn bad(what: impl fmt::Display, offset: usize) -> Error {
    Error::new(Kind::InvalidInput, format!("{what}, at byte {offset}"))
}

/// Writes bencode. The caller must write dictionary keys in ascending order.
#[derive(Debug, Default, Clone)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// A number.
    pub fn int(&mut self, n: i64) -> &mut Self {
        self.raw(format!("i{n}e").as_bytes())
    }

    /// A string, or the key of the next value.
    pub fn bytes(&mut self, s: impl AsRef<[u8]>) -> &mut Self {
        self.raw(format!("{}:", s.as_ref().len()).as_bytes()).raw(s.as_ref())
    }

    /// A value that is bencode already, copied byte for byte, so that an info dictionary keeps its hash.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(value);
        self
    }

    /// A list of the values that `fill` writes.
    pub fn list(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.raw(b"l");
        fill(self);
        self.raw(b"e")
    }

    /// A dictionary of the keys and values that `fill` writes alternately.
    pub fn dict(&mut self, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.raw(b"d");
        fill(self);
        self.raw(b"e")
    }

    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(input: &[u8]) -> String {
        Document::parse(input).expect_err("should be refused").report()
    }

    #[test]
    fn values_are_read_with_their_exact_bytes() {
        let doc = Document::parse(b"d4:infod3:agei-7e4:listl1:a0:lee3:zzzdee1:a0:e").unwrap();
        let root = doc.root().as_dict().unwrap();
        let info = root.get("info").unwrap();
        assert_eq!(info.raw(), b"d3:agei-7e4:listl1:a0:lee3:zzzdee");
        assert_eq!(info.span(), 7..40);
        let info = info.as_dict().unwrap();
        assert_eq!(info.int("age").unwrap(), Some(-7));
        assert_eq!(info.int("nope").unwrap(), None);
        assert_eq!(info.list("list").unwrap().unwrap().iter().count(), 3);
        assert_eq!(info.dict("zzz").unwrap().unwrap().iter().count(), 0);
        assert_eq!(root.bytes("a").unwrap(), Some(&b""[..]));
        assert_eq!(
            info.bytes("age").unwrap_err().to_string(),
            "\"age\" is not a string, at byte 13"
        );
    }

    #[test]
    fn the_smallest_and_largest_numbers_are_accepted() {
        for n in [0, -1, i64::MAX, i64::MIN] {
            let text = format!("i{n}e");
            assert_eq!(Document::parse(text.as_bytes()).unwrap().root().as_int(), Some(n));
        }
    }

    #[test]
    fn errors_name_the_problem_and_its_position() {
        let table: &[(&str, &str)] = &[
            ("", "the data is cut short, at byte 0"),
            ("<html>", "unexpected '<', at byte 0"),
            ("d", "the data is cut short, at byte 1"),
            ("l1:a", "the data is cut short, at byte 4"),
            ("e", "unexpected 'e', at byte 0"),
            ("i1", "the data is cut short, at byte 2"),
            ("ie", "invalid number, at byte 0"),
            ("i-e", "invalid number, at byte 0"),
            ("i1x", "invalid number, at byte 0"),
            ("i+1e", "invalid number, at byte 0"),
            ("i9223372036854775808e", "the number does not fit 64 bits, at byte 0"),
            ("i00000000000000000001e", "the number does not fit 64 bits, at byte 0"),
            ("0000000000000001:a", "a string length of more than 15 digits, at byte 0"),
            ("1a", "the length of a string does not end with ':', at byte 1"),
            ("5:abc", "a string of 5 bytes, but only 3 are left, at byte 0"),
            (
                "l99999999999999999999999:e",
                "a string of 99999999999999999999 bytes, but only 1 are left, at byte 1",
            ),
            ("i1ei2e", "3 bytes follow the end of the data, at byte 3"),
            ("di1ei2ee", "a dictionary key is not a string, at byte 1"),
            ("d1:ae", "a dictionary key has no value, at byte 4"),
        ];
        for (input, message) in table {
            assert_eq!(refusal(input.as_bytes()), *message, "for {input:?}");
        }
    }

    #[test]
    fn leading_zeros_are_accepted_and_recorded() {
        for (text, value) in [("i01e", 1), ("i-0e", 0), ("i-01e", -1), ("i00e", 0)] {
            let doc = Document::parse(text.as_bytes()).unwrap();
            assert_eq!(doc.root().as_int(), Some(value), "{text}");
            assert_eq!(doc.root().flaw(), Some((0, Flaws::LEADING_ZERO)));
        }
        let doc = Document::parse(b"l03:abc0:00:e").unwrap();
        let strings = doc.root().as_list().unwrap().iter().map(|n| n.as_bytes().unwrap());
        assert_eq!(strings.collect::<Vec<_>>(), [&b"abc"[..], b"", b""]);
        assert_eq!(doc.root().flaw(), Some((1, Flaws::LEADING_ZERO)));
    }

    #[test]
    fn the_first_of_duplicate_keys_counts() {
        for (text, at) in [
            ("d1:ai1e1:ai2ee", 0),
            ("d1:bi3e1:ai1e1:bi2ee", 0),
            ("d1:ai1e1:bld1:xi0e1:xi7eeee", 11),
        ] {
            let doc = Document::parse(text.as_bytes()).unwrap();
            assert_eq!(doc.root().as_dict().unwrap().int("a").unwrap(), Some(1), "{text}");
            assert_eq!(doc.root().duplicate_key(), Some(at), "{text}");
        }
        let sorted = Document::parse(b"d1:ai1e1:bi2ee").unwrap();
        assert_eq!((sorted.root().duplicate_key(), sorted.root().flaw()), (None, None));
    }

    #[test]
    fn parse_beginning_ignores_the_bytes_behind_the_value() {
        let doc = Document::parse_beginning(b"d1:ai1eee<!-- ad -->").unwrap();
        assert_eq!(doc.root().raw(), b"d1:ai1ee");
        assert!(Document::parse_beginning(b"d1:ai1e").is_err());
    }

    #[test]
    fn unsorted_keys_are_accepted_and_recorded() {
        let flaw = |node: Node<'_>| node.flaw();
        let doc = Document::parse(b"d1:bi1e1:ald1:bi0eee1:ci3ee").unwrap();
        assert_eq!(doc.root().as_dict().unwrap().int("c").unwrap(), Some(3));
        assert_eq!(flaw(doc.root()), Some((0, Flaws::UNSORTED_KEYS)));
        let doc = Document::parse(b"d1:ald1:bi0e1:ai0eee1:ci3ee").unwrap();
        assert_eq!(flaw(doc.root()), Some((5, Flaws::UNSORTED_KEYS)));
        assert_eq!(flaw(doc.root().as_dict().unwrap().get("c").unwrap()), None);
    }

    #[test]
    fn depth_and_number_of_values_are_limited() {
        let nested = |n: usize| [b"l".repeat(n), b"e".repeat(n)].concat();
        assert!(Document::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(refusal(&nested(MAX_DEPTH + 1)), "nested deeper than 64 levels, at byte 64");
        assert_eq!(refusal(&b"l".repeat(1 << 20)), "nested deeper than 64 levels, at byte 64");
        let many = [b"l".to_vec(), b"0:".repeat(MAX_TOKENS), b"e".to_vec()].concat();
        assert_eq!(refusal(&many), format!("more than 4194304 values, at byte {}", many.len() - 3));
        assert!(refusal(&vec![b'0'; MAX_INPUT + 1]).starts_with("80000001 bytes is more than"));
    }

    #[derive(Debug, Clone)]
    enum Tree {
        Int(i64),
        Bytes(Vec<u8>),
        List(Vec<Tree>),
        Dict(std::collections::BTreeMap<Vec<u8>, Tree>),
    }

    fn write(tree: &Tree, to: &mut Encoder) {
        match tree {
            Tree::Int(n) => to.int(*n),
            Tree::Bytes(b) => to.bytes(b),
            Tree::List(l) => to.list(|e| l.iter().for_each(|t| write(t, e))),
            Tree::Dict(d) => to.dict(|e| {
                d.iter().for_each(|(k, t)| {
                    e.bytes(k);
                    write(t, e);
                });
            }),
        };
    }

    fn copy(node: Node<'_>, to: &mut Encoder) {
        match node.value() {
            Value::Int(n) => to.int(n),
            Value::Bytes(b) => to.bytes(b),
            Value::List(l) => to.list(|e| l.iter().for_each(|n| copy(n, e))),
            Value::Dict(d) => to.dict(|e| {
                d.iter().for_each(|(k, n)| {
                    e.bytes(k);
                    copy(n, e);
                });
            }),
        };
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let key = prop::collection::vec(any::<u8>(), 0..4);
        let leaf = prop_oneof![any::<i64>().prop_map(Tree::Int), key.clone().prop_map(Tree::Bytes)];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
                prop::collection::btree_map(key.clone(), inner, 0..6).prop_map(Tree::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn written_values_are_read_back_unchanged(tree in trees()) {
            let mut e = Encoder::default();
            write(&tree, &mut e);
            let bytes = e.finish();
            let doc = Document::parse(&bytes).unwrap();
            copy(doc.root(), &mut e);
            prop_assert_eq!(e.finish(), bytes.clone());
            for cut in 0..bytes.len() {
                prop_assert!(Document::parse(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(
            prop_oneof![prop::sample::select(b"ilde:0123456789-".to_vec()), any::<u8>()], 0..200)
        ) {
            if let Ok(doc) = Document::parse(&bytes) {
                copy(doc.root(), &mut Encoder::default());
            }
        }
    }
}
