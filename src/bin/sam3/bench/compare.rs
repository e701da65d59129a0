//! Results beside earlier ones, of this program or of a peer.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report::{Report, SCHEMA, StageTimes, three_digits, title};
use crate::progress;

/// Stages below this many milliseconds are noise, and fail no comparison.
const NOISE_MS: f64 = 1.;

/// What a comparison needs of a file of results.
#[derive(Deserialize)]
pub struct Earlier {
    schema: u32,
    engine: String,
    model: String,
    stages: Vec<EarlierStage>,
}

#[derive(Deserialize)]
struct EarlierStage {
    name: String,
    median_ms: f64,
}

/// Reads a file of results.
pub fn read(path: &Path) -> Result<Earlier> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let earlier: Earlier = serde_json::from_str(&text)
        .with_context(|| format!("{}: not results of `sam3 bench --json`", path.display()))?;
    if earlier.schema != SCHEMA {
        bail!(
            "{}: results of schema {}; this program reads {SCHEMA}",
            path.display(),
            earlier.schema
        );
    }
    Ok(earlier)
}

/// Prints both side by side; fails if a stage takes more than `tolerance` times as long as before.
pub fn compare(report: &Report, earlier: &Earlier, tolerance: Option<f64>) -> Result<()> {
    if report.model != earlier.model {
        let earlier = &earlier.model;
        progress::complain(&format!("warning: the earlier results are of {earlier}"));
    }
    let table = table(report.engine, &report.stages, earlier);
    progress::print(format!("\n{table}"))?;
    let Some(tolerance) = tolerance else {
        return Ok(());
    };
    match &slower(&report.stages, earlier, tolerance)[..] {
        [] => Ok(()),
        slower => bail!(
            "slower than --tolerance {tolerance} allows: {}",
            slower.join(", ")
        ),
    }
}

fn table(engine: &str, stages: &[StageTimes], earlier: &Earlier) -> String {
    let mut text = format!(
        "| stage | {engine} ms | {} ms | ratio |\n|---|---:|---:|---:|\n",
        match earlier.engine.as_str() {
            same if same == engine => "earlier",
            other => other,
        }
    );
    for (stage, before) in pairs(stages, earlier) {
        let (name, depth) = title(stage.name);
        text += &format!(
            "| {}{name} | {} | {} | {:.2} |\n",
            "&ensp;".repeat(depth),
            three_digits(stage.median_ms),
            three_digits(before),
            stage.median_ms / before
        );
    }
    text
}

/// "trunk 1.32", for each stage over the limit.
fn slower(stages: &[StageTimes], earlier: &Earlier, tolerance: f64) -> Vec<String> {
    pairs(stages, earlier)
        .filter(|(stage, before)| stage.median_ms > before.max(NOISE_MS) * tolerance)
        .map(|(stage, before)| format!("{} {:.2}", stage.name, stage.median_ms / before))
        .collect()
}

/// The stages that both have, with the earlier milliseconds.
fn pairs<'a>(
    stages: &'a [StageTimes],
    earlier: &'a Earlier,
) -> impl Iterator<Item = (&'a StageTimes, f64)> {
    stages.iter().filter_map(|stage| {
        let before = earlier
            .stages
            .iter()
            .find(|other| other.name == stage.name)?;
        Some((stage, before.median_ms))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &'static str, median_ms: f64) -> StageTimes {
        StageTimes::of(name, &[median_ms])
    }

    fn earlier() -> Earlier {
        let json = r#"{"schema": 1, "engine": "PyTorch 2", "model": "m", "more": 1, "stages": [
            {"name": "trunk", "median_ms": 10.0, "samples_ms": [10.0]},
            {"name": "postprocess", "median_ms": 0.1},
            {"name": "theirs", "median_ms": 1.0}]}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_slower_stage_is_named_and_noise_is_not() {
        let stages = [
            stage("trunk", 11.5),
            stage("postprocess", 0.9),
            stage("neck", 9.),
        ];
        assert_eq!(slower(&stages, &earlier(), 1.1), ["trunk 1.15"]);
        assert!(slower(&stages, &earlier(), 1.2).is_empty());
        let stages = [stage("postprocess", 1.2)];
        assert_eq!(slower(&stages, &earlier(), 1.1).len(), 1);
    }

    #[test]
    fn the_table_has_the_stages_of_both() {
        let stages = [stage("trunk", 5.), stage("neck", 9.)];
        let table = table("candle-sam3", &stages, &earlier());
        assert!(table.contains("| PyTorch 2 ms |"), "{table}");
        assert!(table.contains("trunk | 5.00 | 10.0 | 0.50 |"), "{table}");
        assert!(
            !table.contains("neck") && !table.contains("theirs"),
            "{table}"
        );
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::fs::write(
            &path,
            r#"{"schema": 9, "engine": "", "model": "", "stages": []}"#,
        )
        .unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains("schema 9"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        assert!(
            read(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("not results")
        );
    }
}
