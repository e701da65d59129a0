use super::*;

fn tiles(side: usize, overlap: f64) -> Tiles {
    Tiles { side, overlap }
}

#[test]
fn tiles_cover_the_picture_and_overlap_by_no_less_than_asked_for() {
    for (width, height, side, overlap) in [
        (4000, 3000, 1008, 0.2),
        (1009, 1008, 1008, 0.05),
        (700, 2000, 1008, 0.5),
        (5000, 64, 64, 0.75),
    ] {
        let cut = tiles(side, overlap).cut(Size::new(width, height)).unwrap();
        let (first, last) = (&cut[0], &cut[cut.len() - 1]);
        assert_eq!((first.columns.start, first.rows.start), (0, 0));
        assert_eq!((last.columns.end, last.rows.end), (width, height));
        for tile in &cut {
            assert_eq!(tile.columns.len(), side.min(width));
            assert_eq!(tile.rows.len(), side.min(height));
        }
        for pair in cut.windows(2) {
            if pair[0].rows == pair[1].rows {
                let shared = pair[0].intersection(&pair[1]).unwrap().columns.len();
                assert!(shared as f64 >= side as f64 * overlap, "{shared}");
            }
        }
    }
    assert_eq!(tiles(1008, 0.2).cut(Size::new(1008, 9)).unwrap().len(), 1);
    assert_eq!(
        tiles(1008, 0.2).cut(Size::new(4000, 3000)).unwrap().len(),
        20
    );
}

#[test]
fn tiles_out_of_range_are_refused() {
    let error = |tiles: Tiles, size| tiles.cut(size).unwrap_err().to_string();
    let size = Size::new(100_000, 100_000);
    assert!(error(tiles(63, 0.2), size).contains("at least 64"));
    for overlap in [0.0, 0.8, f64::NAN, -1.0] {
        assert!(error(tiles(100, overlap), size).contains("0.05..=0.75"));
    }
    assert!(error(tiles(64, 0.2), size).contains("give larger ones"));
}

#[cfg(feature = "demo")]
mod demo {
    use super::*;
    use crate::models::{LoadOptions, Model, load};
    use crate::predict::concept::Exemplar;

    const SIDE: usize = 640;

    /// Small discs and squares on a plain ground, and the box of each disc.
    fn scene() -> (Image, Vec<[usize; 4]>) {
        let mut pixels = [225, 225, 215].repeat(SIDE * SIDE);
        let mut discs = Vec::new();
        for row in 0..7 {
            for column in 0..7 {
                // In all positions with respect to the seams.
                let (x, y) = (45 + 91 * column + 3 * row, 40 + 92 * row + 5 * column);
                let is_disc = (row + column) % 2 == 0;
                for v in y - 17..y + 17 {
                    for u in x - 17..(x + 17).min(SIDE) {
                        if !is_disc || u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) < 17 * 17 {
                            let color = if is_disc {
                                [30, 60, 200]
                            } else {
                                [200, 40, 40]
                            };
                            if v < SIDE {
                                pixels[3 * (v * SIDE + u)..][..3].copy_from_slice(&color);
                            }
                        }
                    }
                }
                if is_disc {
                    discs.push([x - 17, y - 17, x + 17, y + 17]);
                }
            }
        }
        (Image::from_rgb8(SIDE, SIDE, pixels).unwrap(), discs)
    }

    fn demo() -> Model {
        load(&crate::weights::demo().unwrap(), &LoadOptions::default()).unwrap()
    }

    /// How many of the boxes have an object, and how many objects have none or one that is taken.
    fn matched(found: &[Prediction], boxes: &[[usize; 4]]) -> (usize, usize) {
        let wanted = boxes.iter().map(|b| BoxXyxy::from(b.map(|v| v as f32)));
        let mut open: Vec<BoxXyxy> = wanted.collect();
        let mut superfluous = 0;
        for instance in &found[0].instances {
            let bbox = instance.mask.bbox().unwrap();
            match open.iter().position(|wanted| wanted.iou(bbox) > 0.6) {
                Some(index) => drop(open.swap_remove(index)),
                None => superfluous += 1,
            }
        }
        (boxes.len() - open.len(), superfluous)
    }

    fn answer(prompt: Prompt, tiles: &Tiles, options: &Options) -> Vec<Prediction> {
        let (image, _) = scene();
        let model = demo();
        let model = model.as_concept().unwrap();
        let run = &mut Run::default();
        let prompts = concept::encode(model, &[prompt], run).unwrap();
        predict(model, &image, &prompts, tiles, options, run).unwrap()
    }

    #[test]
    fn tiles_find_small_objects_once_that_the_whole_picture_does_not_show() {
        let (_, discs) = scene();
        let options = Options::default();
        let (whole, _) = matched(
            &answer(Prompt::text("blue circle"), &tiles(SIDE, 0.2), &options),
            &discs,
        );
        let (found, superfluous) = matched(
            &answer(Prompt::text("blue circle"), &tiles(200, 0.25), &options),
            &discs,
        );
        assert!(2 * whole < discs.len(), "{whole} of {}", discs.len());
        assert!(20 * found >= 19 * discs.len(), "{found} of {}", discs.len());
        assert_eq!(superfluous, 0);
    }

    #[test]
    fn exemplars_mean_the_same_in_every_tile() {
        let (_, discs) = scene();
        let exemplar = Exemplar {
            bbox: BoxXyxy::from(discs[8].map(|v| v as f32)),
            positive: true,
        };
        let found = answer(
            Prompt::exemplars(vec![exemplar]),
            &tiles(200, 0.25),
            &Options::default(),
        );
        let (found, superfluous) = matched(&found, &discs);
        assert!(
            20 * found >= 19 * discs.len() && superfluous == 0,
            "{found} and {superfluous}"
        );
    }

    #[test]
    fn selection_is_for_the_whole_picture() {
        let options = Options {
            max_instances: Some(3),
            ..Options::default()
        };
        let found = answer(Prompt::text("blue circle"), &tiles(200, 0.25), &options);
        assert_eq!(found[0].instances.len(), 3);
    }

    #[test]
    fn a_small_picture_is_answered_as_without_tiles() {
        let (image, _) = scene();
        let model = demo();
        let model = model.as_concept().unwrap();
        let run = &mut Run::default();
        let prompts = concept::encode(model, &[Prompt::text("square")], run).unwrap();
        let options = Options::default();
        let embedding = model.encode_image(&image, run).unwrap();
        let want = concept::predict(model, &embedding, &prompts, &options, run).unwrap();
        let got = predict(model, &image, &prompts, &tiles(SIDE, 0.2), &options, run).unwrap();
        assert_eq!(got, want);
    }

    #[test]
    fn exemplars_farther_apart_than_a_tile_are_refused() {
        let (image, discs) = scene();
        let exemplars = [discs[0], discs[discs.len() - 1]].map(|b| Exemplar {
            bbox: BoxXyxy::from(b.map(|v| v as f32)),
            positive: true,
        });
        let model = demo();
        let model = model.as_concept().unwrap();
        let run = &mut Run::default();
        let prompt = Prompt::exemplars(exemplars.to_vec());
        let prompts = concept::encode(model, &[prompt], run).unwrap();
        let error = predict(
            model,
            &image,
            &prompts,
            &tiles(200, 0.2),
            &Options::default(),
            run,
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("farther apart than a tile")
        );
    }
}
