"""CLIP as transformers has it: both towers with random weights, and a square picture as its processor prepares it.

    python tools/golden/clip.py

Needs torch, transformers and Pillow.
"""

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from golden import randomise, save, seed, state

START, END = 58, 59

seed(11)
shared = dict(num_hidden_layers=2, hidden_act="quick_gelu")
text = dict(vocab_size=60, max_position_embeddings=8, hidden_size=16, intermediate_size=40, num_attention_heads=2, **shared)
vision = dict(image_size=32, patch_size=8, hidden_size=24, intermediate_size=56, num_attention_heads=3, **shared)
tokens = dict(bos_token_id=START, eos_token_id=END, pad_token_id=END)
model = randomise(CLIPModel(CLIPConfig(text_config=text | tokens, vision_config=vision, projection_dim=12)))

ids = torch.tensor([[START, 7, 31, END, END, END, END, END], [START, 3, 44, 9, 21, 2, END, END]])
pixels = torch.randn(2, 3, 32, 32)
out = model(input_ids=ids, pixel_values=pixels)

picture = torch.randint(0, 256, (45, 45, 3), dtype=torch.uint8)
processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
prepared = torch.from_numpy(np.stack(processor(picture.numpy())["pixel_values"]))

save("clip", {**state(model), "in.ids": ids, "in.pixels": pixels, "in.picture": picture, "out.texts": out.text_embeds,
              "out.pictures": out.image_embeds, "out.probabilities": out.logits_per_image.softmax(-1),
              "out.prepared": prepared},
     dict(model_type="clip", projection_dim=12, text_config=text, vision_config=vision))
