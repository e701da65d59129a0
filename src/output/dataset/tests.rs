use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::mask::Mask;
use crate::mask::polygon::{rasterize_centers, rasterize_edges};

pub(super) const WIDTH: usize = 64;
pub(super) const HEIGHT: usize = 48;

pub(super) fn disc(x: usize, y: usize, radius: usize) -> Mask {
    Mask::from_fn(WIDTH, HEIGHT, |u, v| {
        u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2) < radius * radius
    })
}

pub(super) fn object(class: usize, score: f32, mask: &Mask) -> Object {
    let mask = Rle::encode(mask);
    Object { class, score, mask }
}

/// A disc, a ring, and an object of two parts.
pub(super) fn picture(name: &str) -> Picture {
    let mut ring = disc(44, 16, 12);
    ring.subtract(&disc(44, 16, 6));
    let mut parts = disc(6, 41, 6);
    parts.unite(&disc(40, 40, 5));
    Picture {
        name: name.to_string(),
        width: WIDTH,
        height: HEIGHT,
        objects: vec![
            object(0, 0.9, &disc(16, 15, 9)),
            object(1, 0.75, &ring),
            object(2, 0.625, &parts),
        ],
    }
}

pub(super) fn nothing(name: &str) -> Picture {
    Picture {
        objects: vec![],
        ..picture(name)
    }
}

/// A folder with pictures, and one to write to.
pub(super) struct Scene {
    pub(super) folder: tempfile::TempDir,
    pub(super) pictures: Vec<Picture>,
}

impl Scene {
    pub(super) fn new(pictures: Vec<Picture>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scene = Self { folder, pictures };
        for picture in &scene.pictures {
            let path = scene.source(picture);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, crate::output::encode_png(&image()).unwrap()).unwrap();
        }
        scene
    }

    pub(super) fn source(&self, picture: &Picture) -> PathBuf {
        self.folder.path().join("in").join(&picture.name)
    }

    pub(super) fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub(super) fn layout(&self, formats: &[Format]) -> Layout {
        let classes = ["disc", "ring", "Ampel \"信号\" <&>"].map(str::to_string);
        Layout::new(self.out(), formats.to_vec(), classes.to_vec())
    }

    pub(super) fn write(&self, layout: &Layout) {
        for picture in &self.pictures {
            write_picture(layout, picture, &self.source(picture), &image()).unwrap();
        }
        write_documents(layout, &self.pictures).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.out().join(path)).unwrap()
    }

    pub(super) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }
}

pub(super) fn image() -> Image {
    let pixels = (0..WIDTH * HEIGHT * 3).map(|i| i as u8).collect();
    Image::from_rgb8(WIDTH, HEIGHT, pixels).unwrap()
}

/// All files below a folder but those of `.sam3`.
pub(super) fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            match path.is_dir() {
                true if name != ".sam3" => open.push(path),
                true => {}
                false => {
                    found.insert(name.replace('\\', "/"));
                }
            }
        }
    }
    found
}

#[test]
fn every_format_writes_its_files_and_nothing_else() {
    let scene = Scene::new(vec![picture("a b.png"), nothing("sub/é.png")]);
    scene.write(&scene.layout(&Format::ALL));
    let mut want: BTreeSet<String> = [
        "coco.json",
        "coco-polygon.json",
        "labels.csv",
        "cvat.xml",
        "labelstudio.json",
        "labelstudio.xml",
        "yolo/data.yaml",
        "imagefolder/train/metadata.jsonl",
        "imagefolder/train/a b.png",
        "imagefolder/train/sub/é.png",
        "labelme/a b.json",
        "labelme/sub/é.json",
        "voc/labelmap.txt",
        "voc/ImageSets/Segmentation/train.txt",
        "voc/ImageSets/Segmentation/val.txt",
    ]
    .map(str::to_string)
    .into();
    let layout = scene.layout(&[]);
    for name in ["a b", "sub/é"] {
        let split = layout.split(&format!("{name}.png"));
        want.insert(format!("yolo/images/{split}/{name}.png"));
        want.insert(format!("yolo/labels/{split}/{name}.txt"));
        for folder in ["JPEGImages", "SegmentationClass", "SegmentationObject"] {
            want.insert(format!("voc/{folder}/{name}.png"));
        }
    }
    for folder in ["masks", "cutout"] {
        for file in ["000_disc_0.90", "001_ring_0.75", "002_ampel_0.62"] {
            want.insert(format!("{folder}/a b/{file}.png"));
        }
    }
    assert_eq!(files(&scene.out()), want);
}

