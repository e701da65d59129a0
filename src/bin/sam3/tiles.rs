//! How large pictures are cut.

use candle_sam3::predict::tiled::Tiles;
use clap::Args;

#[derive(Args)]
#[command(next_help_heading = "Tiles")]
pub struct TileArgs {
    /// Search a picture that is larger in tiles of N x N pixels, to find small objects; takes as long
    /// as one picture for each tile
    #[arg(long, value_name = "N")]
    tile: Option<usize>,

    /// The share of a tile that its neighbors show as well, 0.05 to 0.75
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, requires = "tile")]
    overlap: f64,
}

impl TileArgs {
    /// # Errors
    /// For a size or a share out of range.
    pub fn tiles(&self) -> candle_sam3::Result<Option<Tiles>> {
        let overlap = self.overlap;
        let tiles = self.tile.map(|side| Tiles { side, overlap });
        tiles.as_ref().map_or(Ok(()), Tiles::validate)?;
        Ok(tiles)
    }
}
