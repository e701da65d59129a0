//! Several images in one pass.

use candle::Tensor;

use super::{ImageEmbedding, Sam3};
use crate::image::Image;
use crate::{Result, Trace};

impl Sam3 {
    /// Encodes images of any sizes, the image encoder and the neck seeing all of them at once: on
    /// a GPU faster than one by one, at the price of memory.
    pub fn encode_images(&self, images: &[Image]) -> Result<Vec<ImageEmbedding>> {
        self.encode_images_traced(images, &mut Trace::off())
    }

    /// Like [`Self::encode_images`], recording the stages that see all images.
    pub fn encode_images_traced(
        &self,
        images: &[Image],
        trace: &mut Trace,
    ) -> Result<Vec<ImageEmbedding>> {
        if let [image] = images {
            return Ok(vec![self.encode_image_traced(image, trace)?]);
        }
        let pixels: Result<Vec<_>> = images.iter().map(|image| self.preprocess(image)).collect();
        let pixels = pixels?;
        if pixels.is_empty() {
            return Ok(vec![]);
        }
        let pixels = Tensor::cat(&pixels, 0)?;
        trace.record("pixel_values", &pixels);
        let trunk = self.detector.features(&pixels)?; // (b, c, h, w)
        self.detector.record_trunk(&trunk, trace)?;
        let fpn = self.detector.neck(&trunk)?;
        for (level, map) in fpn.iter().enumerate() {
            trace.record(&format!("neck.{level}"), map);
        }
        let embed = |(i, image): (usize, &Image)| {
            let of_image = |map: &Tensor| map.narrow(0, i, 1)?.contiguous();
            let [fine, middle, coarse] = &fpn;
            let fpn = [of_image(fine)?, of_image(middle)?, of_image(coarse)?];
            let trunk = self.clicks.as_ref().map(|_| of_image(&trunk)).transpose()?;
            Ok(ImageEmbedding {
                features: self.detector.prepare(fpn)?,
                trunk,
                width: image.width(),
                height: image.height(),
            })
        };
        images.iter().enumerate().map(embed).collect()
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;
    use crate::models::sam3::LoadOptions;
    use crate::nn::golden::assert_close;

    #[test]
    fn a_batch_equals_its_images_one_by_one() {
        let options = LoadOptions {
            clicks: true,
            ..LoadOptions::default()
        };
        let model = Sam3::load(&crate::weights::demo().unwrap(), &options).unwrap();
        let image = |width: usize, height: usize, step: usize| {
            let pixels = (0..3 * width * height).map(|i| (i * step % 251) as u8);
            Image::from_rgb8(width, height, pixels.collect()).unwrap()
        };
        let images = [image(60, 40, 3), image(50, 70, 7)];
        let batch = model.encode_images(&images).unwrap();
        assert_eq!(batch.len(), 2);
        for (got, image) in batch.iter().zip(&images) {
            let want = model.encode_image(image).unwrap();
            assert_eq!((got.width, got.height), (want.width, want.height));
            assert_close(&got.features.attended, &want.features.attended, 1e-5);
            assert_close(&got.features.fpn[0], &want.features.fpn[0], 1e-5);
            let (got, want) = (got.trunk.as_ref(), want.trunk.as_ref());
            assert_close(got.unwrap(), want.unwrap(), 1e-5);
        }
        assert!(model.encode_images(&[]).unwrap().is_empty());
    }
}
