"""Makes tests/golden/checkpoints: small torch files of every kind, and what they hold.

    python tools/golden/checkpoints.py
"""

import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parents[2] / "tests/golden/checkpoints"
OUT.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)

base = torch.randn(6, 4)
state = OrderedDict(
    {
        "detector.contiguous": torch.randn(3, 4),
        "detector.parameter": torch.nn.Parameter(torch.randn(5)),
        "detector.transposed": torch.randn(4, 3).t(),
        "detector.permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "detector.sliced": base[1:5, ::2],
        "detector.shared": base,
        "detector.expanded": torch.randn(3, 1).expand(3, 4),
        "detector.scalar": torch.tensor(1.5),
        "detector.empty": torch.zeros(0, 3),
        "detector.bn.num_batches_tracked": torch.tensor(7),
        "detector.attn.freqs_cis": torch.randn(2, 3, dtype=torch.complex64),
    }
)
state._metadata = OrderedDict({"": {"version": 1}})  # as nn.Module.state_dict has
types = OrderedDict(
    {
        "detector.f16": torch.randn(3, 4).half(),
        "detector.bf16": torch.randn(3, 4).bfloat16(),
        "detector.f64": torch.randn(3, 4).double(),
        "detector.i64": torch.tensor([-3, 2**31]),
        "detector.i32": torch.tensor([-3, 7], dtype=torch.int32),
        "detector.u8": torch.tensor([0, 255], dtype=torch.uint8),
        "detector.bool": torch.tensor([True, False]),
    }
)


def real(tensors):
    """What a reader should list, in storage of its own."""
    listed = {k: v for k, v in tensors.items() if not k.endswith(("_cis", "_tracked"))}
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in listed.items()}


save_file(real(state), OUT / "state.safetensors")
save_file(real(types), OUT / "types.safetensors")

torch.save(state, OUT / "flat.pt")
torch.save(types, OUT / "types.pt")
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
model(torch.zeros(1, 2)).sum().backward()
optimizer.step()
torch.save(
    {
        "meta": {"lr": np.float64(1e-3), "path": Path("x"), "shape": torch.Size([1, 2])},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "ema": {"detector.contiguous": torch.zeros(3, 4)},
        "model": dict(state),
    },
    OUT / "model.pth",
)
torch.save({"state_dict": state, "epoch": torch.tensor(3)}, OUT / "state_dict.pt")
torch.save({"weights": state, "epoch": 3}, OUT / "other_wrapper.pt")
nested = {"detector": {k.removeprefix("detector."): v for k, v in state.items()}, "tracker": {}}
torch.save({"model": nested | {"tracker": {"x": torch.ones(2)}}}, OUT / "nested.pt")
torch.save(state, OUT / "protocol4.pt", pickle_protocol=4)

torch.save(types, OUT / "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(model, OUT / "module.pt")
torch.jit.script(model).save(OUT / "torchscript.pt")
with zipfile.ZipFile(OUT / "flat.pt") as stored:
    with zipfile.ZipFile(OUT / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
