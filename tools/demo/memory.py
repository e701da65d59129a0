"""What follows an object through a video: SAM 3's memory encoder, memory attention and object pointers, under `tracker.`

A frame is remembered by a memory, its features together with the object's mask, and by a pointer, the decoder's token of
that mask. The next frames attend to both. Official names and computation; a batch holds one object per row.
"""

import torch
import torch.nn.functional as F
from torch import nn

from detector import rope_table
from layers import ChannelNorm, attention, mlp, run_mlp, sine_grid
from tracker import Tracker

ABSENT = -1024.0  # mask logits of an object that is not there
MAX_POINTERS = 16  # frames that pointers come from, the attending one included
ROWS = 7  # of the temporal embedding: six recent frames, then the frames of prompts
MIN_QUALITY = 0.01  # frames of less are not attended to
MEMORY = ("maskmem_", "transformer.", "no_obj_", "obj_ptr_", "mask_downsample.")  # what only video needs


def has_memory(state):
    return "tracker.maskmem_tpos_enc" in state


def scaled(probability):
    return 20 * probability - 10


def resized(maps, side):
    """[N, h, h] -> [N, side, side]"""
    return F.interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


class FuserBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(d, d, 7, padding=3, groups=d), ChannelNorm(d)
        self.pwconv1, self.pwconv2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.gamma = nn.Parameter(torch.full((d,), 0.1))

    def forward(self, x):
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    def __init__(self, d, width):
        super().__init__()
        channels, steps = [1, 4, 16, 64, 256], []
        for a, b in zip(channels, channels[1:]):
            steps += [nn.Conv2d(a, b, 3, 2, 1), ChannelNorm(b), nn.GELU()]
        steps.append(nn.Conv2d(channels[-1], d, 1))
        self.mask_downsampler = nn.ModuleDict({"encoder": nn.Sequential(*steps)})
        self.pix_feat_proj = nn.Conv2d(d, d, 1)
        self.fuser = nn.ModuleDict({"layers": nn.ModuleList([FuserBlock(d) for _ in range(2)])})
        self.out_proj = nn.Conv2d(d, width, 1)

    def forward(self, features, masks):
        """features [N, d, g, g]; masks [N, 16 g, 16 g] in -10 to 10 -> [N, width, g, g]"""
        x = self.pix_feat_proj(features) + self.mask_downsampler["encoder"](masks[:, None])
        for layer in self.fuser["layers"]:
            x = layer(x)
        return self.out_proj(x)


class RotaryAttention(nn.Module):
    """One head; queries and the first keys are turned by their place in the grid, the table begins anew with each frame."""

    def __init__(self, d, width, rope):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(d, d), nn.Linear(width, d), nn.Linear(width, d)
        self.out_proj, self.rope = nn.Linear(d, d), rope

    def turn(self, x):
        n, tokens, d = x.shape
        cos, sin = self.rope
        x = x.view(n, tokens // len(cos), len(cos), d)
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return (x * cos + turned * sin).view(n, tokens, d)

    def forward(self, q, k, v, still=0, mask=None):
        """The last `still` keys have no place; `mask` is added and broadcasts to [N, 1, Q, K]."""
        q, k, v = self.turn(self.q_proj(q)), self.k_proj(k), self.v_proj(v)
        places = k.shape[1] - still
        k = torch.cat([self.turn(k[:, :places]), k[:, places:]], 1)
        return self.out_proj(attention(q[:, None], k[:, None], v[:, None], mask)[:, 0])


class MemoryAttentionLayer(nn.Module):
    def __init__(self, d, width, ffn, rope):
        super().__init__()
        self.self_attn, self.cross_attn_image = RotaryAttention(d, d, rope), RotaryAttention(d, width, rope)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for _ in range(3))

    def forward(self, x, placed, memory, still, mask):
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y)
        x = x + self.cross_attn_image(self.norm2(x), placed, memory, still, mask)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    def __init__(self, d, grid, size):
        super().__init__()
        rope = rope_table(grid, 1.0, d, 10000.0)
        layer = lambda: MemoryAttentionLayer(d, size["memory_dim"], size["memory_ffn"], rope)
        self.layers, self.norm = nn.ModuleList([layer() for _ in range(size["memory_layers"])]), nn.LayerNorm(d)

    def forward(self, x, placed, memory, still, mask=None):
        for layer in self.layers:
            x = layer(x, placed, memory, still, mask)
        return self.norm(x)


