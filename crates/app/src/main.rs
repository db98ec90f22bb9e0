//! The glioseg program.
fn main() {}
