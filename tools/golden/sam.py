"""SAM 1, MobileSAM and the click head of SAM 3: transformer, prompt encoder, mask decoder, image encoders.

    PYTHONPATH=segment-anything:MobileSAM:sam3 python tools/golden/sam.py
"""

from functools import partial

import torch
from torch import nn

from golden import randn, randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from mobile_sam.modeling import TinyViT
from sam3.sam.mask_decoder import MaskDecoder as Sam3MaskDecoder
from sam3.sam.transformer import TwoWayTransformer as Sam3Transformer
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

HEADS = dict(generation=1, dim=32, grid=5, image_size=80, num_heads=4, mlp_dim=48, iou_hidden_dim=24)


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def maps(*shape):
    return randn(*shape, HEADS["grid"], HEADS["grid"])


def transformer_of(cls):
    return cls(depth=2, embedding_dim=HEADS["dim"], num_heads=HEADS["num_heads"], mlp_dim=HEADS["mlp_dim"])


def two_way():
    model = randomise(transformer_of(TwoWayTransformer))
    pe, prompts = maps(1, HEADS["dim"]), randn(3, 7, HEADS["dim"])
    tensors = {**state(model), "in.image_pe": tokens(pe), "in.tokens": prompts}
    for case, batch in (("shared", 1), ("own", 3)):
        image = maps(batch, HEADS["dim"])
        hs, out = model(image.expand(3, -1, -1, -1), pe.expand(3, -1, -1, -1), prompts)
        tensors |= {f"in.{case}.image": tokens(image), f"out.{case}.tokens": hs, f"out.{case}.image": out}
    save("sam_two_way", tensors, HEADS)


def prompt_encoder():
    grid, size = HEADS["grid"], HEADS["image_size"]
    model = randomise(PromptEncoder(embed_dim=HEADS["dim"], image_embedding_size=(grid, grid), input_image_size=(size, size), mask_in_chans=16))
    points, labels = torch.rand(2, 3, 2) * size, torch.tensor([[1, 0, 1], [0, 1, -1]])
    boxes, mask = torch.rand(2, 4) * size, randn(2, 1, 4 * grid, 4 * grid, scale=5)
    corners, corner_labels = boxes.view(2, 2, 2), torch.tensor([[2, 3]] * 2)
    padding = torch.zeros(2, 1, 2) - 0.5, -torch.ones(2, 1, dtype=torch.long)
    with_padding = torch.cat([points, padding[0]], 1), torch.cat([labels, padding[1]], 1)
    with_box = torch.cat([points, corners], 1), torch.cat([labels, corner_labels], 1)
    tensors = {**state(model), "in.mask": mask[:, 0], "out.dense_pe": tokens(model.get_dense_pe())}
    for case, asked, (coords, kinds) in (
        ("points", dict(points=(points, labels), boxes=None), with_padding),
        ("points_and_box", dict(points=(points, labels), boxes=boxes), with_box),
        ("box", dict(points=None, boxes=boxes), (corners, corner_labels)),
    ):
        sparse, dense = model(**asked, masks=None)
        tensors |= {f"in.{case}.coords": coords, f"in.{case}.labels": kinds, f"out.{case}.sparse": sparse}
        tensors |= {f"out.{case}.dense": tokens(dense)}
    _, dense = model(points=None, boxes=None, masks=mask)
    save("sam_prompt_encoder", tensors | {"out.mask.dense": tokens(dense)}, HEADS)


def mask_decoder(name, generation):
    dim, grid = HEADS["dim"], HEADS["grid"]
    sizes = dict(transformer_dim=dim, num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=HEADS["iou_hidden_dim"])
    if generation == 1:
        model = MaskDecoder(transformer=transformer_of(TwoWayTransformer), **sizes)
    else:
        model = Sam3MaskDecoder(
            transformer=transformer_of(Sam3Transformer), use_high_res_features=True, iou_prediction_use_sigmoid=True,
            pred_obj_scores=True, pred_obj_scores_mlp=True, **sizes,
        )
    randomise(model, matrix_gain=1.3)
    pe, prompts = maps(1, dim), randn(2, 2, dim)
    tensors = {**state(model), "in.image_pe": tokens(pe), "in.prompts": prompts}
    details = {}
    if generation == 3:
        fine, middle = randn(1, dim, 4 * grid, 4 * grid), randn(1, dim, 2 * grid, 2 * grid)
        tensors |= {"in.fine": fine, "in.middle": middle}
        details = dict(high_res_features=[model.conv_s0(fine), model.conv_s1(middle)], repeat_image=True)
    for case, dense in (("shared", randn(1, dim, 1, 1).expand(2, -1, grid, grid)), ("own", maps(2, dim))):
        image = maps(1, dim)
        got = model.predict_masks(
            image_embeddings=image, image_pe=pe, sparse_prompt_embeddings=prompts, dense_prompt_embeddings=dense, **details
        )
        whole = image + (dense[:1] if case == "shared" else dense)
        tensors |= {f"in.{case}.image": tokens(whole), f"out.{case}.masks": got[0], f"out.{case}.iou": got[1]}
        if generation == 3:
            tensors |= {f"out.{case}.object_score": got[3]}
    save(name, tensors, HEADS | {"generation": generation})


def vit():
    # A grid of 7 in windows of 3: padded to 9.
    config = dict(img_size=28, patch_size=4, embed_dim=24, depth=2, num_heads=2, window_size=3, global_attn_indexes=[1], out_chans=16)
    model = ImageEncoderViT(
        **config, mlp_ratio=4, qkv_bias=True, use_rel_pos=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )
    randomise(model)
    for block in model.blocks:
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            table.copy_(0.5 * torch.randn_like(table))
    pixels = randn(1, 3, 28, 28)
    embedding = model(pixels)
    neck, model.neck = model.neck, nn.Identity()
    out = model(pixels)
    model.neck = neck
    save("sam_vit", {**state(model), "in.pixels": pixels, "out.trunk": out, "out.embedding": embedding}, config)


def tiny_vit():
    config = dict(img_size=64, embed_dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_sizes=[7, 3, 3, 3])
    model = TinyViT(num_classes=1, **config)
    # The official class keeps the size in the last downsampling where it leads to 320, 448 or 576 channels.
    model.layers[2].downsample.conv2.c.stride = (1, 1)
    del model.neck, model.head, model.norm_head
    randomise(model, matrix_gain=1.3)
    pixels = randn(1, 3, 64, 64)
    tensors = {k: v for k, v in state(model).items() if not k.endswith("attention_bias_idxs")}
    x = model.patch_embed(pixels)
    for layer in model.layers:
        x = layer(x)
    side = int(x.shape[1] ** 0.5)
    trunk = x.view(1, side, side, -1)
    save("sam_tiny_vit", tensors | {"in.pixels": pixels, "out.trunk": trunk}, config | {"mlp_ratio": 4, "mbconv_expand": 4, "downsample_strides": [2, 2, 1]})


if __name__ == "__main__":
    seed(501)
    two_way()
    seed(502)
    prompt_encoder()
    seed(503)
    mask_decoder("sam_mask_decoder", 1)
    seed(504)
    mask_decoder("sam_mask_decoder_sam3", 3)
    seed(505)
    vit()
    seed(506)
    tiny_vit()
