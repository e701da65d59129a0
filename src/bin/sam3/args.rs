//! What a user can type.

use std::path::PathBuf;

use candle_sam3::device::DeviceKind;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::output::Format;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

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
    /// Find every object that a text or an example box means
    ///
    /// Examples:
    ///   sam3 segment photo.jpg --text wheel -m sam3.pt
    ///   sam3 segment photo.jpg --text "a dog, a red ball" -m sam3.pt -o found
    ///   sam3 segment photo.jpg --exemplar 40,60,120,180 -m sam3.pt --format json
    #[command(verbatim_doc_comment)]
    Segment(SegmentArgs),
}

#[derive(Args)]
pub struct SegmentArgs {
    /// Image to look at: JPEG, PNG, WebP, GIF, BMP, TIFF or PNM
    pub image: PathBuf,

    /// What to look for; a comma separates prompts, and the flag may be repeated
    #[arg(short, long = "text", value_name = "TEXT", help_heading = "Prompts")]
    pub texts: Vec<String>,

    /// Box around an object that is meant, in pixels; joins every text
    #[arg(
        long = "exemplar",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true,
        help_heading = "Prompts"
    )]
    pub exemplars: Vec<BoxXyxy>,

    /// Box around an object that is not meant
    #[arg(
        long = "not-exemplar",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true,
        help_heading = "Prompts"
    )]
    pub not_exemplars: Vec<BoxXyxy>,

    /// Keep objects that score higher than this
    #[arg(
        long,
        default_value_t = 0.5,
        value_name = "0..1",
        value_parser = parse_fraction,
        allow_hyphen_values = true,
        help_heading = "Selection"
    )]
    pub threshold: f32,

    /// Drop an object whose mask overlaps a better one's by more than this IoU
    #[arg(
        long,
        value_name = "IOU",
        value_parser = parse_fraction,
        allow_hyphen_values = true,
        help_heading = "Selection"
    )]
    pub nms: Option<f32>,

    /// Let --nms also compare objects of different prompts
    #[arg(long, requires = "nms", help_heading = "Selection")]
    pub nms_across: bool,

    /// Keep at most this many objects per prompt, the best ones
    #[arg(long = "max", value_name = "N", help_heading = "Selection")]
    pub max_instances: Option<usize>,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Folder for the results (default: the current one); - prints one JSON document
    #[arg(short, long, value_name = "DIR|-", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Any of overlay, masks, json; json alone goes to stdout unless -o names a folder
    #[arg(
        long = "format",
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "overlay",
        help_heading = "Output"
    )]
    pub formats: Vec<Format>,

    /// Also write every stage's tensors to this safetensors file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Checkpoint file, model folder, or `demo` for the built-in model of coloured shapes
    #[arg(short, long, default_value = "demo", value_name = "FILE|DIR|demo")]
    pub model: PathBuf,

    /// A second file that supplies the geometry encoder, which Stage-3 files lack
    #[arg(long, value_name = "FILE")]
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

    /// CPU threads; all cores by default
    #[arg(long, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

fn parse_box(text: &str) -> Result<BoxXyxy, String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([x0, y0, x1, y1]) => Ok(BoxXyxy {
            x0: *x0,
            y0: *y0,
            x1: *x1,
            y1: *y1,
        }),
        _ => Err("give four numbers in pixels: x0,y0,x1,y1".into()),
    }
}

fn parse_fraction(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0. ..=1.).contains(&value) => Ok(value),
        _ => Err("give a number in 0..1".into()),
    }
}
