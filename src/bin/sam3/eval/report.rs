//! Figures for people, and for the next run to compare with.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use candle_sam3::eval::Kind;
use candle_sam3::eval::average_precision::AveragePrecision;
use candle_sam3::eval::concept::ConceptFigures;
use serde::{Deserialize, Serialize};

/// Everything that was computed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The model that made the results, if one did.
    pub model: Option<String>,
    /// Images of the ground truth.
    pub images: usize,
    /// Images that could not be used, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ap: Vec<AveragePrecision>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concept: Vec<ConceptFigures>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub miou: Vec<Miou>,
}

/// The mean IoU of the objects of all images, crowds left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Miou {
    /// What the model was given: `box`, or a number of clicks.
    pub prompt: String,
    pub objects: usize,
    /// Of the mask that the model rates best; `None` without objects.
    pub best: Option<f64>,
    /// Of the best of the masks that the model offers.
    pub oracle: Option<f64>,
}

impl Report {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }

    /// What an image gave; why it gave nothing is noted.
    pub fn usable<T>(&mut self, found: Result<T, String>) -> Option<T> {
        found.map_err(|why| self.failed.push(why)).ok()
    }

    /// All figures; with those of an earlier run, how they changed.
    pub fn table(&self, earlier: Option<&Self>) -> String {
        let mut text = String::new();
        let nothing = Self::default();
        let earlier = earlier.unwrap_or(&nothing);
        for ap in &self.ap {
            let before = earlier.ap.iter().find(|other| other.kind == ap.kind);
            section(&mut text, name(ap.kind), ap, before, of_ap);
            categories(&mut text, ap);
        }
        for concept in &self.concept {
            let kind = concept.kind;
            let before = earlier.concept.iter().find(|other| other.kind == kind);
            let title = format!("{}, {} image-phrase pairs", name(kind), concept.pairs);
            section(&mut text, &title, concept, before, of_concept);
        }
        for miou in &self.miou {
            let prompt = &miou.prompt;
            let before = earlier.miou.iter().find(|other| other.prompt == *prompt);
            let title = format!("{prompt}, {} objects", miou.objects);
            section(&mut text, &title, miou, before, of_miou);
        }
        for failure in &self.failed {
            let _ = writeln!(text, "failed: {failure}");
        }
        text
    }
}

type Named = Vec<(&'static str, Option<f64>)>;

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mask => "masks",
        Kind::Box => "boxes",
        Kind::Boundary => "boundaries",
    }
}

fn of_ap(ap: &AveragePrecision) -> Named {
    let f = &ap.all;
    vec![
        ("AP", f.ap),
        ("AP50", f.ap50),
        ("AP75", f.ap75),
        ("AP small", f.ap_small),
        ("AP medium", f.ap_medium),
        ("AP large", f.ap_large),
        ("AR 1", f.ar_1),
        ("AR 10", f.ar_10),
        ("AR 100", f.ar_100),
        ("AR small", f.ar_small),
        ("AR medium", f.ar_medium),
        ("AR large", f.ar_large),
    ]
}

fn of_concept(f: &ConceptFigures) -> Named {
    vec![
        ("cgF1", Some(f.cg_f1)),
        ("pmF1", Some(f.pm_f1)),
        ("IL_MCC", Some(f.il_mcc)),
        ("cgF1 at 50", Some(f.cg_f1_at_50)),
        ("cgF1 at 75", Some(f.cg_f1_at_75)),
        ("macro F1", f.macro_f1),
        ("precision", Some(f.precision)),
        ("recall", Some(f.recall)),
        ("F1", Some(f.f1)),
        ("found, there", Some(f.il_true_positives as f64)),
        ("found, not there", Some(f.il_false_positives as f64)),
        ("missed", Some(f.il_false_negatives as f64)),
        ("rightly nothing", Some(f.il_true_negatives as f64)),
    ]
}

fn of_miou(miou: &Miou) -> Named {
    vec![("mIoU", miou.best), ("mIoU, best of all", miou.oracle)]
}

fn section<T>(text: &mut String, title: &str, of: &T, before: Option<&T>, named: fn(&T) -> Named) {
    // Writing to memory does not fail.
    let _ = writeln!(text, "{title}");
    let before = before.map(named).unwrap_or_default();
    for (i, (name, value)) in named(of).into_iter().enumerate() {
        let change = value.zip(before.get(i).and_then(|(_, before)| *before));
        let change = change.map_or(String::new(), |(now, then)| format!("  {:+.4}", now - then));
        let _ = writeln!(text, "  {name:<18} {}{change}", figure(value));
    }
}

/// Four decimals; counts as they are.
fn figure(value: Option<f64>) -> String {
    match value {
        None => "     -".to_string(),
        Some(count) if count > 1.0 => format!("{count:>6}"),
        Some(value) => format!("{value:.4}"),
    }
}

fn categories(text: &mut String, ap: &AveragePrecision) {
    let widths = ap.categories.iter().map(|c| c.name.chars().count());
    let width = widths.max().unwrap_or(0).max(8);
    let _ = writeln!(
        text,
        "  {:<width$}  objects  results      AP    AP50  AR 100",
        "category"
    );
    for category in &ap.categories {
        let f = &category.figures;
        let _ = writeln!(
            text,
            "  {:<width$}  {:>7}  {:>7}  {}  {}  {}",
            category.name,
            category.truths,
            category.results,
            figure(f.ap),
            figure(f.ap50),
            figure(f.ar_100),
        );
    }
}
