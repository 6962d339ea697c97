//! `bae storage`.
