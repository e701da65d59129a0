#!/usr/bin/env python3
"""The work of `sam3 bench`, done by the official PyTorch packages: same checkpoint, image, texts,
points, number format and threads. Writes the same JSON, for `sam3 bench --compare`.

    peers.py sam3 -m sam3.pt --package ../sam3 --image photo.jpg --json torch.json
    peers.py efficientsam3 -m repvit.pt --package ../efficientsam3/sam3 --backbone repvit:m0.9 \\
        --text-encoder MobileCLIP-S1 --table 77 --context 32 --image photo.jpg --json torch.json
    peers.py mobile-sam -m mobile_sam.pt --package ../MobileSAM --image photo.jpg --everything
    peers.py ... --ours "target/release/sam3" --rounds 3     # alternates with ours, prints both
    peers.py ... --onnxruntime     # what exports of the image's encoder, exported on the spot, in onnxruntime
    peers.py ... --weights int8 --dtype bf16      # ours with int8 weights beside PyTorch in bf16
    peers.py ... --weights int8 --onnxruntime     # and beside onnxruntime's dynamic quantization

SAM 3's own package wants a GPU when it is built; the one of EfficientSAM3 builds SAM 3 on the CPU too.
Needs torch, torchvision, Pillow and what the package imports, and onnx, onnxscript and onnxruntime for
--onnxruntime. Nothing of the packages is copied: stages are timed by wrapping the methods that end them.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCHEMA = 1
WORDS = ["wheel", "person", "dog", "a red car", "tree", "window", "bird", "a wooden chair", "cup", "hand"]


def main():
    args = parse_args()
    sys.path[:0] = args.package + [p for p in os.environ.get("PEER_PACKAGES", "").split(":") if p]
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    begun = time.perf_counter()
    peer = (Concepts if args.family in ("sam3", "efficientsam3", "litetext") else Clicks)(args, torch)
    load_ms = (time.perf_counter() - begun) * 1e3
    samples, ours = {}, None
    for _ in range(args.warmup):
        peer.run({})
    for _ in range(args.rounds):
        if args.ours:
            ours = merge(ours, run_ours(args))
        for _ in range(args.iters):
            peer.run(samples)
    report = describe(args, torch, samples, peer, load_ms)
    if ours:
        report["model"] = ours["model"]
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    if ours and args.ours_json:
        args.ours_json.write_text(json.dumps(ours, indent=2))
    print(table(report, ours))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["sam3", "efficientsam3", "litetext", "sam", "mobile-sam"])
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--package", action="append", default=[], help="folder to import from; or PEER_PACKAGES")
    parser.add_argument("--backbone", help="of efficientsam3: repvit:m0.9, tinyvit:11m, efficientvit:b1 …")
    parser.add_argument("--text-encoder", help="MobileCLIP-S0, -S1 or MobileCLIP2-L; none: SAM 3's own")
    parser.add_argument("--table", type=int, default=77, help="rows of the student's positional table")
    parser.add_argument("--context", type=int, help="tokens per text where the table is longer")
    parser.add_argument("--size", default="vit_b", help="of sam: vit_b, vit_l, vit_h")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "f16"], help="half precision is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the large modules")
    parser.add_argument(
        "--onnxruntime",
        action="store_true",
        help="run the trunk (of SAM: the image encoder, and the mask decoder of a click) in onnxruntime",
    )
    parser.add_argument(
        "--weights",
        default="stored",
        choices=["stored", "int8"],
        help="int8: ours with --weights int8 in f32, beside PyTorch in --dtype, or onnxruntime's dynamic "
        "quantization of linear layers",
    )
    parser.add_argument("--clicks", action="store_true", help="of sam3: with the click head, whose neck then runs too")
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--iters", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours", help="the `sam3` command to alternate with")
    parser.add_argument("--ours-json", type=Path)
    args = parser.parse_args()
    if args.onnxruntime and (args.device != "cpu" or args.dtype != "f32" or args.compile):
        parser.error("--onnxruntime runs on the CPU in f32, not compiled")
    if min(args.prompts, args.threads, args.iters, args.rounds) < 1 or args.warmup < 0:
        parser.error("--prompts, --threads, --iters and --rounds are at least 1, --warmup at least 0")
    return args


class Peer:
    """A clock over a loaded model."""

    def __init__(self, args, torch):
        self.args, self.torch = args, torch
        self.marks = []
        self.objects = 0

    def now(self):
        if self.args.device.startswith("cuda"):
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self):
        dtype = {"bf16": self.torch.bfloat16, "f16": self.torch.float16}.get(self.args.dtype)
        if dtype is None:
            return contextlib.nullcontext()
        return self.torch.autocast(self.args.device.split(":")[0], dtype=dtype)

    def wrap(self, owner, method, stage):
        """The time before the end of `method` belongs to `stage`."""
        original = getattr(owner, method)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            self.marks.append((stage, self.now()))
            return result

        setattr(owner, method, wrapped)

    def intervals(self, begun, samples, last_stage):
        """Adds the time since `begun`, cut at the marks, to `samples`; returns when it ended."""
        sums, ended = {}, self.now()
        for stage, at in [*self.marks, (last_stage, ended)]:
            sums[stage] = sums.get(stage, 0.0) + (at - begun) * 1e3
            begun = at
        self.marks.clear()
        for stage, ms in sums.items():
            samples[stage] = samples.get(stage, 0.0) + ms
        return ended

    def decode(self):
        from PIL import Image

        return Image.open(self.args.image).convert("RGB")

    def run(self, samples):
        of_run = {}
        with self.torch.inference_mode(), self.autocast():
            self.run_once(of_run)
        for stage, ms in of_run.items():
            samples.setdefault(stage, []).append(ms)


class Concepts(Peer):
    """SAM 3, EfficientSAM3 and SAM3-LiteText."""

    def __init__(self, args, torch):
        super().__init__(args, torch)
        import sam3.model_builder as builder
        from sam3.model.sam3_image_processor import Sam3Processor

        settings = dict(device=args.device, eval_mode=True, load_from_HF=False, enable_inst_interactivity=args.clicks)
        if args.text_encoder:
            settings |= dict(text_encoder_type=args.text_encoder, text_encoder_context_length=args.table)
        if args.family == "efficientsam3":
            backbone, size = args.backbone.split(":")
            model = builder.build_efficientsam3_image_model(backbone_type=backbone, model_name=size, **settings)
        else:
            model = builder.build_sam3_image_model(**settings)
        if args.context:
            model.backbone.language_backbone.context_length = args.context
        weights = torch.load(args.model, map_location="cpu", weights_only=True)
        weights = weights.get("model", weights)
        tracker = "inst_interactive_predictor.model."
        own = {k.removeprefix("detector."): v for k, v in weights.items() if not k.startswith("tracker.")}
        own |= {tracker + k.removeprefix("tracker."): v for k, v in weights.items() if k.startswith("tracker.")}
        missing = model.load_state_dict(own, strict=False).missing_keys
        if missing:
            sys.exit(f"{args.model}: {len(missing)} tensors are missing, such as {missing[0]}")
        model.train()
        model.eval()  # TinyViT takes its biases from the weights now
        self.model = model.to(args.device)
        if args.compile:
            for module in (model.backbone.vision_backbone, model.transformer.encoder, model.transformer.decoder):
                module.compile()
        self.processor = Sam3Processor(self.model, device=args.device, confidence_threshold=0.5)
        trunk = model.backbone.vision_backbone.trunk
        if args.onnxruntime:
            rotate_in_real_numbers(trunk, torch)
            Exported(trunk, args, torch)
        self.wrap(self.processor, "transform", "preprocess")
        trunk.register_forward_hook(lambda *_: self.marks.append(("trunk", self.now())))
        self.wrap(model.backbone, "forward_image", "neck")
        self.wrap(model.backbone, "forward_text", "encode_text")
        self.wrap(model, "_run_encoder", "fusion")
        self.wrap(model, "_run_decoder", "decoder")
        self.wrap(model, "_run_segmentation_heads", "masks")

    def run_once(self, samples):
        start = self.now()
        image = self.decode()
        decoded = self.now()
        samples["decode_image"] = (decoded - start) * 1e3
        state = self.processor.set_image(image)
        encoded = self.intervals(decoded, samples, "neck")
        samples["encode_image"] = (encoded - decoded) * 1e3
        self.objects, at = 0, encoded
        for i in range(self.args.prompts):
            word = WORDS[i % len(WORDS)]
            word = word if i < len(WORDS) else f"{word} {i // len(WORDS)}"
            state = self.processor.set_text_prompt(word, state)
            at = self.intervals(at, samples, "postprocess")
            self.objects += len(state["scores"])
        samples["total"] = (at - start) * 1e3
        if self.args.clicks:
            self.click(state, image, samples)

    def click(self, state, image, samples):
        import numpy

        point = numpy.array([[image.width * 0.3, image.height * 0.4]])
        begun = self.now()
        self.model.predict_inst(state, point_coords=point, point_labels=numpy.array([1]), multimask_output=True)
        samples["click"] = (self.now() - begun) * 1e3


def rotate_in_real_numbers(trunk, torch):
    """ONNX has no complex numbers: the ViT of SAM 3 rotates queries and keys by their parts instead."""
    attentions = [module for module in trunk.modules() if getattr(module, "freqs_cis", None) is not None]
    if not attentions:
        return
    from sam3.model import vitdet

    for attention in attentions:
        attention.freqs_cis = torch.view_as_real(attention.freqs_cis)

    def rotate(queries, keys, freqs_cis, repeat_freqs_k=False):
        cos, sin = freqs_cis.unbind(-1)

        def rotated(x):
            a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

        return rotated(queries), rotated(keys)

    vitdet.apply_rotary_enc = rotate


class Clicks(Peer):
    """SAM 1 and MobileSAM."""

    def __init__(self, args, torch):
        super().__init__(args, torch)
        if args.family == "mobile-sam":
            import mobile_sam as package

            name = "vit_t"
        else:
            import segment_anything as package

            name = args.size
        self.package = package
        self.model = package.sam_model_registry[name](checkpoint=None)
        weights = torch.load(args.model, map_location="cpu", weights_only=True)
        self.model.load_state_dict(weights.get("model", weights))
        self.model.train()
        self.model.eval()
        self.model.to(args.device)
        if args.compile:
            self.model.image_encoder.compile()
            self.model.mask_decoder.compile()
        if args.onnxruntime:
            Exported(self.model.image_encoder, args, torch)
            self.click_in_onnxruntime()
        self.predictor = package.SamPredictor(self.model)

    def click_in_onnxruntime(self):
        """The mask decoder, for one prompt of three masks, as the official ONNX model takes it."""
        decoder = self.model.mask_decoder
        network = all_masks(decoder, self.torch)
        Exported(network, self.args, self.torch)
        original = decoder.forward

        def forward(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output):
            if len(sparse_prompt_embeddings) > 1:  # exported for one
                return original(
                    image_embeddings=image_embeddings,
                    image_pe=image_pe,
                    sparse_prompt_embeddings=sparse_prompt_embeddings,
                    dense_prompt_embeddings=dense_prompt_embeddings,
                    multimask_output=multimask_output,
                )
            masks, scores = network(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
            kept = slice(1, None) if multimask_output else slice(0, 1)
            return masks[:, kept], scores[:, kept]

        decoder.forward = forward

    def run_once(self, samples):
        import numpy

        start = self.now()
        image = numpy.asarray(self.decode())
        decoded = self.now()
        samples["decode_image"] = (decoded - start) * 1e3
        self.predictor.set_image(image)
        encoded = self.now()
        samples["encode_image"] = (encoded - decoded) * 1e3
        height, width = image.shape[:2]
        one = numpy.array([[width * 0.3, height * 0.4]])
        masks, _, _ = self.predictor.predict(one, numpy.array([1]), multimask_output=True)
        clicked = self.now()
        samples["click"] = (clicked - encoded) * 1e3
        samples["total"] = (clicked - start) * 1e3
        self.objects = len(masks)

        at = lambda i, side: (i + 0.5) / 8 * side
        points = numpy.array([[at(i % 8, width), at(i // 8, height)] for i in range(64)])
        begun = self.now()
        points = self.predictor.transform.apply_coords(points, (height, width))
        points = self.torch.as_tensor(points, dtype=self.torch.float32, device=self.args.device)[:, None]
        labels = self.torch.ones(64, 1, dtype=self.torch.int, device=self.args.device)
        masks, _, _ = self.predictor.predict_torch(points, labels, multimask_output=True)
        masks.cpu()
        samples["clicks_64"] = (self.now() - begun) * 1e3
        if self.args.everything:
            begun = self.now()
            self.package.SamAutomaticMaskGenerator(self.model).generate(image)
            samples["everything"] = (self.now() - begun) * 1e3


def all_masks(decoder, torch):
    """All masks and scores of a mask decoder, as a module that can be exported."""

    class AllMasks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings):
            return self.decoder.predict_masks(
                image_embeddings=image_embeddings,
                image_pe=image_pe,
                sparse_prompt_embeddings=sparse_prompt_embeddings,
                dense_prompt_embeddings=dense_prompt_embeddings,
            )

    return AllMasks()


class Exported:
    """The forward function of a module, in onnxruntime from the second call on. The first call exports it for
    the shapes of its inputs, and says how far the export is from PyTorch on them."""

    def __init__(self, module, args, torch):
        self.module, self.args, self.torch = module, args, torch
        self.forward, self.session = module.forward, None
        module.forward = self

    def __call__(self, *inputs):
        if self.session is None:
            outputs = self.forward(*inputs)
            self.export(inputs, outputs)
            return outputs
        outputs = self.run(inputs)
        return outputs if self.is_list else outputs[0]

    def export(self, inputs, outputs):
        import onnxruntime

        self.is_list = not self.torch.is_tensor(outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.args.threads, 3
        self.module.forward = self.forward
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "module.onnx")
            copies = tuple(x.detach().clone() for x in inputs)
            with self.torch.inference_mode(False), self.torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
                self.torch.onnx.export(self.module, copies, file, dynamo=True, verbose=False)
                if self.args.weights == "int8":
                    file = quantized(file)
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.module.forward = self
        expected = outputs if self.is_list else [outputs]
        apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(self.run(inputs), expected, strict=True))
        print(f"exported {type(self.module).__name__}: within {apart:.1e} of PyTorch's largest value", file=sys.stderr)

    def run(self, inputs):
        names = [node.name for node in self.session.get_inputs()]
        feeds = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
        return [self.torch.from_numpy(x) for x in self.session.run(None, feeds)]


def quantized(file):
    """The weights of the products of matrices in 8 bits, symmetric per channel; their inputs as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = str(Path(file).with_suffix(".int8.onnx"))
    quantize_dynamic(
        file,
        out,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    return out


def describe(args, torch, samples, peer, load_ms):
    on_gpu = args.device.startswith("cuda")
    total = statistics.median(samples["total"])
    return {
        "schema": SCHEMA,
        "engine": f"PyTorch {torch.__version__}{' compiled' if args.compile else ''}" + with_onnxruntime(args),
        "model": args.model.stem,
        "weights": args.model.name,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": args.threads,
            "device": torch.cuda.get_device_name() if on_gpu else "CPU",
            "driver": None,
            "os": platform.platform(),
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "dtype": args.dtype,
        "image": {"name": args.image.name},
        "prompts": args.prompts,
        "batch": 1,
        "warmup": args.warmup,
        "iters": args.iters * args.rounds,
        "objects": peer.objects,
        "load_ms": load_ms,
        "images_per_second": 1e3 / total,
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "stages": [stage(name, ms) for name, ms in samples.items()],
    }


def with_onnxruntime(args):
    if not args.onnxruntime:
        return ""
    import onnxruntime

    return f" with onnxruntime {onnxruntime.__version__}{', int8' if args.weights == 'int8' else ''}"


def cpu_name():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def stage(name, samples):
    ordered = sorted(samples)
    return {
        "name": name,
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[-(-len(ordered) * 95 // 100) - 1],
        "min_ms": ordered[0],
        "samples_ms": samples,
    }


def run_ours(args):
    """One start of ours, as many iterations as theirs in a round."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = shlex.split(args.ours) + ["bench", "--quiet", "-m", str(args.model), "--image", str(args.image)]
        command += ["--device", args.device, "--threads", str(args.threads)]
        command += ["--warmup", str(args.warmup), "--iters", str(args.iters), "--json", file.name]
        command += ["--weights", "int8"] if args.weights == "int8" else ["--dtype", args.dtype]
        if args.prompts > 1:
            command += ["--prompts", str(args.prompts)]
        if args.everything:
            command += ["--everything"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())


def merge(before, after):
    """The samples of two runs as of one."""
    if before is None:
        return after
    samples = {s["name"]: s["samples_ms"] for s in before["stages"]}
    after["stages"] = [stage(s["name"], samples.get(s["name"], []) + s["samples_ms"]) for s in after["stages"]]
    after["iters"] += before["iters"]
    return after


def table(theirs, ours):
    engine = theirs["engine"]
    medians = lambda report: {s["name"]: s["median_ms"] for s in report["stages"]}
    their = medians(theirs)
    if ours is None:
        rows = [f"| {name} | {ms:.1f} |" for name, ms in their.items()]
        return "\n".join([f"| stage | {engine} ms |", "|---|---:|", *rows])
    head = [f"| stage | candle-sam3 ms | {engine} ms | ratio |", "|---|---:|---:|---:|"]
    both = [(name, ms, their[name]) for name, ms in medians(ours).items() if name in their]
    rows = [f"| {name} | {a:.1f} | {b:.1f} | {a / b:.2f} |" for name, a, b in both]
    return "\n".join(head + rows)


if __name__ == "__main__":
    main()
