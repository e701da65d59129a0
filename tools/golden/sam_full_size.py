"""SAM 1 or MobileSAM with random weights on a photograph, for `tests/parity/sam_full_size.rs`.

    PYTHONPATH=segment-anything:MobileSAM python tools/golden/sam_full_size.py mobile_sam|vit_b IMAGE FOLDER
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from golden import randomise, seed

name, photograph, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
if name == "mobile_sam":
    from mobile_sam import SamPredictor
    from mobile_sam.build_sam import build_sam_vit_t as build
else:
    from segment_anything import SamPredictor
    from segment_anything.build_sam import build_sam_vit_b as build

seed(7)
torch.set_num_threads(2)
sam = randomise(build())
if name == "vit_b":
    encoder = sam.image_encoder
    encoder.pos_embed.copy_(0.5 * torch.randn_like(encoder.pos_embed))
    for block in encoder.blocks:
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            table.copy_(0.1 * torch.randn_like(table))
folder.mkdir(parents=True, exist_ok=True)
torch.save(sam.state_dict(), folder / f"{name}.pth")

image = np.array(Image.open(photograph).convert("RGB"))
Image.fromarray(image).save(folder / "truck.png")
predictor = SamPredictor(sam)
start = time.time()
predictor.set_image(image)
print(f"encode {time.time() - start:.2f} s")

points = np.array([[500, 375], [1125, 625], [900, 300], [30, 40], [1700, 1100]])
labels = np.array([1, 1, 0, 1, 0])
box = np.array([425, 600, 700, 875])
out = {
    "image_embedding": predictor.features[0].flatten(1).t()[None],
    "points": torch.from_numpy(points).float(),
    "labels": torch.from_numpy(labels),
    "box": torch.from_numpy(box).float()[None],
}


def predict(kind, multimask, **prompt):
    start = time.time()
    masks, iou, low = predictor.predict(**prompt, multimask_output=multimask, return_logits=True)
    print(f"{kind} {multimask} {time.time() - start:.3f} s, area {(masks > 0).mean():.3f}")
    key = f"{kind}.{int(multimask)}"
    out[f"{key}.low"], out[f"{key}.iou"] = torch.from_numpy(low).flatten(1), torch.from_numpy(iou)
    out[f"{key}.mask"] = torch.from_numpy(masks > 0).to(torch.uint8).flatten(1)
    return low


for kind, prompt in (
    ("point", dict(point_coords=points[:1], point_labels=labels[:1])),
    ("five", dict(point_coords=points, point_labels=labels)),
    ("box", dict(box=box)),
    ("box_point", dict(box=box, point_coords=points[2:3], point_labels=labels[2:3])),
):
    for multimask in (True, False):
        low = predict(kind, multimask, **prompt)
        if kind == "point" and multimask:
            earlier = low[2:3]
predict("refine", False, point_coords=points[:1], point_labels=labels[:1], mask_input=earlier)
out["refine.in"] = torch.from_numpy(earlier).flatten(1)

boxes = np.stack([[40 * i + 10, 30 * i + 20, 40 * i + 400, 30 * i + 300] for i in range(16)])
scaled = predictor.transform.apply_boxes_torch(torch.tensor(boxes), image.shape[:2])
start = time.time()
_, iou, low = predictor.predict_torch(None, None, scaled, multimask_output=False, return_logits=True)
print(f"16 boxes {time.time() - start:.3f} s")
out |= {"boxes.low": low.flatten(1), "boxes.iou": iou, "boxes.xyxy": torch.from_numpy(boxes).float()}
save_file({k: v.contiguous() for k, v in out.items()}, folder / f"{name}.dump.safetensors")
