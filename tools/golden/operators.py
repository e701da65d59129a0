"""Weightless operators: sine encodings, rotary tables, ROI align, bilinear and nearest resize."""

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from golden import randn, save, seed, stub_optional_imports

stub_optional_imports()
from sam3.model.model_misc import gen_sineembed_for_position, inverse_sigmoid
from sam3.model.position_encoding import PositionEmbeddingSine
from sam3.model.vitdet import apply_rotary_enc, compute_axial_cis


def position_encodings():
    sine = PositionEmbeddingSine(num_pos_feats=256, normalize=True, scale=None, temperature=10000)
    small = PositionEmbeddingSine(num_pos_feats=16, normalize=True, scale=None, temperature=10000)
    boxes = torch.rand(6, 4)
    boxes[0] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    points = torch.rand(5, 2)
    x, y = sine._encode_xy(points[:, 0], points[:, 1])
    save("posenc", {
        "out.map.256x4x6": sine(torch.zeros(1, 1, 4, 6)), "out.map.16x9x5": small(torch.zeros(1, 1, 9, 5)), "out.map.16x1x1": small(torch.zeros(1, 1, 1, 1)),
        "in.boxes": boxes, "out.boxes": sine.encode_boxes(*boxes.unbind(1)), "in.points": points, "out.points": torch.cat([x, y], -1),
        "in.references": boxes, "out.references": gen_sineembed_for_position(boxes[:, None], 256)[:, 0],
        "in.inverse_sigmoid": torch.tensor([-0.5, 0.0, 5e-4, 1e-3, 0.3, 0.5, 0.999, 0.9995, 1.0, 1.5]),
        "out.inverse_sigmoid": inverse_sigmoid(torch.tensor([-0.5, 0.0, 5e-4, 1e-3, 0.3, 0.5, 0.999, 0.9995, 1.0, 1.5])),
    }, {"map": "out.map.<channels>x<height>x<width>, normalised positions, y channels first",
        "boxes": "cxcywh -> (y, x, h, w) with raw h, w", "points": "xy -> (x, y)", "references": "cxcywh -> (y, x, w, h), decoder queries"})


def rope():
    head_dim, tensors = 16, {}
    for name, side, scale in (("window", 4, 1.0), ("global", 12, 1 / 3)):
        q, k = randn(1, 2, side * side, head_dim), randn(1, 2, side * side, head_dim)
        cis = compute_axial_cis(dim=head_dim, end_x=side, end_y=side, theta=10000.0, scale_pos=scale)
        rotated_q, rotated_k = apply_rotary_enc(q, k, freqs_cis=cis)
        tensors |= {f"in.{name}.q": q, f"in.{name}.k": k, f"out.{name}.q": rotated_q, f"out.{name}.k": rotated_k,
                    f"out.{name}.cos": cis.real, f"out.{name}.sin": cis.imag}
    save("rope", tensors, {"head_dim": head_dim, "theta": 10000.0, "window": {"side": 4, "scale": 1.0}, "global": {"side": 12, "scale": 1 / 3}})


def regions():
    features = randn(1, 4, 10, 14)
    boxes = torch.tensor([  # x0 y0 x1 y1 in cells
        [2.3, 1.7, 9.1, 6.4], [0.0, 0.0, 14.0, 10.0], [5.2, 5.2, 5.3, 5.3], [3.0, 4.0, 3.0, 4.0], [11.5, 7.5, 16.0, 13.0],
        [-3.0, -2.0, 4.0, 3.0], [13.4, 0.2, 13.9, 9.8], [0.1, 9.1, 13.8, 9.9], [-20.0, -20.0, 30.0, 30.0], [20.0, 20.0, 25.0, 25.0],
        [6.0, 2.0, 4.0, 1.0], [1.0, 1.0, 8.0, 8.0],
    ])
    save("roi_align", {"in.features": features, "in.boxes": boxes, "out.regions": roi_align(features, [boxes], 7)},
         {"output_size": 7, "spatial_scale": 1.0, "sampling_ratio": -1, "aligned": False})


def resize():
    tensors = {"in.square": randn(1, 3, 8, 8), "in.odd": randn(1, 3, 7, 11), "in.line": randn(1, 3, 1, 5)}
    targets = {"square": [(18, 18), (5, 5), (3, 13), (8, 8)], "odd": [(21, 23), (4, 5), (1, 1)], "line": [(4, 9)]}
    for name, sizes in targets.items():
        for h, w in sizes:
            x = tensors[f"in.{name}"]
            tensors[f"out.bilinear.{name}.{h}x{w}"] = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False)
            tensors[f"out.nearest.{name}.{h}x{w}"] = F.interpolate(x, size=(h, w), mode="nearest")
    save("interpolate", tensors, {"align_corners": False, "antialias": False, "names": "out.<mode>.<input>.<height>x<width>"})


if __name__ == "__main__":
    for n, make in enumerate((position_encodings, rope, regions, resize)):
        seed(601 + n)
        make()
