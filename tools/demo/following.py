"""What training the memory minimises: an object is followed through a clip as a session does it, by its own answers."""

import torch
import torch.nn.functional as F

from losses import bce, dice, random_click
from memory import MIN_QUALITY, ROWS, quality, resized, scaled
from moving import GONE, SEEN, boxes_of
from world import SIDE

RARE = 3.0  # how much more a frame without the object counts in the loss of the score


class Remembered:
    """Memory and pointer of one frame for each of N objects, and which of them may be attended to."""

    def __init__(self, memory, pointer, good, time, prompted):
        self.memory, self.pointer, self.good, self.time, self.prompted = memory, pointer, good, time, prompted


def recalled(tracker, coarse, entries, time):
    """Attends by the rules: conditioning frames, and of the others the good ones by rank, and the neighbor whatever it is."""
    n = len(coarse)
    total = torch.zeros(n, dtype=torch.long)
    ranks = []
    for back, entry in enumerate(reversed(entries)):
        usable = torch.ones(n, dtype=torch.bool) if back == 0 else entry.good & (not entry.prompted)
        if len(entries) == 1 or entry is entries[0]:
            usable = torch.zeros(n, dtype=torch.bool)  # the first frame counts as a conditioning frame only
        total = total + usable
        ranks.append(torch.where(usable, total, 0))
    rows, offsets, by_memory, by_pointer = [], [], [], []
    for entry, rank in zip(entries, reversed(ranks)):
        if entry.prompted:
            rows.append(torch.full((n,), ROWS - 1))
            offsets.append((time - entry.time).abs())
            by_memory.append(torch.ones(n, dtype=torch.bool))
            by_pointer.append(torch.ones(n, dtype=torch.bool))
        else:
            rows.append((rank - 1).clamp(0, ROWS - 2))
            offsets.append(rank)
            by_memory.append((rank > 0) & (rank < ROWS))
            by_pointer.append((rank > 0) & (rank < total))
    stack = lambda tensors: torch.stack(tensors, 1)
    memories, pointers = stack([e.memory for e in entries]), stack([e.pointer for e in entries])
    used = (stack(by_memory), stack(by_pointer))
    return tracker.recall(coarse, memories, stack(rows), pointers, stack(offsets), used)


def prompted(tracker, batch, image, all_):
    """Memory and pointer of the first frame, from a box, a click or the mask itself; the kind is one for the batch."""
    coarse, n = image["coarse"], len(all_)
    kind = float(torch.rand(()))
    if kind < 0.45:
        mask = batch["mask"]
        pointer = tracker.point_to_mask(coarse, image, all_, resized(mask, 16 * tracker.grid))
        probability = mask
    else:
        if kind < 0.85:
            corners = boxes_of(batch["mask"])
            noise = (torch.rand(n, 2, 2) - 0.5) * 0.06 * (corners[:, 1:] - corners[:, :1])
            points, labels = corners + noise, torch.tensor([[2, 3]]).expand(n, 2)
        else:
            inside = batch["true"][:, 0] > 0.6
            points, labels = random_click(inside)[:, None], torch.ones(n, 1, dtype=torch.long)
        points = torch.cat([points, torch.zeros(n, 1, 2)], 1)
        labels = torch.cat([labels, torch.full((n, 1), -1)], 1)
        with torch.no_grad():
            masks, iou, score, tokens = tracker.decode(image["embedding"], image, all_, points, labels)
        best = 1 + iou[:, 1:].argmax(1) if kind >= 0.85 else torch.zeros(n, dtype=torch.long)
        probability = (resized(masks[all_, best], SIDE) > 0).float()
        pointer = tracker.point(tokens[all_, best], score > 0)
    there = torch.ones(n, dtype=torch.bool)
    return Remembered(tracker.remember(coarse, probability, there), pointer, there, batch["times"][:, 0], True)


def answered(tracker, image, features, answers, true, there, gone, hint=0.0):
    """Loss terms of what the decoder answers on features, how much each counts, and the best mask of each."""
    masks, iou, score = answers
    all_, weight, encoder = torch.arange(len(true)), there.float(), tracker.sam_prompt_encoder
    target = true[:, None].expand(-1, 3, -1, -1)
    each = 5 * bce(masks[:, 1:], target, reduction="none").mean((-1, -2)) + 2 * dice(masks[:, 1:], target)
    found, real = masks[:, 1:] > 0, target > 0.5
    true_iou = (found & real).sum((-1, -2)) / (found | real).sum((-1, -2)).clamp(min=1)
    best = 1 + iou[:, 1:].argmax(1)
    terms = {
        "mask": ((each.min(1).values + 0.2 * each.mean(1)) * weight).sum(),
        "iou": (((iou[:, 1:] - true_iou) ** 2).mean(1) * weight).sum(),
        "score": (2 * bce(score, weight, reduction="none") * (there + RARE * gone)).sum(),
    }
    if hint:
        prompt = encoder["mask_downscaling"](scaled(true)[:, None])
        wanted = image["embedding"] + prompt - encoder["no_mask_embed"].weight.view(1, -1, 1, 1)
        part = 0.1 + F.adaptive_avg_pool2d(true[:, None], tracker.grid)  # the few places of the object count as the rest
        off = ((features - wanted).square() * part).mean(1).sum((1, 2)) / part.sum((1, 2, 3))
        terms["hint"] = hint * (off * (there | gone)).sum() / 3
    with torch.no_grad():
        terms["true_iou"] = (true_iou[all_, best - 1] * (score > 0) * weight).sum()
        terms["noticed"] = ((score <= 0) & gone).sum() / max(1, int(gone.sum())) * weight.sum()
        terms["kept"] = ((score > 0) & there).float().sum()
    return terms, weight, best


