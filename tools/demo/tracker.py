"""The interactive branch: prompt encoder and mask decoder of SAM, under `tracker.`; `memory.py` adds what video needs."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from layers import ChannelNorm, attention, mlp, run_mlp


class SamAttention(nn.Module):
    def __init__(self, d, heads, inner):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, d)

    def forward(self, q, k, v):
        split = lambda x: x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)
        mixed = attention(split(self.q_proj(q)), split(self.k_proj(k)), split(self.v_proj(v)))
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class TwoWayLayer(nn.Module):
    def __init__(self, d, size, first):
        super().__init__()
        self.first = first
        heads, inner = size["heads"], d // size["attn_downsample"]
        self.self_attn = SamAttention(d, heads, d)
        self.cross_attn_token_to_image = SamAttention(d, heads, inner)
        self.cross_attn_image_to_token = SamAttention(d, heads, inner)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(d, size["mlp"]), "lin2": nn.Linear(size["mlp"], d)})
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(d) for _ in range(4))

    def forward(self, q, k, q_pos, k_pos):
        q = self.self_attn(q, q, q) if self.first else q + self.self_attn(q + q_pos, q + q_pos, q)
        q = self.norm1(q)
        q = self.norm2(q + self.cross_attn_token_to_image(q + q_pos, k + k_pos, k))
        q = self.norm3(q + self.mlp["lin2"](F.relu(self.mlp["lin1"](q))))
        return q, self.norm4(k + self.cross_attn_image_to_token(k + k_pos, q + q_pos, q))


class TwoWayTransformer(nn.Module):
    def __init__(self, d, size):
        super().__init__()
        self.layers = nn.ModuleList([TwoWayLayer(d, size, i == 0) for i in range(size["depth"])])
        self.final_attn_token_to_image = SamAttention(d, size["heads"], d // size["attn_downsample"])
        self.norm_final_attn = nn.LayerNorm(d)

    def forward(self, tokens, image, image_pos):
        q = tokens
        for layer in self.layers:
            q, image = layer(q, image, tokens, image_pos)
        final = self.final_attn_token_to_image(q + tokens, image + image_pos, image)
        return self.norm_final_attn(q + final), image


class PositionEncoding(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, d // 2))

    def forward(self, xy):
        with torch.autocast(xy.device.type, enabled=False):  # half precision would blur where a click is
            angle = (2 * xy.float() - 1) @ self.positional_encoding_gaussian_matrix * (2 * math.pi)
            return torch.cat([angle.sin(), angle.cos()], -1)


class Tracker(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, size = config["d_model"], config["tracker"]
        self.d, self.side = d, config["image_size"]
        self.grid = config["image_size"] // config["patch_size"]
        mask, masks = size["mask_in_chans"], size["multimask"] + 1
        self.no_mem_embed = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        downscaling = [nn.Conv2d(1, mask // 4, 2, 2), ChannelNorm(mask // 4), nn.GELU(), nn.Conv2d(mask // 4, mask, 2, 2)]
        self.sam_prompt_encoder = nn.ModuleDict(
            {
                "pe_layer": PositionEncoding(d),
                "point_embeddings": nn.ModuleList([nn.Embedding(1, d) for _ in range(4)]),
                "not_a_point_embed": nn.Embedding(1, d),
                "mask_downscaling": nn.Sequential(*downscaling, ChannelNorm(mask), nn.GELU(), nn.Conv2d(mask, d, 1)),
                "no_mask_embed": nn.Embedding(1, d),
            }
        )
        up = [nn.ConvTranspose2d(d, d // 4, 2, 2), ChannelNorm(d // 4), nn.GELU(), nn.ConvTranspose2d(d // 4, d // 8, 2, 2)]
        hidden = size["iou_hidden"]
        self.sam_mask_decoder = nn.ModuleDict(
            {
                "transformer": TwoWayTransformer(d, size),
                "iou_token": nn.Embedding(1, d),
                "mask_tokens": nn.Embedding(masks, d),
                "obj_score_token": nn.Embedding(1, d),
                "output_upscaling": nn.Sequential(*up, nn.GELU()),
                "conv_s0": nn.Conv2d(d, d // 8, 1),
                "conv_s1": nn.Conv2d(d, d // 4, 1),
                "output_hypernetworks_mlps": nn.ModuleList([mlp(d, d, d, d // 8) for _ in range(masks)]),
                "iou_prediction_head": mlp(d, hidden, hidden, masks),
                "pred_obj_score_head": mlp(d, d, d, 1),
            }
        )

    def sparse(self, points, labels):
        """points [N, P, 2] in pixels; labels [N, P]: -1 padding, 0 and 1 points, 2 and 3 the corners of a box."""
        encoder = self.sam_prompt_encoder
        placed = encoder["pe_layer"]((points + 0.5) / self.side) * (labels >= 0)[..., None]
        kinds = torch.cat([encoder["not_a_point_embed"].weight, *(p.weight for p in encoder["point_embeddings"])])
        return placed + kinds[labels + 1]

    def image(self, neck_maps):
        fine, middle, coarse = neck_maps
        decoder = self.sam_mask_decoder
        embedding = coarse + self.no_mem_embed.view(1, -1, 1, 1)
        maps = {"fine": decoder["conv_s0"](fine), "middle": decoder["conv_s1"](middle)}
        return maps | {"coarse": coarse, "embedding": embedding}

    def forward(self, image, image_of, points, labels, mask=None):
        """The caller appends a padding point; mask [N, 1, 4 grid, 4 grid] holds logits of an earlier answer.
        -> masks [N, 4, 4 grid, 4 grid], predicted IoU [N, 4], object score [N]"""
        return self.decode(image["embedding"][image_of], image, image_of, points, labels, mask)[:3]

    def decode(self, embedding, image, image_of, points, labels, mask=None):
        """As `forward`, of any features [N, d, grid, grid]; and the tokens [N, 4, d] of the masks."""
        decoder, encoder, g, n = self.sam_mask_decoder, self.sam_prompt_encoder, self.grid, len(points)
        dense = encoder["no_mask_embed"].weight.view(1, -1, 1, 1) if mask is None else encoder["mask_downscaling"](mask)
        tokens = [decoder[name].weight for name in ("obj_score_token", "iou_token", "mask_tokens")]
        tokens = torch.cat([torch.cat(tokens)[None].expand(n, -1, -1), self.sparse(points, labels)], 1)
        source = (embedding + dense).flatten(2).transpose(1, 2)
        at = (torch.arange(g) + 0.5) / g
        xy = torch.stack([at[None].expand(g, g), at[:, None].expand(g, g)], -1).reshape(1, g * g, 2)
        tokens, source = decoder["transformer"](tokens, source, encoder["pe_layer"](xy))
        first, norm, _, second, _ = decoder["output_upscaling"]
        x = source.transpose(1, 2).reshape(n, self.d, g, g)
        x = F.gelu(norm(first(x) + image["middle"][image_of]))
        x = F.gelu(second(x) + image["fine"][image_of])
        hyper = [run_mlp(m, tokens[:, 2 + i]) for i, m in enumerate(decoder["output_hypernetworks_mlps"])]
        masks = torch.bmm(torch.stack(hyper, 1), x.flatten(2)).float().view(n, len(hyper), *x.shape[2:])
        iou = run_mlp(decoder["iou_prediction_head"], tokens[:, 1]).float().sigmoid()
        score = run_mlp(decoder["pred_obj_score_head"], tokens[:, 0]).float()[:, 0]
        return masks, iou, score, tokens[:, 2 : 2 + len(hyper)]
