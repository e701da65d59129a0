"""What all parts of the model are made of. Parameter names are the official ones."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def mlp(*widths):
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(a, b) for a, b in zip(widths, widths[1:])])})


def run_mlp(module, x):
    *hidden, last = module["layers"]
    for layer in hidden:
        x = F.relu(layer(x))
    return last(x)


def inverse_sigmoid(x, eps=1e-3):
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def sine(value, width):
    """value in 0 to 1, any shape -> (..., width), sines and cosines interleaved."""
    i = torch.arange(width, dtype=torch.float32)
    period = 10000.0 ** (2 * torch.div(i, 2, rounding_mode="floor") / width)
    angle = value.float()[..., None] * (2 * math.pi) / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2)


def sine_grid(side, width):
    """Position encoding of a square map, [side * side, width]: y in the first half, x in the second."""
    at = sine(torch.arange(1, side + 1, dtype=torch.float32) / (side + 1e-6), width // 2)
    y, x = at[:, None].expand(side, side, -1), at[None].expand(side, side, -1)
    return torch.cat([y, x], -1).reshape(side * side, width)


def attention(q, k, v, mask=None):
    """[B, heads, N, c]. Written out for training: the bf16 backward of the fused CPU kernel is very slow."""
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    with torch.autocast(q.device.type, enabled=False):
        weight = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            weight = weight + mask.to(weight.dtype)
        return torch.softmax(weight, -1) @ v


class MultiheadAttention(nn.Module):
    """nn.MultiheadAttention's parameters; the mask is added and broadcasts to [B, heads, Q, K]."""

    def __init__(self, width, heads):
        super().__init__()
        self.width, self.heads = width, heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, q, k, v, mask=None):
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        shape = (q.shape[0], -1, self.heads, self.width // self.heads)
        q, k, v = (F.linear(x, w, b).view(shape).transpose(1, 2) for x, w, b in zip((q, k, v), weights, biases))
        mixed = attention(q, k, v, mask).transpose(1, 2)
        return self.out_proj(mixed.reshape(q.shape[0], -1, self.width))


class PreNormLayer(nn.Module):
    """Layer of the fusion encoder and of the geometry encoder: the same parameters, positions added elsewhere."""

    def __init__(self, width, heads, ffn):
        super().__init__()
        self.self_attn = MultiheadAttention(width, heads)
        self.cross_attn_image = MultiheadAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def feed_forward(self, x):
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [B, C, H, W]."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return normed.permute(0, 3, 1, 2)
