"""Detector: fusion encoder, decoder with presence token and box bias, dot-product scoring, segmentation head."""

import torch
from torch import nn

from golden import randn, randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from sam3.model.decoder import TransformerDecoder, TransformerDecoderLayer
from sam3.model.encoder import TransformerEncoderFusion, TransformerEncoderLayer
from sam3.model.maskformer_segmentation import PixelDecoder, UniversalSegmentationHead
from sam3.model.model_misc import MLP, DotProductScoring, MultiheadAttentionWrapper, inverse_sigmoid
from sam3.model.position_encoding import PositionEmbeddingSine

HEADS, FFN, GRID = 4, 64, 6
# A text prompt of five tokens, two of them padding, followed by two geometry tokens.
PROMPT_MASK = torch.tensor([[0, 0, 0, 1, 1, 0, 0]], dtype=torch.bool)


def prompt_of(dim):
    return randn(1, PROMPT_MASK.shape[1], dim)


def sine(dim, like):
    return PositionEmbeddingSine(num_pos_feats=dim, normalize=True, scale=None, temperature=10000)(like)


def seq_first(x):
    return x.transpose(0, 1)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def encoder(dim=32, layers=2):
    attention = lambda: MultiheadAttentionWrapper(num_heads=HEADS, dropout=0.1, embed_dim=dim, batch_first=True)
    layer = TransformerEncoderLayer(
        activation="relu", d_model=dim, dim_feedforward=FFN, dropout=0.1, pos_enc_at_attn=True, pos_enc_at_cross_attn_keys=False,
        pos_enc_at_cross_attn_queries=False, pre_norm=True, self_attention=attention(), cross_attention=attention(),
    )
    model = TransformerEncoderFusion(
        layer=layer, num_layers=layers, d_model=dim, num_feature_levels=1, frozen=False, use_act_checkpoint=True,
        add_pooled_text_to_img_feat=False, pool_text_with_mask=True,
    )
    randomise(model)
    features, prompt = randn(1, dim, GRID, GRID), prompt_of(dim)
    pos = sine(dim, features)
    trace = {}
    for i, block in enumerate(model.layers):
        block.register_forward_hook(lambda _m, _in, out, i=i: trace.__setitem__(f"out.layer.{i}", out))
    out = model(
        src=[seq_first(tokens(features))], src_key_padding_mask=None, src_pos=[seq_first(tokens(pos))], prompt=seq_first(prompt),
        prompt_pos=torch.zeros_like(seq_first(prompt)), prompt_key_padding_mask=PROMPT_MASK, feat_sizes=[(GRID, GRID)],
    )
    save("encoder", {**state(model), "in.features": features, "in.pos": pos, "in.prompt": prompt, "in.prompt_mask": PROMPT_MASK, **trace,
                     "out.memory": seq_first(out["memory"])},
         dict(d_model=dim, heads=HEADS, layers=layers, ffn=FFN, grid=GRID, layer_norm_eps=1e-5))


