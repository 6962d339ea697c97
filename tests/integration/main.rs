//! Tests against real clients will live here.