class VideoTracker(Tracker):
    def __init__(self, config):
        super().__init__(config)
        d, size = self.d, config["tracker"]
        self.width = size["memory_dim"]
        self.maskmem_backbone = MemoryEncoder(d, self.width)
        self.transformer = nn.ModuleDict({"encoder": MemoryAttention(d, self.grid, size)})
        self.maskmem_tpos_enc = nn.Parameter(torch.randn(ROWS, 1, 1, self.width) * 0.02)
        self.no_obj_embed_spatial = nn.Parameter(torch.randn(1, self.width) * 0.02)
        self.no_obj_ptr = nn.Parameter(torch.randn(1, d) * 0.02)
        self.obj_ptr_proj, self.obj_ptr_tpos_proj = mlp(d, d, d, d), nn.Linear(d, self.width)
        self.mask_downsample = nn.Conv2d(1, 1, 4, 4)

    def begin(self):
        """Before training: a token finds what looks like it in memories, features come out of the attention about as they
        go in, and masks of 0 to 1 become logits. What is left to learn is what masks mean."""
        attention, encoder = self.transformer["encoder"], self.maskmem_backbone
        alike = nn.init.orthogonal_(torch.empty(self.width, self.d))
        # Channels that hardly turn from one side of the grid to the other, half of those of x and half of those of y.
        slow = torch.arange(self.d).view(2, 2, -1)[:, 1].reshape(-1)
        with torch.no_grad():
            encoder.pix_feat_proj.weight.copy_(torch.eye(self.d)[:, :, None, None])
            encoder.out_proj.weight.copy_(alike[:, :, None, None])
            for layer in attention.layers:
                found = layer.cross_attn_image
                for proj in (found.q_proj, found.k_proj):
                    proj.weight.normal_(std=0.02)
                    proj.bias.zero_()
                found.q_proj.weight[slow] = alike
                found.k_proj.weight[slow] = 0.5 * torch.eye(self.width)
            attention.norm.weight.fill_(3.4)  # how much features vary within a token
            attention.norm.bias.copy_(self.no_mem_embed.view(-1))
            for p in self.sam_mask_decoder["pred_obj_score_head"]["layers"][-1].parameters():
                p.mul_(0.1)  # it has only seen objects that are there, and says 33
            self.mask_downsample.weight.fill_(20 / 16)
            self.mask_downsample.bias.fill_(-10.0)

    def pads(self, n):
        """What is asked of a frame without a prompt: two points that are none."""
        return torch.zeros(n, 2, 2), torch.full((n, 2), -1)

    def answer(self, embedding, image, image_of, points, labels, mask=None, ambiguous=True):
        """The best of three masks, or of an unambiguous prompt the single one. Logits [N, 4 g, 4 g] and pointers [N, d] are
        those of a frame without the object where its score is not above 0; predicted IoU and score [N]."""
        masks, iou, score, tokens = self.decode(embedding, image, image_of, points, labels, mask)
        n, there = torch.arange(len(score)), score > 0
        best = 1 + iou[:, 1:].argmax(1) if ambiguous else torch.zeros_like(n)
        low = torch.where(there[:, None, None], masks[n, best], torch.tensor(ABSENT))
        return low, iou[n, best], score, self.point(tokens[n, best], there)

    def point(self, tokens, there):
        return torch.where(there[:, None], run_mlp(self.obj_ptr_proj, tokens), self.no_obj_ptr)

    def point_to_mask(self, coarse, image, image_of, mask):
        """Pointers [N, d] to objects whose masks [N, 16 g, 16 g] in 0 to 1 are given."""
        points, labels = self.pads(len(mask))
        prompt = self.mask_downsample(mask[:, None])
        _, _, score, tokens = self.decode(coarse, image, image_of, points, labels, prompt)
        return self.point(tokens[:, 0], (score > 0) & (mask.flatten(1).max(1).values > 0))

    def remember(self, coarse, probability, there):
        """coarse [N, d, g, g] without `no_mem_embed`; probability [N, h, h] of the mask -> [N, g * g, width]"""
        masks = resized(scaled(probability), 16 * self.grid)
        memory = self.maskmem_backbone(coarse, masks).flatten(2).transpose(1, 2)
        return memory + (~there[:, None, None]) * self.no_obj_embed_spatial

    def pointer_positions(self, offsets, frames=MAX_POINTERS):
        """offsets [...] in frames back, of a video of so many -> [..., width]: all sines, then all cosines."""
        half = self.d // 2
        period = 10000.0 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)
        angle = offsets.float()[..., None] / (min(frames, MAX_POINTERS) - 1) / period
        return self.obj_ptr_tpos_proj(torch.cat([angle.sin(), angle.cos()], -1))

    def recall(self, coarse, memories, rows, pointers, offsets, used=None, frames=MAX_POINTERS):
        """Features [N, d, g, g] that know of memories [N, F, g * g, width] in `rows` [N, F] of the temporal embedding and of
        pointers [N, P, d], `offsets` [N, P] frames back; used: bool [N, F] and [N, P]."""
        n, f, cells, m = memories.shape
        p, split = pointers.shape[1], self.d // m
        space, time = sine_grid(self.grid, m), self.maskmem_tpos_enc.view(ROWS, m)[rows]
        places = (space + time[:, :, None]).reshape(n, f * cells, m)
        pointer_places = self.pointer_positions(offsets, frames).repeat_interleave(split, 1)
        tokens = torch.cat([memories.flatten(1, 2), pointers.reshape(n, p * split, m)], 1)
        placed, mask = tokens + torch.cat([places, pointer_places], 1), None
        if used is not None:
            used = torch.cat([used[0].repeat_interleave(cells, 1), used[1].repeat_interleave(split, 1)], 1)
            mask = torch.where(used, 0.0, float("-inf"))[:, None, None]
        x = coarse.flatten(2).transpose(1, 2) + 0.1 * sine_grid(self.grid, self.d)
        x = self.transformer["encoder"](x, placed, tokens, p * split, mask)
        return x.transpose(1, 2).reshape(coarse.shape)


def quality(score, iou):
    return torch.where(score > 0, (2 * score.sigmoid() - 1) * iou, 0)
