"""The demo model: its sizes, and SAM 3 with the tensor names of the official checkpoint."""

import torch
from torch import nn

from detector import Decoder, FusionEncoder, GeometryEncoder, Language, Neck, Scoring, SegmentationHead, Trunk, padding_mask
from layers import sine_grid
from memory import VideoTracker
from prompts import known_texts
from tokenizer import END, START, Tokenizer
from tracker import Tracker

CONFIG = {
    "image_size": 224,
    "patch_size": 14,
    "mean": 0.5,
    "std": 0.5,
    "vit": {
        "dim": 128,
        "depth": 6,
        "heads": 4,
        "mlp": 384,
        "window": 8,
        "pretrain_grid": 8,
        "global_blocks": [2, 5],
        "rope_theta": 10000.0,
    },
    "text": {"vocab": 49408, "context": 32, "width": 24, "layers": 2, "heads": 2, "mlp": 96},
    "d_model": 64,
    "heads": 4,
    "geometry": {"layers": 2, "ffn": 256, "roi": 7},
    "encoder": {"layers": 3, "ffn": 256},
    "decoder": {"layers": 3, "ffn": 256, "queries": 24},
    "scoring": {"mlp": 256, "clamp": 12.0},
    "seg": {"stages_built": 3, "stages_used": 2, "groups": 8},
    "tracker": {
        "heads": 4,
        "mlp": 256,
        "depth": 2,
        "mask_in_chans": 16,
        "multimask": 3,
        "iou_hidden": 64,
        "attn_downsample": 2,
        "memory_dim": 32,
        "memory_layers": 2,
        "memory_ffn": 256,
    },
}
TOKENS = "detector.backbone.language_backbone.encoder.token_embedding.weight"


def known_ids(tokenizer):
    """The ids of all taught words, sorted."""
    texts = [tokenizer(text) for text in known_texts()]
    return sorted({0, START, END}.union(*texts))


class Detector(nn.Module):
    def __init__(self, config, words):
        super().__init__()
        self.d, trunk = config["d_model"], config["vit"]["dim"]
        self.grid = config["image_size"] // config["patch_size"]
        vision = {"trunk": Trunk(config), "convs": Neck(trunk, self.d), "sam2_convs": Neck(trunk, self.d)}
        language = Language(config, words)
        self.backbone = nn.ModuleDict({"vision_backbone": nn.ModuleDict(vision), "language_backbone": language})
        self.geometry_encoder = GeometryEncoder(config)
        self.transformer = nn.ModuleDict({"encoder": FusionEncoder(config), "decoder": Decoder(config)})
        self.segmentation_head = SegmentationHead(config)
        self.dot_prod_scoring = Scoring(config)

    def image(self, pixels):
        """pixels [B, 3, S, S], normalised."""
        vision = self.backbone["vision_backbone"]
        tokens = vision["trunk"](pixels)
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)
        fine, middle, coarse = vision["convs"](maps)
        coarse = coarse.flatten(2).transpose(1, 2)
        pos = sine_grid(self.grid, self.d)
        return {"trunk": tokens, "map": maps, "fine": fine, "middle": middle, "coarse": coarse, "pos": pos}

    def forward(self, image, image_of, rows, boxes, labels, valid, denoising=None):
        """rows [N, T] of the token embedding, 0 = padding (trailing padding has no influence); boxes, labels, valid
        [N, K] as in the geometry encoder; image_of [N] names the image of each prompt."""
        pos, coarse = image["pos"], image["coarse"]
        text = self.backbone["language_backbone"](rows)
        geometry, counts = self.geometry_encoder(coarse, pos, self.grid, image_of, boxes, labels, valid)
        valid = torch.cat([rows != 0, counts], 1)
        prompt, mask = torch.cat([text, geometry.to(text.dtype)], 1), padding_mask(valid)
        memory = self.transformer["encoder"](coarse, pos, image_of, prompt, mask)
        states, boxes, presence = self.transformer["decoder"](memory, pos, self.grid, prompt, mask, denoising)
        return {
            "prompt": prompt,
            "valid": valid,
            "mask": mask,
            "memory": memory,
            "states": states,
            "boxes": boxes,
            "presence": presence,
            "logits": self.dot_prod_scoring(states, prompt, valid),
        }

    def masks(self, out, image, image_of, states, chosen=slice(None)):
        """Mask and semantic logits of the `chosen` prompts; `states` [n, K, d] are theirs."""
        memory, prompt, mask, image_of = (x[chosen] for x in (out["memory"], out["prompt"], out["mask"], image_of))
        middle, fine = image["middle"][image_of], image["fine"][image_of]
        return self.segmentation_head(states, memory, prompt, mask, middle, fine, self.grid)


class Sam3(nn.Module):
    """The whole model. All words that are not taught share one row of the embedding, so that training keeps few rows;
    `full_state` spells out the vocabulary. Without `video` it has no memory."""

    def __init__(self, config=CONFIG, video=True):
        super().__init__()
        self.config, self.tokenizer = config, Tokenizer()
        self.known = known_ids(self.tokenizer)
        self.detector = Detector(config, len(self.known) + 1)
        self.tracker = (VideoTracker if video else Tracker)(config)
        row_of = torch.full((config["text"]["vocab"],), len(self.known))
        row_of[torch.tensor(self.known)] = torch.arange(len(self.known))
        self.row_of = row_of

    def rows(self, texts):
        """Texts -> rows of the small embedding [N, T], as short as the longest text allows."""
        ids = torch.tensor([self.tokenizer(text) for text in texts])
        return self.row_of[ids[:, : int((ids != 0).sum(1).max())]]

    def clicks(self, image):
        """What the tracker needs of an encoded image."""
        return self.tracker.image(self.detector.backbone["vision_backbone"]["sam2_convs"](image["map"]))

    def full_state(self):
        state = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        state[TOKENS] = state[TOKENS][self.row_of]
        return state

    def load_full_state(self, state):
        rows = torch.tensor([*self.known, next(i for i in range(len(self.row_of)) if i not in set(self.known))])
        self.load_state_dict({**state, TOKENS: state[TOKENS][rows]})


def normalise(images):
    """u8 [B, S, S, 3] -> f32 [B, 3, S, S] in -1 to 1."""
    return (images.permute(0, 3, 1, 2).float() / 255 - CONFIG["mean"]) / CONFIG["std"]
