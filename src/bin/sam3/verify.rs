//! `sam3 verify`: a model against a recorded run of the official code.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_sam3::Model;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::predict::verify::{Check, Figures, Limit, Reference, Tolerances, verify};
use serde_json::{Value, json};

use crate::model::{self, ModelArgs};
use crate::progress;

#[derive(clap::Args)]
pub struct VerifyArgs {
    /// Recorded run of the official code, see tools/reference
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: VerifyArgs) -> Result<()> {
    let reference = Reference::open(&args.reference)?;
    let prompts = match reference.has_clicks() {
        false => PromptKind::Text,
        true => PromptKind::Clicks,
    };
    let model = model::load(&args.model, prompts)?;
    let tolerances = Tolerances::of(args.model.dtype, args.model.precision, model.weights());
    let mut printed = Ok(());
    let mut checks: Vec<Check> = vec![];
    verify(&model, &reference, &tolerances, &mut |check: Check| {
        if args.json {
            progress::say(&check.stage);
        } else if printed.is_ok() {
            let header = if checks.is_empty() { HEADER } else { "" };
            printed = progress::print(format!("{header}{}\n", line(&check)));
        }
        checks.push(check);
    })?;
    printed?;
    let failed = checks.iter().filter(|check| !check.passes()).count();
    let unread = reference.unread();
    let summary = match args.json {
        true => document(&args, &model, &checks, &unread).to_string(),
        false => {
            let (name, passed) = (model.name(), checks.len() - failed);
            let also = match unread[..] {
                [] => String::new(),
                _ => format!("; not compared: {}", unread.join(", ")),
            };
            format!("{name}: {passed} of {} pass{also}", checks.len())
        }
    };
    progress::print(summary + "\n")?;
    match failed {
        0 => Ok(()),
        _ => bail!(
            "{failed} of {} comparisons are beyond their limits",
            checks.len()
        ),
    }
}

const HEADER: &str =
    "stage                                  max  relative    cosine  limit                result\n";

fn line(check: &Check) -> String {
    let Figures {
        max_error,
        relative_error,
        cosine,
        mask_iou,
    } = check.figures;
    let figures = match mask_iou {
        None => format!("{max_error:>9.1e} {relative_error:>9.1e} {cosine:>9.6}"),
        Some(iou) => format!("{:>29}", format!("worst IoU {iou:.6}")),
    };
    format!(
        "{:<32} {figures}  {:<20} {}",
        check.stage,
        limit(check.limit),
        if check.passes() { "pass" } else { "FAIL" }
    )
}

fn limit(limit: Limit) -> String {
    match limit {
        Limit::Relative(x) => format!("relative <= {x:.0e}"),
        Limit::Cosine(x) => format!("cosine >= {x}"),
        Limit::Difference(x) => format!("max <= {x:.2e}"),
        Limit::MaskIou(x) => format!("IoU >= {x}"),
    }
}

fn document(args: &VerifyArgs, model: &Model, checks: &[Check], unread: &[&str]) -> Value {
    let entry = |check: &Check| {
        let figures = check.figures;
        let mut entry = json!({
            "stage": check.stage,
            "limit": limit(check.limit),
            "passes": check.passes(),
        });
        match figures.mask_iou {
            Some(iou) => entry["worst_mask_iou"] = json!(iou),
            None => {
                entry["max_error"] = json!(figures.max_error);
                entry["relative_error"] = json!(figures.relative_error);
                entry["cosine"] = json!(figures.cosine);
            }
        }
        entry
    };
    json!({
        "model": model.name(),
        "reference": args.reference.display().to_string(),
        "device": args.model.device[0].to_string(),
        "dtype": args.model.dtype.as_str(),
        "precision": args.model.precision.to_string(),
        "weights": model.weights().to_string(),
        "passes": checks.iter().all(Check::passes),
        "not_compared": unread,
        "checks": checks.iter().map(entry).collect::<Vec<_>>(),
    })
}
