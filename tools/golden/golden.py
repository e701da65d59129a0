"""Shared by the generators: seeded randomisation of every weight, and saving one self-contained golden file."""

import json
import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import torch
from safetensors.torch import save_file
from torch import nn

OUT = Path(os.environ.get("GOLDEN_OUT", Path(__file__).resolve().parents[2] / "tests" / "golden"))
MAX_BYTES = 300_000

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def seed(n):
    torch.manual_seed(n)


def randn(*shape, scale=1.0):
    return torch.randn(*shape) * scale


def randomise(module, matrix_gain=1.0):
    """Give every parameter and batch-norm statistic a value a wrong reader would get wrong.

    Matrices and convolutions get N(0, gain / sqrt(fan_in)); norms, gates, embeddings and biases move away from 0 and 1.
    Leaves the module in eval mode: TinyViT caches its bias tables there, so it must happen after the weights are set.
    """
    module.train()
    for name, m in module.named_modules():
        for leaf, p in m.named_parameters(recurse=False):
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                p.copy_(torch.empty_like(p).uniform_(0.5, 1.5) if leaf == "weight" else 0.2 * torch.randn_like(p))
            elif isinstance(m, (nn.LayerNorm, nn.GroupNorm)) or type(m).__name__ == "LayerNorm2d":
                p.copy_(1 + 0.2 * torch.randn_like(p) if leaf == "weight" else 0.2 * torch.randn_like(p))
            elif isinstance(m, nn.Embedding):
                p.copy_(0.5 * torch.randn_like(p))
            elif "gamma" in leaf or "layer_scale" in leaf:
                p.copy_(0.5 + 0.2 * torch.randn_like(p))
            elif "bias" in leaf or p.dim() < 2:
                p.copy_(0.2 * torch.randn_like(p))
            elif "pos_embed" in leaf or "positional_embedding" in leaf:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * matrix_gain / fan_in(m, p) ** 0.5)
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.copy_(0.2 * torch.randn_like(m.running_mean))
            m.running_var.copy_(torch.empty_like(m.running_var).uniform_(0.5, 1.5))
    return module.eval()


def fan_in(module, p):
    if isinstance(module, nn.ConvTranspose2d):
        return p.shape[0]
    return max(1, p[0].numel())


def state(module, prefix=""):
    """The module's state dict under `weights.`, without complex tables and batch counters."""
    return {
        f"weights.{prefix}{k}": v
        for k, v in module.state_dict().items()
        if not v.is_complex() and not k.endswith("num_batches_tracked")
    }


def save(name, tensors, config):
    """Write `<name>.safetensors`; floats as f32, masks as u8, ids as i64. Refuses non-finite, dead and oversized files."""
    out = {}
    for k, v in tensors.items():
        v = v.detach()
        v = v.to(torch.uint8) if v.dtype == torch.bool else v.float() if v.is_floating_point() else v.long()
        assert v.is_floating_point() is False or torch.isfinite(v).all(), f"{name}: {k} is not finite"
        assert not k.startswith("weights.") or v.abs().max() > 0, f"{name}: {k} is all zero"
        out[k] = v.contiguous().clone()
    path = OUT / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, path, metadata={"config": json.dumps(config)})
    os.chmod(path, 0o644)
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes, {len(out)} tensors")
    for k, v in out.items():
        if not k.startswith("weights."):
            print(f"  {k} {tuple(v.shape)} mean |x| {v.float().abs().mean():.3g} max {v.float().abs().max():.3g}")
    assert size <= MAX_BYTES, f"{name}: {size} bytes is over {MAX_BYTES}"


def stub_optional_imports():
    """The official package imports video and GPU libraries it does not need here."""
    import types

    for name in ("decord", "triton", "triton.language"):
        try:
            __import__(name)
        except Exception:
            sys.modules[name] = types.ModuleType(name)