#[test]
fn coco_holds_every_pixel_and_polygons_almost_every() {
    let scene = Scene::new(vec![nothing("a.png"), picture("b.png")]);
    scene.write(&scene.layout(&[Format::Coco, Format::CocoPolygon]));
    assert!(scene.read("coco.json").is_ascii());
    let (exact, polygons) = (scene.json("coco.json"), scene.json("coco-polygon.json"));
    assert_eq!(exact["images"][1]["file_name"], "b.png");
    assert_eq!(exact["categories"][2]["name"], "Ampel \"信号\" <&>");
    for (i, object) in scene.pictures[1].objects.iter().enumerate() {
        let annotation = &exact["annotations"][i];
        assert_eq!(
            (&annotation["id"], &annotation["image_id"]),
            (&(i + 1).into(), &2.into())
        );
        let mask: Rle = serde_json::from_value(annotation["segmentation"].clone()).unwrap();
        assert_eq!(mask, object.mask);
        assert_eq!(annotation["area"], mask.area());

        let lists = polygons["annotations"][i]["segmentation"].clone();
        let lists: Vec<Vec<f64>> = serde_json::from_value(lists).unwrap();
        let mut filled = Mask::new(WIDTH, HEIGHT);
        for list in lists {
            let path: Vec<[f64; 2]> = list.chunks(2).map(|p| [p[0], p[1]]).collect();
            let part = rasterize_edges(&path, WIDTH, HEIGHT).unwrap();
            filled.unite(&part.decode().unwrap());
        }
        assert!(filled.iou(&object.mask.decode().unwrap()) >= 0.98);
        assert_eq!(polygons["annotations"][i]["area"], filled.area());
    }
}

#[test]
fn a_yolo_row_is_read_back_by_cutting_and_by_rounding() {
    let scene = Scene::new(vec![picture("a.png"), nothing("b.png")]);
    let mut layout = scene.layout(&[Format::Yolo]);
    layout.train_share = 1.0;
    layout.simplify = crate::mask::polygon::Simplify::EXACT;
    scene.write(&layout);
    let yaml = scene.read("yolo/data.yaml");
    assert!(yaml.starts_with("train: images/train\nval: images/train\nnames:\n  0: \"disc\"\n"));
    assert_eq!(scene.read("yolo/labels/train/b.txt"), "");
    let rows = scene.read("yolo/labels/train/a.txt");
    assert_eq!(rows.lines().count(), 3);
    for (row, object) in rows.lines().zip(&scene.pictures[0].objects) {
        let numbers: Vec<f64> = row.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers[0] as usize, object.class);
        assert!(numbers[1..].iter().all(|v| (0.0..=1.0).contains(v)));
        let points = numbers[1..]
            .chunks(2)
            .map(|p| [p[0] * WIDTH as f64, p[1] * HEIGHT as f64]);
        let cut: Vec<[f64; 2]> = points.clone().map(|p| p.map(f64::floor)).collect();
        let rounded: Vec<[f64; 2]> = points.map(|p| p.map(f64::round)).collect();
        assert_eq!(cut, rounded);
        let filled = rasterize_centers(&cut, WIDTH, HEIGHT).unwrap();
        let mask = object.mask.decode().unwrap();
        // The line between two parts is drawn.
        let least = if object.class == 2 { 0.8 } else { 1.0 };
        assert!(filled.iou(&mask) >= least && filled.intersection(&mask) == mask.area());
    }
}

#[test]
fn single_pixels_are_polygons_of_three_points() {
    let mut single = picture("a.png");
    single.objects = vec![object(
        0,
        0.5,
        &Mask::from_fn(WIDTH, HEIGHT, |x, y| (x, y) == (7, 9)),
    )];
    let scene = Scene::new(vec![single]);
    let mut layout = scene.layout(&[Format::Yolo, Format::LabelMe]);
    layout.train_share = 1.0;
    scene.write(&layout);
    assert_eq!(scene.read("yolo/labels/train/a.txt").split(' ').count(), 7);
    let points = scene.json("labelme/a.json")["shapes"][0]["points"].clone();
    assert_eq!(
        points,
        serde_json::json!([[7.4995, 9.4995], [7.4995, 9.4995], [7.4995, 9.4995]])
    );
}

