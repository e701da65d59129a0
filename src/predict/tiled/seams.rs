//! One object from what several tiles show of it.

use std::ops::Range;

use crate::Size;
use crate::mask::{BoxXyxy, Extent, Mask};
use crate::predict::Instance;
use crate::predict::concept::Prediction;

/// What all tiles show for one prompt.
pub(super) struct Found {
    size: Size,
    presence: f32,
    tiles: Vec<Extent>,
    pieces: Vec<Piece>,
    semantic: Option<Mask>,
}

/// What one tile shows of an object.
pub(super) struct Piece {
    tile: Extent,
    /// Where its pixels are in the picture.
    place: Extent,
    /// The pixels of `place`: masks of whole pictures would not fit into memory.
    mask: Mask,
    /// In pixels of the picture.
    bbox: BoxXyxy,
    score: f32,
}

impl Found {
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            presence: 0.0,
            tiles: Vec::new(),
            pieces: Vec::new(),
            semantic: None,
        }
    }

    /// Takes in what a tile shows.
    pub(super) fn add(&mut self, answer: Prediction, tile: &Extent) {
        self.tiles.push(tile.clone());
        self.take(answer, tile);
    }

    fn take(&mut self, answer: Prediction, tile: &Extent) {
        self.presence = self.presence.max(answer.presence);
        let pieces = answer.instances.into_iter();
        self.pieces
            .extend(pieces.filter_map(|instance| Piece::new(instance, tile)));
        if let Some(part) = answer.semantic {
            let Size { width, height } = self.size;
            let part = part.placed(tile.columns.start, tile.rows.start, width, height);
            match &mut self.semantic {
                Some(semantic) => semantic.unite(&part),
                None => self.semantic = Some(part),
            }
        }
    }

    /// Takes in what the whole picture shows, as far as it is too large for a tile of `side`; of
    /// smaller objects, tiles show more.
    pub(super) fn add_large(&mut self, mut answer: Prediction, whole: &Extent, side: usize) {
        answer.instances.retain(|instance| {
            let extent = instance.mask.extent();
            extent.is_some_and(|extent| extent.columns.len().max(extent.rows.len()) > side)
        });
        self.take(answer, whole);
    }

    /// Whether a piece was cut off at the edge of its tile, and another tile that shows it with what is
    /// beyond the edge finds nothing: half a disc may look like something else.
    fn is_fragment(&self, group: &[usize]) -> bool {
        let [piece] = group else { return false };
        let piece = &self.pieces[*piece];
        let shows_more = |tile: &Extent| {
            piece.is_cut(tile) && tile.intersection(&piece.place).as_ref() == Some(&piece.place)
        };
        self.tiles.iter().any(shows_more)
    }

    /// Objects in the order in which their first piece came in.
    pub(super) fn finish(self) -> Prediction {
        let Size { width, height } = self.size;
        let mut groups = groups(&self.pieces);
        groups.retain(|group| !self.is_fragment(group));
        let objects = groups.into_iter().map(|group| {
            let pieces = || group.iter().map(|&index| &self.pieces[index]);
            let mut mask = Mask::new(width, height);
            for piece in pieces() {
                let (x, y) = (piece.place.columns.start, piece.place.rows.start);
                mask.unite(&piece.mask.placed(x, y, width, height));
            }
            Instance {
                mask,
                bbox: pieces()
                    .map(|piece| piece.bbox)
                    .reduce(around)
                    .unwrap_or(BoxXyxy::from([0.0; 4])),
                score: pieces().map(|piece| piece.score).fold(0.0, f32::max),
            }
        });
        Prediction {
            presence: self.presence,
            instances: objects.collect(),
            semantic: self.semantic,
        }
    }
}

/// The smallest box around two.
pub(super) fn around(a: BoxXyxy, b: BoxXyxy) -> BoxXyxy {
    BoxXyxy {
        x0: a.x0.min(b.x0),
        y0: a.y0.min(b.y0),
        x1: a.x1.max(b.x1),
        y1: a.y1.max(b.y1),
    }
}

