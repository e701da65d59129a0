"""SAM 1 or MobileSAM with random weights on photographs, for `tests/parity/sam_full_size.rs`.

    PYTHONPATH=segment-anything:MobileSAM python tools/golden/sam_full_size.py mobile_sam|vit_b|vit_l|vit_h FOLDER IMAGE...
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from clicks import record
from golden import randomise, seed

name, folder, photographs = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
if name == "mobile_sam":
    from mobile_sam import SamPredictor, sam_model_registry

    build = sam_model_registry["vit_t"]
else:
    from segment_anything import SamPredictor, sam_model_registry

    build = sam_model_registry[name]

seed(7)
torch.set_num_threads(2)
sam = randomise(build())
if name != "mobile_sam":
    encoder = sam.image_encoder
    encoder.pos_embed.copy_(0.5 * torch.randn_like(encoder.pos_embed))
    for block in encoder.blocks:
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            table.copy_(0.1 * torch.randn_like(table))
folder.mkdir(parents=True, exist_ok=True)
torch.save(sam.state_dict(), folder / f"{name}.pth")
predictor = SamPredictor(sam)

for photograph in map(Path, photographs):
    image = np.array(Image.open(photograph).convert("RGB"))
    Image.fromarray(image).save(folder / f"{photograph.stem}.png")
    start = time.time()
    predictor.set_image(image)
    print(f"{name} {photograph.stem}: encode {time.time() - start:.2f} s", flush=True)

    def predict(**prompt):
        return *predictor.predict(**prompt, return_logits=True), None

    def predict_boxes(boxes, multimask):
        scaled = predictor.transform.apply_boxes_torch(torch.tensor(boxes), image.shape[:2])
        answer = predictor.predict_torch(None, None, scaled, multimask_output=multimask, return_logits=True)
        return *(part.numpy() for part in answer), None

    out = record(image.shape[1], image.shape[0], predict, predict_boxes)
    out["image_embedding"] = predictor.features[0].flatten(1).t()[None]
    out = {key: value.contiguous().clone() for key, value in out.items()}
    save_file(out, folder / f"{name}.{photograph.stem}.dump.safetensors")
