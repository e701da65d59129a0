//! Results on stdout, and bars and messages on stderr that do not write over each other.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on neither bars nor messages.
pub fn silence() {
    QUIET.store(true, Ordering::Relaxed);
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Shows the bar below those that are there; nothing if stderr is no terminal.
fn add(bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    BARS.add(bar)
}

/// A spinner beside the message that it is given.
pub fn spinner() -> ProgressBar {
    ticking(BARS.add(ProgressBar::new_spinner()))
}

fn ticking(bar: ProgressBar) -> ProgressBar {
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar of the bytes of a download.
pub fn download(name: &str, size: u64) -> ProgressBar {
    let bar = add(
        ProgressBar::new(size),
        "{msg} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
    );
    bar.set_message(name.to_string());
    bar
}

/// A bar of the bytes of a file; the writer says how many there are.
pub fn file() -> ProgressBar {
    let template = "{wide_bar} {bytes}/{total_bytes} {eta}";
    ticking(add(ProgressBar::no_length(), template))
}

/// A bar of pictures.
pub fn pictures(count: usize) -> ProgressBar {
    let template = "[{wide_bar}] {pos}/{len} pictures {per_sec} {eta}";
    add(ProgressBar::new(count as u64), template)
}

/// A bar of the frames of a video, with the time left where their number is known.
pub fn frames(count: Option<usize>) -> ProgressBar {
    match count {
        Some(count) => add(
            ProgressBar::new(count as u64),
            "[{wide_bar}] frame {pos}/{len} {per_sec} {eta} left",
        ),
        None => add(
            ProgressBar::no_length(),
            "{spinner} frame {pos} {per_sec} {elapsed}",
        ),
    }
}

/// Writes to stdout.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let written = std::io::stdout().write_all(text.as_ref());
    written.context("cannot write to stdout")
}

/// A line on stderr, above the bars.
pub fn say(line: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        complain(line);
    }
}

/// A line on stderr even if there are to be no messages.
///
/// Easy to get wrong: `eprintln!` panics when nobody reads stderr any more, as behind `2>&1 | head`,
/// and results would be lost with it.
pub fn complain(line: &str) {
    BARS.suspend(|| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
}
