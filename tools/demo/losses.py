"""What training minimises, and the heads that only training has."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from layers import sine
from model import CONFIG, normalise
from world import COLORS, LOW, SHAPES, SIDE

D, TRUNK = CONFIG["d_model"], CONFIG["vit"]["dim"]
GRID = CONFIG["image_size"] // CONFIG["patch_size"]
CELLS = LOW // GRID  # mask cells along a patch
COPIES = 2  # denoising queries per object


class TrainingHeads(nn.Module):
    """Short cuts that make a detector converge in an hour of one core; none of them is in the file."""

    def __init__(self):
        super().__init__()
        classes = 2 + len(SHAPES) + len(COLORS)
        self.dense, self.box = nn.Linear(TRUNK, CELLS**2 * classes), nn.Linear(TRUNK, 4)  # of the object under a patch
        self.memory, self.memory_box = nn.Linear(D, CELLS**2), nn.Linear(D, 4)  # what the prompt means, after the fusion
        self.noised, self.noised_box = nn.Embedding(1, D), nn.Linear(2 * D, D)  # content of the denoising queries
        self.patch, self.text, self.bias = nn.Linear(D, D), nn.Linear(D, D), nn.Parameter(torch.tensor(-1.0))
        # one classifier each for patches and for words: pulls both into the same directions
        self.color, self.shape = nn.Linear(D, 1 + len(COLORS)), nn.Linear(D, 1 + len(SHAPES))


def cells(x):
    """[N, patches, CELLS^2 * c] -> [N, c, LOW, LOW]"""
    n, c = len(x), x.shape[-1] // CELLS**2
    return x.view(n, GRID, GRID, CELLS, CELLS, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, LOW, LOW)


def corners(box):
    return box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2


def giou(a, b):
    """Of boxes cxcywh, elementwise."""
    (a0, a1), (b0, b1) = corners(a), corners(b)
    shared = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(-1)
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def box_loss(a, b):
    return 5 * (a - b).abs().sum(-1) + 2 * (1 - giou(a, b))


def dice(logits, target):
    p = logits.sigmoid()
    return 1 - (2 * (p * target).sum((-1, -2)) + 1) / (p.sum((-1, -2)) + target.sum((-1, -2)) + 1)


def weighted(loss, weight):
    return (loss * weight).sum() / weight.sum().clamp(min=1)


bce = F.binary_cross_entropy_with_logits


def match(logits, boxes, true_boxes, meant):
    """The cheapest assignment of queries to the meant objects -> indices of prompt, query and object."""
    cost = -2 * logits.sigmoid()[:, :, None] + 5 * torch.cdist(boxes, true_boxes, p=1)
    cost = (cost - 2 * giou(boxes[:, :, None], true_boxes[:, None])).numpy()
    pairs = []
    for i, row in enumerate(meant):
        objects = row.nonzero()[:, 0]
        queries, order = linear_sum_assignment(cost[i][:, objects.numpy()])
        pairs += [(i, int(q), int(objects[k])) for q, k in zip(queries, order)]
    return torch.tensor(pairs, dtype=torch.long).view(-1, 3).unbind(1)


def under(labels, low):
    """labels [N, M], a value per object -> [N, ...], the value under each place of the map `low`, 0 for none."""
    none = torch.zeros(len(labels), 1, *labels.shape[2:], dtype=labels.dtype)
    index = low.flatten(1)
    if labels.dim() == 3:
        index = index[..., None].expand(-1, -1, labels.shape[-1])
    return torch.cat([none, labels], 1).gather(1, index)


def trunk_losses(heads, tokens, batch):
    """Shape and colour of every cell, shape once more where there is one, and the box of the object under every patch."""
    low, centre = batch["low"], batch["low"][:, CELLS // 2 :: CELLS, CELLS // 2 :: CELLS]
    classes, boxes = cells(heads.dense(tokens)).float(), heads.box(tokens).float().sigmoid()
    shapes = 1 + len(SHAPES)
    label = lambda name: under(batch[name] + 1, low).view_as(low)
    true = under(batch["boxes"], centre)
    on = (centre.flatten(1) > 0).float()
    named = torch.where(low > 0, label("shape"), -100)
    return {
        "dense_shape": F.cross_entropy(classes[:, :shapes], named),
        "dense": F.cross_entropy(classes[:, :shapes], label("shape")) + F.cross_entropy(classes[:, shapes:], label("color")),
        "trunk_box": 2 * weighted((boxes - true).abs().sum(-1), on),
    }


def denoising(heads, true_boxes):
    """Queries that start at every object of the scene, its box shaken."""
    box = true_boxes.repeat(1, COPIES, 1)
    size = box[..., 2:]
    shaken = [box[..., :2] + (torch.rand_like(size) - 0.5) * size * 0.8, size * (0.5 + torch.rand_like(size))]
    box = torch.cat(shaken, -1).clamp(0.01, 0.99)
    encoded = torch.cat([sine(box[..., i], D // 2) for i in range(4)], -1)
    return heads.noised.weight + heads.noised_box(encoded), box


def word_losses(heads, out, image, batch, centre, meant):
    """Binds words to patches before the fusion, and to boxes after it."""
    n = len(meant)
    image_of, count = batch["image_of"], batch["rows"].shape[1]
    word = out["valid"][:, :count, None].to(out["prompt"].dtype)
    text = (out["prompt"][:, :count] * word).sum(1) / word.sum(1).clamp(min=1)
    terms = {}
    for i, name in enumerate(("color", "shape")):
        head = getattr(heads, name)
        terms["patch_" + name] = F.cross_entropy(head(image["coarse"]).float().flatten(0, 1), under(batch[name] + 1, centre).flatten())
        named = batch["named"][:, i]
        terms["word_" + name] = F.cross_entropy(head(text).float(), torch.where(named >= 0, named + 1, -100))
    on = under(meant, centre[image_of])
    alike = torch.einsum("npd,nd->np", heads.patch(image["coarse"])[image_of], heads.text(text)).float() / 8 + heads.bias
    words_alone = ~batch["exemplar_valid"].any(1)
    terms["align"] = 4 * bce(alike[words_alone], on[words_alone].float())
    boxes = heads.memory_box(out["memory"]).float().sigmoid()
    true = under(batch["boxes"][image_of], centre[image_of])
    terms["memory_box"] = 2 * weighted((boxes - true).abs().sum(-1), on.float())
    return terms


def mask_losses(model, out, image, batch, matched, meant, union):
    """Masks of the matched and of the denoising queries, for a part of the prompts."""
    (prompt, query, target), present = matched, meant.any(1)
    image_of, images, objects = batch["image_of"], len(batch["image"]), meant.shape[1]
    order = torch.randperm(len(meant))
    chosen = torch.cat([order[present[order]][: 2 * images], order[~present[order]][: max(1, images // 4)]])
    slot = torch.full((len(meant),), -1)
    slot[chosen] = torch.arange(len(chosen))
    queries = torch.zeros(len(chosen), 2 * objects, dtype=torch.long)
    targets, used, filled = queries.clone(), torch.zeros_like(queries, dtype=torch.bool), [0] * len(chosen)
    for p, q, t in zip(slot[prompt].tolist(), query.tolist(), target.tolist()):
        if p >= 0:
            queries[p, filled[p]], targets[p, filled[p]], used[p, filled[p]] = q, t, True
            filled[p] += 1
    first = CONFIG["decoder"]["queries"]
    queries[:, objects:], targets[:, objects:] = first + torch.arange(objects), torch.arange(objects)
    used[:, objects:] = meant[chosen]
    states = out["states"][-1][chosen].gather(1, queries[..., None].expand(-1, -1, D))
    masks, semantic = model.detector.masks(out, image, image_of, states, chosen)
    at = used.nonzero(as_tuple=True)
    true, logits = batch["soft"][image_of[chosen][at[0]], targets[at]], masks[at]
    union, semantic = union[chosen], semantic[:, 0]
    return {
        "mask": 5 * bce(logits, true) + 3 * dice(logits, true).mean(),
        "semantic": 2 * bce(semantic, union) + weighted(dice(semantic, union), present[chosen].float()),
    }


def detector_losses(model, heads, batch):
    detector, image_of = model.detector, batch["image_of"]
    true_boxes, meant = batch["boxes"][image_of], batch["meant"]
    present, exists = meant.any(1), batch["exists"][image_of]
    image = detector.image(normalise(batch["image"]))
    exemplars = (batch["exemplars"], batch["exemplar_labels"], batch["exemplar_valid"])
    out = detector(image, image_of, batch["rows"], *exemplars, denoising(heads, true_boxes))
    centre = batch["low"][:, CELLS // 2 :: CELLS, CELLS // 2 :: CELLS]
    terms = trunk_losses(heads, image["trunk"], batch) | word_losses(heads, out, image, batch, centre, meant)
    union = (meant[:, :, None, None] * batch["soft"][image_of]).sum(1)  # visible parts never overlap
    memory = cells(heads.memory(out["memory"]))[:, 0].float()
    terms["memory"] = 2 * bce(memory, union) + weighted(dice(memory, union), present.float())

    logits, boxes, layers, first = out["logits"], out["boxes"], len(out["logits"]), CONFIG["decoder"]["queries"]
    matched = match(logits[-1, :, :first].detach(), boxes[-1, :, :first].detach(), true_boxes, meant)
    prompt, query, target = matched
    wanted, count = torch.zeros(len(meant), first), max(1, len(prompt))
    wanted[prompt, query] = 1
    terms["score"] = bce(logits[:, :, :first], wanted.expand(layers, -1, -1), reduction="sum") / count / layers
    terms["presence"] = 2 * bce(out["presence"], present.float().expand(layers, -1))
    terms["query_box"] = box_loss(boxes[:, prompt, query], true_boxes[prompt, target]).sum() / count / layers

    label, exists = (x.repeat(1, COPIES).float().expand(layers, -1, -1) for x in (meant, exists))
    terms["denoised_score"] = 2 * weighted(bce(logits[:, :, first:], label, reduction="none"), exists)
    terms["denoised_box"] = weighted(box_loss(boxes[:, :, first:], true_boxes.repeat(1, COPIES, 1)), label)
    return terms | mask_losses(model, out, image, batch, matched, meant, union)


# ------------------------------------------------------------------------------------------------ clicks and boxes
def random_click(maps):
    """A random pixel [K, 2] inside each map [K, LOW, LOW] bool."""
    i = (torch.rand(len(maps), LOW * LOW) * maps.flatten(1)).argmax(1)
    xy = torch.stack([i % LOW, torch.div(i, LOW, rounding_mode="floor")], 1).float()
    return (xy + torch.rand(len(maps), 2)) * (SIDE / LOW) - 0.5


def answer_losses(answer, true):
    """The best of the three masks and the single one; predicted IoU against the true one."""
    logits, iou, score = answer
    target = true[:, None].expand_as(logits)
    each = 5 * bce(logits, target, reduction="none").mean((-1, -2)) + 2 * dice(logits, target)
    found, real = logits > 0, target > 0.5
    true_iou = (found & real).sum((-1, -2)) / (found | real).sum((-1, -2)).clamp(min=1)
    masks = each[:, 0] + each[:, 1:].min(1).values + 0.1 * each[:, 1:].mean(1)
    loss = masks.mean() + 4 * F.mse_loss(iou, true_iou) + 0.1 * bce(score, torch.ones_like(score))
    return loss, true_iou.detach()


def click_losses(model, image, batch, per_image=6):
    """A click or a box on some objects, then a correcting click together with the answer as mask prompt."""
    owner, index = batch["exists"].nonzero(as_tuple=True)
    order = torch.randperm(len(owner))[: per_image * len(batch["image"])]
    owner, index = owner[order], index[order]
    true, box, k = batch["soft"][owner, index], batch["boxes"][owner, index] * SIDE, torch.arange(len(owner))
    inside = true >= torch.minimum(true.flatten(1).max(1).values, torch.tensor(0.6))[:, None, None]
    by_box = torch.rand(len(k)) < 0.35
    noise = (torch.rand(len(k), 4) - 0.5) * 0.12 * box[:, [2, 3, 2, 3]]
    low, high = corners(box)
    nothing = torch.zeros(len(k), 2)
    # one click in three is at the middle of the object, where people click
    grid = torch.stack(torch.meshgrid(torch.arange(LOW), torch.arange(LOW), indexing="xy"), -1).float()
    weight = inside.float()[..., None]
    middle = (grid * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True)
    distance = ((grid - middle) ** 2).sum(-1).masked_fill(~inside, 1e9).flatten(1).argmin(1)
    central = torch.stack([distance % LOW, torch.div(distance, LOW, rounding_mode="floor")], 1)
    central = (central + 0.5) * (SIDE / LOW) - 0.5
    click = torch.where((torch.rand(len(k)) < 0.35)[:, None], central, random_click(inside))
    choose = lambda a, b: torch.where(by_box[:, None], a, b)
    points = torch.stack([choose(low + noise[:, :2], click), choose(high + noise[:, 2:], nothing), nothing], 1)
    labels = torch.stack([torch.where(by_box, 2, 1), torch.where(by_box, 3, -1), torch.full_like(owner, -1)], 1)
    first = model.tracker(image, owner, points, labels)
    loss, iou = answer_losses(first, true)
    with torch.no_grad():
        previous = first[0][k, 1 + iou[:, 1:].argmax(1)]
        wrong = (previous > 0) != (true > 0.5)
        wrong = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, inside)
        click = random_click(wrong)
        at = ((click + 0.5) / (SIDE / LOW)).long().clamp(0, LOW - 1)
        slot = torch.where(by_box, 2, 1)
        points, labels = torch.cat([points, nothing[:, None]], 1), torch.cat([labels, torch.full((len(k), 1), -1)], 1)
        points[k, slot], labels[k, slot] = click, (true > 0.5)[k, at[:, 1], at[:, 0]].long()
    again, _ = answer_losses(model.tracker(image, owner, points, labels, previous.clamp(-32, 32)[:, None]), true)
    return {"first": loss, "corrected": 0.5 * again, "true_iou": iou[:, 1:].max(1).values.mean()}