#[test]
fn labelme_has_polygons_for_parts_and_a_mask_for_a_hole() {
    let scene = Scene::new(vec![picture("sub/a.png")]);
    scene.write(&scene.layout(&[Format::LabelMe]));
    let document = scene.json("labelme/sub/a.json");
    assert_eq!(document["imagePath"], "../../../in/sub/a.png");
    let shapes = document["shapes"].as_array().unwrap();
    let kinds: Vec<&str> = shapes
        .iter()
        .map(|s| s["shape_type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["polygon", "mask", "polygon", "polygon"]);
    assert_eq!(shapes[0]["group_id"], Value::Null);
    assert_eq!(
        (&shapes[2]["group_id"], &shapes[3]["group_id"]),
        (&2.into(), &2.into())
    );
    assert_eq!(shapes[1]["points"], serde_json::json!([[33, 5], [55, 27]]));
}

#[test]
fn a_dot_of_a_folder_begins_no_extension() {
    assert_eq!(picture("a.b/c.jpg").extension(), Some("jpg"));
    assert_eq!(picture("a.b/c").extension(), None);
}

#[test]
fn voc_shows_the_better_object_on_top() {
    let mut two = picture("a.png");
    two.objects = vec![
        object(1, 0.9, &disc(20, 20, 9)),
        object(2, 0.5, &disc(26, 20, 9)),
    ];
    let scene = Scene::new(vec![two]);
    scene.write(&scene.layout(&[Format::Voc]));
    let pixel = |map: &str, x: usize| {
        let bytes = fs::read(scene.out().join(format!("voc/{map}/a.png"))).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::IDENTITY);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(
            reader.info().palette.as_ref().unwrap()[3..9],
            [128, 0, 0, 0, 128, 0]
        );
        pixels[20 * WIDTH + x]
    };
    assert_eq!(
        [1, 20, 32].map(|x| pixel("SegmentationClass", x)),
        [0, 2, 3]
    );
    assert_eq!(
        [1, 23, 32].map(|x| pixel("SegmentationObject", x)),
        [0, 1, 2]
    );
}

#[test]
fn same_stems_can_be_told_apart() {
    let scene = Scene::new(vec![picture("a.png"), picture("a.jpg")]);
    let mut layout = scene.layout(&[Format::LabelMe]);
    layout.keep_extension = true;
    scene.write(&layout);
    let want = ["labelme/a-jpg.json", "labelme/a-png.json"].map(str::to_string);
    assert_eq!(files(&scene.out()), want.into());
}

#[test]
fn formats_have_names_and_unknown_ones_list_them() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
    }
    let error = "darknet".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("coco, coco-polygon, yolo"), "{error}");
}

#[test]
fn more_classes_than_a_map_has_values_are_refused() {
    let classes: Vec<String> = (0..255).map(|i| format!("class {i}")).collect();
    let layout = Layout::new("out", vec![Format::Voc], classes.clone());
    assert!(
        layout
            .validate()
            .unwrap_err()
            .to_string()
            .contains("at most 254")
    );
    assert!(
        Layout::new("out", vec![Format::Coco], classes)
            .validate()
            .is_ok()
    );
}

#[test]
fn a_picture_in_the_place_of_its_link_stays() {
    let scene = Scene::new(vec![]);
    let inside = scene.out().join("imagefolder/train/a.png");
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    fs::write(&inside, "the only copy").unwrap();
    for link in [Link::Hard, Link::Copy, Link::Symbolic] {
        let layout = Layout {
            link,
            ..scene.layout(&[Format::ImageFolder])
        };
        let roundabout = scene.out().join("imagefolder/../imagefolder/train/a.png");
        let error = write_picture(&layout, &picture("a.png"), &roundabout, &image());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("is the picture itself"), "{error}");
        assert_eq!(fs::read(&inside).unwrap(), b"the only copy");
    }
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_refused() {
    let scene = Scene::new(vec![picture("a.png")]);
    let layout = scene.layout(&Format::ALL);
    let source = scene.source(&scene.pictures[0]);
    for name in ["../a.png", "a/../../b.png", "/a.png", "", "."] {
        let written = write_picture(&layout, &picture(name), &source, &image());
        assert!(matches!(written, Err(Error::InvalidArgument(_))), "{name}");
    }
    assert!(!scene.out().exists());
}
