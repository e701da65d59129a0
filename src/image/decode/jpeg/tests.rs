use super::*;
use crate::error::Error;
use crate::image::Image;

fn file(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/field/pictures/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

fn problem(bytes: &[u8]) -> String {
    match Image::decode(bytes) {
        Err(Error::InvalidImage(problem)) => problem,
        other => panic!("expected an invalid image, got {other:?}"),
    }
}

/// Position behind the header of the last scan.
fn last_scan(bytes: &[u8]) -> usize {
    let at = bytes.windows(2).rposition(|two| two == [0xff, 0xda]);
    let at = at.unwrap();
    at + 2 + usize::from(bytes[at + 3])
}

#[test]
fn what_stands_behind_the_picture_does_not_matter() {
    for name in ["progressive.jpg", "restarts.jpg"] {
        let bytes = file(name);
        let alone = Image::decode(&bytes).unwrap();
        for tail in [
            &b"\xff\xda\x00\x0c and then a film"[..],
            b"\xff\xd9",
            b"\xff\xd8\xff\xe0 a second picture that is cut",
        ] {
            let with_tail = Image::decode(&[&bytes, tail].concat()).unwrap();
            assert!(with_tail == alone, "{name}");
        }
    }
}

#[test]
fn a_cut_picture_is_refused_wherever_it_is_cut_and_whatever_follows() {
    for name in ["progressive.jpg", "restarts.jpg"] {
        let bytes = file(name);
        let scan = last_scan(&bytes);
        // Behind the last bits there may be a whole picture without its end marker.
        for length in scan..bytes.len() - 16 {
            let cut = &bytes[..length];
            assert!(problem(cut).contains("truncated"), "{name} at {length}");
            let with_an_end = [cut, b"\xff\xd9"].concat();
            let problem = problem(&with_an_end);
            assert!(problem.contains("damaged"), "{name} at {length}: {problem}");
            assert!(problem.contains("from row"), "{problem}");
        }
    }
}

#[test]
fn a_whole_picture_without_an_end_marker_is_read() {
    let bytes = file("restarts.jpg");
    let want = Image::decode(&bytes).unwrap();
    let without = &bytes[..bytes.len() - 2];
    assert!(Image::decode(without).unwrap() == want);
    // A progressive one may lack a scan.
    let bytes = file("progressive.jpg");
    assert!(problem(&bytes[..bytes.len() - 2]).contains("truncated"));
}

#[test]
fn most_damage_to_the_data_is_found() {
    for name in ["progressive.jpg", "restarts.jpg"] {
        let bytes = file(name);
        let start = last_scan(&bytes);
        let places = start..bytes.len() - 40;
        let found = places.clone().filter(|place| {
            let mut bytes = bytes.clone();
            bytes[*place..*place + 30].fill(0xff);
            Image::decode(&bytes).is_err()
        });
        let found = found.count();
        assert!(
            found * 20 >= places.len() * 19,
            "{name}: {found} of {}",
            places.len()
        );
    }
}

#[test]
fn tables_that_are_left_out_are_the_standard_ones() {
    let bytes = file("restarts.jpg");
    // PIL writes the standard tables, one to a segment, in a row.
    let mut without = bytes[..2].to_vec();
    let mut position = 2;
    while bytes[position + 1] != 0xda {
        let segment = &bytes[position + 2..];
        let length = 2 + usize::from(u16::from_be_bytes([segment[0], segment[1]]));
        if bytes[position + 1] != 0xc4 {
            without.extend(&bytes[position..position + length]);
        }
        position += length;
    }
    without.extend(&bytes[position..]);
    assert!(without.len() < bytes.len() - 300);
    assert!(Image::decode(&without).unwrap() == Image::decode(&bytes).unwrap());
}

#[test]
fn processes_that_are_not_supported_are_named() {
    let bytes = file("restarts.jpg");
    let at = bytes
        .windows(2)
        .position(|two| two == [0xff, 0xc0])
        .unwrap();
    for (marker, name) in [
        (0xc9, "arithmetic-coded"),
        (0xc3, "lossless"),
        (0xc5, "hierarchical"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at + 1] = marker;
        let problem = problem(&bytes);
        assert!(
            problem.contains(name) && problem.contains("png"),
            "{problem}"
        );
        assert!(!problem.contains("damaged"), "{problem}");
    }
    let mut deep = bytes.clone();
    deep[at + 4] = 12;
    assert!(problem(&deep).contains("12 bits"));
}

#[test]
fn a_progressive_picture_whose_coefficients_take_too_much_is_refused_by_its_header() {
    let mut bytes = file("progressive.jpg");
    let at = bytes
        .windows(2)
        .position(|two| two == [0xff, 0xc2])
        .unwrap();
    bytes[at + 5..at + 9].copy_from_slice(&[0x2e, 0xe0, 0x2e, 0xe0]); // 12000 x 12000
    let problem = problem(&bytes);
    assert!(
        problem.contains("progressive jpeg") && problem.contains("baseline"),
        "{problem}"
    );
}

#[test]
fn tables_of_too_many_codes_are_refused() {
    let mut counts = [0; 16];
    counts[0] = 3;
    assert!(Table::new(&counts, &[1, 2, 3]).is_none());
    counts[0] = 2;
    assert!(Table::new(&counts, &[1]).is_none());
    assert!(Table::new(&counts, &[1, 2]).is_some());
}
