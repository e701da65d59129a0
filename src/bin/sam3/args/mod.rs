//! What a user can type.

mod everything;
mod segment;
mod track;

use std::path::PathBuf;

use candle_sam3::Precision;
use candle_sam3::device::DeviceKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub use everything::{EverythingArgs, EverythingFormat, GeneratorArgs};
pub use segment::{ClickArgs, SegmentArgs};
pub use track::{TrackArgs, TrackFormat};

/// Promptable segmentation with SAM 3, EfficientSAM3 and SAM3-LiteText
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Say more about what happens; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Subcommand)]
pub enum Command {
    /// Find every object that a text or an example box means, or the one that is clicked
    ///
    /// Examples:
    ///   sam3 segment photo.jpg --text wheel -m sam3.pt
    ///   sam3 segment photo.jpg --text "a dog, a red ball" -m sam3.pt -o found
    ///   sam3 segment photo.jpg --exemplar 40,60,120,180 -m sam3.pt --format json
    ///   sam3 segment photo.jpg --point 320,180 --point 300,60,0 -m sam_vit_b_01ec64.pth
    ///   sam3 segment photo.jpg --box 40,60,120,180 --box 200,60,280,180 -m mobile_sam.pt
    #[command(verbatim_doc_comment)]
    Segment(Box<SegmentArgs>),

    /// Find everything, without a prompt
    ///
    /// Examples:
    ///   sam3 everything photo.jpg -m mobile_sam.pt
    ///   sam3 everything photo.jpg -m mobile_sam.pt --points-per-side 16 --format coco
    ///   sam3 everything photo.jpg -m sam3.pt --crop-n-layers 1 --min-mask-region-area 100
    #[command(verbatim_doc_comment)]
    Everything(Box<EverythingArgs>),

    /// Follow objects through a video
    ///
    /// Examples:
    ///   sam3 track clip.mp4 --text "red car" -m sam3.pt
    ///   sam3 track frames/ --point 0:320,180 -m sam3.pt --formats jsonl,davis
    ///   sam3 track clip.gif --box 1@0:40,60,120,180 --point 2@12:300,60 -m sam3.pt -o tracked
    ///   sam3 track clip.gif --point 0:64,40 --simple
    #[command(verbatim_doc_comment)]
    Track(Box<TrackArgs>),

    /// List the models that `-m` knows by name, and download them
    ///
    /// Examples:
    ///   sam3 models
    ///   sam3 models fetch mobile-sam sam3-litetext-s0
    #[command(verbatim_doc_comment)]
    Models(crate::models::Args),

    /// Tell what a weight file holds, part by part, and whether it can be used
    Inspect(crate::inspect::Args),

    /// Write weights as safetensors under official names
    ///
    /// Examples:
    ///   sam3 convert sam3.pt sam3.safetensors --dtype bf16
    ///   sam3 convert efficient_sam3.pth small.safetensors --prune
    ///   sam3 convert stage3.pt whole.safetensors --geometry sam3.pt
    #[command(verbatim_doc_comment)]
    Convert(crate::convert::Args),

    /// Measure how fast a model runs on this machine, stage by stage
    ///
    /// Examples:
    ///   sam3 bench --random-weights efficientsam3-rv-m
    ///   sam3 bench --random-weights sam3 --device cuda --dtype bf16 --json before.json
    ///   sam3 bench -m sam3.pt --image photo.jpg --compare before.json --tolerance 1.1
    #[command(verbatim_doc_comment)]
    Bench(Box<crate::bench::Args>),

    /// Compare a model with a recorded run of the official code, stage by stage
    ///
    /// Examples:
    ///   sam3 verify -m sam3.pt --reference sam3.reference.safetensors
    ///   sam3 verify -m sam3.pt --reference sam3.reference.safetensors --device cuda --dtype bf16
    #[command(verbatim_doc_comment)]
    Verify(Box<crate::verify::Args>),
}

impl Command {
    /// The number of threads that was asked for.
    pub fn threads(&self) -> Option<u16> {
        let model = match self {
            Self::Segment(args) => &args.model,
            Self::Everything(args) => &args.model,
            Self::Track(args) => &args.model,
            Self::Bench(args) => &args.model,
            Self::Verify(args) => &args.model,
            Self::Models(_) | Self::Inspect(_) | Self::Convert(_) => return None,
        };
        model.threads
    }
}

#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Name from `sam3 models`, downloaded on first use; checkpoint file; model folder; or `demo`
    /// for the built-in model of coloured shapes
    #[arg(short, long, default_value = "demo", value_name = "NAME|FILE|DIR")]
    pub model: PathBuf,

    /// A second model that supplies the geometry encoder, which Stage-3 files may lack
    #[arg(long, value_name = "NAME|FILE")]
    pub geometry: Option<PathBuf>,

    /// Tokens per text, for a student whose positional table is longer than its training
    #[arg(long, value_name = "N")]
    pub context_length: Option<usize>,

    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub device: DeviceKind,

    /// Number format of the computation
    #[arg(long, default_value = "f32")]
    pub dtype: Dtype,

    /// highest: f32 throughout; high: the fastest within 5e-4 per stage; medium: products of bf16.
    /// For f32 on the CPU
    #[arg(long, default_value_t, value_name = "PRECISION")]
    pub precision: Precision,

    /// CPU threads; all cores by default
    // More than any machine has would end in an abort of the process.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for candle_sam3::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
