//! The `jitterscope` command: arguments in, a command run, an exit code out.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use jitterscope::{
    cli::{self, Cli, Command, State},
    config::{ConfigError, Settings, Sources},
    logging::Logging,
    node::{self, Failure, check, once},
    probe::PROBES,
};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os(), PROBES) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = error.print();
            return cli::exit_code(&error).into();
        }
    };
    let result = match node::runtime() {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli));
            // Not for threads that a disk keeps waiting: all that is to be waited for has been.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(Failure::System { what: "starting threads", source }),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            let _ = writeln!(stderr(), "jitterscope: {failure}");
            failure.exit_code().into()
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let sources = cli.command.sources().unwrap_or_default().with_environment(std::env::vars_os());
    match cli.command {
        Command::Run(run) => node::run(&sources, run.format.into(), run.duration).await?,
        Command::Once(once) => {
            let settings = load(&sources)?;
            once::once(settings, once.format.into(), &once.probes).await?;
        }
        Command::Probes(probes) => {
            let states = once::can_run(&load(&sources)?);
            let rows: Vec<_> = PROBES.iter().copied().zip(states.iter().map(State::of)).collect();
            print(&cli::table(probes.format, &rows));
        }
        Command::Check(_) => return Ok(tell(&check::problems(&load(&sources)?).await)),
        Command::Completions(completions) => cli::completions(completions.shell, PROBES, &mut stdout()),
    }
    Ok(ExitCode::SUCCESS)
}

fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    let settings = sources.load(PROBES)?;
    Logging::start(settings.log);
    Ok(settings)
}

/// Exit code 1 when the environment has problems.
fn tell(problems: &[String]) -> ExitCode {
    if problems.is_empty() {
        print("configuration and environment are in order\n");
        return ExitCode::SUCCESS;
    }
    problems.iter().for_each(|problem| print(&format!("{problem}\n")));
    ExitCode::FAILURE
}

/// Writes to standard output; a reader that has gone is no failure.
fn print(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}