/// A box after a step to the right and down.
pub(super) fn shifted(bbox: BoxXyxy, dx: f32, dy: f32) -> BoxXyxy {
    BoxXyxy {
        x0: bbox.x0 + dx,
        y0: bbox.y0 + dy,
        x1: bbox.x1 + dx,
        y1: bbox.y1 + dy,
    }
}

impl Piece {
    /// `None` for an instance without a pixel.
    fn new(instance: Instance, tile: &Extent) -> Option<Self> {
        let extent = instance.mask.extent()?;
        let (x, y) = (tile.columns.start, tile.rows.start);
        Some(Self {
            tile: tile.clone(),
            place: Extent {
                columns: extent.columns.start + x..extent.columns.end + x,
                rows: extent.rows.start + y..extent.rows.end + y,
            },
            mask: instance.mask.cropped(&extent),
            bbox: shifted(instance.bbox, x as f32, y as f32),
            score: instance.score,
        })
    }

    /// The pixels within a part of the picture.
    fn within(&self, part: &Extent) -> Option<Mask> {
        let part = self.place.intersection(part)?;
        let (x, y) = (self.place.columns.start, self.place.rows.start);
        Some(self.mask.cropped(&Extent {
            columns: part.columns.start - x..part.columns.end - x,
            rows: part.rows.start - y..part.rows.end - y,
        }))
    }

    /// Whether it ends at an edge of its tile beyond which the other tile shows the picture.
    fn is_cut(&self, other: &Extent) -> bool {
        let (place, tile) = (&self.place, &self.tile);
        let reaches = |place: &Range<usize>, tile: &Range<usize>, other: &Range<usize>| {
            let margin = tile.len() / NEAR_EDGE + 1;
            (place.start < tile.start + margin && other.start < tile.start)
                || (place.end + margin > tile.end && other.end > tile.end)
        };
        reaches(&place.columns, &tile.columns, &other.columns)
            || reaches(&place.rows, &tile.rows, &other.rows)
    }

    /// Whether two tiles show one object: what each shows of it where they overlap is the same by more
    /// than half, or the one is a cut part of which more than half belongs to the other.
    fn is_same(&self, other: &Self) -> bool {
        let (Some(band), Some(both)) = (
            self.tile.intersection(&other.tile),
            self.place.intersection(&other.place),
        ) else {
            return false;
        };
        let (Some(a), Some(b)) = (self.within(&both), other.within(&both)) else {
            return false;
        };
        let shared = a.intersection(&b);
        let area = |piece: &Self| piece.within(&band).map_or(0, |mask| mask.area());
        let (a, b) = (area(self), area(other));
        3 * shared > a + b
            || (2 * shared > a && self.is_cut(&other.tile))
            || (2 * shared > b && other.is_cut(&self.tile))
    }
}

/// A mask this share of a tile's side away from the edge ends at the edge: it was enlarged from fewer
/// pixels.
const NEAR_EDGE: usize = 128;

