//! The command as a person or a script sees it: exit codes, messages, output, reload, health. Needs root.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

mod bad_input;
mod collector;
mod ends;
mod health;
mod netns;
mod output;
mod privileges;
mod receiver;
mod reload;
mod reload_settings;
mod telemetry;
