"""Moving shapes as tensors, for training the memory: what the frozen parts of the model make of the frames of a clip."""

import os

import numpy as np
import torch

from clips import FRAMES, draw_kinds, make_clip
from model import normalise
from world import AREA, SIDE

FIRST = 8_000_000  # seed of the first clip; those held out are below
KEPT = 16  # frames of a clip
LENGTH = 8  # of a window: the frame of the prompt and those that follow it
SEEN, GONE = 20, 0  # visible pixels from which on an object is there, and up to which it is not


@torch.no_grad()
def encode(model, seed):
    """Features and visible objects of half of a clip's frames: every second one, or neighbors."""
    rng, clip = np.random.default_rng(seed), make_clip(seed)
    if rng.random() < 0.4:
        chosen = np.arange(0, FRAMES, 2)
    else:
        chosen = np.arange(KEPT) + rng.integers(FRAMES - KEPT + 1)
    detector, maps = model.detector, []
    for image in clip["images"][chosen]:
        tokens = detector.backbone["vision_backbone"]["trunk"](normalise(torch.from_numpy(image)[None]))
        grid = tokens.transpose(1, 2).reshape(1, -1, detector.grid, detector.grid)
        maps.append(model.clicks({"map": grid}))
    features = {name: torch.cat([m[name] for m in maps]).half() for name in ("coarse", "middle", "fine")}
    return features | {"owner": torch.from_numpy(clip["owner"][chosen]).to(torch.int8), "objects": len(clip["kinds"])}


class ClipPool:
    """Clips are encoded once and kept in a folder; new ones come in while there are less than `size`."""

    def __init__(self, folder, seed, size, fresh=0.5):
        self.folder, self.size, self.fresh = folder, size, fresh
        self.clips, self.rng = [], np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, model):
        seed = FIRST + len(self.clips)
        path = self.folder / f"{seed}.pt"
        if not path.exists():
            clip, temporary = encode(model, seed), path.with_suffix(f".{os.getpid()}")
            torch.save(clip, temporary)
            os.replace(temporary, path)
        clip = torch.load(path)
        owner = clip["owner"]
        clip["area"] = torch.stack([(owner == i).sum((1, 2)) for i in range(clip["objects"])])
        clip["kinds"] = draw_kinds(np.random.default_rng(seed))
        self.clips.append(clip)

    def window(self):
        """(clip, object, its frames): a frame where most of the object is visible, then frames in a row, mostly the next
        ones. Of four such windows the one where it is hidden most, in every second draw."""
        rng, found = self.rng, []
        wanted = 4 if rng.random() < 0.5 else 1
        while len(found) < wanted:
            clip = self.clips[int(rng.integers(len(self.clips)))]
            i, length = int(rng.integers(clip["objects"])), clip["owner"].shape[0]
            area = clip["area"][i]
            gap = int(rng.integers(2, length - LENGTH + 2)) if rng.random() < 0.25 else 1
            first = int(rng.integers(0, length - LENGTH - gap + 2))
            frames = [first] + [first + gap + k for k in range(LENGTH - 1)]
            if rng.random() < 0.5:
                frames = [length - 1 - t for t in frames]
            if area[frames[0]] >= max(200, 0.6 * float(area.max())):
                shares = area[frames].float() / area.max()
                found.append((float(shares.min() + 0.1 * shares.mean()), clip, i, frames))
        return min(found, key=lambda window: window[0])[1:]

    def elsewhere(self, kind):
        """Which frames of a window show another scene, one without such an object: it is gone there,
        at once. In clips it goes slowly, over a border or behind another."""
        rng, shown = self.rng, torch.zeros(LENGTH, dtype=torch.bool)
        other = self.clips[int(rng.integers(len(self.clips)))]
        if rng.random() < 0.25 and kind not in other["kinds"]:
            first = int(rng.integers(1, LENGTH))
            shown[first : first + int(rng.integers(1, 4))] = True
        return other, shown

    def batch(self, model, size):
        """coarse [N, T, d, g, g], and so on; true [N, T, LOW, LOW], the visible share of every cell; mask, that of the first
        frame at full size [N, SIDE, SIDE]; area [N, T] in pixels; times [N, T]."""
        while len(self.clips) < self.size and (len(self.clips) < 24 or self.rng.random() < self.fresh):
            self.add(model)
        windows, area_average = [self.window() for _ in range(size)], torch.from_numpy(AREA)
        tensors = {name: [] for name in ("coarse", "middle", "fine", "masks")}
        for clip, i, frames in windows:
            other, shown = self.elsewhere(clip["kinds"][i])
            for name in ("coarse", "middle", "fine"):
                features = clip[name][frames].float()
                features[shown] = other[name][:LENGTH][shown].float()
                tensors[name].append(features)
            masks = (clip["owner"][frames] == i).float()
            masks[shown] = 0.0
            tensors["masks"].append(masks)
        tensors = {name: torch.stack(parts) for name, parts in tensors.items()}
        masks = tensors.pop("masks")
        tensors |= {"true": area_average @ masks @ area_average.T, "mask": masks[:, 0], "area": masks.sum((2, 3))}
        return tensors | {"times": torch.tensor([frames for *_, frames in windows])}


def boxes_of(masks):
    """[N, SIDE, SIDE] -> corners [N, 2, 2] in pixels, the last one past the mask"""
    corners = []
    for mask in masks > 0:
        ys, xs = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        corners.append([[xs[0], ys[0]], [xs[-1] + 1, ys[-1] + 1]])
    return torch.tensor(corners).float().clamp(max=SIDE)
