#!/usr/bin/env python3
"""Times the official model code on a case of kind bench, to stand beside `fusion bench` on the same machine.

    git clone https://github.com/starriver030515/FUSION OFFICIAL
    pip install transformers==4.48.1 torch numpy einops timm pillow safetensors
    scripts/bench_official.py --code OFFICIAL --case CASE [--threads 1] [--steps 5] [--checkpointing] [--tokens N --early E]

A step is forward, backward, clip at 1.0, AdamW (lr 1e-4, tower 1e-5); the losses it prints are those of `fusion bench`. --tokens and --early replace the
literals of the SigLIP2 tower (576, 19 and twice that) for cases whose tower is smaller.
"""
import argparse
import importlib.machinery
import importlib.util
import json
import re
import resource
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--code", required=True)
arguments.add_argument("--case", required=True)
arguments.add_argument("--threads", type=int, default=1)
arguments.add_argument("--steps", type=int, default=5)
arguments.add_argument("--checkpointing", action="store_true")
arguments.add_argument("--tokens", type=int)
arguments.add_argument("--early", type=int)
options = arguments.parse_args()

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

torch.set_num_threads(options.threads)
sys.path.insert(0, options.code)

NAME = "fusion.model.multimodal_encoder.siglip2_encoder"
FILE = f"{options.code}/fusion/model/multimodal_encoder/siglip2_encoder.py"


class Scaled(importlib.machinery.SourceFileLoader):
    """The tower's file with its literals replaced."""

    def get_code(self, fullname):
        source = open(FILE).read()
        for literal, value in ((576, options.tokens), (19, options.early), (38, 2 * options.early)):
            source = re.sub(rf"\b{literal}\b", str(value), source)
        return compile(source, FILE, "exec")


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, FILE, loader=Scaled(name, FILE)) if name == NAME else None


if options.tokens:
    sys.meta_path.insert(0, Finder)

tower = json.load(open(f"{options.case}/tower/config.json"))["vision_config"]
encoder = importlib.import_module(NAME)
encoder.SigLip2VisionConfig.from_pretrained = classmethod(lambda cls, *_, **__: cls(**tower))
encoder.SigLip2VisionModel.from_pretrained = classmethod(lambda cls, *_, **__: cls(encoder.SigLip2VisionConfig(**tower)))
official = importlib.import_module("fusion.model.language_model.fusion_phi")

config = official.FusionPhiConfig.from_pretrained(f"{options.case}/model")
config.query_len = str(json.load(open(f"{options.case}/batch_0.json"))["query_len"])
config._attn_implementation = "sdpa"
model = official.FusionPhiForCausalLM(config)
state = model.load_state_dict(load_file(f"{options.case}/model/model.safetensors"), strict=False)
assert not state.missing_keys and not state.unexpected_keys, state
model.train()
model.requires_grad_(True)
if options.checkpointing:
    model.gradient_checkpointing_enable()
batch = load_file(f"{options.case}/batch_0.safetensors")
named = list(model.named_parameters())
optimizer = torch.optim.AdamW(
    [{"params": [p for n, p in named if "vision_tower" not in n], "lr": 1e-4}, {"params": [p for n, p in named if "vision_tower" in n], "lr": 1e-5}],
    weight_decay=0.0,
)

seconds, losses = [], []
for step in range(options.steps + 1):
    begin = time.perf_counter()
    optimizer.zero_grad()
    out = model(**{key: batch[key] for key in ("input_ids", "labels", "attention_mask", "instructs", "images")})
    out.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(out.loss.item())
    if step > 0:  # after one warm-up step
        seconds.append(time.perf_counter() - begin)
seconds.sort()
print(f"{options.threads} threads, {options.steps} steps: {seconds[len(seconds) // 2]:.3f} s per step (min {seconds[0]:.3f}, max {seconds[-1]:.3f}), "
      f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, first loss {losses[0]:.6f}")
