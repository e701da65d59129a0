//! The results as JSON and as a table to paste.

use std::fmt::Write;
use std::path::Path;

use candle_sam3::{LoadOptions, Model};
use serde::Serialize;

use super::machine::{Machine, Versions};
use super::measure::{Samples, median, min, p95};
use super::parity::Parity;
use super::picture::Picture;
use super::{BenchArgs, Measured};
use crate::summary::plural;

/// Of the JSON; a reader of another one should refuse.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
pub struct Report {
    schema: u32,
    pub engine: &'static str,
    pub model: String,
    /// File name, or "random".
    weights: String,
    machine: Machine,
    versions: Versions,
    dtype: String,
    precision: String,
    weight_format: String,
    image: Picture,
    prompts: usize,
    batch: usize,
    warmup: usize,
    iters: usize,
    /// Masks found in an image.
    objects: usize,
    /// Absent for random weights.
    load_ms: Option<f64>,
    /// From the beginning of loading.
    first_mask_ms: f64,
    images_per_second: f64,
    cost_per_hour: Option<f64>,
    cost_per_1000_images: Option<f64>,
    peak_host_bytes: Option<u64>,
    peak_device_bytes: Option<u64>,
    pub stages: Vec<StageTimes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
}

#[derive(Serialize)]
pub struct StageTimes {
    pub name: &'static str,
    pub median_ms: f64,
    p95_ms: f64,
    min_ms: f64,
    samples_ms: Vec<f64>,
}

impl Report {
    pub fn new(
        args: &BenchArgs,
        options: &LoadOptions,
        picture: Picture,
        model: &Model,
        load_ms: f64,
        measured: Measured,
        parity: Option<Parity>,
    ) -> Self {
        let is_random = args.random_weights.is_some();
        let stages = stages(&measured.samples);
        let total = stages.iter().find(|stage| stage.name == "total");
        let per_image = total.map_or(f64::NAN, |total| total.median_ms) / args.batch.get() as f64;
        Self {
            schema: SCHEMA,
            engine: "candle-sam3",
            model: model.name().to_string(),
            weights: match &args.random_weights {
                Some(_) => "random".into(),
                None => file_name(&args.model.model),
            },
            machine: Machine::new(&options.device),
            versions: Versions::new(),
            dtype: options.dtype.as_str().into(),
            precision: options.precision.to_string(),
            weight_format: model.weights().to_string(),
            image: picture,
            prompts: args.prompts.get(),
            batch: args.batch.get(),
            warmup: args.warmup,
            iters: args.iters.get(),
            objects: measured.objects,
            load_ms: (!is_random).then_some(load_ms),
            first_mask_ms: measured.first_mask_ms,
            images_per_second: 1e3 / per_image,
            cost_per_hour: args.cost_per_hour,
            // hours per image in thousands
            cost_per_1000_images: args.cost_per_hour.map(|cost| cost * per_image / 3600.),
            peak_host_bytes: measured.peak_host_bytes,
            peak_device_bytes: measured.peak_device_bytes,
            stages,
            parity,
        }
    }

