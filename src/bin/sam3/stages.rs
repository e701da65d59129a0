//! What is running, and how long each stage took.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::progress;

/// A spinner that names the running stage, and how long each stage took.
pub struct Stages {
    spinner: ProgressBar,
    times: Vec<(&'static str, Duration)>,
    running: Option<(&'static str, Instant)>,
}

impl Stages {
    pub fn new() -> Self {
        Self {
            spinner: progress::spinner(),
            times: vec![],
            running: None,
        }
    }

    pub fn start(&mut self, stage: &'static str) {
        self.stop();
        self.spinner.set_message(stage.replace('_', " "));
        self.running = Some((stage, Instant::now()));
    }

    /// To say how far the running stage is.
    pub fn spinner(&self) -> ProgressBar {
        self.spinner.clone()
    }

    fn stop(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.times.push((stage, since.elapsed()));
        }
    }

    /// How long each stage took, in the order they ran.
    pub fn finish(mut self) -> Vec<(&'static str, Duration)> {
        self.stop();
        self.spinner.finish_and_clear();
        self.times
    }
}
