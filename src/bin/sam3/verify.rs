//! `sam3 verify`: a model against a recorded run of the official code.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_sam3::Model;
use candle_sam3::models::variant::PromptKind;
use candle_sam3::predict::verify::{Check, Figures, Limit, Reference, Tolerances, verify};
use serde_json::{Value, json};

use crate::model::{self, ModelArgs};

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

pub fn run(args: VerifyArgs, quiet: bool) -> Result<()> {
    let reference = Reference::open(&args.reference)?;
    let mut stdout = std::io::stdout();
    let mut printed = Ok(());
    let mut checks: Vec<Check> = vec![];
    let model = {
        let mut report = |check: Check| {
            match args.json {
                false if printed.is_ok() => {
                    let header = if checks.is_empty() { HEADER } else { "" };
                    printed = writeln!(stdout, "{header}{}", line(&check));
                }
                true if !quiet => crate::progress::say(&check.stage),
                _ => {}
            }
            checks.push(check);
        };
        let prompts = match reference.has_clicks() {
            false => PromptKind::Text,
            true => PromptKind::Clicks,
        };
        let model = model::load(&args.model, prompts)?;
        let dtype = args.model.dtype.into();
        let tolerances = Tolerances::of(dtype, args.model.precision, model.weights());
        verify(&model, &reference, &tolerances, &mut report)?;
        model
    };
    let name = model.name();
    let failed = checks.iter().filter(|check| !check.passes()).count();
    let unread = reference.unread();
    let summary = match args.json {
        true => writeln!(stdout, "{}", document(&args, &model, &checks, &unread)),
        false => {
            let passed = checks.len() - failed;
            let also = match unread[..] {
                [] => String::new(),
                _ => format!("; not compared: {}", unread.join(", ")),
            };
            writeln!(stdout, "{name}: {passed} of {} pass{also}", checks.len())
        }
    };
    printed.and(summary).context("cannot write to stdout")?;
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
        "dtype": format!("{:?}", candle_sam3::DType::from(args.model.dtype)).to_lowercase(),
        "precision": args.model.precision.to_string(),
        "weights": model.weights().to_string(),
        "passes": checks.iter().all(Check::passes),
        "not_compared": unread,
        "checks": checks.iter().map(entry).collect::<Vec<_>>(),
    })
}
