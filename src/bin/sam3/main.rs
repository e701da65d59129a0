//! The `sam3` command.

#[cfg(target_os = "linux")]
mod allocator;
mod args;
mod bench;
mod convert;
mod demo;
mod everything;
mod hub;
mod inspect;
mod interactive;
mod model;
mod models;
mod names;
mod progress;
mod results;
mod segment;
mod stages;
mod track;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::KeepLarge = allocator::KeepLarge::new();

fn main() -> ExitCode {
    let cli = Cli::parse(); // exits with 2 on a usage error
    if let Some(threads) = cli.command.threads()
        && let Err(error) = limit_threads(threads.into())
    {
        eprintln!("error: --threads {threads}: {error}");
        return ExitCode::FAILURE;
    }
    start_log(cli.verbose, cli.quiet);
    if cli.quiet {
        progress::silence();
    }
    let done = match cli.command {
        Command::Segment(args) if args.clicks.is_asked_for() => interactive::run(*args, cli.quiet),
        Command::Segment(args) => segment::run(*args, cli.quiet),
        Command::Everything(args) => everything::run(*args, cli.quiet),
        Command::Track(args) => track::run(*args, cli.quiet),
        Command::Models(args) => models::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Convert(args) => convert::run(args, cli.quiet),
        Command::Bench(args) => bench::run(*args, cli.quiet),
        Command::Verify(args) => verify::run(*args, cli.quiet),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sizes the pool of threads, and that of candle, which reads its size from the environment.
fn limit_threads(threads: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", threads.to_string()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
}

/// Warnings go to stderr; `-v` adds what the library does, `-q` leaves errors only.
fn start_log(verbose: u8, quiet: bool) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
