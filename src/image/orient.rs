//! Turning a picture upright, in place but for one channel.

use image::metadata::Orientation;

/// Applies an EXIF orientation to (height, width, 3) samples; gives the new width and height.
///
/// One channel is copied at a time, so that a third of the picture is held twice and not all of it.
pub fn apply(
    orientation: Orientation,
    width: usize,
    height: usize,
    pixels: &mut [u8],
) -> (usize, usize) {
    use Orientation::*;
    // Where a pixel of the result comes from: from x and y of the result to x and y of the source.
    let (is_turned, flips_x, flips_y) = match orientation {
        NoTransforms => return (width, height),
        FlipHorizontal => (false, true, false),
        Rotate180 => (false, true, true),
        FlipVertical => (false, false, true),
        Rotate90FlipH => (true, false, false),
        Rotate90 => (true, false, true),
        Rotate270FlipH => (true, true, true),
        Rotate270 => (true, true, false),
    };
    let (new_width, new_height) = if is_turned {
        (height, width)
    } else {
        (width, height)
    };
    let mut channel = vec![0; width * height];
    for c in 0..3 {
        for (to, pixel) in channel.iter_mut().zip(pixels.as_chunks::<3>().0) {
            *to = pixel[c];
        }
        let (result, _) = pixels.as_chunks_mut::<3>();
        // Blocks, so that both pictures stay in the cache when rows become columns.
        const BLOCK: usize = 64;
        for y0 in (0..new_height).step_by(BLOCK) {
            for x0 in (0..new_width).step_by(BLOCK) {
                for y in y0..new_height.min(y0 + BLOCK) {
                    for x in x0..new_width.min(x0 + BLOCK) {
                        let (u, v) = if is_turned { (y, x) } else { (x, y) };
                        let u = if flips_x { width - 1 - u } else { u };
                        let v = if flips_y { height - 1 - v } else { v };
                        result[y * new_width + x][c] = channel[v * width + u];
                    }
                }
            }
        }
    }
    (new_width, new_height)
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage};

    use super::*;

    #[test]
    fn it_equals_the_image_crate_for_every_orientation() {
        let picture = RgbImage::from_fn(70, 133, |x, y| image::Rgb([x as u8, y as u8, 7]));
        for tag in 1..=8 {
            let orientation = Orientation::from_exif(tag).unwrap();
            let mut want = DynamicImage::from(picture.clone());
            want.apply_orientation(orientation);
            let mut got = picture.as_raw().clone();
            let size = apply(orientation, 70, 133, &mut got);
            assert_eq!(
                size,
                (want.width() as usize, want.height() as usize),
                "{tag}"
            );
            assert_eq!(got, want.into_rgb8().into_raw(), "{tag}");
        }
    }
}
