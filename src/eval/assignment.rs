//! Optimal assignment of rows to columns.

/// Pairs rows with columns so that the sum of `gain` is largest; with n rows and m columns, min(n, m)
/// pairs, by row.
///
/// Shortest augmenting paths in the order of SciPy's `linear_sum_assignment`, so that of several best
/// assignments the same one is chosen:
/// <https://github.com/scipy/scipy/blob/v1.14.1/scipy/optimize/rectangular_lsap/rectangular_lsap.cpp#L74>.
pub(super) fn assign(gain: &[Vec<f64>]) -> Vec<(usize, usize)> {
    let rows = gain.len();
    let columns = gain.first().map_or(0, Vec::len);
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    if columns < rows {
        let transposed: Vec<Vec<f64>> = (0..columns)
            .map(|c| gain.iter().map(|row| row[c]).collect())
            .collect();
        let mut pairs: Vec<_> = assign(&transposed)
            .into_iter()
            .map(|(c, r)| (r, c))
            .collect();
        pairs.sort_unstable();
        return pairs;
    }
    let mut state = State {
        row_price: vec![0.0; rows],
        column_price: vec![0.0; columns],
        column_of: vec![None; rows],
        row_of: vec![None; columns],
    };
    for row in 0..rows {
        state.add(gain, row);
    }
    let pairs = state.column_of.into_iter().enumerate();
    pairs
        .filter_map(|(row, column)| Some((row, column?)))
        .collect()
}

struct State {
    row_price: Vec<f64>,
    column_price: Vec<f64>,
    column_of: Vec<Option<usize>>,
    row_of: Vec<Option<usize>>,
}

impl State {
    /// Assigns one more row along the cheapest path of reassignments that ends at a free column.
    fn add(&mut self, gain: &[Vec<f64>], new_row: usize) {
        let columns = self.row_of.len();
        let mut from = vec![new_row; columns];
        let mut cost = vec![f64::INFINITY; columns];
        let mut seen_rows = vec![false; self.column_of.len()];
        let mut seen_columns = vec![false; columns];
        // Backwards, so that a constant matrix gives the identity.
        let mut open: Vec<usize> = (0..columns).rev().collect();
        let (mut row, mut least) = (new_row, 0.0);
        let sink = loop {
            seen_rows[row] = true;
            let (mut at, mut lowest) = (0, f64::INFINITY);
            for (position, &column) in open.iter().enumerate() {
                let reduced =
                    least - gain[row][column] - self.row_price[row] - self.column_price[column];
                if reduced < cost[column] {
                    cost[column] = reduced;
                    from[column] = row;
                }
                let is_free = self.row_of[column].is_none();
                if cost[column] < lowest || (cost[column] == lowest && is_free) {
                    (at, lowest) = (position, cost[column]);
                }
            }
            least = lowest;
            let column = open.swap_remove(at);
            seen_columns[column] = true;
            match self.row_of[column] {
                Some(taken_by) => row = taken_by,
                None => break column,
            }
        };
        self.row_price[new_row] += least;
        for row in (0..seen_rows.len()).filter(|&row| seen_rows[row] && row != new_row) {
            if let Some(column) = self.column_of[row] {
                self.row_price[row] += least - cost[column];
            }
        }
        for column in (0..columns).filter(|&column| seen_columns[column]) {
            self.column_price[column] -= least - cost[column];
        }
        let mut column = sink;
        loop {
            let row = from[column];
            self.row_of[column] = Some(row);
            match self.column_of[row].replace(column) {
                Some(next) if row != new_row => column = next,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(gain: &[Vec<f64>], pairs: &[(usize, usize)]) -> f64 {
        pairs.iter().map(|&(r, c)| gain[r][c]).sum()
    }

    /// The best sum, by trying every assignment of the shorter side.
    fn best(gain: &[Vec<f64>], row: usize, taken: &mut Vec<bool>, skips: usize) -> f64 {
        if row == gain.len() {
            return 0.0;
        }
        let mut most = f64::NEG_INFINITY;
        if skips > 0 {
            most = best(gain, row + 1, taken, skips - 1);
        }
        for column in 0..taken.len() {
            if !taken[column] {
                taken[column] = true;
                most = most.max(gain[row][column] + best(gain, row + 1, taken, skips));
                taken[column] = false;
            }
        }
        most
    }

    #[test]
    fn no_assignment_gains_more() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for (rows, columns) in [(1, 1), (2, 5), (5, 2), (5, 5), (4, 6), (6, 4)] {
            for _ in 0..20 {
                let gain: Vec<Vec<f64>> = (0..rows)
                    .map(|_| (0..columns).map(|_| random()).collect())
                    .collect();
                let pairs = assign(&gain);
                assert_eq!(pairs.len(), rows.min(columns));
                let skips = rows.saturating_sub(columns);
                let want = best(&gain, 0, &mut vec![false; columns], skips);
                assert!((total(&gain, &pairs) - want).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn equal_gains_go_to_the_first() {
        assert_eq!(assign(&vec![vec![0.0; 4]; 3]), [(0, 0), (1, 1), (2, 2)]);
        assert!(assign(&[]).is_empty());
    }
}
