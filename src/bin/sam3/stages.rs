//! What is running, and how long each stage took.

use std::time::{Duration, Instant};

use candle_sam3::output::json::Document;
use indicatif::ProgressBar;

use crate::progress;

/// A spinner that names the running stage, and how long each stage took.
pub struct Stages {
    spinner: ProgressBar,
    times: Vec<(&'static str, Duration)>,
    running: Option<(&'static str, Instant)>,
}

impl Stages {
    pub fn new(quiet: bool) -> Self {
        let spinner = if quiet {
            ProgressBar::hidden()
        } else {
            progress::add(ProgressBar::new_spinner())
        };
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self {
            spinner,
            times: vec![],
            running: None,
        }
    }

    pub fn start(&mut self, stage: &'static str) {
        self.stop();
        self.spinner.set_message(stage.replace('_', " "));
        self.running = Some((stage, Instant::now()));
    }

    /// Says how far the running stage is.
    pub fn say(&self, progress: String) {
        self.spinner.set_message(progress);
    }

    fn stop(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.times.push((stage, since.elapsed()));
        }
    }

    pub fn finish(mut self) -> Timings {
        self.stop();
        self.spinner.finish_and_clear();
        Timings(self.times)
    }
}

/// How long each stage took, in the order they ran.
pub struct Timings(Vec<(&'static str, Duration)>);

impl Timings {
    pub fn record(self, document: &mut Document) {
        for (stage, time) in self.0 {
            document.add_timing(stage, time);
        }
    }
}
