//! What `sam3 everything` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ModelArgs;

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
