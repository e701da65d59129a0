//! The `sam3` command.

mod bench;
mod cli;
mod concept;
mod convert;
mod demo;
mod eval;
mod everything;
mod hub;
mod inspect;
mod interactive;
mod label;
mod memory;
mod model;
mod models;
mod names;
mod picture;
mod printable;
mod progress;
mod prompts;
mod results;
mod run;
mod segment;
#[cfg(feature = "server")]
mod serve;
#[cfg(unix)]
mod signals;
mod stages;
mod summary;
#[cfg(feature = "server")]
mod task_images;
mod tiles;
mod track;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use printable::printable;

fn main() -> ExitCode {
    memory::keep();
    let cli = Cli::parse(); // exits with 2 on a usage error
    // Rayon starts as many as this says; more than any machine has would take the machine down.
    let asked = std::env::var(RAYON_THREADS).unwrap_or_default();
    let asked = asked.parse().unwrap_or(0); // 0: as many as there are
    if asked > usize::from(cli::MAX_THREADS) {
        let limit = cli::MAX_THREADS;
        eprintln!("error: {RAYON_THREADS} is {asked}; at most {limit} are started");
        return ExitCode::FAILURE;
    }
    match cli.command.threads() {
        None => tell_threads(RAYON_THREADS, asked),
        Some(threads) => {
            tell_threads(RAYON_THREADS, threads.into());
            tell_threads(CANDLE_THREADS, threads.into());
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
            if let Err(error) = pool.build_global() {
                progress::complain(&format!("error: --threads {threads}: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    start_log(cli.verbose, cli.quiet);
    #[cfg(unix)]
    if let Err(error) = signals::clean_up_when_told_to_end() {
        tracing::warn!("an interrupted run may leave a temporary file behind: {error}");
    }
    if cli.quiet {
        progress::silence();
    }
    let done = match cli.command {
        Command::Segment(args) => segment::run(*args),
        Command::Everything(args) => everything::run(*args),
        Command::Concept(args) => concept::run(args),
        Command::Label(args) => label::run(*args),
        Command::Track(args) => track::run(*args),
        Command::Merge(args) => label::merge(args),
        Command::Eval(args) => eval::run(*args, cli.quiet),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(*args),
        Command::Models(args) => models::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Verify(args) => verify::run(*args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::complain(&printable(&format!("error: {error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Read by rayon once, and by candle for each product: where it is not set, candle reads
/// `/proc/cpuinfo` each time.
const RAYON_THREADS: &str = "RAYON_NUM_THREADS";
/// Of candle's own pool, which without it is of the same size.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

/// Sets a variable to a number of threads, 0 for as many as the processor runs.
fn tell_threads(variable: &str, threads: usize) {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var(variable, threads.to_string()) };
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
        .log_internal_errors(false) // would panic when nobody reads stderr any more
        .init();
}
