"""Trains the demo model from nothing, in four stages, on one core or on a GPU.

    python tools/demo/train.py FOLDER
    python tools/demo/train.py FOLDER --start weights/demo.safetensors --steps memory=1000

trunk: the vision trunk alone, with dense shape, colour and box heads; detector: everything that answers words and
exemplars; clicks: the interactive branch on the finished trunk; memory: what only video needs and the object score, on
everything else as it is. Each stage continues from FOLDER/STAGE.pt when it is there, so the same command resumes after
an interruption. The learning rate follows the step, not the clock.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from batches import TRAINING, VALIDATION, Pool
from evaluate import evaluate, held_out, rounded
from following import clip_losses
from losses import TrainingHeads, click_losses, detector_losses, trunk_losses
from memory import MEMORY
from model import Sam3, normalise
from moving import ClipPool

TRUNK = "detector.backbone.vision_backbone.trunk."
CLICKS = ("tracker.", "detector.backbone.vision_backbone.sam2_convs.")
VIDEO = tuple("tracker." + part for part in MEMORY)
HEAD = "tracker.sam_mask_decoder.pred_obj_score_head."  # of whether an object is there: learned from videos alone
WATCHED = ("true_iou", "kept", "noticed")  # in the log, but not in the loss


class Training(nn.Module):
    """The model and the heads that are thrown away."""

    def __init__(self):
        super().__init__()
        self.model, self.heads = Sam3(), TrainingHeads()

    def trunk(self, batch):
        tokens = self.model.detector.backbone["vision_backbone"]["trunk"](normalise(batch["image"]))
        return trunk_losses(self.heads, tokens, batch)

    def detector(self, batch):
        """Four times as many scenes for the trunk alone cost less than the others, and shapes are what is hard."""
        terms, more = detector_losses(self.model, self.heads, batch), self.trunk(batch["more"])
        return terms | {"more_" + name: term for name, term in more.items()}

    def clicks(self, batch):
        detector = self.model.detector
        with torch.no_grad():
            tokens = detector.backbone["vision_backbone"]["trunk"](normalise(batch["image"]))
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, detector.grid, detector.grid)
        return click_losses(self.model, self.model.clicks({"map": maps}), batch)

    def memory(self, batch):
        return clip_losses(self.model, batch)

    def parameters_of(self, stage):
        """Name -> parameter of what a stage trains."""
        named = dict(self.named_parameters())
        if stage == "trunk":
            chosen = ("model." + TRUNK, "heads.dense.", "heads.box.")
            return {name: p for name, p in named.items() if name.startswith(chosen)}
        model = lambda prefixes: tuple("model." + prefix for prefix in prefixes)
        for_video = {name: p for name, p in named.items() if name.startswith(model(VIDEO))}
        if stage == "memory":
            return for_video | {name: p for name, p in named.items() if name.startswith("model." + HEAD)}
        rest = {name: p for name, p in named.items() if name not in for_video}
        return {name: p for name, p in rest.items() if name.startswith(model(CLICKS)) == (stage == "clicks")}

    def start(self, path):
        """Continues from weights that were exported, with or without what video needs."""
        saved = {name: tensor.float() for name, tensor in load_file(path).items()}
        for_video = {name: p for name, p in self.model.full_state().items() if name.startswith(VIDEO)}
        self.model.load_full_state(for_video | saved)


def optimizer(named, lr):
    """AdamW; no decay for vectors and embeddings."""
    free = lambda name, p: p.ndim < 2 or any(word in name for word in ("embed", "token", "reference_points"))
    decayed = [p for name, p in named.items() if not free(name, p)]
    rest = [p for name, p in named.items() if free(name, p)]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)


def rate(step, steps, warmup=100, flat=0.4):
    """Share of the learning rate: a warm-up, then constant, then a cosine down to a hundredth."""
    if step < flat * steps:
        return min(1.0, (step + 1) / warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step / steps - flat) / (1 - flat)))


class Stage:
    """One stage: its parameters, their running average (the result), and its place in the schedule."""

    def __init__(self, training, name, args):
        self.training, self.name, self.args = training, name, args
        self.named = training.parameters_of(name)
        for other, p in training.named_parameters():
            p.requires_grad_(other in self.named)
        if name == "memory":
            training.model.tracker.begin()
        self.parameters = list(self.named.values())
        self.optimizer = optimizer(self.named, args.lr)
        self.average = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds, self.sums = 0, 0.0, {}
        self.path, self.log = args.folder / f"{name}.pt", args.folder / "log.jsonl"
        if self.path.exists():
            saved = torch.load(self.path, map_location=args.device)
            training.load_state_dict(saved["state"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average, self.step, self.seconds = saved["average"], saved["step"], saved["seconds"]

    def save(self):
        state = {"state": self.training.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average}
        temporary = self.path.with_suffix(".tmp")
        torch.save(state | {"step": self.step, "seconds": self.seconds}, temporary)
        os.replace(temporary, self.path)

    def swap(self):
        """Exchanges the weights with their running average."""
        for p, mean in zip(self.parameters, self.average):
            last = p.detach().clone()
            p.data.copy_(mean)
            mean.copy_(last)

    def say(self, row):
        row = {"stage": self.name, "step": self.step, "seconds": round(self.seconds), **row}
        print(json.dumps(row), flush=True)
        with open(self.log, "a") as log:
            log.write(json.dumps(row) + "\n")

    def update(self, batch):
        share = rate(self.step, self.args.steps[self.name], self.args.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * share
        half = self.name != "memory"  # the frozen decoder is followed as it answers later, in f32
        with torch.autocast(self.args.device, torch.bfloat16, enabled=half):
            terms = getattr(self.training, self.name)(batch)
        self.optimizer.zero_grad(set_to_none=True)
        sum(term for name, term in terms.items() if name not in WATCHED).backward()
        norm = nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.data for p in self.parameters], max(0.003, 1 / (self.step + 10)))
        self.step += 1
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(term.detach())

    def draw(self, pool):
        """A batch on the device; the detector's with more scenes for the trunk."""
        draw = lambda size: {k: v.to(self.args.device) for k, v in pool.batch(self.training.model, size).items()}
        size = self.args.batch
        if self.name == "detector":
            return draw(size) | {"more": draw(4 * size)}
        if self.name == "memory":
            taught = self.args.taught * self.args.steps[self.name]
            return draw(size) | {"hint": max(0.0, 1 - self.step / taught) if taught else 0.0}
        return draw(2 * size if self.name == "trunk" else size)

    def run(self):
        args, steps = self.args, self.args.steps[self.name]
        if self.step >= steps:
            return
        saved = time.monotonic()
        if self.name == "memory":
            pool = ClipPool(args.folder / "clips", self.step, args.clips)
        else:
            pool = Pool(TRAINING * (1 + list(args.steps).index(self.name)) + 100 * self.step)
        while self.step < steps:
            start = time.process_time()
            self.update(self.draw(pool))
            self.seconds += time.process_time() - start
            if self.step % args.log_every == 0:
                self.say({name: round(total / args.log_every, 3) for name, total in self.sums.items()})
                self.sums = {}
            if self.name in ("detector", "clicks") and self.step % args.evaluate_every == 0:
                self.swap()
                self.say(rounded(evaluate(self.training.model, held_out(25, VALIDATION), self.name == "clicks")))
                self.swap()
            if time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()
        self.swap()  # the next stage starts from the average
        self.save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", default="trunk=3000,detector=9000,clicks=4000,memory=1500", help="length of each stage")
    parser.add_argument("--batch", type=int, default=8, help="scenes per step; twice as many in the first stage")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps of the rising learning rate")
    parser.add_argument("--start", type=Path, help="weights to continue from, instead of none")
    parser.add_argument("--clips", type=int, default=400, help="encoded for the last stage")
    taught = "share of the last stage in which all memories are those of true masks"
    parser.add_argument("--taught", type=float, default=0.35, help=taught)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--evaluate-every", type=int, default=500)
    args = parser.parse_args()
    args.steps = {name: int(count) for name, count in (part.split("=") for part in args.steps.split(","))}
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_device(args.device)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    training = Training()
    if args.start:
        training.start(args.start)
    for name in args.steps:
        Stage(training, name, args).run()
    torch.save(training.model.state_dict(), args.folder / "model.pt")
