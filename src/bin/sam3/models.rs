//! `sam3 models`: which models there are, what they can do, and which are here.

use std::path::PathBuf;

use anyhow::Result;
use candle_sam3::models::variant::{self, Release};
use clap::Subcommand;
use serde::Serialize;

use crate::hub::{self, Settings};
use crate::{names, progress};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    action: Option<Action>,

    /// Print everything known of each model as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Download models into the Hugging Face cache, and print where they are
    Fetch {
        /// Names from `sam3 models`
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// A line of the JSON document.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    release: &'a Release,
    /// Where the file is, if it is in the cache.
    cached: Option<PathBuf>,
    /// Whether revision, size and checksum are known, so that no other file is taken for it.
    pinned: bool,
}

pub fn run(args: ModelsArgs) -> Result<()> {
    let settings = Settings::from_env()?;
    match args.action {
        Some(Action::Fetch { names }) => fetch(&settings, &names),
        None => {
            let releases = variant::releases().iter();
            let entries = releases.map(|release| Entry {
                release,
                cached: hub::cached(&settings, release),
                pinned: hub::is_pinned(release),
            });
            let entries: Vec<Entry> = entries.collect();
            let text = match args.json {
                true => serde_json::to_string_pretty(&entries)?,
                false => table(&entries),
            };
            progress::print(text + "\n")
        }
    }
}

fn fetch(settings: &Settings, names: &[String]) -> Result<()> {
    // all names are checked before the first download
    let releases: Result<Vec<&Release>> = names.iter().map(|name| names::find(name)).collect();
    for release in releases? {
        let path = hub::fetch(settings, release)?;
        progress::print(format!("{}\n", path.display()))?;
    }
    Ok(())
}

/// One line for each model, columns as wide as their longest cell.
fn table(entries: &[Entry]) -> String {
    let header = [
        "MODEL", "HERE", "SIZE", "PINNED", "TAKES", "ENCODERS", "LICENSE",
    ];
    let header = header.map(String::from);
    let demo = [
        names::DEMO,
        "built in",
        "9 MB",
        "yes",
        "text exemplars clicks everything video",
        "of colored shapes",
        "MIT or Apache-2.0",
    ]
    .map(String::from);
    let mut rows = vec![header, demo];
    rows.extend(entries.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..7).filter_map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line.trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(entry: &Entry) -> [String; 7] {
    let Entry {
        release,
        cached,
        pinned,
    } = entry;
    let mut takes: Vec<&str> = release.prompts.iter().map(|kind| kind.name()).collect();
    if release.video {
        takes.push("video");
    }
    let encoders = match release.text_encoder {
        Some(text) => format!("{} + {text}", release.image_encoder),
        None => release.image_encoder.into(),
    };
    let here = match cached {
        Some(_) => "cached",
        None if release.gated => "gated",
        None => "",
    };
    [
        release.name.clone(),
        here.into(),
        release.size_in_words(),
        if *pinned { "yes" } else { "no" }.into(),
        takes.join(" "),
        encoders,
        release.license.clone(),
    ]
}
