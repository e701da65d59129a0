"""The click head of a full-size SAM 3 or EfficientSAM3 on a photograph, for `tests/parity/click_full_size.rs`.

    PYTHONPATH=efficientsam3/sam3 python tools/golden/click_full_size.py sam3|repvit CHECKPOINT FOLDER IMAGE [DUMP]

CHECKPOINT has official names (`detector.*`, `tracker.*`); the image is encoded once by the processor of the text path, and asked
through `predict_inst`, in f32. DUMP is the record of an earlier official run on the same image: its `trunk` is taken instead of
running that large part again.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.measure import label

from clicks import record
from golden import stub_optional_imports

stub_optional_imports()
from sam3.model.sam3_image_processor import Sam3Processor
from sam3.model_builder import build_efficientsam3_image_model, build_sam3_image_model
from sam3.perflib import connected_components

name, checkpoint, folder, photograph = sys.argv[1], *map(Path, sys.argv[2:5])
torch.set_num_threads(2)
options = dict(device="cpu", eval_mode=True, load_from_HF=False, enable_inst_interactivity=True)
if name == "repvit":
    model = build_efficientsam3_image_model(
        backbone_type="repvit", model_name="m0.9", text_encoder_type="MobileCLIP-S1", text_encoder_context_length=77, **options
    )
else:
    model = build_sam3_image_model(**options)
weights = torch.load(checkpoint, mmap=True, weights_only=True)["model"]
own = {"tracker.": "inst_interactive_predictor.model.", "detector.": ""}
renamed = {own[part] + key.removeprefix(part): value for key, value in weights.items() for part in own if key.startswith(part)}
assert len(renamed) == len(weights)
model.load_state_dict(renamed)
del weights, renamed

if len(sys.argv) > 5:
    trunk = load_file(sys.argv[5])["trunk"]
    model.backbone.vision_backbone.trunk.forward = lambda _pixels: [trunk]


def regions(mask):
    """What the official function for the CPU returns, without a pass over the mask for each of its thousands of regions."""
    labels = torch.from_numpy(label(mask.numpy()))
    areas = torch.bincount(labels.flatten())
    areas[0] = 0
    return labels, areas[labels]


stripes = (torch.arange(48 * 64).view(48, 64) % 7 > 2).to(torch.uint8)
official = connected_components.connected_components_cpu_single(stripes)
assert all(torch.equal(a, b) for a, b in zip(regions(stripes), official))
connected_components.connected_components_cpu_single = regions

image = Image.open(photograph).convert("RGB")
folder.mkdir(parents=True, exist_ok=True)
image.save(folder / f"{photograph.stem}.png")
seen = {}
predictor = model.inst_interactive_predictor
predictor.model.sam_mask_decoder.register_forward_hook(
    lambda _module, _args, given, answer: seen.update(given=given, objects=answer[3]), with_kwargs=True
)
with torch.autocast("cpu", enabled=False):
    start = time.time()
    state = Sam3Processor(model, device="cpu").set_image(image)
    print(f"{name} {photograph.stem}: encode {time.time() - start:.2f} s", flush=True)

    def predict(**prompt):
        answer = model.predict_inst(state, **prompt, return_logits=True)
        return *answer, seen["objects"].float().numpy()

    def predict_boxes(boxes, multimask):
        return predict(box=boxes, multimask_output=multimask)

    out = record(*image.size, predict, predict_boxes)
given = seen["given"]
fine, middle = given["high_res_features"]
assert given["image_embeddings"].dtype == fine.dtype == torch.float32
out |= {"image_embedding": given["image_embeddings"].flatten(2).transpose(1, 2), "fine": fine, "middle": middle}
save_file({key: value.contiguous().clone() for key, value in out.items()}, folder / f"{name}.{photograph.stem}.dump.safetensors")
