#!/usr/bin/env bash
# open_clip 3.3.0: weights that were trained with QuickGELU load into "ViT-B-32" from a file without a word, and compute with GELU.
#
# Behaviour: both models have the same weights' names and shapes. By tag (openai, laion400m, metaclip) the package knows that the
# activation differs; from a path it cannot know, and does not warn. The features then turn away from those that the weights
# were trained for. On a machine without internet, where weights come as files, this is the usual way to load.
# Random weights stand in for real ones here, so the distances below are small; trained weights use the bend of the
# activation more.
# What to do: "ViT-B-32-quickgelu" (or force_quick_gelu=True) for such files, and compare one known feature.
# Output seen:
#   tags that need QuickGELU: laion400m_e31, laion400m_e32, metaclip_400m, metaclip_fullcc, openai
#   from the file: GELU, warnings 0, distance of the features 0.0000 (quickgelu) and 0.0082 (plain name)

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 open_clip_torch==3.3.0
venv/bin/python - <<'PY'
import logging
import warnings

import open_clip
import torch

logging.disable(logging.WARNING)
torch.manual_seed(0)
quick = open_clip.create_model("ViT-B-32-quickgelu").eval()
torch.save(quick.state_dict(), "weights.pt")
logging.disable(logging.NOTSET)
notes = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: notes.append(record.getMessage())
logging.getLogger().addHandler(handler)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plain = open_clip.create_model("ViT-B-32", pretrained="weights.pt").eval()
notes += [str(warning.message) for warning in caught if "gelu" in str(warning.message).lower()]
same = open_clip.create_model("ViT-B-32-quickgelu", pretrained="weights.pt").eval()
tags = sorted(tag for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32")
              if open_clip.get_pretrained_cfg("ViT-B-32", tag).get("quick_gelu"))
print("tags that need QuickGELU:", ", ".join(tags))
images = torch.randn(4, 3, 224, 224)
with torch.no_grad():
    a, b, c = (model.encode_image(images, normalize=True) for model in (quick, same, plain))
activation = type(plain.visual.transformer.resblocks[0].mlp.gelu).__name__
right, wrong = (a - b).norm(dim=1).mean().item(), (a - c).norm(dim=1).mean().item()
print(f"from the file: {activation}, warnings {len(notes)}, distance of the features {right:.4f} (quickgelu) "
      f"and {wrong:.4f} (plain name)")
assert activation == "GELU" and not notes and "openai" in tags and right < 1e-5 and wrong > 1e-3
PY
