use super::*;
use crate::nn::kernels::epilogue::{Activation, Bias};
use crate::nn::kernels::{is_affordable, random};

/// Weights (n, k) and their scales.
fn weights(n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let bytes = random(n * k, 2)
        .iter()
        .map(|x| (x * 255.) as i8 as u8)
        .collect();
    let scales = random(n, 3).iter().map(|x| x / 50.).collect();
    (bytes, scales)
}

/// The definition: (m, k) -> (m, n), one value at a time.
fn reference(xs: &[f32], k: usize, bytes: &[u8], scales: &[f32]) -> Vec<f32> {
    let mut ys = vec![];
    for row in xs.chunks_exact(k) {
        let low = row.iter().fold(0f32, |a, b| a.min(*b));
        let high = row.iter().fold(0f32, |a, b| a.max(*b));
        let (step, inverse) = ((high - low) / 255., 255. / (high - low));
        let zero = (-low * inverse).round_ties_even() as i64;
        let byte = |x: &f32| ((x * inverse).round_ties_even() as i64 + zero).clamp(0, 255);
        for (weight, scale) in bytes.chunks_exact(k).zip(scales) {
            let products = row.iter().zip(weight);
            let sum: i64 = products
                .map(|(x, w)| (byte(x) - zero) * i64::from(*w as i8))
                .sum();
            ys.push(sum as f32 * (step * scale));
        }
    }
    ys
}

fn bits(xs: &[f32]) -> Vec<u32> {
    xs.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_instruction_set_gives_the_reference_to_the_bit() {
    for (m, k, n) in [
        (1, 1, 1),
        (9, 10, 17),
        (3, 2600, 5),
        (37, 50, 70),
        (130, 257, 33),
        (500, 16, 300),
    ] {
        if !is_affordable(m * k * n) {
            continue;
        }
        let (bytes, scales) = weights(n, k);
        let (xs, bias, residual) = (random(m * k, 1), random(n, 4), random(m * n, 5));
        let plain = reference(&xs, k, &bytes, &scales);
        for tile in dot::tests::tiles() {
            let weight = Int8Weight::for_tile(tile, &bytes, scales.clone(), n, k).unwrap();
            for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
                let epilogue = Epilogue {
                    bias: Bias::Columns(&bias),
                    activation,
                    residual: Some(Rows::new(&residual, n, m, n)),
                };
                let mut want = plain.clone();
                epilogue.apply(Block::new(&mut want, n), 0, 0);
                let got = matmul(Rows::new(&xs, k, m, k), &weight, &epilogue).unwrap();
                let shape = (tile.rows, tile.cols, tile.group);
                assert!(
                    bits(&got) == bits(&want),
                    "{m}x{k}x{n} {shape:?} {activation:?}"
                );
            }
        }
    }
}

#[test]
fn channels_first_give_the_same_values() {
    for (m, k, n) in [(1, 1, 1), (77, 19, 40), (300, 48, 130)] {
        if !is_affordable(m * k * n) {
            continue;
        }
        let (bytes, scales) = weights(n, k);
        let (planes, bias) = (random(m * k, 1), random(n, 4));
        let transposed = |xs: &[f32], width: usize| -> Vec<f32> {
            let column = |j| xs.iter().skip(j).step_by(width).copied();
            (0..width).flat_map(column).collect()
        };
        let plain = reference(&transposed(&planes, m), k, &bytes, &scales);
        let mut want = transposed(&plain, n);
        let epilogue = Epilogue {
            bias: Bias::Rows(&bias),
            activation: Activation::HardSwish,
            residual: None,
        };
        epilogue.apply(Block::new(&mut want, m), 0, 0);
        for tile in dot::tests::tiles() {
            let weight = Int8Weight::for_tile(tile, &bytes, scales.clone(), n, k).unwrap();
            let got = pointwise(&planes, m, &weight, &epilogue).unwrap();
            assert!(bits(&got) == bits(&want), "{m}x{k}x{n} {}", tile.group);
        }
    }
}

#[test]
fn what_is_not_finite_reaches_its_row_only() {
    let (m, k, n) = if cfg!(miri) { (4, 8, 9) } else { (20, 30, 40) };
    let (bytes, scales) = weights(n, k);
    let weight = Int8Weight::new(&bytes, scales, n, k).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut xs = random(m * k, 1);
        xs[2 * k + 7] = bad;
        let got = matmul(Rows::new(&xs, k, m, k), &weight, &Epilogue::default()).unwrap();
        for (i, row) in got.chunks_exact(n).enumerate() {
            assert!(row.iter().all(|x| x.is_nan() == (i == 2)), "{bad}, row {i}");
        }
    }
}

#[test]
fn empty_sides_give_empty_results_or_the_bias() {
    for (m, k, n) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
        let weight = Int8Weight::new(&vec![1; n * k], vec![1.; n], n, k).unwrap();
        let (xs, bias) = (vec![0.; m * k], vec![2.; n]);
        let epilogue = Epilogue {
            bias: Bias::Columns(&bias),
            ..Epilogue::default()
        };
        let got = matmul(Rows::new(&xs, k, m, k), &weight, &epilogue).unwrap();
        assert_eq!(got, vec![2.; m * n], "{m}x{k}x{n}");
    }
}

#[test]
fn sizes_that_disagree_and_sums_that_do_not_fit_are_errors() {
    let new = |bytes: usize, scales: Vec<f32>, n, k| {
        let error = Int8Weight::new(&vec![0; bytes], scales, n, k).err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(new(5, vec![1.; 2], 2, 3).contains("5 bytes"));
    assert!(new(6, vec![1.; 3], 2, 3).contains("3 scales"));
    assert!(new(0, vec![], 1 << 63, 2).contains("0 bytes"));
    assert!(new(6, vec![1., f32::NAN], 2, 3).contains("is NaN"));
    assert!(new(1 << 17, vec![1.], 1, 1 << 17).contains("too long"));
    assert_eq!(new(1 << 16, vec![1.], 1, 1 << 16), "");
}
