//! Bars and messages on stderr that do not write over each other.

use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on neither bars nor messages.
pub fn silence() {
    QUIET.store(true, Ordering::Relaxed);
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Shows the bar below those that are there; nothing if stderr is no terminal.
pub fn add(bar: ProgressBar) -> ProgressBar {
    BARS.add(bar)
}

/// A bar of bytes.
pub fn bytes(name: &str, size: u64) -> ProgressBar {
    let bar = add(ProgressBar::new(size));
    let style = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(name.to_string());
    bar
}

/// A bar of pictures.
pub fn pictures(count: u64) -> ProgressBar {
    let bar = add(ProgressBar::new(count));
    let style = ProgressStyle::with_template("[{wide_bar}] {pos}/{len} pictures {per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A bar of the frames of a video, with the time left where their number is known.
pub fn frames(count: Option<usize>) -> ProgressBar {
    let (bar, template) = match count {
        Some(count) => (
            ProgressBar::new(count as u64),
            "[{wide_bar}] frame {pos}/{len} {per_sec} {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} frame {pos} {per_sec} {elapsed}",
        ),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    add(bar)
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
