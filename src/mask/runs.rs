//! Set operations on run lengths, without the pixels.

use super::Rle;

impl Rle {
    /// Number of pixels in both masks; 0 when the masks differ in size.
    pub fn intersection(&self, other: &Self) -> usize {
        if self.size != other.size {
            return 0;
        }
        let (mut ours, mut theirs) = (self.runs(), other.runs());
        let (mut a, mut b) = (ours.next(), theirs.next());
        let mut common = 0;
        while let (Some(left), Some(right)) = (&a, &b) {
            let (start, end) = (left.start.max(right.start), left.end.min(right.end));
            common += end.saturating_sub(start);
            if left.end < right.end {
                a = ours.next();
            } else {
                b = theirs.next();
            }
        }
        common
    }

    /// The pixels of either mask; the left one alone when the masks differ in size.
    pub fn union(&self, other: &Self) -> Self {
        if self.size != other.size {
            return self.clone();
        }
        let mut runs: Vec<_> = self.runs().chain(other.runs()).collect();
        runs.retain(|run| !run.is_empty());
        runs.sort_unstable_by_key(|run| run.start);
        let mut counts: Vec<u32> = Vec::with_capacity(2 * runs.len() + 1);
        let mut position = 0;
        for run in runs {
            if run.start > position || counts.is_empty() {
                counts.extend([(run.start - position) as u32, run.len() as u32]);
                position = run.end;
            } else if let Some(last) = counts.last_mut()
                && run.end > position
            {
                *last += (run.end - position) as u32;
                position = run.end;
            }
        }
        let total = self.size[0] * self.size[1];
        if position < total || counts.is_empty() {
            counts.push((total - position) as u32);
        }
        Self {
            size: self.size,
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::mask::tests::noise;

    #[test]
    fn runs_give_what_pixels_give() {
        let empty = Mask::new(40, 30);
        let full = Mask::from_fn(40, 30, |_, _| true);
        let masks: Vec<Mask> = (0..8).map(|seed| noise(40, 30, seed, 12 * seed)).collect();
        for a in masks.iter().chain([&empty, &full]) {
            for b in masks.iter().chain([&empty, &full]) {
                let (left, right) = (Rle::encode(a), Rle::encode(b));
                assert_eq!(left.intersection(&right), a.intersection(b));
                let mut either = a.clone();
                either.unite(b);
                assert_eq!(left.union(&right).decode().unwrap(), either);
                assert_eq!(left.union(&right).area(), either.area());
            }
        }
    }

    #[test]
    fn masks_of_different_sizes_share_nothing() {
        let wide = Rle::encode(&Mask::from_fn(6, 2, |_, _| true));
        let tall = Rle::encode(&Mask::from_fn(2, 6, |_, _| true));
        assert_eq!(wide.intersection(&tall), 0);
        assert_eq!(wide.union(&tall), wide);
    }
}
