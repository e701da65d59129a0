"""The detector: vision trunk and necks, text encoder, geometry encoder, fusion encoder, decoder, scoring, masks.

The official computation under the official names, at any size: a geometry CLS token always ends the prompt, LayerNorm
eps is 1e-5, scores are clamped to +-12, RoIs are pooled with aligned=False and adaptive sampling.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from layers import MultiheadAttention, PreNormLayer, attention, inverse_sigmoid, mlp, run_mlp, sine, sine_grid


# ------------------------------------------------------------------------------------------------ vision
class TrunkAttention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.heads = size["heads"]
        self.qkv, self.proj = nn.Linear(size["dim"], 3 * size["dim"]), nn.Linear(size["dim"], size["dim"])

    def forward(self, x, rope):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        cos, sin = rope

        def rotate(t):
            t = t.float()
            turned = torch.stack([-t[..., 1::2], t[..., 0::2]], -1).flatten(-2)
            return (t * cos + turned * sin).to(v.dtype)

        return self.proj(attention(rotate(q), rotate(k), v).transpose(1, 2).reshape(b, n, d))


class TrunkBlock(nn.Module):
    def __init__(self, size, window):
        super().__init__()
        d = size["dim"]
        self.window = window  # 0: global attention
        self.norm1, self.norm2, self.attn = nn.LayerNorm(d), nn.LayerNorm(d), TrunkAttention(size)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, size["mlp"]), "fc2": nn.Linear(size["mlp"], d)})

    def forward(self, x, grid, ropes):
        b, n, d = x.shape
        y, w = self.norm1(x), self.window
        if w:
            k = grid // w
            y = y.view(b, k, w, k, w, d).transpose(2, 3).reshape(b * k * k, w * w, d)
            y = self.attn(y, ropes[0]).view(b, k, k, w, w, d).transpose(2, 3).reshape(b, n, d)
        else:
            y = self.attn(y, ropes[1])
        x = x + y
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def rope_table(side, scale, head_dim, theta):
    """Cosines and sines [side * side, head_dim] of the axial rotary encoding."""
    speed = theta ** (-4.0 * torch.arange(head_dim // 4, dtype=torch.float32) / head_dim)
    at = torch.arange(side * side)
    x, y = (at % side).float() * scale, torch.div(at, side, rounding_mode="floor").float() * scale
    angle = torch.cat([x[:, None] * speed, y[:, None] * speed], -1).repeat_interleave(2, -1)
    return angle.cos(), angle.sin()


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = self.size = config["vit"]
        d, pretrain, patch = size["dim"], size["pretrain_grid"], config["patch_size"]
        self.grid = config["image_size"] // patch
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + pretrain**2, d) * 0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, d, patch, patch, bias=False)})
        self.ln_pre = nn.LayerNorm(d)
        windows = [0 if i in size["global_blocks"] else size["window"] for i in range(size["depth"])]
        self.blocks = nn.ModuleList([TrunkBlock(size, window) for window in windows])
        head, theta = d // size["heads"], size["rope_theta"]
        self.ropes = (
            rope_table(size["window"], 1.0, head, theta),
            rope_table(self.grid, pretrain / self.grid, head, theta),
        )

    def forward(self, pixels):
        b, g, pretrain = len(pixels), self.grid, self.size["pretrain_grid"]
        patch = self.patch_embed["proj"].kernel_size[0]
        # the strided convolution as a product: much faster backward on a CPU
        x = pixels.reshape(b, 3, g, patch, g, patch).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, 3 * patch * patch)
        x = F.linear(x, self.patch_embed["proj"].weight.flatten(1))
        tiles = g // pretrain + 1
        pos = self.pos_embed[:, 1:].view(1, pretrain, pretrain, -1).repeat(1, tiles, tiles, 1)
        x = self.ln_pre(x + pos[:, :g, :g].reshape(1, g * g, -1))
        for block in self.blocks:
            x = block(x, g, self.ropes)
        return x  # [B, grid * grid, dim]


class Neck(nn.ModuleList):
    """Maps of 4, 2 and 1 times the grid; the official fourth level is never used."""

    def __init__(self, trunk, width):
        def tail(inner):
            return {"conv_1x1": nn.Conv2d(inner, width, 1), "conv_3x3": nn.Conv2d(width, width, 3, padding=1)}

        up = lambda inner: nn.ConvTranspose2d(inner, inner // 2, 2, 2)
        four = {"dconv_2x2_0": up(trunk), "dconv_2x2_1": up(trunk // 2), **tail(trunk // 4)}
        two = {"dconv_2x2": up(trunk), **tail(trunk // 2)}
        super().__init__([nn.ModuleDict(four), nn.ModuleDict(two), nn.ModuleDict(tail(trunk))])

    def forward(self, x):
        four, two, one = self
        at_four = four["dconv_2x2_1"](F.gelu(four["dconv_2x2_0"](x)))
        maps = ((four, at_four), (two, two["dconv_2x2"](x)), (one, x))
        return [level["conv_3x3"](level["conv_1x1"](y)) for level, y in maps]


# ------------------------------------------------------------------------------------------------ text
class TextBlock(nn.Module):
    def __init__(self, size):
        super().__init__()
        w = size["width"]
        self.ln_1, self.ln_2, self.attn = nn.LayerNorm(w), nn.LayerNorm(w), MultiheadAttention(w, size["heads"])
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(w, size["mlp"]), "c_proj": nn.Linear(size["mlp"], w)})

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, mask)
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class TextEncoder(nn.Module):
    def __init__(self, size, words):
        super().__init__()
        self.token_embedding = nn.Embedding(words, size["width"])
        self.positional_embedding = nn.Parameter(torch.randn(size["context"], size["width"]) * 0.1)
        nn.init.normal_(self.token_embedding.weight, std=0.3)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([TextBlock(size) for _ in range(size["layers"])])})
        self.ln_final = nn.LayerNorm(size["width"])

    def forward(self, rows):
        n = rows.shape[1]
        x = self.token_embedding(rows) + self.positional_embedding[:n]
        causal = torch.full((n, n), float("-inf")).triu(1)
        for block in self.transformer["resblocks"]:
            x = block(x, causal)
        return self.ln_final(x)


class Language(nn.Module):
    def __init__(self, config, words):
        super().__init__()
        self.encoder = TextEncoder(config["text"], words)
        self.resizer = nn.Linear(config["text"]["width"], config["d_model"])

    def forward(self, rows):
        return self.resizer(self.encoder(rows))


# ------------------------------------------------------------------------------------------------ exemplars
class GeometryEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, size = config["d_model"], config["geometry"]
        self.d, self.roi = d, size["roi"]
        self.label_embed, self.cls_embed = nn.Embedding(2, d), nn.Embedding(1, d)
        self.boxes_direct_project = nn.Linear(4, d)
        self.boxes_pool_project = nn.Conv2d(d, d, size["roi"])
        self.boxes_pos_enc_project = nn.Linear(d + 2, d)
        self.final_proj, self.norm, self.img_pre_norm = nn.Linear(d, d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.encode = nn.ModuleList([PreNormLayer(d, config["heads"], size["ffn"]) for _ in range(size["layers"])])
        self.encode_norm = nn.LayerNorm(d)

    def embed(self, features, grid, image_of, boxes, labels):
        """features [B, HW, d], image_of [K], boxes [K, 4] cxcywh, labels [K] -> [K, d], in f32."""
        maps = self.img_pre_norm(features).float().transpose(1, 2).reshape(len(features), self.d, grid, grid)
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * grid
        with torch.autocast(features.device.type, enabled=False):
            regions = roi_align(maps, torch.cat([image_of[:, None].float(), corners], 1), self.roi, 1.0, -1, False)
            pooled = F.linear(regions.flatten(1), self.boxes_pool_project.weight.flatten(1), self.boxes_pool_project.bias)
            y, x = sine(boxes[:, 1], self.d // 2), sine(boxes[:, 0], self.d // 2)
            placed = self.boxes_pos_enc_project(torch.cat([y, x, boxes[:, 3:4], boxes[:, 2:3]], 1))
            return pooled + self.boxes_direct_project(boxes) + placed + self.label_embed(labels)

    def forward(self, features, pos, grid, image_of, boxes, labels, valid):
        """boxes [N, K, 4] cxcywh, labels and valid [N, K] -> tokens [N, K + 1, d] and which of them count."""
        n, k = valid.shape
        tokens = self.cls_embed.weight[None].expand(n, 1, -1)
        if k:
            embedded = torch.zeros(n, k, self.d)
            at = valid.nonzero(as_tuple=True)
            if len(at[0]):
                embedded = embedded.index_put(at, self.embed(features, grid, image_of[at[0]], boxes[at], labels[at]))
            tokens = torch.cat([embedded, tokens], 1)
        valid = torch.cat([valid, torch.ones(n, 1, dtype=torch.bool)], 1)
        mask = padding_mask(valid)
        x = self.norm(self.final_proj(tokens))
        keys, values = (features + pos)[image_of], features[image_of]
        for layer in self.encode:
            y = layer.norm1(x)
            x = x + layer.self_attn(y, y, y, mask)
            x = layer.feed_forward(x + layer.cross_attn_image(layer.norm2(x), keys, values))
        return self.encode_norm(x), valid


def padding_mask(valid):
    return torch.zeros(len(valid), 1, 1, valid.shape[1]).masked_fill(~valid[:, None, None], float("-inf"))


# ------------------------------------------------------------------------------------------------ fusion and decoder
class FusionEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, size = config["d_model"], config["encoder"]
        self.layers = nn.ModuleList([PreNormLayer(d, config["heads"], size["ffn"]) for _ in range(size["layers"])])

    def forward(self, features, pos, image_of, prompt, mask):
        x = features
        for i, layer in enumerate(self.layers):
            y = layer.norm1(x)
            x = x + layer.self_attn(y + pos, y + pos, y)
            if i == 0:
                x = x[image_of]  # until here it does not depend on the prompt
            x = layer.feed_forward(x + layer.cross_attn_image(layer.norm2(x), prompt, prompt, mask))
        return x


class DecoderLayer(nn.Module):
    def __init__(self, d, heads, ffn):
        super().__init__()
        self.self_attn, self.ca_text, self.cross_attn = (MultiheadAttention(d, heads) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2, self.norm3, self.catext_norm = (nn.LayerNorm(d) for _ in range(4))

    def forward(self, x, query_pos, prompt, prompt_mask, keys, memory, bias, self_mask):
        y = x + query_pos
        x = self.norm2(x + self.self_attn(y, y, x, self_mask))
        x = self.catext_norm(x + self.ca_text(x + query_pos, prompt, prompt, prompt_mask))
        x = self.norm1(x + self.cross_attn(x + query_pos, keys, memory, bias))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, heads, size = config["d_model"], config["heads"], config["decoder"]
        queries = size["queries"]
        self.d = d
        self.layers = nn.ModuleList([DecoderLayer(d, heads, size["ffn"]) for _ in range(size["layers"])])
        self.norm, self.presence_token_out_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query_embed, self.reference_points = nn.Embedding(queries, d), nn.Embedding(queries, 4)
        self.presence_token = nn.Embedding(1, d)
        self.bbox_embed, self.presence_token_head = mlp(d, d, d, 4), mlp(d, d, d, 1)
        self.ref_point_head = mlp(2 * d, d, d)
        self.boxRPB_embed_x, self.boxRPB_embed_y = mlp(2, d, heads), mlp(2, d, heads)
        nn.init.zeros_(self.bbox_embed["layers"][2].weight)
        nn.init.zeros_(self.bbox_embed["layers"][2].bias)
        rows = math.isqrt(queries)  # references start on a grid
        columns = -(-queries // rows)
        at = [((i % columns + 0.5) / columns, (i // columns + 0.5) / rows, 0.2, 0.2) for i in range(queries)]
        self.reference_points.weight.data = torch.logit(torch.tensor(at))

    def box_bias(self, boxes, grid):
        """boxes [N, Q, 4] -> [N, heads, Q, grid * grid]"""
        at = torch.arange(grid, dtype=torch.float32) / grid
        low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2

        def axis(i, module):
            distance = torch.stack([at - low[..., i, None], at - high[..., i, None]], -1) * 8
            return run_mlp(module, torch.sign(distance) * torch.log2(distance.abs() + 1) / 3).float().permute(0, 3, 1, 2)

        return (axis(1, self.boxRPB_embed_y)[..., :, None] + axis(0, self.boxRPB_embed_x)[..., None, :]).flatten(3)

    def forward(self, memory, pos, grid, prompt, prompt_mask, denoising=None):
        """Per layer: queries [L, N, Q, d], boxes [L, N, Q, 4], presence logits [L, N]. `denoising`: content [N, D, d]
        and boxes [N, D, 4] of extra queries that only training uses; they follow the others."""
        n, q = len(memory), self.query_embed.num_embeddings
        x = torch.cat([self.presence_token.weight, self.query_embed.weight])[None].expand(n, -1, -1)
        boxes, self_mask = self.reference_points.weight.float().sigmoid()[None].expand(n, -1, -1), None
        if denoising is not None:
            content, noised = denoising
            x, boxes, total = torch.cat([x, content], 1), torch.cat([boxes, noised], 1), 1 + q + noised.shape[1]
            self_mask = torch.full((total, total), float("-inf"))
            self_mask[: 1 + q, : 1 + q] = 0  # the true queries never see the extra ones
            self_mask[1 + q :, 0] = 0
            self_mask[range(1 + q, total), range(1 + q, total)] = 0
        states, all_boxes, presence = [], [], []
        for layer in self.layers:
            start = boxes.detach() if states else boxes
            encoded = torch.cat([sine(start[..., i], self.d // 2) for i in (1, 0, 2, 3)], -1)
            query_pos = F.pad(run_mlp(self.ref_point_head, encoded), (0, 0, 1, 0))
            bias = F.pad(self.box_bias(start, grid), (0, 0, 1, 0))
            x = layer(x, query_pos, prompt, prompt_mask, memory + pos, memory, bias, self_mask)
            state = self.norm(x[:, 1:])
            boxes = torch.sigmoid(inverse_sigmoid(start) + run_mlp(self.bbox_embed, state).float())
            states.append(state)
            all_boxes.append(boxes)
            presence.append(run_mlp(self.presence_token_head, self.presence_token_out_norm(x[:, 0]))[:, 0].float())
        return torch.stack(states), torch.stack(all_boxes), torch.stack(presence)


# ------------------------------------------------------------------------------------------------ scores and masks
class Scoring(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config["d_model"]
        self.clamp = config["scoring"]["clamp"]
        self.prompt_mlp = mlp(d, config["scoring"]["mlp"], d)
        self.prompt_mlp["out_norm"] = nn.LayerNorm(d)
        self.prompt_proj, self.hs_proj = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, states, prompt, valid):
        p = self.prompt_mlp["out_norm"](prompt + run_mlp(self.prompt_mlp, prompt))
        p = (p * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        score = torch.einsum("lnqd,nd->lnq", self.hs_proj(states), self.prompt_proj(p)).float()
        return (score / math.sqrt(states.shape[-1])).clamp(-self.clamp, self.clamp)


class SegmentationHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, size = config["d_model"], config["seg"]
        self.cross_attend_prompt, self.cross_attn_norm = MultiheadAttention(d, config["heads"]), nn.LayerNorm(d)
        built = range(size["stages_built"])
        convs, norms = [nn.Conv2d(d, d, 3, padding=1) for _ in built], [nn.GroupNorm(size["groups"], d) for _ in built]
        self.pixel_decoder = nn.ModuleDict({"conv_layers": nn.ModuleList(convs), "norms": nn.ModuleList(norms)})
        self.mask_predictor = nn.ModuleDict({"mask_embed": mlp(d, d, d, d)})
        self.instance_seg_head, self.semantic_seg_head = nn.Conv2d(d, d, 1), nn.Conv2d(d, 1, 1)

    def forward(self, states, memory, prompt, mask, middle, fine, grid):
        """states [N, K, d]; middle and fine are neck maps per prompt -> logits [N, K, 4 grid, 4 grid], semantic [N, 1, ..]."""
        n, _, d = memory.shape
        x = memory + self.cross_attend_prompt(self.cross_attn_norm(memory), prompt, prompt, mask)
        x = x.transpose(1, 2).reshape(n, d, grid, grid)
        for i, features in enumerate((middle, fine)):
            x = F.interpolate(x, scale_factor=2, mode="nearest") + features
            x = F.relu(self.pixel_decoder["norms"][i](self.pixel_decoder["conv_layers"][i](x)))
        pixels, embedded = self.instance_seg_head(x), run_mlp(self.mask_predictor["mask_embed"], states)
        masks = torch.bmm(embedded, pixels.flatten(2)).float().view(n, -1, *x.shape[2:])
        return masks, self.semantic_seg_head(x).float()
