use serde::Deserialize;

use super::raster::rasterize_rows;
use super::*;
use crate::mask::Rle;
use crate::mask::tests::{drawn, noise};

/// What other programs make of polygons and masks; written by tools/golden/polygon.py.
#[derive(Deserialize)]
struct Golden {
    polygons: Vec<Filled>,
    outlines: Vec<Outlined>,
}

#[derive(Deserialize)]
struct Filled {
    size: [usize; 2],
    path: Path,
    pycocotools: String,
    /// The path moved into the picture, its vertices whole pixels.
    inside: Path,
    opencv: String,
    pillow: String,
    /// Of the path inside.
    ultralytics: String,
}

#[derive(Deserialize)]
struct Outlined {
    size: [usize; 2],
    counts: String,
    contours: Vec<Path>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/polygon.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn disc(radius: f64) -> Mask {
    let side = 2 * radius as usize + 9;
    let center = side as f64 / 2.0;
    Mask::from_fn(side, side, |x, y| {
        (x as f64 + 0.5 - center).hypot(y as f64 + 0.5 - center) < radius
    })
}

fn ring_with_island() -> Mask {
    let mut mask = disc(40.0);
    let side = mask.width();
    mask.subtract(&disc(25.0).placed(15, 15, side, side));
    mask.unite(&disc(10.0).placed(30, 30, side, side));
    mask
}

fn points(polygons: &Polygons) -> usize {
    polygons.cut().iter().map(Vec::len).sum()
}

const BOTH: [Convention; 2] = [Convention::PixelEdges, Convention::PixelCenters];

#[test]
fn polygons_are_filled_as_pycocotools_fills_them() {
    for case in golden().polygons {
        let [height, width] = case.size;
        let filled = rasterize_edges(&case.path, width, height).unwrap();
        let want = Rle::from_compressed(case.size, &case.pycocotools).unwrap();
        assert_eq!(filled, want, "{:?} in {width}x{height}", case.path);
    }
}

#[test]
fn polygons_are_filled_as_opencv_fills_them() {
    for case in golden().polygons {
        let [height, width] = case.size;
        let filled = rasterize_centers(&case.inside, width, height).unwrap();
        let want = Rle::from_compressed(case.size, &case.opencv).unwrap();
        assert_eq!(filled, want.decode().unwrap(), "{:?}", case.inside);
    }
}

#[test]
fn polygons_are_filled_as_pillow_fills_them() {
    for case in golden().polygons {
        let [height, width] = case.size;
        let filled = rasterize_rows(&case.path, width, height).unwrap();
        let want = Rle::from_compressed(case.size, &case.pillow).unwrap();
        assert_eq!(filled, want.decode().unwrap(), "{:?}", case.path);
    }
}

#[test]
fn polygons_are_filled_as_ultralytics_fills_them() {
    for case in golden().polygons {
        let [height, width] = case.size;
        let path = std::slice::from_ref(&case.inside);
        let filled = Fill::Ultralytics.union(path, Size::new(width, height));
        let want = Rle::from_compressed(case.size, &case.ultralytics).unwrap();
        assert_eq!(filled.unwrap(), want.decode().unwrap(), "{:?}", case.inside);
    }
}

#[test]
fn outlines_are_those_that_opencv_finds() {
    for case in golden().outlines {
        let mask = Rle::from_compressed(case.size, &case.counts).unwrap();
        let mask = mask.decode().unwrap();
        let found = Polygons::outline(&mask, Convention::PixelCenters, &Simplify::EXACT);
        let parts = found.parts.iter();
        let paths = parts.flat_map(|part| std::iter::once(&part.outer).chain(&part.holes));
        let mut found: Vec<_> = paths.map(sorted).collect();
        let mut want: Vec<_> = case.contours.iter().map(sorted).collect();
        found.sort_unstable();
        want.sort_unstable();
        assert_eq!(found, want);
    }
}

/// The points of a path in an order that depends neither on its start nor on its direction.
fn sorted(path: &Path) -> Vec<[i64; 2]> {
    let mut points: Vec<_> = path.iter().map(|p| p.map(|v| v as i64)).collect();
    points.sort_unstable();
    points
}

#[test]
fn exact_outlines_give_back_every_pixel() {
    let single = drawn(&["....", "..#.", "...."]);
    let diagonal = drawn(&["#...", ".#..", "..#.", "...#"]);
    let masks = [single, diagonal, disc(10.0), ring_with_island()];
    let noises = [20, 50, 80].map(|percent| noise(90, 40, percent, percent));
    for mask in masks.iter().chain(&noises) {
        for convention in BOTH {
            let polygons = Polygons::outline(mask, convention, &Simplify::EXACT);
            for fill in convention.fills() {
                let filled = fill.union(&polygons.cut(), mask.size()).unwrap();
                assert_eq!(&filled, mask, "{fill:?}");
            }
        }
    }
}

#[test]
fn simplified_outlines_keep_the_promised_overlap() {
    let bar = Mask::from_fn(240, 40, |x, y| {
        (20..220).contains(&x) && (10..16).contains(&y)
    });
    let line = Mask::from_fn(200, 200, |x, y| x.abs_diff(y) < 2);
    for mask in [disc(100.0), disc(10.0), bar, line, ring_with_island()] {
        for convention in BOTH {
            for min_iou in [0.9, 0.98, 0.999] {
                let limits = Simplify {
                    min_iou,
                    ..Simplify::default()
                };
                let polygons = Polygons::outline(&mask, convention, &limits);
                for fill in convention.fills() {
                    let filled = fill.union(&polygons.cut(), mask.size()).unwrap();
                    let iou = f64::from(filled.iou(&mask));
                    assert!(iou >= min_iou, "{mask:?} {fill:?}: {iou}");
                }
            }
        }
    }
}

#[test]
fn a_large_disc_needs_few_points() {
    for convention in BOTH {
        let polygons = Polygons::outline(&disc(100.0), convention, &Simplify::default());
        assert!(points(&polygons) <= 40, "{}", points(&polygons));
    }
}

#[test]
fn a_rectangle_is_four_corners() {
    let mask = Mask::from_fn(50, 30, |x, y| (10..40).contains(&x) && (5..25).contains(&y));
    let polygons = Polygons::outline(&mask, Convention::PixelEdges, &Simplify::default());
    let corners = [[10.0, 5.0], [40.0, 5.0], [40.0, 25.0], [10.0, 25.0]];
    assert_eq!(polygons.cut(), [corners.to_vec()]);
    let polygons = Polygons::outline(&mask, Convention::PixelCenters, &Simplify::default());
    let corners = [[10.0, 5.0], [39.0, 5.0], [39.0, 24.0], [10.0, 24.0]];
    assert_eq!(polygons.cut(), [corners.to_vec()]);
}

#[test]
fn holes_and_parts_stay_apart_and_can_be_cut_and_joined() {
    let mask = ring_with_island();
    for convention in BOTH {
        let polygons = Polygons::outline(&mask, convention, &Simplify::default());
        assert_eq!(polygons.parts.len(), 2);
        assert_eq!(polygons.parts[0].holes.len(), 1);
        assert!(polygons.parts[1].holes.is_empty());
        assert_eq!(polygons.cut().len(), 2);
    }
    // The line that joins ring and island is drawn, and costs its few pixels.
    let joined = read_joined(&mask, &Simplify::EXACT);
    assert_eq!(joined.area() - mask.area(), 13);
    assert_eq!(joined.intersection(&mask), mask.area());
}

/// What a reader of the one path of a mask sees.
fn read_joined(mask: &Mask, limits: &Simplify) -> Mask {
    let path = Polygons::joined_outline(mask, limits);
    rasterize_centers(&path, mask.width(), mask.height()).unwrap()
}

/// Blocks of pixels: left, top, width, height.
fn blocks(side: usize, blocks: &[[usize; 4]]) -> Mask {
    Mask::from_fn(side, side, |x, y| {
        let within =
            |&[x0, y0, w, h]: &[usize; 4]| (x0..x0 + w).contains(&x) && (y0..y0 + h).contains(&y);
        blocks.iter().any(within)
    })
}

#[test]
fn parts_are_joined_to_the_nearest_one_by_the_shortest_line() {
    // In the order of the list, the line from the first part to the second would cross the picture; and
    // the corners of the first and the third are far from each other.
    let parts = [
        [0, 0, 40, 40],
        [160, 0, 40, 40],
        [44, 10, 100, 5],
        [150, 30, 6, 30],
    ];
    let mask = blocks(200, &parts);
    let joined = read_joined(&mask, &Simplify::EXACT);
    assert_eq!(joined.intersection(&mask), mask.area());
    // Over the columns 40..44, 144..160 and 156..160.
    assert_eq!(joined.area() - mask.area(), 4 + 16 + 4);
}

#[test]
fn a_part_that_costs_more_than_it_has_is_left_out() {
    // One pixel, 60 away; one pixel, 1 away; a block of 100, 50 away.
    let mask = blocks(
        200,
        &[
            [0, 0, 60, 60],
            [120, 30, 1, 1],
            [61, 5, 1, 1],
            [0, 110, 10, 10],
        ],
    );
    let joined = read_joined(&mask, &Simplify::EXACT);
    assert!(!joined.get(120, 30) && joined.get(61, 5) && joined.get(5, 115));
    assert_eq!(joined.area(), mask.area() - 1 + 1 + 50);
}

#[test]
fn lines_between_parts_count_in_the_overlap() {
    let mut mask = disc(40.0).placed(0, 0, 300, 120);
    mask.unite(&disc(40.0).placed(92, 0, 300, 120));
    mask.unite(&disc(40.0).placed(184, 10, 300, 120));
    let limits = Simplify::default();
    let iou = f64::from(read_joined(&mask, &limits).iou(&mask));
    assert!(iou >= limits.min_iou, "{iou}");
}

#[test]
fn noise_is_joined_in_no_time() {
    let begun = std::time::Instant::now();
    let mask = noise(600, 400, 30, 1);
    let joined = read_joined(&mask, &Simplify::default());
    assert!(joined.intersection(&mask) > 0);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn the_pixels_of_a_part_are_counted_by_its_outline() {
    for mask in [
        disc(10.0),
        ring_with_island(),
        blocks(9, &[[3, 3, 1, 1]]),
        blocks(9, &[[1, 4, 7, 1]]),
    ] {
        let polygons = Polygons::outline(&mask, Convention::PixelCenters, &Simplify::EXACT);
        let pixels: f64 = polygons.parts.iter().map(Part::pixels).sum();
        assert_eq!(pixels, mask.area() as f64);
    }
}

#[test]
fn a_small_part_beside_a_large_one_is_not_simplified_away() {
    let mut mask = disc(60.0);
    mask.set(1, 1, true);
    for convention in BOTH {
        let polygons = Polygons::outline(&mask, convention, &Simplify::default());
        let filled = polygons.fill(mask.width(), mask.height()).unwrap();
        assert!(filled.get(1, 1), "{convention:?}");
    }
}

#[test]
fn an_empty_mask_has_no_outline() {
    for convention in BOTH {
        let polygons = Polygons::outline(&Mask::new(9, 9), convention, &Simplify::default());
        assert!(polygons.parts.is_empty());
        assert!(Polygons::joined_outline(&Mask::new(9, 9), &Simplify::EXACT).is_empty());
        assert!(polygons.fill(9, 9).unwrap().is_empty());
    }
}

#[test]
fn absurd_coordinates_are_refused() {
    for bad in [f64::NAN, f64::INFINITY, 2e6] {
        let path = [[0.0, 0.0], [bad, 1.0], [3.0, 3.0]];
        for error in [
            rasterize_edges(&path, 9, 9).unwrap_err(),
            rasterize_centers(&path, 9, 9).unwrap_err(),
        ] {
            assert!(error.to_string().contains("coordinate"), "{error}");
        }
    }
}
