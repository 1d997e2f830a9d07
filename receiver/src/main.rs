//! The `jitterscope` command.
fn main() {}
