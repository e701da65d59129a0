//! Stage times from the library's `tracing` spans.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_sam3::Device;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Subscriber, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::measure::{Clock, Stage, ms};

/// The target of the library's spans around the stages of a network.
const TARGET: &str = "candle_sam3::stage";

/// Runs `work` and sums the milliseconds that each stage took, in the order in which they first
/// ended.
pub fn timed<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Vec<(Stage, f64)>) {
    let sums = Arc::new(Mutex::new(vec![]));
    let layer = StageTimes {
        device: device.clone(),
        sums: sums.clone(),
    };
    let done = subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    let sums = std::mem::take(&mut *sums.lock().unwrap_or_else(|e| e.into_inner()));
    (done, sums)
}

/// Runs `work` and takes samples of its stages.
pub fn sampled<T>(clock: &mut Clock, work: impl FnOnce() -> T) -> T {
    let (done, stages) = timed(clock.device, work);
    clock.samples.extend(stages);
    done
}

struct StageTimes {
    device: Device,
    sums: Arc<Mutex<Vec<(Stage, f64)>>>,
}

/// What a span of the library carries while it is open.
struct Running {
    stage: Stage,
    since: Instant,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for StageTimes {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != TARGET {
            return;
        }
        let mut name = Name(None);
        attributes.record(&mut name);
        if let (Some(stage), Some(span)) = (name.0, context.span(id)) {
            let since = Instant::now();
            span.extensions_mut().insert(Running { stage, since });
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let extensions = span.extensions();
        let Some(running) = extensions.get::<Running>() else {
            return;
        };
        // A GPU is asked to finish first. If it fails here, so does the next operation, which
        // reports it.
        let _ = self.device.synchronize();
        let elapsed = ms(running.since.elapsed());
        let mut sums = self.sums.lock().unwrap_or_else(|e| e.into_inner());
        match sums.iter_mut().find(|(stage, _)| *stage == running.stage) {
            Some((_, sum)) => *sum += elapsed,
            None => sums.push((running.stage, elapsed)),
        }
    }
}

/// The row of the report that a span counts towards.
struct Name(Option<Stage>);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = match value {
                "preprocess" => Some("preprocess"),
                "trunk" => Some("trunk"),
                "neck" => Some("neck"),
                // The first self-attention, which no prompt touches.
                "prepare" => Some("shared"),
                "geometry" | "fusion" => Some("fusion"),
                "decoder" | "scoring" => Some("decoder"),
                "pixels" | "masks" => Some("masks"),
                "enlarge" => Some("postprocess"),
                _ => None,
            };
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
