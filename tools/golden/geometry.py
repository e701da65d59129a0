"""Geometry encoder: exemplar boxes and points against a feature map, always followed by the CLS token."""

import torch

from golden import randn, randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from sam3.model.encoder import TransformerEncoderLayer
from sam3.model.geometry_encoders import Prompt, SequenceGeometryEncoder
from sam3.model.model_misc import MultiheadAttentionWrapper
from sam3.model.position_encoding import PositionEmbeddingSine

DIM, HEADS, LAYERS, FFN, GRID = 24, 4, 2, 48, 12

# cxcywh in 0..1 with a label (1 positive, 0 negative); one cell of the map is 1/12.
CASES = {
    "one_box": [([0.41, 0.37, 0.35, 0.22], 1)],
    "three_boxes": [([0.62, 0.3, 0.5, 0.41], 1), ([0.2, 0.77, 0.03, 0.02], 0), ([0.9, 0.15, 0.2, 0.3], 1)],  # the second is under one cell
    "outside": [([0.97, 0.93, 0.3, 0.4], 1), ([0.5, 0.5, 1.0, 1.0], 0), ([0.02, 0.4, 0.1, 0.6], 1)],  # partly outside; the whole image
}
POINTS = [([0.3, 0.6], 1), ([0.01, 0.99], 0), ([0.55, 0.12], 1)]


def layer():
    attention = lambda: MultiheadAttentionWrapper(num_heads=HEADS, dropout=0.1, embed_dim=DIM, batch_first=False)
    return TransformerEncoderLayer(
        activation="relu", d_model=DIM, dim_feedforward=FFN, dropout=0.1, pos_enc_at_attn=False, pre_norm=True, self_attention=attention(),
        pos_enc_at_cross_attn_queries=False, pos_enc_at_cross_attn_keys=True, cross_attention=attention(),
    )


def tensors_of(items, width):
    values = torch.tensor([v for v, _ in items], dtype=torch.float32).view(-1, 1, width)
    return values, torch.tensor([l for _, l in items], dtype=torch.long).view(-1, 1)


def prompt(boxes=(), points=()):
    box, box_labels = tensors_of(boxes, 4)
    point, point_labels = tensors_of(points, 2)
    valid = lambda n: torch.zeros(1, n, dtype=torch.bool)
    return Prompt(
        box_embeddings=box, box_mask=valid(len(boxes)), box_labels=box_labels,
        point_embeddings=point, point_mask=valid(len(points)), point_labels=point_labels,
    )


if __name__ == "__main__":
    seed(401)
    sine = PositionEmbeddingSine(num_pos_feats=DIM, normalize=True, scale=None, temperature=10000)
    model = SequenceGeometryEncoder(
        pos_enc=sine, encode_boxes_as_points=False, points_direct_project=True, points_pool=True, points_pos_enc=True,
        boxes_direct_project=True, boxes_pool=True, boxes_pos_enc=True, d_model=DIM, num_layers=LAYERS, layer=layer(), use_act_ckpt=True,
        add_cls=True, add_post_encode_proj=True,
    )
    randomise(model)
    features = randn(1, DIM, GRID, GRID)
    pos = sine(features)
    flat = lambda x: x.flatten(2).permute(2, 0, 1)
    encode = lambda p: model(p, [flat(features)], [(GRID, GRID)], [flat(pos)])[0].transpose(0, 1)
    tensors = {**state(model), "in.features": features, "in.pos": pos, "out.no_boxes": encode(prompt())}
    for name, boxes in CASES.items():
        values, labels = tensors_of(boxes, 4)
        tensors |= {f"in.{name}.boxes": values[:, 0], f"in.{name}.labels": labels[:, 0], f"out.{name}": encode(prompt(boxes))}
    values, labels = tensors_of(POINTS, 2)
    tensors |= {"in.points": values[:, 0], "in.points.labels": labels[:, 0], "out.points": encode(prompt(points=POINTS)),
                "out.points_and_three_boxes": encode(prompt(CASES["three_boxes"], POINTS))}
    save("geometry_encoder", tensors, dict(d_model=DIM, heads=HEADS, layers=LAYERS, ffn=FFN, roi_size=7, grid=GRID, layer_norm_eps=1e-5))
