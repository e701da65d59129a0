//! Sine position encodings.
//!
//! Easy to get wrong: every user of the sine has its own order of coordinates. The 2-D map is
//! (y, x), the decoder's queries are (y, x, w, h), the geometry encoder's boxes (y, x, h, w) with
//! raw h and w, its points (x, y).

use candle::{D, DType, Device, Result, Tensor};

use crate::device::upload;

const TEMPERATURE: f64 = 10_000.;
const SCALE: f64 = std::f64::consts::TAU;

/// Encodes coordinates in a number of channels, sine at even and cosine at odd ones, in f32. Its
/// periods stay on the device.
///
/// Follows `PositionEmbeddingSine._encode_xy`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/position_encoding.py#L53>.
#[derive(Debug, Clone)]
pub struct Sines {
    periods: Tensor, // (dim / 2)
}

impl Sines {
    /// In `dim` channels.
    pub fn new(dim: usize, device: &Device) -> Result<Self> {
        // f32 powers, as the reference takes them
        let periods: Vec<f32> = (0..dim / 2)
            .map(|i| (TEMPERATURE as f32).powf((2 * i) as f32 / dim as f32))
            .collect();
        Ok(Self {
            periods: upload(periods, dim / 2, device)?,
        })
    }

    /// Normalised coordinates (…) in 0..1 -> (…, dim)
    pub fn encode(&self, coords: &Tensor) -> Result<Tensor> {
        self.encode_angles(&(coords.to_dtype(DType::F32)? * SCALE)?)
    }

    fn encode_angles(&self, angles: &Tensor) -> Result<Tensor> {
        let phase = angles.unsqueeze(D::Minus1)?.broadcast_div(&self.periods)?;
        Tensor::stack(&[phase.sin()?, phase.cos()?], D::Minus1)?.flatten_from(angles.rank())
    }
}

/// The positional map of a feature grid: -> (1, dim, h, w) in f32, channels y then x.
///
/// Follows `PositionEmbeddingSine.forward`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/position_encoding.py#L90>.
pub fn sine_2d(h: usize, w: usize, dim: usize, device: &Device) -> Result<Tensor> {
    let sines = Sines::new(dim / 2, device)?;
    let axis = |n: usize| -> Result<Tensor> {
        let scale = SCALE as f32;
        let angles: Vec<f32> = (1..=n)
            .map(|i| i as f32 / (n as f32 + 1e-6) * scale)
            .collect();
        sines.encode_angles(&upload(angles, n, device)?)?.t() // (dim / 2, n)
    };
    let y = axis(h)?.unsqueeze(2)?.broadcast_as((dim / 2, h, w))?;
    let x = axis(w)?.unsqueeze(1)?.broadcast_as((dim / 2, h, w))?;
    Tensor::cat(&[y, x], 0)?.unsqueeze(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn maps_equal_the_official_ones() {
        let golden = Golden::open("posenc");
        let mut maps = 0;
        for name in golden.names().filter(|n| n.starts_with("out.map.")) {
            let want = golden.tensor(name);
            let [_, c, h, w] = want.dims()[..] else {
                panic!("{name}")
            };
            assert_close(&sine_2d(h, w, c, &Device::Cpu).unwrap(), &want, 1e-5);
            maps += 1;
        }
        assert!(maps > 0);
    }

    #[test]
    fn channels_are_y_then_x_and_sine_then_cosine() -> Result<()> {
        let map = sine_2d(3, 4, 8, &Device::Cpu)?;
        assert_eq!(map.dims(), [1, 8, 3, 4]);
        let at = |c: usize, y: usize, x: usize| -> Result<f32> {
            map.get(0)?.get(c)?.get(y)?.get(x)?.to_scalar()
        };
        let y = 2. / (3. + 1e-6) * std::f32::consts::TAU;
        let x = 4. / (4. + 1e-6) * std::f32::consts::TAU;
        assert!((at(0, 1, 3)? - y.sin()).abs() < 1e-5);
        assert!((at(1, 1, 3)? - y.cos()).abs() < 1e-5);
        assert!((at(4, 1, 3)? - x.sin()).abs() < 1e-5);
        assert!((at(7, 1, 3)? - (x / 100.).cos()).abs() < 1e-5);
        Ok(())
    }
}
