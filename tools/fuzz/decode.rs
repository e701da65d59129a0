//! Decodes the pictures whose paths come on stdin, for `pictures.py`.
//!
//! For each line `ok WIDTH HEIGHT` and the RGB samples, or `no REASON`.

use std::io::{BufRead, Write};

use candle_sam3::image::Image;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for path in std::io::stdin().lock().lines() {
        match Image::open(path?) {
            Ok(image) => {
                writeln!(out, "ok {} {}", image.width(), image.height())?;
                out.write_all(image.pixels())?;
            }
            Err(error) => {
                let reason = error.to_string().replace('\n', " ");
                writeln!(out, "no {reason}")?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
