//! What `sam3 segment` takes: words, exemplars and clicks.

use std::path::PathBuf;

use candle_sam3::Point;
use candle_sam3::mask::BoxXyxy;
use candle_sam3::output::Format;
use clap::Args;

use super::ModelArgs;

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
    pub points: Vec<Point>,

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

fn parse_point(text: &str) -> Result<Point, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let (x, y, label) = match parts[..] {
        [x, y] => (x, y, "1"),
        [x, y, label] => (x, y, label),
        _ => return Err("give x,y in pixels, and 0 after them for what is not meant".into()),
    };
    match (x.parse(), y.parse(), label) {
        (Ok(x), Ok(y), "0" | "1") => Ok(Point {
            xy: [x, y],
            on_object: label == "1",
        }),
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
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn points_are_read_with_and_without_a_label() {
        let point = |xy, on_object| Ok(Point { xy, on_object });
        assert_eq!(parse_point("3,4.5"), point([3., 4.5], true));
        assert_eq!(parse_point("3, 4, 0"), point([3., 4.], false));
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
