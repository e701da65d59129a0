//! What a user can type.

use std::path::PathBuf;

use candle_sam3::Precision;
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

    #[command(flatten)]
    pub clicks: ClickArgs,

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

/// What a click may not be mixed with.
const OF_TEXTS: [&str; 7] = [
    "texts",
    "exemplars",
    "not_exemplars",
    "threshold",
    "nms",
    "max_instances",
    "trace",
];

#[derive(Args)]
#[command(next_help_heading = "Clicks")]
pub struct ClickArgs {
    /// Point on the object, or beside it with a third number 0; all points mean one object
    #[arg(
        long = "point",
        value_name = "X,Y[,0|1]",
        value_parser = parse_point,
        allow_hyphen_values = true,
        conflicts_with_all = OF_TEXTS
    )]
    pub points: Vec<([f32; 2], u8)>,

    /// Box of one object, in pixels; each further box means a further object
    #[arg(
        long = "box",
        value_name = "X0,Y0,X1,Y1",
        value_parser = parse_box,
        allow_hyphen_values = true,
        conflicts_with_all = OF_TEXTS
    )]
    pub boxes: Vec<BoxXyxy>,

    /// Start from a mask, best together with a point or a box: a picture of the image's size, white
    /// on the object, or the .safetensors file that --logits wrote for the same image and model
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_TEXTS)]
    pub mask: Option<PathBuf>,

    /// Give all three masks of each prompt; otherwise one, for nothing but a point the best of three
    #[arg(long, conflicts_with_all = OF_TEXTS)]
    pub multimask: bool,

    /// Also write the low-resolution logits of each best mask to this safetensors file
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_TEXTS)]
    pub logits: Option<PathBuf>,
}

impl ClickArgs {
    /// Whether an object is clicked rather than named.
    pub fn is_asked_for(&self) -> bool {
        !self.points.is_empty()
            || !self.boxes.is_empty()
            || self.mask.is_some()
            || self.multimask
            || self.logits.is_some()
    }
}

#[derive(Args)]
pub struct EverythingArgs {
    /// Image to look at: JPEG, PNG, WebP, GIF, BMP, TIFF or PNM
    pub image: PathBuf,

    #[command(flatten)]
    pub generator: GeneratorArgs,

    #[command(flatten)]
    pub model: ModelArgs,

    /// Folder for the results (default: the current one); - prints one JSON document
    #[arg(short, long, value_name = "DIR|-", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Any of overlay, masks, json, and the original's folder (PNGs and metadata.csv) and coco
    /// (list of records); json alone goes to stdout unless -o names a folder
    #[arg(
        long = "format",
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "overlay",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    pub formats: Vec<EverythingFormat>,
}

/// The original's flags; the defaults are its too.
#[derive(Args)]
#[command(next_help_heading = "Mask generator")]
pub struct GeneratorArgs {
    /// Points along one side of the grid that prompts the model
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub points_per_side: usize,

    /// Points decoded at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub points_per_batch: usize,

    /// Keep masks of a higher predicted IoU than this; 0 keeps all
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.88,
        allow_hyphen_values = true
    )]
    pub pred_iou_thresh: f64,

    /// Keep masks of at least this stability; 0 keeps all
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.95,
        allow_hyphen_values = true
    )]
    pub stability_score_thresh: f64,

    /// How far the cut through the logits is moved to measure stability
    #[arg(
        long,
        value_name = "LOGIT",
        default_value_t = 1.0,
        allow_hyphen_values = true
    )]
    pub stability_score_offset: f64,

    /// Drop a mask whose box overlaps a better one's by more than this IoU
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.7,
        allow_hyphen_values = true
    )]
    pub box_nms_thresh: f64,

    /// Also look at crops of the image, 4 in the first layer, 16 in the second
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub crop_n_layers: usize,

    /// Drop a mask whose box overlaps one of a smaller crop by more than this IoU
    #[arg(
        long,
        value_name = "0..1",
        default_value_t = 0.7,
        allow_hyphen_values = true
    )]
    pub crop_nms_thresh: f64,

    /// How much crops overlap, as a fraction of the short side [default: 512/1500]
    #[arg(long, value_name = "0..1", allow_hyphen_values = true)]
    pub crop_overlap_ratio: Option<f64>,

    /// Divides the points along a side once for each layer of crops
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub crop_n_points_downscale_factor: usize,

    /// Fill holes and remove islands of fewer pixels than this
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    pub min_mask_region_area: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum EverythingFormat {
    Overlay,
    Masks,
    Json,
    Folder,
    Coco,
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

    /// strict: f32 throughout; exact: the fastest within 5e-4 per stage; fast: products of bf16.
    /// On the CPU in f32
    #[arg(long, default_value_t, value_name = "PRECISION")]
    pub precision: Precision,

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

impl From<Dtype> for candle_sam3::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::BF16,
        }
    }
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

fn parse_point(text: &str) -> Result<([f32; 2], u8), String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let (x, y, label) = match parts[..] {
        [x, y] => (x, y, "1"),
        [x, y, label] => (x, y, label),
        _ => return Err("give x,y in pixels, and 0 after them for what is not meant".into()),
    };
    match (x.parse(), y.parse(), label) {
        (Ok(x), Ok(y), "0") => Ok(([x, y], 0)),
        (Ok(x), Ok(y), "1") => Ok(([x, y], 1)),
        (Ok(_), Ok(_), _) => Err(format!(
            "label {label}; use 1 on the object and 0 beside it"
        )),
        _ => Err("give x,y in pixels, and 0 after them for what is not meant".into()),
    }
}

fn parse_fraction(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(value) if (0. ..=1.).contains(&value) => Ok(value),
        _ => Err("give a number in 0..1".into()),
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

    #[test]
    fn points_are_read_with_and_without_a_label() {
        assert_eq!(parse_point("3,4.5"), Ok(([3., 4.5], 1)));
        assert_eq!(parse_point("3, 4, 0"), Ok(([3., 4.], 0)));
        assert!(parse_point("3,4,2").unwrap_err().contains("label 2"));
        for bad in ["3", "3,4,1,1", "a,4", ""] {
            assert!(parse_point(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clicks_and_texts_do_not_mix() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("sam3 segment a.jpg --point 3,4 --box 1,2,3,4 --multimask").is_ok());
        for line in [
            "sam3 segment a.jpg --point 3,4 --text dog",
            "sam3 segment a.jpg --box 1,2,3,4 --threshold 0.3",
            "sam3 segment a.jpg --mask a.safetensors --exemplar 1,2,3,4",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
