//! The plugin's entry: parse, run, exit code.

fn main() {}