    /// What was measured on what, the stages, and the rest, in Markdown.
    pub fn table(&self) -> String {
        let Machine {
            cpu,
            threads,
            device,
            ..
        } = &self.machine;
        let device = match device.as_str() {
            "CPU" => format!("{cpu}, {threads} threads"),
            gpu => gpu.to_string(),
        };
        let int8 = match self.weight_format.as_str() {
            "int8" => ", weights of 8 bits",
            _ => "",
        };
        let mut text = format!(
            "{} ({} weights), {} {}{int8}, {device}; image {} {} x {}, {} found, {} runs\n\n\
             | stage | median ms | p95 ms | min ms |\n|---|---:|---:|---:|\n",
            self.model,
            self.weights,
            self.dtype,
            self.precision,
            self.image.name,
            self.image.width,
            self.image.height,
            plural(self.objects, "mask"),
            self.iters
        );
        // Writing to a string cannot fail.
        for stage in &self.stages {
            let (name, depth) = title(stage.name);
            let indent = "&ensp;".repeat(depth);
            let times = [stage.median_ms, stage.p95_ms, stage.min_ms].map(three_digits);
            let _ = writeln!(text, "| {indent}{name} | {} |", times.join(" | "));
        }
        let batch = match self.batch {
            1 => String::new(),
            n => format!(" in batches of {n}"),
        };
        let _ = write!(
            text,
            "\n{} images per second{batch}, {} each",
            three_digits(self.images_per_second),
            plural(self.prompts, "prompt"),
        );
        if let Some(cost) = self.cost_per_1000_images {
            let _ = write!(text, "; {} per 1,000 images", three_digits(cost));
        }
        if let Some(ms) = self.load_ms {
            let _ = write!(
                text,
                "; load {} ms, first mask after {} ms",
                three_digits(ms),
                three_digits(self.first_mask_ms)
            );
        }
        let peaks = [
            ("host", self.peak_host_bytes),
            ("device", self.peak_device_bytes),
        ];
        for (kind, bytes) in peaks {
            if let Some(bytes) = bytes {
                let _ = write!(text, "; peak {kind} memory {:.2} GB", bytes as f64 / 1e9);
            }
        }
        text.push('\n');
        if let Some(parity) = &self.parity {
            let _ = writeln!(text, "against f32 on the CPU: {parity}");
        }
        text
    }
}

impl StageTimes {
    pub fn of(name: &'static str, samples_ms: &[f64]) -> Self {
        Self {
            name,
            median_ms: median(samples_ms),
            p95_ms: p95(samples_ms),
            min_ms: min(samples_ms),
            samples_ms: samples_ms.to_vec(),
        }
    }
}

fn stages(samples: &Samples) -> Vec<StageTimes> {
    let times = samples.iter().map(|(name, ms)| StageTimes::of(name, ms));
    let mut stages: Vec<StageTimes> = times.collect();
    stages.sort_by_key(|stage| ORDER.iter().position(|(name, ..)| *name == stage.name));
    stages
}

/// The stages in the order of the table, what they are called there, and how deep they lie within
/// the stage above.
const ORDER: &[(&str, &str, usize)] = &[
    ("decode_image", "decode image", 0),
    ("encode_image", "encode image", 0),
    ("preprocess", "preprocess", 1),
    ("trunk", "trunk", 1),
    ("neck", "neck", 1),
    ("shared", "first self-attention", 1),
    ("encode_text", "encode text", 0),
    ("fusion", "fusion", 0),
    ("decoder", "decoder", 0),
    ("masks", "masks", 0),
    ("postprocess", "postprocess", 0),
    ("total", "**all**", 0),
    ("click_embed", "neck for clicks", 0),
    ("click", "one click", 0),
    ("clicks_64", "64 clicks", 0),
    ("everything", "everything", 0),
    ("encode_frame", "encode a frame of a video", 0),
    ("track_1", "follow 1 object", 0),
    ("track_4", "follow 4 objects", 0),
    ("track_16", "follow 16 objects", 0),
];

/// What a stage is called in tables, and its depth.
pub fn title(stage: &str) -> (&str, usize) {
    let known = ORDER.iter().find(|(name, ..)| *name == stage);
    known.map_or((stage, 0), |(_, title, depth)| (title, *depth))
}

/// At least three significant digits, without an exponent.
pub fn three_digits(value: f64) -> String {
    match value {
        v if v >= 100. => format!("{v:.0}"),
        v if v >= 10. => format!("{v:.1}"),
        v if v >= 1. => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_in_the_order_of_the_table() {
        let mut samples = Samples::default();
        for name in ["total", "postprocess", "trunk", "decode_image"] {
            samples.push(name, 1.);
        }
        let names: Vec<_> = stages(&samples).iter().map(|stage| stage.name).collect();
        assert_eq!(names, ["decode_image", "trunk", "postprocess", "total"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, want) in [
            (12345.6, "12346"),
            (12.345, "12.3"),
            (1.2345, "1.23"),
            (0.01234, "0.012"),
        ] {
            assert_eq!(three_digits(value), want);
        }
    }
}
