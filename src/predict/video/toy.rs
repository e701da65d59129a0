//! A small tracker on a small trunk, for the tests of sessions.

use candle::{DType, Device, Module, Tensor};
use serde_json::Value;

use crate::backbones::vit::{self, Vit};
use crate::image::Image;
use crate::models::head::{self, SamHead};
use crate::models::sam3::neck::Neck;
use crate::models::tracker::{
    self, Answers, FrameFeatures, LabeledPoint, Memories, MemoryMasks, Tracker, TrackerNetwork,
    TrackingModel,
};
use crate::nn::golden::Golden;
use crate::{Result, Run, Size};

/// The toy model of the session: two layers of a ViT, a neck, and a whole tracker.
pub(super) struct Toy {
    trunk: Vit,
    neck: Neck,
    pub(super) tracker: TrackerNetwork,
    /// Memories are stored in bf16, as the original stores them outside of tests.
    pub(super) is_coarse: bool,
}

impl Toy {
    pub(super) fn new(golden: &Golden) -> Self {
        let config = golden.config();
        let size = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let (vit, tracker) = (&config["vit"], &config["tracker"]);
        let (image_size, patch_size) = (size(&config["image_size"]), size(&config["patch_size"]));
        let trunk = vit::Config {
            image_size,
            patch_size,
            dim: size(&vit["dim"]),
            depth: size(&vit["depth"]),
            num_heads: size(&vit["heads"]),
            mlp_dim: size(&vit["mlp"]),
            window_size: size(&vit["window"]),
            pretrain_grid: size(&vit["pretrain_grid"]),
            global_blocks: vec![1],
            rope_theta: 10_000.,
        };
        let (dim, grid) = (size(&config["d_model"]), image_size / patch_size);
        let head = head::Config {
            dim,
            num_heads: size(&tracker["heads"]),
            mlp_dim: size(&tracker["mlp"]),
            iou_hidden_dim: size(&tracker["iou_hidden"]),
            ..head::Config::sam3(grid, image_size)
        };
        let tracker = tracker::Config {
            dim,
            memory_dim: size(&tracker["memory_dim"]),
            attention_layers: size(&tracker["memory_layers"]),
            attention_ffn_dim: size(&tracker["memory_ffn"]),
            ..tracker::Config::sam3(grid, image_size)
        };
        let vb = golden.weights();
        let backbone = vb.pp("detector.backbone.vision_backbone");
        let vb = vb.pp("tracker");
        let decoder = vb.pp("sam_mask_decoder");
        let head = SamHead::new(&head, vb.pp("sam_prompt_encoder"), decoder).unwrap();
        Self {
            neck: Neck::new(trunk.dim, dim, grid, backbone.pp("sam2_convs")).unwrap(),
            trunk: Vit::new(&trunk, backbone.pp("trunk")).unwrap(),
            tracker: TrackerNetwork::new(&tracker, &head, vb).unwrap(),
            is_coarse: false,
        }
    }

    /// Pixels (s, s, 3) in 0..255 of a frame that had `size`.
    pub(super) fn encode(&self, pixels: &Tensor, size: Size) -> candle::Result<FrameFeatures> {
        let pixels = pixels
            .to_dtype(DType::F32)?
            .permute((2, 0, 1))?
            .unsqueeze(0)?;
        let pixels = pixels
            .affine(1. / 255., -0.5)?
            .affine(2., 0.)?
            .contiguous()?;
        let maps = self.neck.forward(&self.trunk.forward(&pixels)?)?;
        let tokens = self.tracker.decoder().image_tokens(&maps)?;
        Ok(FrameFeatures::new(tokens, size))
    }
}

impl Tracker for Toy {
    fn config(&self) -> &tracker::Config {
        self.tracker.config()
    }

    fn prompt(
        &self,
        frame: &FrameFeatures,
        points: &[LabeledPoint],
        earlier: Option<&Tensor>,
        memory: Option<Memories>,
    ) -> candle::Result<Answers> {
        self.tracker.prompt(frame, points, earlier, memory)
    }

    fn point_to_mask(&self, frame: &FrameFeatures, mask: &Tensor) -> candle::Result<Tensor> {
        self.tracker.point_to_mask(frame, mask)
    }

    fn track(&self, frame: &FrameFeatures, memory: Memories) -> candle::Result<Answers> {
        self.tracker.track(frame, memory)
    }

    fn remember(&self, frame: &FrameFeatures, masks: &MemoryMasks) -> candle::Result<Tensor> {
        let memory = self.tracker.remember(frame, masks)?;
        match self.is_coarse {
            true => memory.to_dtype(DType::BF16)?.to_dtype(DType::F32),
            false => Ok(memory),
        }
    }

    fn absent_pointer(&self) -> Tensor {
        self.tracker.absent_pointer()
    }
}

impl TrackingModel for Toy {
    fn name(&self) -> &str {
        "a toy"
    }

    fn tracker(&self) -> Result<&dyn Tracker> {
        Ok(self)
    }

    fn encode_frame(&self, image: &Image, _: &mut Run) -> Result<FrameFeatures> {
        let side = self.tracker.config().image_size;
        let squashed = crate::image::resize::resize_bilinear_antialias(image, side, side)?;
        let pixels = squashed.pixels().to_vec();
        let pixels = Tensor::from_vec(pixels, (side, side, 3), &Device::Cpu)?;
        Ok(self.encode(&pixels, image.size())?)
    }
}
