//! The most memory that an accepted picture takes: its decoded size and 300 MB.

use std::path::Path;
use std::process::Command;

use candle_sam3::image::Image;
use candle_sam3::image::transform::{LongestSide, Square};

const ALLOWANCE: usize = 300 << 20;

/// Names the picture to the test that runs in a process of its own.
const PICTURE: &str = "SAM3_TEST_PICTURE";

#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_by_the_decoded_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // 1 x 131,072: between the passes of the resize it would be 396 MB.
    write_png(
        &path("tall.png"),
        1,
        1 << 17,
        png::ColorType::Grayscale,
        png::BitDepth::One,
    );
    // 64 million pixels that take 8 MB as they are stored, and 512 MB.
    write_png(
        &path("bits.png"),
        8000,
        8000,
        png::ColorType::Grayscale,
        png::BitDepth::One,
    );
    write_png(
        &path("deep.png"),
        8000,
        8000,
        png::ColorType::Rgba,
        png::BitDepth::Sixteen,
    );
    for name in ["tall.png", "bits.png", "deep.png"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::one_picture", "--ignored"])
            .env(PICTURE, path(name))
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn one_picture() {
    let path = std::env::var_os(PICTURE).expect("the name of a picture");
    let before = peak();
    let image = Image::open(path).unwrap();
    let decoded = image.pixels().len();
    Square { size: 1008 }.apply(&image).unwrap();
    let longest = LongestSide { size: 1024 };
    if longest.resized(image.width(), image.height()).0 > 0 {
        longest.apply(&image).unwrap();
    }
    let used = peak() - before;
    assert!(
        used <= decoded + ALLOWANCE,
        "{} MB for {} MB of pixels",
        used >> 20,
        decoded >> 20
    );
}

/// The most memory that this process ever held, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

fn write_png(path: &Path, width: u32, height: u32, color: png::ColorType, depth: png::BitDepth) {
    use std::io::Write;
    let file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Fastest);
    let row = vec![0x55; color.samples() * depth as usize * width as usize / 8 + 1];
    let row = &row[..(color.samples() * depth as usize * width as usize).div_ceil(8)];
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for _ in 0..height {
        stream.write_all(row).unwrap();
    }
    stream.finish().unwrap();
}
