//! `sam3 inspect`: what a weight file holds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_sam3::models::inspect::{Component, Inspection, Status, inspect};
use candle_sam3::weights::Checkpoint;
use serde_json::{Value, json};

use crate::printable::printable;
use crate::{model, progress};

#[derive(clap::Args)]
pub struct InspectArgs {
    /// Weight file, model folder, or `demo`
    #[arg(value_name = "FILE|DIR|demo")]
    file: PathBuf,

    /// A second file that supplies the geometry encoder, which Stage-3 files lack
    #[arg(long, value_name = "FILE")]
    geometry: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: InspectArgs) -> Result<()> {
    let checkpoint = model::open_with(&args.file, args.geometry.as_deref(), None)?;
    let found = Found {
        path: &args.file,
        inspection: inspect(&checkpoint),
        size: size(&checkpoint)?,
        dtypes: dtypes(&checkpoint),
        checkpoint: &checkpoint,
    };
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&found.json())?),
        false => printable(&found.text()),
    };
    progress::print(text)?;
    match found.inspection.problem {
        None => Ok(()),
        // The problem stands where the result was asked for.
        Some(_) => bail!("{} cannot be used as it is", args.file.display()),
    }
}

/// Bytes of all files; `None` for the built-in model.
fn size(checkpoint: &Checkpoint) -> Result<Option<u64>> {
    let files = checkpoint.files();
    let sizes = files.iter().map(|file| {
        let about = std::fs::metadata(file).with_context(|| file.display().to_string());
        Ok(about?.len())
    });
    let size = sizes.sum::<Result<u64>>()?;
    Ok((!files.is_empty()).then_some(size))
}

/// How many tensors have each element type.
fn dtypes(checkpoint: &Checkpoint) -> BTreeMap<String, usize> {
    let mut dtypes = BTreeMap::new();
    for tensor in checkpoint.stored() {
        *dtypes.entry(tensor.dtype).or_default() += 1;
    }
    dtypes
}

struct Found<'a> {
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    inspection: Inspection,
    size: Option<u64>,
    dtypes: BTreeMap<String, usize>,
}

impl Found<'_> {
    fn total(&self) -> (usize, usize, usize) {
        let components = &self.inspection.components;
        let sum = |of: fn(&Component) -> usize| components.iter().map(of).sum();
        (sum(|c| c.tensors), sum(|c| c.elements), sum(|c| c.bytes))
    }

    fn metadata(&self) -> BTreeMap<&str, &str> {
        let metadata = self.checkpoint.metadata().iter();
        metadata.map(|(key, value)| (&**key, &**value)).collect()
    }

    fn json(&self) -> Value {
        let inspection = &self.inspection;
        let (tensors, elements, bytes) = self.total();
        let components = inspection.components.iter().map(|component| {
            let mut entry = json!({
                "name": component.name,
                "tensors": component.tensors,
                "elements": component.elements,
                "bytes": component.bytes,
                "status": status(&component.status),
            });
            match &component.status {
                Status::Missing(names) => entry["missing"] = json!(names),
                Status::Unused(why) => entry["why"] = json!(why),
                _ => {}
            }
            entry
        });
        json!({
            "path": self.path.display().to_string(),
            "files": self.checkpoint.files(),
            "model": inspection.model,
            "family": inspection.family,
            "layout": self.checkpoint.layout().name,
            "prefix": self.checkpoint.prefix(),
            "prompts": inspection.prompts,
            "video": inspection.video,
            "problem": inspection.problem,
            "file_bytes": self.size,
            "tensors": tensors,
            "elements": elements,
            "bytes": bytes,
            "dtypes": self.dtypes,
            "metadata": self.metadata(),
            "components": components.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let inspection = &self.inspection;
        let model = inspection.model.as_deref().unwrap_or("no model known here");
        let (tensors, elements, bytes) = self.total();
        let size = megabytes(self.size.unwrap_or(bytes as u64));
        let dtypes: Vec<_> = self.dtypes.keys().map(String::as_str).collect();
        let mut text = format!("{}: {model}\n", self.path.display());
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:9} {value}"); // writing to a String never fails
        };
        line("layout", self.checkpoint.layout().name.to_string());
        match self.checkpoint.prefix() {
            "" => {}
            prefix => line(
                "prefix",
                format!("{prefix} before every name, left out here"),
            ),
        }
        let dtypes = dtypes.join(" and ");
        line("size", format!("{size}, {tensors} tensors, {dtypes}"));
        match &inspection.problem {
            None => {
                let prompts = inspection.prompts.iter().map(|kind| kind.name());
                let takes = prompts.chain(inspection.video.then_some("video"));
                line("takes", takes.collect::<Vec<_>>().join(", "));
            }
            Some(problem) => line("problem", problem.clone()),
        }
        for (key, value) in self.metadata() {
            let (key, value) = (shortened(key), shortened(value));
            line("metadata", format!("{key}: {value}"));
        }
        text.push('\n');
        text.push_str(&self.table((tensors, elements, bytes)));
        for component in &inspection.components {
            if let Status::Missing(names) = &component.status {
                let _ = writeln!(text, "\nmissing in the {}:", component.name);
                for name in names {
                    let _ = writeln!(text, "  {name}");
                }
            }
        }
        text
    }

    fn table(&self, (tensors, elements, bytes): (usize, usize, usize)) -> String {
        let mut text = format!(
            "{:<18} {:>7} {:>15} {:>12}  status\n",
            "component", "tensors", "parameters", "size"
        );
        let mut row = |name: &str, tensors: usize, elements: usize, bytes: usize, status: &str| {
            let line = format!(
                "{name:<18} {tensors:>7} {:>15} {:>12}  {status}",
                grouped(elements),
                megabytes(bytes as u64),
            );
            text.push_str(line.trim_end());
            text.push('\n');
        };
        for c in &self.inspection.components {
            let status = match &c.status {
                Status::Missing(names) => format!("{} missing", names.len()),
                Status::Unused(why) => format!("unused: {why}"),
                other => status(other).into(),
            };
            row(&c.name, c.tensors, c.elements, c.bytes, &status);
        }
        row("total", tensors, elements, bytes, "");
        text
    }
}

fn status(status: &Status) -> &'static str {
    match status {
        Status::Complete => "complete",
        Status::Missing(_) => "missing",
        Status::Video => "for video",
        Status::Unused(_) => "unused",
        _ => "unknown",
    }
}

/// 1234567 -> "1,234,567"
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In millions of bytes, as file managers count.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// The start of a long text, without what would move the cursor.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let numbers = [0, 999, 1000, 585_670_291].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "585,670,291"]);
    }
}
