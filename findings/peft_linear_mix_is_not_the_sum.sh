#!/usr/bin/env bash
# peft 0.21.2: add_weighted_adapter(..., "linear") with weights 1 and 1 is not the sum of the two adapters.
#
# Behaviour: "linear" adds the A matrices and the B matrices, so the product has cross terms between the two
# adapters. For two independent LoRAs (one of the object, one of its defects) the result is as
# far from the sum as the sum is long. "cat" gives the sum exactly, at twice the rank; "svd" does too, if its
# rank is large enough.
# What to do: combination_type="cat".
# Output seen:
#   distance from the sum, in lengths of the sum: linear 1.04, cat 0.00, svd 0.00

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
venv/bin/python - <<'PY'
import torch
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 16, bias=False))
config = LoraConfig(r=4, lora_alpha=4, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(model, config, adapter_name="object")
model.add_adapter("defect", config)
layer = model.base_model.model[0]
total = (layer.get_delta_weight("object") + layer.get_delta_weight("defect")).detach()
far = {}
for kind, more in (("linear", {}), ("cat", {}), ("svd", {"svd_rank": 8})):
    model.add_weighted_adapter(["object", "defect"], [1.0, 1.0], f"by_{kind}", combination_type=kind, **more)
    far[kind] = ((layer.get_delta_weight(f"by_{kind}").detach() - total).norm() / total.norm()).item()
print("distance from the sum, in lengths of the sum: " + ", ".join(f"{k} {v:.2f}" for k, v in far.items()))
assert far["linear"] > 0.3 and far["cat"] < 1e-4 and far["svd"] < 1e-4
PY
