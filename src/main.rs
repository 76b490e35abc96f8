//! The binary: parses arguments, calls one function.

fn main() {}
