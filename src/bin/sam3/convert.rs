//! `sam3 convert`: any weights this program reads -> safetensors under official names.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_sam3::models::inspect::{DeadParts, inspect};
use candle_sam3::models::int8::is_int8;
use candle_sam3::weights::WriteOptions;
use candle_sam3::{DType, WeightFormat};

use crate::inspect::megabytes;
use crate::model::{self, dtypes};
use crate::progress;

#[derive(clap::Args)]
pub struct ConvertArgs {
    /// Weight file or model folder
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The safetensors file to write
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,

    /// Number format of the new file; by default every tensor keeps its own
    #[arg(long, value_parser = dtypes())]
    dtype: Option<DType>,

    /// int8: hold the weights of the large layers in 8 bits, with a scale for each output channel; for
    /// the CPU in f32
    #[arg(long, default_value_t, value_name = "FORMAT")]
    weights: WeightFormat,

    /// Leave out what no prompt will ever read; what video needs stays
    #[arg(long)]
    prune: bool,

    /// A second file that supplies the geometry encoder, which Stage-3 files lack
    #[arg(long, value_name = "FILE")]
    geometry: Option<PathBuf>,

    /// Replace OUT.safetensors if it is there, and write it even if no model could be loaded from it
    #[arg(long)]
    force: bool,
}

pub fn run(args: ConvertArgs) -> Result<()> {
    let output = args.output.as_path();
    let shown = output.display();
    if output
        .extension()
        .is_none_or(|ending| ending != "safetensors")
    {
        bail!("{shown}: the new file is safetensors, so its name must end in .safetensors");
    }
    let checkpoint = model::open_with(&args.input, args.geometry.as_deref(), None)?;
    let dead = DeadParts::of(&checkpoint)?;
    if output.exists() && !args.force {
        bail!("{shown} is there already; --force replaces it");
    }
    if let Some(problem) = inspect(&checkpoint).problem {
        let input = args.input.display();
        if !args.force {
            bail!("{input}: {problem}\n{shown} would be no better; --force writes it all the same");
        }
        progress::complain(&format!("warning: {input}: {problem}"));
    }

    let checkpoint = match args.weights {
        WeightFormat::Int8 => checkpoint.quantized(is_int8),
        _ => checkpoint,
    };
    let bar = progress::file();
    let keep = |name: &str| !args.prune || !dead.contains(name);
    let options = WriteOptions {
        dtype: args.dtype,
        replace: args.force,
    };
    let written = checkpoint.write(output, &options, keep, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let written = written?;
    let (tensors, size) = (written.tensors, megabytes(written.bytes));
    progress::say(&format!("wrote {shown}: {tensors} tensors, {size}"));
    Ok(())
}
