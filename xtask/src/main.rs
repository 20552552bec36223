//! Everything that is done to this repository, as code.

fn main() {}
