"""Records a run of the official code with your weights, for `sam3 verify --reference`.

    python tools/reference/dump_reference.py CHECKPOINT IMAGE OUT.safetensors --text wheel
        [--text ...] [--box x0,y0,x1,y1[,0]] [--point x,y[,0]] [--click-box x0,y0,x1,y1]

CHECKPOINT is a .pt or .pth of SAM 3, SAM 3.1, EfficientSAM3, SAM3-LiteText, SAM 1 or MobileSAM, or a folder
of SAM 3 from Hugging Face for transformers. README.md beside this file says which packages are
needed and what is written. Only public entry points and forward hooks are used.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

torch.set_grad_enabled(False)


def numbers(text):
    return [float(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", action="append", default=[], help="a text prompt; may be repeated")
    parser.add_argument("--box", type=numbers, action="append", default=[],
                        help="an exemplar box in pixels, ,0 after it if it is not meant; "
                             "makes a prompt of its own and one with each text")
    parser.add_argument("--point", type=numbers, action="append", default=[],
                        help="a point in pixels, ,0 after it if it is beside the object; all mean one object")
    parser.add_argument("--click-box", type=numbers, help="the box of one object, in pixels")
    parser.add_argument("--tokens", type=int, default=32,
                        help="tokens per text where the positional table of a student has 77 rows")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if not (args.text or args.box or args.point or args.click_box):
        parser.error("give a prompt: --text, --box, --point or --click-box")
    return args


def concepts(args):
    """name -> (text, boxes, labels)"""
    boxes, labels = [b[:4] for b in args.box], [int((b + [1])[4]) for b in args.box]
    prompts = {}
    for i, text in enumerate(args.text):
        prompts[f"text{i}"] = (text, [], [])
        if boxes:
            prompts[f"both{i}"] = (text, boxes, labels)
    if boxes:
        prompts["boxes"] = ("visual", boxes, labels)  # the text that the official processor puts there
    return prompts


def clicks(args):
    """name -> what the metadata says of it"""
    points, labels = [p[:2] for p in args.point], [int((p + [1])[2]) for p in args.point]
    prompts = {}
    for name, these, box in (("points", points, None), ("box", [], args.click_box), ("mixed", points, args.click_box)):
        if (these or box) and not (name == "mixed" and not (these and box)):
            for multimask in (True, False):
                prompts[f"{name}{3 if multimask else 1}"] = dict(
                    points_xy_px=these, point_labels=labels[: len(these)], box_xyxy_px=box, multimask=multimask)
    return prompts


def pack(masks):
    """Booleans (n, h, w) -> eight pixels to a byte."""
    return torch.from_numpy(np.packbits(np.asarray(masks, dtype=bool).reshape(-1)))


def cxcywh(box, width, height):
    x0, y0, x1, y1 = box
    return [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]


def predict_clicks(predict, prompts):
    """`predict` is the official one of SamPredictor and its like."""
    out = {}
    for name, prompt in prompts.items():
        array = lambda values: np.array(values) if values else None
        masks, scores, low = predict(
            point_coords=array(prompt["points_xy_px"]), point_labels=array(prompt["point_labels"]),
            box=array(prompt["box_xyxy_px"]), multimask_output=prompt["multimask"])
        out |= {f"{name}.low_res_logits": torch.as_tensor(low), f"{name}.iou_scores": torch.as_tensor(scores),
                f"{name}.masks_packed": pack(masks)}
    return out


# --- the sam3 package, of facebookresearch/sam3 or efficientsam3 -------------------------------


def kind(weights):
    """Arguments of the official builders, told from names and shapes; rows of the text table."""
    text, student = "backbone.language_backbone.encoder.", "backbone.vision_backbone.trunk.model.backbone.model."
    found, rows = {}, None
    if (table := weights.get(text + "positional_embedding.pos_embed.pos_embed")) is not None:
        rows = table.shape[2]
        mixers = any(name.startswith(text + "transformer.0.token_mixer") for name in weights)
        name = {(True, 512): "MobileCLIP-S0", (False, 512): "MobileCLIP-S1", (False, 768): "MobileCLIP2-L"}
        found |= dict(text_encoder_type=name[mixers, table.shape[3]], text_encoder_context_length=rows)
    for backbone, first, sizes in (
        ("repvit", "features.0.0.c.weight", {24: "m0.9", 32: "m1.1", 40: "m2.3"}),
        ("tinyvit", "layers.3.blocks.0.attn.attention_biases", {10: "5m", 14: "11m", 18: "21m"}),
        ("efficientvit", "input_stem.op_list.0.conv.weight", {8: "b0", 16: "b1", 24: "b2"}),
    ):
        if (tensor := weights.get(student + first)) is not None:
            found |= dict(backbone_type=backbone, model_name=sizes[tensor.shape[0]])
    return found, rows


def load_official(weights, needs_clicks, tokens):
    from sam3 import model_builder

    renamed = {}
    for name, tensor in weights.items():
        name = name.removeprefix("detector.").replace("student_trunk.", "")
        renamed[name.replace("tracker.", "inst_interactive_predictor.model.", 1) if name.startswith("tracker.") else name] = tensor
    found, rows = kind(renamed)
    build = model_builder.build_efficientsam3_image_model if "backbone_type" in found else model_builder.build_sam3_image_model
    model = build(**found, device="cpu", eval_mode=True, load_from_HF=False, enable_inst_interactivity=needs_clicks)
    own = model.state_dict()
    computed = ("num_batches_tracked", "freqs_cis")  # the same in every file, and set when the model is built
    missing = [name for name in own if name not in renamed and not name.endswith(computed)]
    if missing:
        raise SystemExit(f"the checkpoint lacks {len(missing)} tensors, such as {missing[:3]}")
    model.load_state_dict({name: tensor for name, tensor in renamed.items() if name in own}, strict=False)
    if rows and rows > tokens:
        model.backbone.language_backbone.context_length = tokens
    return model.eval()


def is_sam31(weights):
    return any("interactive_convs" in name or "propagation_convs" in name for name in weights)


class OnCpu(torch.overrides.TorchFunctionMode):
    """The package makes tables of its decoder and scales of boxes on a GPU, wherever the model is."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.pin_memory:
            return args[0]
        kwargs = {key: "cpu" if key == "device" and "cuda" in str(value) else value for key, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


def load_sam31(weights):
    """The detector of SAM 3.1's video model. Nothing builds its clicks on single images, so SAM 3's predictor answers them:
    the same classes with the same sizes, apart from the sigmoid of the predicted IoU."""
    from sam3 import model_builder
    from sam3.model import vitdet
    from sam3.model.sam1_task_predictor import SAM3InteractiveImagePredictor
    from sam3.model.sam3_multiplex_detector import Sam3MultiplexDetector
    from sam3.model.vl_combiner import SAM3VLBackboneTri

    OnCpu().__enter__()  # until the end of the program
    # In the package this product is bf16, whatever the model is.
    vitdet.addmm_act = lambda activation, linear, x: activation()(linear(x))
    bpe = str(Path(model_builder.__file__).parent / "assets" / "bpe_simple_vocab_16e6.txt.gz")
    backbone = SAM3VLBackboneTri(
        scalp=0, visual=model_builder._create_multiplex_tri_backbone(), text=model_builder._create_text_encoder(bpe))
    predictor = SAM3InteractiveImagePredictor(model_builder.build_tracker(apply_temporal_disambiguation=False))
    model = Sam3MultiplexDetector(
        num_feature_levels=1, backbone=backbone, transformer=model_builder._create_sam3_transformer(),
        segmentation_head=model_builder._create_segmentation_head(), semantic_segmentation_head=None,
        input_geometry_encoder=model_builder._create_geometry_encoder(), use_early_fusion=True, use_dot_prod_scoring=True,
        dot_prod_scoring=model_builder._create_dot_product_scoring(),
        supervise_joint_box_scores=False,  # the processor multiplies by the presence itself
        is_multiplex=True)
    roots = {"sam3_model.": "detector.", "sam2_predictor.": "tracker."}
    for old, new in roots.items():
        weights = {new + name.removeprefix(old) if name.startswith(old) else name: t for name, t in weights.items()}
    own = {name.removeprefix("detector."): t for name, t in weights.items() if name.startswith("detector.")}
    lacking = model.load_state_dict(own, strict=False)
    if lacking.unexpected_keys or any(not name.endswith("freqs_cis") for name in lacking.missing_keys):
        raise SystemExit(f"not a complete SAM 3.1: {lacking}"[:1000])
    parts = {"interactive_sam_mask_decoder.": "sam_mask_decoder.", "interactive_sam_prompt_encoder.": "sam_prompt_encoder.",
             "interactivity_no_mem_embed": "no_mem_embed"}
    heads = {new + name.removeprefix("tracker.model." + old): t for name, t in weights.items()
             for old, new in parts.items() if name.startswith("tracker.model." + old)}
    lacking = predictor.model.load_state_dict(heads, strict=False)
    if lacking.unexpected_keys or any(name.startswith("sam_") for name in lacking.missing_keys):
        raise SystemExit(f"not the click parts of SAM 3.1: {lacking}"[:1000])
    predictor.model.sam_mask_decoder.iou_prediction_head.sigmoid_output = False
    model.inst_interactive_predictor = predictor
    forward = model.backbone.forward_image

    def forward_image(samples):
        out = forward(samples, need_propagation_out=False)
        out["sam2_backbone_out"] = out.pop("interactive")
        for features in (out, out["sam2_backbone_out"]):
            features["backbone_fpn"] = [level.tensors for level in features["backbone_fpn"]]
        return out

    model.backbone.forward_image = forward_image
    return model.eval()


def run_official(weights, image, args):
    from sam3.model.sam3_image_processor import Sam3Processor

    click_prompts = clicks(args)
    model = load_sam31(weights) if is_sam31(weights) else load_official(weights, bool(click_prompts), args.tokens)
    seen = {}

    def on(module, take):
        module.register_forward_hook(lambda _m, i, kw, o: seen.update(take(i, kw, o)), with_kwargs=True)

    vision, text = model.backbone.vision_backbone, model.backbone.language_backbone
    on(vision.trunk, lambda i, kw, o: {"pixel_values": i[0], "trunk": o[-1]})
    on(text, lambda i, kw, o: {"text_features": o[1].transpose(0, 1), "text_mask": o[0]})
    on(model.geometry_encoder, lambda i, kw, o: {"geometry": o[0].transpose(0, 1)})
    on(model.transformer.encoder, lambda i, kw, o: {
        "prompt": kw["prompt"].transpose(0, 1), "prompt_mask": kw["prompt_key_padding_mask"],
        "encoder": o["memory"].transpose(0, 1)})
    on(model.transformer.decoder, lambda i, kw, o: {"hs": o[0][-1].transpose(0, 1)})
    on(model.segmentation_head.pixel_decoder, lambda i, kw, o: {"pixel_embed": o})
    tokenizer, forward = text.tokenizer, model.forward_grounding

    def tokenize(*a, **kw):
        seen["input_ids"] = tokenizer(*a, **kw)
        return seen["input_ids"]

    def ground(**kw):
        out = forward(**kw)
        seen.update(presence_logit=out["presence_logit_dec"].reshape(1, 1), pred_boxes=out["pred_boxes"],
                    pred_logits=out["pred_logits"].squeeze(-1), pred_masks=out["pred_masks"],
                    semantic_seg=out["semantic_seg"])
        return out

    text.tokenizer, model.forward_grounding = tokenize, ground
    processor = Sam3Processor(model, device="cpu", confidence_threshold=0.0)
    state = processor.set_image(image)
    out = {"pixel_values": seen.pop("pixel_values"), "trunk": seen.pop("trunk")}
    for level, features in enumerate(state["backbone_out"]["backbone_fpn"][:3]):
        out[f"neck.{level}"] = features
    for name, (words, boxes, labels) in concepts(args).items():
        print("prompt", name, flush=True)
        processor.reset_all_prompts(state)
        # The processor runs after every box: all but the last are put there without a run.
        if words != "visual":
            state["backbone_out"].update(model.backbone.forward_text([words], device="cpu"))
        state["geometric_prompt"] = model._get_dummy_prompt()
        for box, label in list(zip(boxes, labels))[:-1]:
            state["geometric_prompt"].append_boxes(
                torch.tensor(cxcywh(box, *image.size)).view(1, 1, 4), torch.tensor([bool(label)]).view(1, 1))
        if boxes:
            processor.add_geometric_prompt(cxcywh(boxes[-1], *image.size), bool(labels[-1]), state)
        else:
            processor.set_text_prompt(words, state)
        out |= {f"{name}.{stage}": tensor.clone() for stage, tensor in seen.items()}
        state.pop("masks_logits", None)
        out |= {f"{name}.scores": state.pop("scores"), f"{name}.boxes": state.pop("boxes"),
                f"{name}.masks_packed": pack(state.pop("masks").squeeze(1))}
    if click_prompts:
        out |= predict_clicks(lambda **prompt: model.predict_inst(state, **prompt), click_prompts)
    return out, "sam3 package", {}


# --- transformers ---------------------------------------------------------------------------------


def run_transformers(image, args):
    import transformers

    if clicks(args):
        raise SystemExit("points and boxes of one object are recorded from the sam3 package only")
    model = transformers.Sam3Model.from_pretrained(args.checkpoint).eval()
    processor = transformers.Sam3Processor.from_pretrained(args.checkpoint)
    seen = {}

    def on(module, take):
        module.register_forward_hook(lambda _m, i, kw, o: seen.update(take(i, kw, o)), with_kwargs=True)

    on(model.geometry_encoder, lambda i, kw, o: {"geometry": o.last_hidden_state})
    on(model.detr_encoder, lambda i, kw, o: {
        "prompt": kw["text_features"], "prompt_mask": ~kw["text_mask"], "encoder": o.last_hidden_state})
    on(model.detr_decoder, lambda i, kw, o: {"hs": o.intermediate_hidden_states[-1]})
    on(model.mask_decoder.pixel_decoder, lambda i, kw, o: {"pixel_embed": o})
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    vision = model.vision_encoder(pixels)
    side = int(vision.last_hidden_state.shape[1] ** 0.5)
    out = {"pixel_values": pixels, "trunk": vision.last_hidden_state.transpose(1, 2).unflatten(2, (side, side))}
    out |= {f"neck.{level}": vision.fpn_hidden_states[level] for level in range(3)}
    size, not_end_to_end = image.size, {}
    for name, (words, boxes, labels) in concepts(args).items():
        print("prompt", name, flush=True)
        seen.clear()
        text = processor.tokenizer(words, return_tensors="pt", padding="max_length", max_length=32)
        extra = {}
        if boxes:
            extra = dict(input_boxes=torch.tensor([[cxcywh(box, *size) for box in boxes]]),
                         input_boxes_labels=torch.tensor([labels]))
        else:
            # transformers puts the geometry encoder's CLS token into prompts with boxes only;
            # the official code into every prompt.
            not_end_to_end[name] = dict(end_to_end=False)
        o = model(vision_embeds=vision, input_ids=text["input_ids"], attention_mask=text["attention_mask"], **extra)
        ids = text["input_ids"] * text["attention_mask"]
        x0, y0, x1, y1 = o.pred_boxes.unbind(-1)
        out |= {f"{name}.{stage}": tensor.clone() for stage, tensor in seen.items()}
        out |= {f"{name}.{stage}": tensor for stage, tensor in {
            "input_ids": ids, "text_mask": ids == 0, "text_features": seen["prompt"][:, : ids.shape[1]].clone(),
            "pred_boxes": torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1),
            "presence_logit": o.presence_logits.reshape(1, 1), "pred_logits": o.pred_logits,
            "pred_masks": o.pred_masks, "semantic_seg": o.semantic_seg,
            "scores": (o.pred_logits.sigmoid() * o.presence_logits.sigmoid())[0],
            "boxes": o.pred_boxes[0] * torch.tensor([*size, *size]),
            "masks_packed": torch.cat([pack_large(m, size) for m in o.pred_masks[0].split(8)])}.items()}
    return out, f"transformers {transformers.__version__}", not_end_to_end