def taught_losses(tracker, batch, hint):
    """The frames of the clips all at once: what is remembered of each is its true mask."""
    n, length = batch["times"].shape
    flat = lambda name: batch[name].flatten(0, 1)
    coarse, true, area = flat("coarse"), flat("true"), flat("area")
    embedding = coarse + tracker.no_mem_embed.view(1, -1, 1, 1)
    image = {"coarse": coarse, "embedding": embedding, "fine": flat("fine"), "middle": flat("middle")}
    there, gone, all_ = area >= SEEN, area <= GONE, torch.arange(n * length)
    probability = resized(true, SIDE)
    probability[::length] = batch["mask"]
    memory = tracker.remember(coarse, probability, there)
    points, labels = tracker.pads(n * length)
    with torch.no_grad():
        _, iou, _, tokens = tracker.decode(embedding, image, all_, points, labels, scaled(true)[:, None])
        tokens = tokens[all_, 1 + iou[:, 1:].argmax(1)]
    pointer = tracker.point(tokens, there)
    split = lambda tensor: tensor.view(n, length, *tensor.shape[1:])
    memory, pointer, seen = split(memory), split(pointer), split(there)
    entries, features = [], []
    for t in range(length):
        if t:
            features.append(recalled(tracker, batch["coarse"][:, t], entries, batch["times"][:, t]))
        entries.append(Remembered(memory[:, t], pointer[:, t], seen[:, t], batch["times"][:, t], t == 0))
    later = (torch.arange(length) > 0).repeat(n)
    features = torch.stack(features, 1).flatten(0, 1)
    image, all_ = {name: maps[later] for name, maps in image.items()}, torch.arange(len(features))
    masks, iou, score, _ = tracker.decode(features, image, all_, *tracker.pads(len(features)))
    terms, weight, _ = answered(
        tracker, image, features, (masks, iou, score), true[later], there[later], gone[later], hint
    )
    # What is prompted is there, on features that know of no memory too.
    middle = boxes_of(batch["mask"]).mean(1, keepdim=True)
    first = {name: batch[name][:, 0] for name in ("fine", "middle")}
    prompt = torch.cat([middle, torch.zeros_like(middle)], 1)
    _, _, score, _ = tracker.decode(embedding[::length], first, torch.arange(n), prompt, torch.tensor([[1, -1]]).expand(n, 2))
    terms["score"] = terms["score"] + bce(score, torch.ones(n), reduction="sum")
    return {name: term / weight.sum().clamp(min=1) for name, term in terms.items()}


def clip_losses(model, batch):
    """`hint` of the batch falls to 0 while all memories are those of true masks: it is the weight of making features look as
    if the true mask had been the prompt."""
    tracker, hint = model.tracker, batch["hint"]
    if hint:
        return taught_losses(tracker, batch, hint)
    n, length = batch["times"].shape
    all_, taught = torch.arange(n), torch.rand(n) < 0.15
    no_mem = tracker.no_mem_embed.view(1, -1, 1, 1)
    points, labels = tracker.pads(n)
    corrected = int(torch.randint(2, length - 1, ())) if float(torch.rand(())) < 0.25 else None
    entries, sums, count = [], {}, 0.0
    for t in range(length):
        coarse = batch["coarse"][:, t]
        image = {"coarse": coarse, "embedding": coarse + no_mem, "fine": batch["fine"][:, t], "middle": batch["middle"][:, t]}
        if t == 0:
            entries.append(prompted(tracker, batch, image, all_))
            continue
        true, area, time = batch["true"][:, t], batch["area"][:, t], batch["times"][:, t]
        there, gone = area >= SEEN, area <= GONE
        features = recalled(tracker, coarse, entries, time)
        masks, iou, score, tokens = tracker.decode(features, image, all_, points, labels)

        terms, weight, best = answered(tracker, image, features, (masks, iou, score), true, there, gone)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term
        count += float(weight.sum())

        low, seen = masks[all_, best].detach(), torch.where(taught, there, score > 0)
        probability = torch.where((score > 0)[:, None, None], resized(low, SIDE).sigmoid(), 0.0)
        probability = torch.where(taught[:, None, None], resized(true, SIDE), probability).detach()
        good = torch.where(taught, there, quality(score, iou[all_, best]) > MIN_QUALITY)
        pointer = tracker.point(tokens[all_, best].detach(), seen)
        memory = tracker.remember(coarse, probability, seen)
        entries.append(Remembered(memory, pointer, good, time, t == corrected))
    return {name: term / max(1.0, count) for name, term in sums.items()}
