//! Does nothing yet.

fn main() {}
