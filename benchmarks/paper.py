"""Predicts the memory of adapters on published networks of today, by their configurations alone.

    python benchmarks/paper.py > docs/results/paper.json

Configurations are those that the networks were published with, as far as memory depends on them;
what is not named is what diffusers' class takes by itself. No weights are made.
"""

from __future__ import annotations

import json
import sys

from vardiu.resources.paper import on_paper
from vardiu.storage.provenance import provenance

SDXL = {
    "_class_name": "UNet2DConditionModel",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
SD3 = {
    "_class_name": "SD3Transformer2DModel",
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
NETWORKS = {
    "SDXL": SDXL,
    "SD3 medium": SD3,
    "PixArt-Alpha, 1,024 pixels": {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": 128,
        "caption_channels": 4096,
    },
    "Sana 1.6B": {"_class_name": "SanaTransformer2DModel"},
    "Flux dev": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
    "CogVideoX 2B": {"_class_name": "CogVideoXTransformer3DModel"},
    "Wan 14B": {"_class_name": "WanTransformer3DModel"},
}
OPTIONS = {
    "plain": {},
    "recomputed": {"checkpoint": True},
    "narrow": {"checkpoint": True, "optimizer": "adam8bit", "quantise": True},
}


def main() -> None:
    rows = {}
    for name, config in NETWORKS.items():
        rows[name] = {}
        for options, given in OPTIONS.items():
            found = on_paper(config, **given)
            rows[name][options] = {**found._asdict(), "total": found.total}
            print(name, options, found, file=sys.stderr, flush=True)
    about = provenance(["python", "benchmarks/paper.py"], 0)
    print(json.dumps({"provenance": about, "rank": 16, "batch": 1, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
