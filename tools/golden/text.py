"""Text encoders: SAM 3's causal CLIP-style transformer and the two MobileCLIP students."""

import torch

from golden import randomise, save, seed, state, stub_optional_imports

stub_optional_imports()
from sam3.model.text_encoder_student import TextStudentEncoder
from sam3.model.text_encoder_ve import VETextEncoder

VOCAB, SOT, EOT = 60, 58, 59


def ids(lengths, context):
    """Rows of [SOT, tokens, EOT] padded with 0; `lengths` counts SOT and EOT."""
    out = torch.zeros(len(lengths), context, dtype=torch.long)
    for row, n in zip(out, lengths):
        row[0], row[n - 1] = SOT, EOT
        row[1 : n - 1] = torch.randint(1, SOT, (n - 2,))
    return out


def run(model, tokens):
    """The official forward takes strings: give it a tokenizer that returns the wanted ids."""
    model.tokenizer = lambda text, context_length: tokens
    mask, features, _ = model(["prompt"] * len(tokens), device="cpu")
    return {"in.ids": tokens, "out.features": features.transpose(0, 1), "out.mask": mask}


def clip():
    config = dict(width=32, heads=2, layers=2, context_length=8, vocab_size=VOCAB, d_model=16)
    model = randomise(VETextEncoder(tokenizer=None, **config))
    tokens = ids([5, 8], 8)
    tokens[0, 2] = 0  # id 0 is also a real word piece: it is masked wherever it stands
    save("text_clip", {**state(model), **run(model, tokens)}, config | {"layer_norm_eps": 1e-5, "mlp_ratio": 4})


def mobileclip(name, variant, table, context, layers):
    cfg = dict(
        dim=32, n_heads_per_layer=2, n_transformer_layers=layers, ffn_multiplier_per_layer=4.0, context_length=table, vocab_size=VOCAB,
        norm_layer="layer_norm_fp32", causal_masking=False, model_name=variant, embed_dropout=0.0, no_scale_embedding=False,
        no_pos_embedding=False,
    )
    model = randomise(TextStudentEncoder(cfg=cfg, context_length=context, output_dim=16))
    tokens = ids([min(6, context), 3], context)
    save(name, {**state(model), **run(model, tokens)}, cfg | {"context": context, "output_dim": 16, "layer_norm_eps": 1e-5})


if __name__ == "__main__":
    seed(201)
    clip()
    seed(202)
    mobileclip("text_mobileclip_s0", "mct", table=16, context=16, layers=2)
    seed(203)
    mobileclip("text_mobileclip_s1", "base", table=16, context=16, layers=2)
    seed(204)
    mobileclip("text_mobileclip_interp", "base", table=10, context=6, layers=1)