def pack_large(logits, size):
    """Eight masks (8, h, w) at the size of the image; eight, so that they end at a whole byte."""
    width, height = size
    large = torch.nn.functional.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)
    return pack(large[0] > 0)


# --- segment_anything and mobile_sam --------------------------------------------------------------


def run_sam(weights, image, args):
    if concepts(args):
        raise SystemExit("SAM 1 takes --point and --click-box only")
    if "image_encoder.patch_embed.seq.0.c.weight" in weights:
        import mobile_sam as package
        model = package.sam_model_registry["vit_t"]()
    else:
        import segment_anything as package
        width = weights["image_encoder.pos_embed"].shape[-1]
        model = package.sam_model_registry[{768: "vit_b", 1024: "vit_l", 1280: "vit_h"}[width]]()
    model.load_state_dict(weights)
    model.eval()
    seen = {}
    model.image_encoder.register_forward_hook(lambda _m, i, o: seen.update(pixel_values=i[0], image=o))
    predictor = package.SamPredictor(model)
    predictor.set_image(np.array(image))
    out = {"pixel_values": seen["pixel_values"], "image_embedding": seen["image"].flatten(2).transpose(1, 2)}
    return out | predict_clicks(predictor.predict, clicks(args)), package.__name__, {}


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    image = Image.open(args.image).convert("RGB")
    if args.checkpoint.is_dir():
        out, source, more = run_transformers(image, args)
    else:
        weights = torch.load(args.checkpoint, map_location="cpu", mmap=True, weights_only=True)
        weights = weights.get("model", weights)
        is_sam1 = any(name.startswith("image_encoder.") for name in weights)
        out, source, more = (run_sam if is_sam1 else run_official)(weights, image, args)
    out["image"] = torch.from_numpy(np.array(image))
    prompts = {name: dict(text=text, boxes_xyxy_px=boxes, labels=labels) | more.get(name, {})
               for name, (text, boxes, labels) in concepts(args).items()} | clicks(args)
    plain = {name: (t.to(torch.uint8) if t.dtype == torch.bool else t).contiguous().clone() for name, t in out.items()}
    save_file(plain, args.out, metadata={"prompts": json.dumps(prompts), "source": f"{source}, torch {torch.__version__}"})
    print(f"wrote {args.out}: {len(plain)} tensors, prompts {', '.join(prompts)}")


main()
