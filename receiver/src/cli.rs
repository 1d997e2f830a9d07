//! The command line: commands, flags and their help. Running them is the program's business.

mod probes;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use clap_complete::Shell;
pub use probes::{State, table};

use crate::config::{self, Sources};
use crate::probe::Definition;

/// Exit code for a wrong command line (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// What the kernel knows about every container's network, as OpenTelemetry
#[derive(Debug, Parser, PartialEq, Eq)]
#[command(name = "jitterscope", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand, PartialEq, Eq)]
pub enum Command {
    /// Run the node receiver until a signal; readable output unless there is a destination
    Run(Run),
    /// Collect once and print it
    Once(Once),
    /// List the probes: what for, source, overhead, default, and whether they can run here
    Probes(Probes),
    /// Check configuration and environment and print every problem
    Check(Check),
    /// Print the completions for a shell
    Completions(Completions),
}

/// Flags of `run`.
#[derive(Debug, Args, PartialEq, Eq)]
pub struct Run {
    /// Configuration: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The only destination of OTLP.
    #[arg(
        long,
        value_name = "URL",
        help = "The only destination of OTLP: http://HOST:PORT, https://HOST:PORT or unix:///PATH"
    )]
    pub endpoint: Option<String>,
    /// A setting, the value as YAML; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// End after this time, as a signal would, with a last collection and flush
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Standard output, without a destination
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Flags of `once`.
#[derive(Debug, Args, PartialEq, Eq)]
pub struct Once {
    /// Configuration: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Probes to collect; those that the configuration enables, if none is named
    #[arg(value_name = "PROBE")]
    pub probes: Vec<String>,
}

/// Flags of `probes`.
#[derive(Debug, Args, PartialEq, Eq)]
pub struct Probes {
    /// Standard output
    #[arg(long, value_enum, default_value_t = TableFormat::Text)]
    pub format: TableFormat,
}

/// Flags of `check`.
#[derive(Debug, Args, PartialEq, Eq)]
pub struct Check {
    /// Configuration: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `completions`.
#[derive(Debug, Args, PartialEq, Eq)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// How telemetry is printed.
#[derive(Clone, Copy, Debug, ValueEnum, PartialEq, Eq)]
pub enum Format {
    /// For people
    Text,
    /// OTLP/JSON, one request a line
    Json,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, ValueEnum, PartialEq, Eq)]
pub enum TableFormat {
    /// For people
    Text,
    /// For scripts
    Json,
    /// For the documentation: what holds on every machine
    Markdown,
}

/// Reads a command line, the program's name first. `probes` gives the names that a probe can have and the settings'
/// help.
///
/// # Errors
///
/// What is wrong with it, or the help or version that was asked for: print it and end with [`exit_code`].
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    probes: &[&'static Definition],
) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command(probes).try_get_matches_from(arguments)?)
}

/// The exit code for what [`parse`] returns as an error: 0 for help and version, else [`USAGE`].
#[must_use]
pub fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { USAGE } else { 0 }
}

/// Writes the completions for a shell.
pub fn completions(shell: Shell, probes: &[&'static Definition], out: &mut dyn Write) {
    clap_complete::generate(shell, &mut command(probes), "jitterscope", out);
}

impl Command {
    /// The configuration that the command asks for, without the environment. None for a command that reads none.
    #[must_use]
    pub fn sources(&self) -> Option<Sources> {
        match self {
            Self::Run(run) => Some(Sources {
                file: run.config.clone(),
                endpoint: run.endpoint.clone(),
                set: run.set.clone(),
                ..Sources::default()
            }),
            Self::Once(Once { config, .. }) | Self::Check(Check { config }) => {
                Some(Sources { file: config.clone(), ..Sources::default() })
            }
            Self::Probes(_) | Self::Completions(_) => None,
        }
    }
}

/// The commands with what depends on the probes.
fn command(probes: &[&'static Definition]) -> clap::Command {
    let names = probes.iter().map(|probe| PossibleValue::new(probe.name).help(probe.use_when));
    let names = PossibleValuesParser::new(names);
    let settings = config::settings_help(probes);
    Cli::command()
        .mut_subcommand("once", |once| once.mut_arg("probes", |argument| argument.value_parser(names)))
        .mut_subcommand("run", |run| run.after_long_help(settings.clone()))
        .mut_subcommand("check", |check| check.after_long_help(settings))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("allowed: KEY=VALUE, such as interval=5s".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "allowed: a duration such as 250ms, 15s, 10m".to_owned())
}

#[cfg(test)]
mod tests;
