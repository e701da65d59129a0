//! Colors for instances.

/// R, G, B.
pub(super) type Color = [u8; 3];

/// Vivid colors, each far from the ones before and after it.
const COLORS: [Color; 16] = [
    [0x2f, 0x8c, 0xff], // blue
    [0xff, 0x8a, 0x1f], // orange
    [0x2f, 0xcf, 0x78], // green
    [0xff, 0x3d, 0x64], // red
    [0x9b, 0x6b, 0xff], // violet
    [0xff, 0xe0, 0x3d], // yellow
    [0x14, 0xcf, 0xe4], // cyan
    [0xf2, 0x5a, 0xcf], // magenta
    [0xb4, 0xe5, 0x36], // lime
    [0x4f, 0x5f, 0xf5], // indigo
    [0xff, 0xa6, 0x8c], // salmon
    [0x00, 0xb3, 0x9b], // teal
    [0xd3, 0xb0, 0xff], // lavender
    [0x9f, 0xd8, 0xff], // sky
    [0xd6, 0x2f, 0xa0], // plum
    [0xa8, 0xf0, 0xc4], // mint
];

/// A color for each label, in the order given.
///
/// A label starts at a color of its own, whatever else is in the image, and its further instances
/// take the ones that follow. No color is used twice before all have been used.
pub(super) fn colors<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<Color> {
    let mut uses = [0usize; COLORS.len()];
    labels
        .map(|label| {
            let least = uses.iter().copied().min().unwrap_or(0);
            let first = hash(label) as usize;
            let index = (first..first + COLORS.len())
                .map(|index| index % COLORS.len())
                .find(|&index| uses[index] == least)
                .unwrap_or(0);
            uses[index] += 1;
            COLORS[index]
        })
        .collect()
}

/// The color of an object that has a number from 1 on, whatever else is in the image.
pub(super) fn color(number: u32) -> Color {
    COLORS[number.wrapping_sub(1) as usize % COLORS.len()]
}

/// FNV-1a: the same on every machine and in every version, unlike the standard library's.
fn hash(label: &str) -> u32 {
    label.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sixteen_instances_have_sixteen_colors() {
        for labels in [["wheel"; 16].to_vec(), [["cat"; 8], ["dog"; 8]].concat()] {
            let distinct: HashSet<Color> = colors(labels.into_iter()).into_iter().collect();
            assert_eq!(distinct.len(), 16);
        }
    }

    #[test]
    fn a_label_keeps_its_color() {
        let alone = colors(["person"].into_iter())[0];
        let among = colors(["wheel", "truck", "person"].into_iter())[2];
        assert_eq!(alone, among);
    }

    #[test]
    fn colors_repeat_when_all_are_used() {
        assert_eq!(colors(std::iter::repeat_n("a", 40)).len(), 40);
    }
}
