//! GIF: the first frame on its screen, as PIL shows it.

use std::io::Read;

use gif::{ColorOutput, MemoryLimit};

use super::canvas::{Canvas, Color, Layout};
use super::{Decoded, WORKING_MEMORY, check_size, damaged};

/// Where the frame does not reach, the screen has the frame's transparent color if it has one, and
/// the first color of its palette otherwise. PIL also enlarges the screen to hold the frame.
pub fn decode<R: Read>(input: R) -> Result<Decoded, String> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let limit = std::num::NonZeroU64::new(WORKING_MEMORY);
    options.set_memory_limit(limit.map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(input).map_err(damaged)?;
    let (mut width, mut height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(damaged)?;
    let frame = frame.ok_or("a gif without a picture; use another file")?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (across, down) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    width = width.max(left + across);
    height = height.max(top + down);
    check_size(width, height)?;

    let mut indices = vec![0; across * down];
    decoder.read_into_buffer(&mut indices).map_err(damaged)?;
    // Without a palette the indices are levels of grey.
    let palette = decoder.palette().map_or(vec![], <[u8]>::to_vec);
    let is_grey = palette.is_empty();
    let color = |index: u8| match palette.as_chunks::<3>().0.get(usize::from(index)) {
        Some(rgb) => *rgb,
        None if is_grey => [index; 3],
        None => [0; 3],
    };
    let mut canvas = Canvas::new(width, height, Layout::of(Color::Rgb), false);
    if (across, down) != (width, height) {
        canvas
            .pixels
            .as_chunks_mut::<3>()
            .0
            .fill(color(transparent.unwrap_or(0)));
    }
    if across > 0 {
        for (y, row) in indices.chunks_exact(across).enumerate() {
            let row: Vec<u8> = row.iter().flat_map(|index| color(*index)).collect();
            canvas.put(left, top + y, &row);
        }
    }
    Ok(Decoded {
        canvas,
        orientation: None,
        warnings: vec![],
    })
}