/// The pieces of each object, by their first ones.
fn groups(pieces: &[Piece]) -> Vec<Vec<usize>> {
    // Of each piece, the first of its group that is known.
    let mut first: Vec<usize> = (0..pieces.len()).collect();
    fn root(first: &[usize], mut piece: usize) -> usize {
        while first[piece] != piece {
            piece = first[piece];
        }
        piece
    }
    for later in 0..pieces.len() {
        for earlier in 0..later {
            let (a, b) = (root(&first, earlier), root(&first, later));
            // Two objects of one tile are two.
            let other_tile = pieces[earlier].tile != pieces[later].tile;
            if a != b && other_tile && pieces[earlier].is_same(&pieces[later]) {
                first[a.max(b)] = a.min(b);
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); pieces.len()];
    for piece in 0..pieces.len() {
        groups[root(&first, piece)].push(piece);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::tiled::Tiles;

    /// Tiles of 100 x 100 that overlap by 20.
    fn tiles(size: Size) -> Vec<Extent> {
        let tiles = Tiles {
            side: 100,
            overlap: 0.2,
        };
        tiles.cut(size).unwrap()
    }

    /// What a perfect model shows.
    fn seen(objects: &[Mask], size: Size) -> Prediction {
        let mut found = Found::new(size);
        for tile in tiles(size) {
            let instances = objects.iter().map(|mask| Instance {
                mask: mask.cropped(&tile),
                bbox: BoxXyxy::from([0.0, 0.0, 1.0, 1.0]),
                score: mask.cropped(&tile).area() as f32 / mask.area() as f32,
            });
            let answer = Prediction {
                presence: 0.5,
                instances: instances
                    .filter(|instance| !instance.mask.is_empty())
                    .collect(),
                semantic: None,
            };
            found.add(answer, &tile);
        }
        found.finish()
    }

    fn disc(size: Size, x: usize, y: usize, radius: usize) -> Mask {
        Mask::from_fn(size.width, size.height, |u, v| {
            u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) <= radius * radius
        })
    }

    #[test]
    fn an_object_cut_by_seams_is_one_wherever_it_lies() {
        let size = Size::new(340, 260);
        for radius in [2, 9, 30, 70] {
            for (x, y) in [
                (80, 50),
                (90, 80),
                (84, 84),
                (100, 100),
                (170, 130),
                (161, 79),
            ] {
                let mask = disc(size, x, y, radius);
                let found = seen(std::slice::from_ref(&mask), size).instances;
                assert_eq!(found.len(), 1, "radius {radius} at {x}, {y}");
                assert_eq!(found[0].mask, mask);
            }
        }
    }

    #[test]
    fn neighbors_and_an_object_before_a_larger_one_stay_apart() {
        let size = Size::new(340, 260);
        // Side by side across a seam, touching.
        let pair = [disc(size, 85, 50, 10), disc(size, 106, 50, 10)];
        assert_eq!(seen(&pair, size).instances.len(), 2);
        // In the band as a whole, before a large one that both tiles show.
        let both = [disc(size, 90, 130, 60), disc(size, 90, 130, 5)];
        assert_eq!(seen(&both, size).instances.len(), 2);
    }

    #[test]
    fn a_part_that_one_tile_shows_badly_is_no_second_object() {
        let size = Size::new(180, 100);
        let tiles = tiles(size);
        let mut found = Found::new(size);
        let instance = |mask: Mask| Instance {
            mask,
            bbox: BoxXyxy::from([0.0; 4]),
            score: 0.9,
        };
        let answer = |mask: Mask| Prediction {
            presence: 0.9,
            instances: vec![instance(mask)],
            semantic: None,
        };
        // All of it, and a third of what the band has.
        found.add(answer(disc(size, 80, 50, 19).cropped(&tiles[0])), &tiles[0]);
        found.add(
            answer(Mask::from_fn(100, 100, |x, y| x < 5 && y.abs_diff(50) < 14)),
            &tiles[1],
        );
        assert_eq!(found.finish().instances.len(), 1);
    }

    #[test]
    fn a_fragment_that_the_tile_beyond_the_edge_does_not_find_is_left_out() {
        let size = Size::new(180, 100);
        let tiles = tiles(size);
        // Inside the band at the edge of the first tile; the same a pixel away from the edge; and too
        // wide for the band.
        for (columns, objects) in [(85..100, 0), (85..98, 1), (70..100, 1)] {
            let mut found = Found::new(size);
            let mask = Mask::from_fn(100, 100, |x, y| columns.contains(&x) && y.abs_diff(50) < 9);
            let instance = Instance {
                mask,
                bbox: BoxXyxy::from([0.0; 4]),
                score: 0.9,
            };
            let answer = |instances| Prediction {
                presence: 0.9,
                instances,
                semantic: None,
            };
            found.add(answer(vec![instance]), &tiles[0]);
            found.add(answer(vec![]), &tiles[1]);
            assert_eq!(found.finish().instances.len(), objects, "{columns:?}");
        }
    }
}
