//! Times of stages, and the memory of a GPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_sam3::device;

/// How often the memory of a GPU is looked at.
const LOOK: Duration = Duration::from_millis(2);

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A stage as the results name it.
pub type Stage = &'static str;

/// Milliseconds of each stage, one for each run, in the order in which stages first came.
#[derive(Default)]
pub struct Samples(Vec<(Stage, Vec<f64>)>);

impl Samples {
    /// A new sample of a stage.
    pub fn push(&mut self, stage: Stage, ms: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, samples)) => samples.push(ms),
            None => self.0.push((stage, vec![ms])),
        }
    }

    pub fn extend(&mut self, samples: Vec<(Stage, f64)>) {
        for (stage, ms) in samples {
            self.push(stage, ms);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Stage, &[f64])> {
        self.0.iter().map(|(stage, ms)| (*stage, ms.as_slice()))
    }
}

/// Takes samples of one run. It looks at the time whenever the device has done everything.
pub struct Clock<'a> {
    pub device: &'a candle::Device,
    pub samples: &'a mut Samples,
    last: Instant,
}

impl<'a> Clock<'a> {
    pub fn start(device: &'a candle::Device, samples: &'a mut Samples) -> candle::Result<Self> {
        device.synchronize()?;
        Ok(Self {
            device,
            samples,
            last: Instant::now(),
        })
    }

    /// The time since the start or the last lap is a sample of this stage.
    pub fn lap(&mut self, stage: Stage) -> candle::Result<()> {
        let before = self.last;
        self.skip()?;
        self.samples.push(stage, ms(self.last - before));
        Ok(())
    }

    /// The time since the start or the last lap is left out.
    pub fn skip(&mut self) -> candle::Result<()> {
        self.device.synchronize()?;
        self.last = Instant::now();
        Ok(())
    }

    /// When the last lap ended, or what was left out.
    pub fn last(&self) -> Instant {
        self.last
    }
}

/// The value in the middle.
pub fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    let n = sorted.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.,
    }
}

/// The least sample that at least 95 % do not exceed.
pub fn p95(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted
        .get(rank.wrapping_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

pub fn min(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Runs `work` and says how many bytes of the GPU were in use at most, if the GPU tells.
pub fn watching_memory<T>(device: &candle::Device, work: impl FnOnce() -> T) -> (T, Option<u64>) {
    if device::memory_in_use(device).is_none() {
        return (work(), None);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = None;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(device::memory_in_use(device));
                std::thread::sleep(LOOK);
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_those_of_the_sorted_samples() {
        assert_eq!(median(&[3., 1., 2.]), 2.);
        assert_eq!(median(&[4., 1., 2., 3.]), 2.5);
        assert_eq!(min(&[3., 1., 2.]), 1.);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(p95(&hundred), 95.);
        assert_eq!(p95(&[7.]), 7.);
        assert_eq!(p95(&[1., 2., 3., 9.]), 9.);
    }

    #[test]
    fn samples_keep_the_order_of_stages() {
        let mut samples = Samples::default();
        for run in [1., 2.] {
            samples.push("b", run);
            samples.push("a", 10. * run);
        }
        let all: Vec<_> = samples.iter().collect();
        assert_eq!(all, [("b", &[1., 2.][..]), ("a", &[10., 20.])]);
    }
}
