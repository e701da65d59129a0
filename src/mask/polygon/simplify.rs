//! Fewer points for closed paths.

/// The points of a closed path that are needed to stay within `tolerance` of it (Douglas-Peucker).
///
/// The first point and the one farthest from it always stay. Distances are to segments and not to
/// lines, so that the tips of paths that run there and back stay as well.
pub(super) fn simplify(path: &[[f64; 2]], tolerance: f64) -> Vec<[f64; 2]> {
    let Some(&first) = path.first() else {
        return Vec::new();
    };
    let Some((opposite, _)) = farthest(&path[1..], first, first) else {
        return path.to_vec();
    };
    let opposite = opposite + 1;
    let mut keep = vec![false; path.len()];
    keep[0] = true;
    keep[opposite] = true;
    // Stretches whose ends are kept; the end `path.len()` is the first point again.
    let mut open = vec![(0, opposite), (opposite, path.len())];
    while let Some((from, to)) = open.pop() {
        let (a, b) = (path[from], path[to % path.len()]);
        if let Some((at, squared)) = farthest(&path[from + 1..to], a, b)
            && squared > tolerance * tolerance
        {
            let middle = from + 1 + at;
            keep[middle] = true;
            open.extend([(from, middle), (middle, to)]);
        }
    }
    let kept = path.iter().zip(&keep).filter(|(_, keep)| **keep);
    kept.map(|(&point, _)| point).collect()
}

/// Index and squared distance of the point farthest from the segment a to b, of equal ones the first.
fn farthest(points: &[[f64; 2]], a: [f64; 2], b: [f64; 2]) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (at, &point) in points.iter().enumerate() {
        let squared = squared_distance(point, a, b);
        if best.is_none_or(|(_, most)| squared > most) {
            best = Some((at, squared));
        }
    }
    best
}

fn squared_distance(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    let [px, py] = [p[0] - a[0], p[1] - a[1]];
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 {
        ((px * dx + py * dy) / length).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (px - along * dx).powi(2) + (py - along * dy).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_within_the_tolerance_go_and_corners_stay() {
        let path = [
            [0.0, 0.0],
            [5.0, 0.4],
            [10.0, 0.0],
            [10.0, 10.0],
            [5.0, 9.0],
            [0.0, 10.0],
        ];
        let corners = [[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]];
        assert_eq!(simplify(&path, 1.0), corners);
        assert_eq!(simplify(&path, 0.5).len(), 5);
        assert_eq!(simplify(&path, 0.3), path);
    }

    #[test]
    fn a_path_there_and_back_keeps_its_tip() {
        let path = [[0.0, 0.0], [4.0, 0.0], [9.0, 0.0], [4.0, 0.0]];
        assert_eq!(simplify(&path, 1.0), [[0.0, 0.0], [9.0, 0.0]]);
        assert_eq!(simplify(&[[3.0, 3.0]], 1.0), [[3.0, 3.0]]);
        assert!(simplify(&[], 1.0).is_empty());
    }
}
