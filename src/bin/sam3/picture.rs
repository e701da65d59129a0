//! Which picture a command looks at, and how it is read.

use std::path::PathBuf;

use candle_sam3::image::DecodeOptions;
use clap::Args;

#[derive(Args)]
pub struct PictureArgs {
    /// Image to look at: JPEG, PNG, WebP, GIF, BMP, TIFF or PNM
    pub image: PathBuf,

    #[command(flatten)]
    pub decoding: DecodeArgs,
}

#[derive(Args)]
pub struct DecodeArgs {
    /// Spread the levels of a 16-bit, floating-point or signed picture between the percentiles
    /// PERCENT and 100 - PERCENT [default: not; without a number: 1]
    #[arg(
        long,
        value_name = "PERCENT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = parse_percent,
        help_heading = "Input"
    )]
    stretch: Option<f64>,
}

impl DecodeArgs {
    pub fn options(&self) -> DecodeOptions {
        DecodeOptions {
            stretch: self.stretch,
            ..DecodeOptions::default()
        }
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0. ..50.).contains(&percent) => Ok(percent),
        _ => Err("give 0 or more percent, and less than 50".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn a_stretch_has_a_number_of_its_own_or_none() {
        let stretch = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|c| c.command) {
            Ok(Command::Segment(args)) => Some(args.picture.decoding.stretch),
            _ => None,
        };
        assert_eq!(stretch("sam3 segment a.tif"), Some(None));
        assert_eq!(stretch("sam3 segment --stretch a.tif"), Some(Some(1.)));
        assert_eq!(stretch("sam3 segment --stretch=0.2 a.tif"), Some(Some(0.2)));
        for wrong in ["50", "-1", "NaN", "x"] {
            let line = format!("sam3 segment --stretch={wrong} a.tif");
            assert_eq!(stretch(&line), None, "{wrong}");
        }
    }
}
