//! Simulated users of interactive models.
//!
//! Clicks follow `sample_one_point_from_error_center`,
//! <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/modeling/sam2_utils.py#L205>: in the
//! middle of the largest error.

use crate::mask::Mask;

/// Where a user who knows the truth clicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Click {
    /// The pixel.
    pub xy: [usize; 2],
    /// Whether it is on the object, and was missed, or beside it.
    pub on_object: bool,
}

/// The next click on an object: the pixel deepest inside what is missing or what is too much; `None`
/// when the masks are equal or differ in size.
///
/// Without an answer yet, `answer` is an empty mask and the click lies deepest inside the object. Of
/// equally deep pixels the first by rows is taken, and one to remove before one to add.
pub fn next_click(truth: &Mask, answer: &Mask) -> Option<Click> {
    let (mut missing, mut extra) = (truth.clone(), answer.clone());
    missing.subtract(answer);
    extra.subtract(truth);
    let (added, removed) = (deepest(&missing), deepest(&extra));
    let on_object = match (added, removed) {
        (Some((_, add)), Some((_, remove))) => add > remove,
        (add, _) => add.is_some(),
    };
    let (xy, _) = if on_object { added? } else { removed? };
    Some(Click { xy, on_object })
}

/// The mean intersection over union of answers and truths; 0 for a pair of empty masks, `None`
/// without any.
pub fn mean_iou<'a>(pairs: impl IntoIterator<Item = (&'a Mask, &'a Mask)>) -> Option<f64> {
    super::mean(pairs.into_iter().map(|(a, b)| f64::from(a.iou(b))))
}

/// The first pixel by rows that is farthest from the outside of the mask, and its squared distance;
/// what lies beyond the image is outside.
fn deepest(mask: &Mask) -> Option<([usize; 2], i64)> {
    let (width, height) = (mask.width(), mask.height());
    // Rows to the nearest pixel outside in the same column, from above and then from below.
    let mut columns = vec![0i64; width * height];
    for x in 0..width {
        let mut distance = 0;
        for y in 0..height {
            distance = if mask.get(x, y) { distance + 1 } else { 0 };
            columns[y * width + x] = distance;
        }
        distance = 0;
        for y in (0..height).rev() {
            distance = if mask.get(x, y) { distance + 1 } else { 0 };
            columns[y * width + x] = columns[y * width + x].min(distance);
        }
    }
    let mut best: Option<([usize; 2], i64)> = None;
    let mut envelope = Envelope::default();
    for (y, row) in columns.chunks_exact(width.max(1)).enumerate() {
        envelope.build(row);
        for (x, squared) in envelope.minima(width).enumerate() {
            if squared > best.map_or(0, |(_, most)| most) {
                best = Some(([x, y], squared));
            }
        }
    }
    best
}

/// The lower envelope of the parabolas (x - s)^2 + d(s)^2 of a row, after Felzenszwalb and
/// Huttenlocher, "Distance Transforms of Sampled Functions" (2012).
#[derive(Default)]
struct Envelope {
    /// Where each parabola of the envelope stands, its height, and from which x it is the lowest.
    parabolas: Vec<(i64, i64, i64)>,
}

impl Envelope {
    fn build(&mut self, distances: &[i64]) {
        self.parabolas.clear();
        self.push(-1, 0);
        for (x, distance) in distances.iter().enumerate() {
            self.push(x as i64, distance * distance);
        }
        self.push(distances.len() as i64, 0);
    }

    fn push(&mut self, at: i64, height: i64) {
        while let Some(&(other, other_height, start)) = self.parabolas.last() {
            // The first whole x at which the new one is lower.
            let numerator = (height + at * at) - (other_height + other * other);
            let from = numerator.div_euclid(2 * (at - other)) + 1;
            if from > start {
                self.parabolas.push((at, height, from));
                return;
            }
            self.parabolas.pop();
        }
        self.parabolas.push((at, height, i64::MIN));
    }

    fn minima(&self, width: usize) -> impl Iterator<Item = i64> + '_ {
        let mut current = 0;
        (0..width as i64).map(move |x| {
            while self.parabolas.get(current + 1).is_some_and(|p| p.2 <= x) {
                current += 1;
            }
            let (at, height, _) = self.parabolas[current];
            (x - at) * (x - at) + height
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::tests::noise;

    fn deepest_by_trying(mask: &Mask) -> Option<([usize; 2], i64)> {
        let (width, height) = (mask.width() as i64, mask.height() as i64);
        let mut best: Option<([usize; 2], i64)> = None;
        for y in 0..height {
            for x in 0..width {
                let outside = (-1..=height)
                    .flat_map(|v| (-1..=width).map(move |u| (u, v)))
                    .filter(|&(u, v)| u < 0 || v < 0 || !mask.get(u as usize, v as usize));
                let squared = outside
                    .map(|(u, v)| (u - x).pow(2) + (v - y).pow(2))
                    .min()
                    .unwrap();
                if squared > best.map_or(0, |(_, most)| most) {
                    best = Some(([x as usize, y as usize], squared));
                }
            }
        }
        best
    }

    #[test]
    fn the_deepest_pixel_is_found() {
        let full = Mask::from_fn(13, 8, |_, _| true);
        for mask in (0..6).map(|i| noise(17, 14, i, 40 + 11 * i)).chain([full]) {
            assert_eq!(deepest(&mask), deepest_by_trying(&mask));
        }
        assert_eq!(deepest(&Mask::new(5, 5)), None);
    }

    #[test]
    fn the_first_click_is_in_the_middle_and_the_next_in_the_largest_error() {
        let truth = Mask::from_fn(40, 40, |x, y| {
            (10..31).contains(&x) && (10..31).contains(&y)
        });
        let first = next_click(&truth, &Mask::new(40, 40)).unwrap();
        assert_eq!((first.xy, first.on_object), ([20, 20], true));
        // Too much at the left, seven wide; missing at the right, five wide.
        let answer = Mask::from_fn(40, 40, |x, y| (3..26).contains(&x) && (10..31).contains(&y));
        let next = next_click(&truth, &answer).unwrap();
        assert!(!next.on_object && next.xy[0] == 6);
        assert_eq!(next_click(&truth, &truth), None);
    }

    #[test]
    fn mean_iou_is_over_pairs() {
        let left = Mask::from_fn(10, 1, |x, _| x < 4);
        let right = Mask::from_fn(10, 1, |x, _| (2..4).contains(&x));
        assert_eq!(mean_iou([(&left, &right), (&left, &left)]), Some(0.75));
        assert_eq!(mean_iou([]), None);
    }
}