def decoder(dim=32, layers=3, queries=6):
    layer = TransformerDecoderLayer(
        activation="relu", d_model=dim, dim_feedforward=FFN, dropout=0.1,
        cross_attention=MultiheadAttentionWrapper(num_heads=HEADS, dropout=0.1, embed_dim=dim), n_heads=HEADS, use_text_cross_attention=True,
    )
    model = TransformerDecoder(
        layer=layer, num_layers=layers, num_queries=queries, return_intermediate=True, box_refine=True, num_o2m_queries=0, dac=True,
        boxRPB="log", d_model=dim, frozen=False, interaction_layer=None, dac_use_selfatt_ln=True, resolution=14 * GRID, stride=14,
        use_act_checkpoint=True, presence_token=True,
    )
    randomise(model)
    memory, pos, prompt = randn(1, GRID * GRID, dim), tokens(sine(dim, randn(1, dim, GRID, GRID))), prompt_of(dim)
    hs, boxes, presence, _ = model(
        tgt=model.query_embed.weight.unsqueeze(1), memory=seq_first(memory), pos=seq_first(pos), reference_boxes=None,
        level_start_index=torch.zeros(1, dtype=torch.long), spatial_shapes=torch.tensor([[GRID, GRID]]), valid_ratios=torch.ones(1, 1, 2),
        memory_text=seq_first(prompt), text_attention_mask=PROMPT_MASK, apply_dac=False,
    )
    hs, boxes = hs.transpose(1, 2), boxes.transpose(1, 2)
    pred = (inverse_sigmoid(boxes) + model.bbox_embed(hs)).sigmoid()
    bias = model._get_rpb_matrix(seq_first(boxes[0]), (GRID, GRID))
    save("decoder", {**state(model), "in.memory": memory, "in.pos": pos, "in.prompt": prompt, "in.prompt_mask": PROMPT_MASK, "out.hs": hs,
                     "out.reference_boxes": boxes, "out.boxes": pred, "out.pred_boxes": pred[-1], "out.presence_logits": presence.squeeze(-1),
                     "out.box_bias": bias},
         dict(d_model=dim, heads=HEADS, layers=layers, ffn=FFN, queries=queries, grid=GRID, layer_norm_eps=1e-5, inverse_sigmoid_eps=1e-3))


def scoring(dim=32, hidden=64, layers=2, queries=6):
    mlp = MLP(input_dim=dim, hidden_dim=hidden, output_dim=dim, num_layers=2, dropout=0.1, residual=True, out_norm=nn.LayerNorm(dim))
    model = randomise(DotProductScoring(d_model=dim, d_proj=dim, prompt_mlp=mlp))
    hs, prompt = randn(layers, 1, queries, dim), prompt_of(dim)
    hs[0, 0, 0] *= 60  # reaches the clamp at 12
    save("scoring", {**state(model), "in.hs": hs, "in.prompt": prompt, "in.prompt_mask": PROMPT_MASK, "out.logits": model(hs, seq_first(prompt), PROMPT_MASK)},
         dict(d_model=dim, d_proj=dim, hidden=hidden, clamp=12.0, layer_norm_eps=1e-5))


def segmentation_head(dim=24, queries=6, grid=5):
    model = UniversalSegmentationHead(
        hidden_dim=dim, upsampling_stages=3, aux_masks=False, presence_head=False, dot_product_scorer=None, act_ckpt=True,
        cross_attend_prompt=MultiheadAttentionWrapper(num_heads=HEADS, dropout=0, embed_dim=dim),
        pixel_decoder=PixelDecoder(num_upsampling_stages=3, interpolation_mode="nearest", hidden_dim=dim),
    )
    randomise(model)
    fpn = [randn(1, dim, grid * s, grid * s) for s in (4, 2, 1)]
    memory, prompt, hs = randn(1, grid * grid, dim), prompt_of(dim), randn(1, queries, dim)
    trace = {}
    model.pixel_decoder.register_forward_hook(lambda _m, args, out: trace.update({"out.memory": tokens(args[0][-1]), "out.pixel_embed": out}))
    out = model(backbone_feats=list(fpn), obj_queries=hs[None], image_ids=torch.zeros(1, dtype=torch.long),
                encoder_hidden_states=seq_first(memory), prompt=seq_first(prompt), prompt_mask=PROMPT_MASK)
    save("segmentation_head", {**state(model), **{f"in.fpn.{i}": f for i, f in enumerate(fpn)}, "in.memory": memory, "in.prompt": prompt,
                               "in.prompt_mask": PROMPT_MASK, "in.hs": hs, **trace, "out.pred_masks": out["pred_masks"],
                               "out.semantic_seg": out["semantic_seg"]},
         dict(d_model=dim, heads=HEADS, queries=queries, grid=grid, group_norm_groups=8, group_norm_eps=1e-5, layer_norm_eps=1e-5))


if __name__ == "__main__":
    for n, make in enumerate((encoder, decoder, scoring, segmentation_head)):
        seed(501 + n)
        make()
