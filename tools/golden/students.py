"""Student image backbones (RepViT, TinyViT, EfficientViT-B) and the head that brings them to the ViT grid."""

import torch
from torch import nn

from golden import randn, randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from sam3.backbones.efficientvit.efficientvit.backbone import EfficientViTBackbone
from sam3.backbones.repvit import RepViT
from sam3.backbones.tiny_vit import TinyViT
from sam3.model_builder import ImageStudentEncoder


def repvit():
    cfgs = [  # kernel, expansion, channels, squeeze-excite, hard-swish (ignored), stride
        [3, 2, 16, 1, 0, 1], [3, 2, 16, 0, 0, 1], [3, 2, 24, 0, 0, 2], [3, 2, 24, 1, 0, 1],
        [3, 2, 24, 0, 1, 2], [3, 2, 24, 1, 1, 1], [3, 2, 32, 0, 1, 2], [3, 2, 32, 1, 1, 1],
    ]
    model = RepViT(cfgs, num_classes=0)
    del model.classifier
    randomise(model, matrix_gain=0.85)
    pixels = randn(1, 3, 56, 56)
    tensors = {**state(model), "in.pixels": pixels}
    x = pixels
    for i, feature in enumerate(model.features):
        x = feature(x)
        tensors[f"out.features.{i}"] = x
    save("repvit", tensors, dict(cfgs=cfgs, img_size=56, batch_norm_eps=1e-5))


def tiny_vit():
    config = dict(img_size=68, embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_sizes=[7, 3, 4, 2])
    model = TinyViT(num_classes=0, drop_path_rate=0.1, **config)
    randomise(model, matrix_gain=1.3)
    pixels = randn(1, 3, 68, 68)
    x = model.patch_embed(pixels)
    tensors = {**state(model), "in.pixels": pixels, "out.stem": x}
    sides = [17]
    for i, layer in enumerate(model.layers):
        x = layer(x)
        side = int(x.shape[1] ** 0.5)
        sides.append(side)
        tensors[f"out.stage.{i}"] = x.view(1, side, side, -1).permute(0, 3, 1, 2)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("attention_bias_idxs")}
    # Stage i is measured after its downsample, so stage i runs on sides[i]: 17, 9 (no padding), 5 -> 8, 3 -> 4.
    save("tiny_vit", tensors, config | {"mlp_ratio": 4, "mbconv_expand": 4, "stage_sides": sides[:4], "layer_norm_eps": 1e-5})


def efficientvit():
    config = dict(width_list=[8, 8, 16, 16, 24], depth_list=[1, 2, 1, 1, 1], dim=8)
    model = randomise(EfficientViTBackbone(**config), matrix_gain=1.2)
    pixels = randn(1, 3, 72, 72)
    out = model(pixels)
    tensors = {**state(model), "in.pixels": pixels}
    for i in range(5):
        tensors[f"out.stage.{i}"] = out[f"stage{i}"]
    save("efficientvit", tensors, config | {"img_size": 72, "expand_ratio": 4, "attention_eps": 1e-15, "batch_norm_eps": 1e-5})


def student_head():
    model = randomise(ImageStudentEncoder(nn.Identity(), in_channels=12, embed_dim=32, embed_size=9, img_size=126))
    features = randn(1, 12, 4, 4)
    head = model.head(features)
    save("student_head", {**state(model), "in.features": features, "out.head": head, "out.trunk": model(features)},
         dict(in_channels=12, embed_dim=32, embed_size=9, batch_norm_eps=1e-5))


if __name__ == "__main__":
    seed(301)
    repvit()
    seed(302)
    tiny_vit()
    seed(303)
    efficientvit()
    seed(304)
    student_head()
