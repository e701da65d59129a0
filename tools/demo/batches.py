"""Scenes and prompts as tensors."""

import numpy as np
import torch

from prompts import ask, named_attributes
from world import LOW, MAX_OBJECTS, make_scene

PROMPTS = 4  # per scene
EXEMPLARS = 2  # at most, per prompt
TRAINING, VALIDATION, TEST = 1_000_000, 50_000, 10_000  # first seeds


class Pool:
    """Fresh scenes all the time; each is reused a few times, mirrored or transposed, with other prompts."""

    def __init__(self, seed, size=1500, fresh=0.35):
        self.seed, self.size, self.fresh = seed, size, fresh
        self.scenes, self.rng = [], np.random.default_rng(seed)

    def draw(self):
        rng = self.rng
        if len(self.scenes) < 64 or rng.random() < self.fresh:
            self.seed += 1
            scene = make_scene(self.seed, one_color=rng.random() < 0.3)  # more of what only the shape tells apart
            if len(self.scenes) < self.size:
                self.scenes.append(scene)
            else:
                self.scenes[int(rng.integers(self.size))] = scene
        else:
            scene = self.scenes[int(rng.integers(len(self.scenes)))]
        scene = dict(scene)
        image, low, soft, boxes = (scene[name] for name in ("image", "low", "soft", "boxes"))
        if rng.random() < 0.5:
            image, low, soft, boxes = image[:, ::-1], low[:, ::-1], soft[:, :, ::-1], boxes * [-1, 1, 1, 1] + [1, 0, 0, 0]
        if rng.random() < 0.5:
            image, low, soft, boxes = image.transpose(1, 0, 2), low.T, soft.transpose(0, 2, 1), boxes[:, [1, 0, 3, 2]]
        scene.update(image=image, low=low, soft=soft, boxes=boxes.astype(np.float32))
        return scene, ask(scene, rng, PROMPTS)

    def batch(self, model, size):
        return collate(model, [self.draw() for _ in range(size)])


def collate(model, asked):
    """[(scene, prompts)] -> tensors. Objects are padded to MAX_OBJECTS; the prompts of all scenes follow each other."""
    n, m = len(asked), MAX_OBJECTS
    boxes, soft = np.full((n, m, 4), 0.5, np.float32), np.zeros((n, m, LOW, LOW), np.float32)
    shape, color, exists = np.zeros((n, m), np.int64), np.zeros((n, m), np.int64), np.zeros((n, m), bool)
    for i, (scene, _) in enumerate(asked):
        k = len(scene["shape"])
        boxes[i, :k], soft[i, :k], exists[i, :k] = scene["boxes"], scene["soft"], True
        shape[i, :k], color[i, :k] = scene["shape"], scene["color"]
    prompts = [(i, prompt) for i, (_, prompts) in enumerate(asked) for prompt in prompts]
    meant = np.zeros((len(prompts), m), bool)
    for i, (_, prompt) in enumerate(prompts):
        meant[i, prompt["targets"]] = True
    tensors = {
        "image": np.stack([scene["image"] for scene, _ in asked]),
        "low": np.stack([scene["low"] for scene, _ in asked]).astype(np.int64),
        "boxes": boxes,
        "soft": soft,
        "shape": shape,
        "color": color,
        "exists": exists,
        "meant": meant,
        "image_of": np.array([i for i, _ in prompts]),
        "named": np.array([named_attributes(prompt["text"]) for _, prompt in prompts]),
    }
    tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    return tensors | exemplars(prompts) | {"rows": model.rows([prompt["text"] for _, prompt in prompts])}


def exemplars(prompts):
    n = len(prompts)
    boxes, labels = torch.full((n, EXEMPLARS, 4), 0.5), torch.ones(n, EXEMPLARS, dtype=torch.long)
    valid = torch.zeros(n, EXEMPLARS, dtype=torch.bool)
    for i, (_, prompt) in enumerate(prompts):
        for k, (box, label) in enumerate(prompt["boxes"]):
            boxes[i, k], labels[i, k], valid[i, k] = torch.from_numpy(box), label, True
    return {"exemplars": boxes, "exemplar_labels": labels, "exemplar_valid": valid}
