"""SAM 3 vision side: the windowed ViT trunk with axial RoPE, and the dual simple-feature-pyramid neck."""

import torch
from torch import nn

from golden import randn, randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from sam3.model.necks import Sam3DualViTDetNeck
from sam3.model.position_encoding import PositionEmbeddingSine
from sam3.model.vitdet import ViT


def vit(name, patch, window, dim, depth, heads, global_every):
    grid = 3 * window
    config = dict(
        img_size=patch * grid, pretrain_img_size=patch * window, patch_size=patch, embed_dim=dim, depth=depth,
        num_heads=heads, mlp_ratio=4.625, window_size=window, global_att_blocks=[i for i in range(depth) if (i + 1) % global_every == 0],
    )
    model = ViT(
        **{**config, "global_att_blocks": tuple(config["global_att_blocks"])}, norm_layer="LayerNorm", drop_path_rate=0.1, qkv_bias=True,
        use_abs_pos=True, tile_abs_pos=True, rel_pos_blocks=(), use_rope=True, use_interp_rope=True, pretrain_use_cls_token=True,
        retain_cls_token=False, ln_pre=True, ln_post=False, return_interm_layers=False, bias_patch_embed=False,
    )
    randomise(model)
    blocks = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, _in, out, i=i: blocks.__setitem__(f"out.block.{i}", out))
    pre = {}
    model.ln_pre.register_forward_hook(lambda _m, _in, out: pre.__setitem__("out.ln_pre", out))
    pixels = randn(1, 3, config["img_size"], config["img_size"])
    trunk = model(pixels)[-1]
    config.update(grid=grid, head_dim=dim // heads, rope_scale_global=window / grid, mlp_hidden=int(dim * 4.625), layer_norm_eps=1e-5)
    save(name, {**state(model), "in.pixels": pixels, **pre, **blocks, "out.trunk": trunk}, config)


class GivenTrunk(nn.Module):
    """Hands the neck a feature map as if a trunk had computed it."""

    def __init__(self, channels):
        super().__init__()
        self.channel_list = [channels]

    def forward(self, x):
        return [x]


def neck():
    dim, d_model, grid = 32, 16, 6
    model = Sam3DualViTDetNeck(
        trunk=GivenTrunk(dim), position_encoding=PositionEmbeddingSine(num_pos_feats=d_model, normalize=True, scale=None, temperature=10000),
        d_model=d_model, scale_factors=[4.0, 2.0, 1.0, 0.5], add_sam2_neck=True,
    )
    randomise(model)
    trunk = randn(1, dim, grid, grid)
    fpn, pos, sam2, _ = model(trunk)
    tensors = {**state(model), "in.trunk": trunk}
    for i in range(4):
        tensors[f"out.fpn.{i}"], tensors[f"out.sam2.{i}"], tensors[f"out.pos.{i}"] = fpn[i], sam2[i], pos[i]
    save("neck", tensors, dict(in_channels=dim, d_model=d_model, grid=grid, scale_factors=[4.0, 2.0, 1.0, 0.5]))


if __name__ == "__main__":
    seed(101)
    vit("vit", patch=14, window=2, dim=24, depth=2, heads=2, global_every=2)
    seed(102)
    vit("vit_grid12", patch=4, window=4, dim=24, depth=4, heads=2, global_every=2)
    seed(103)
    neck()
