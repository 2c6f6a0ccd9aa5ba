"""The sentences of notebook 03 that name numbers: each says what a picture shows, for every outcome.

Used by notebook 03; every function takes what its picture was drawn from and returns Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from diffad_utils.analyses.img2img_claims import WEAKER, Effect, over_images, relation, unknown_to, written
from diffad_utils.analyses.img2img_edits import EditStudy
from diffad_utils.analyses.img2img_grid import ALONE, Sensitivity
from diffad_utils.analyses.img2img_settings import Response
from diffad_utils.analyses.img2img_stability import Identity
from diffad_utils.analyses.img2img_two_passes import EDITORS, TwoPassStudy
from diffad_utils.analyses.no_diffusion import control_sentence
from diffad_utils.analyses.task import Task, TrivialBaseline
from diffad_utils.analyses.wording import detects, enumerated
from diffad_utils.analyses.wrong_reason import Reasons
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.img2img import Setting

Interval = Sequence[float]
"""Value, low, high."""


def task_size(task: Task) -> str:
    size = f"; half of them cover less than {task.defect_areas.median():.1%} of the image" if task.has_masks else ""
    return (
        f"{int(task.labels.sum())} of the {len(task.keys)} test images have a defect{size}. "
        "An editor has to change the defect and nothing else."
    )


def detection(accuracy: pd.DataFrame, baseline: Interval, no_editor: Interval, control: Mapping) -> str:
    """``accuracy`` has a row img2img; the others are paired differences: img2img minus the trivial baseline, and CLIP's
    distance to normal images minus its distance to the reconstruction. ``control`` : `Task.control_row` of img2img."""
    return (
        f"img2img has an I-AUROC of {written(*accuracy.loc['img2img', ['I-AUROC', 'low', 'high']])}. It "
        f"{relation(*baseline[1:3])} the trivial baseline (difference {written(*baseline, sign='+')}). CLIP's distance "
        f"to normal training images, which needs no reconstruction, {relation(*no_editor[1:3])} CLIP's distance to the "
        f"reconstruction (difference {written(*no_editor, sign='+')}). {control_sentence('image-to-image', control)} "
        "The figure does not show what in the images the scores see."
    )


def unknown_prompt(weights: str, dataset: str, category: str) -> str:
    """The end of a caption where the words or the pictures of a category mean nothing to the generator, else ""."""
    unknown = unknown_to(weights, dataset, category)
    words = " Its prompt says nothing to it." * (unknown != "pictures")
    return f" The generator has seen {'no ' * (not words)}{unknown} of this data set.{words}" if unknown else ""


def strips(images: Tensor, x_hats: Sequence[Tensor], strength: float) -> str:
    """``x_hats`` : the autoencoder's reconstructions first, those at ``strength`` last."""
    first, last = (float((x_hat - images).abs().mean()) for x_hat in (x_hats[0], x_hats[-1]))
    return (
        f"The autoencoder alone has a mean residual that is {first / last:.0%} of the one at strength {strength:g}. It "
        "changes the picture, and with it the defect, before any diffusion does. So everything below is compared with "
        r"$\mathrm{Dec}(\mathrm{Enc}(x))$ and not with $x$, where this is possible."
    )


def removal(edits: EditStudy) -> str:
    curve, oracle = edits.curve(), edits.oracle_row()
    first, last = curve.iloc[0], curve.iloc[-1]
    ends = [oracle[name] for name in ("removal", "removal low", "removal high")]
    judged = (
        "is above one half: the images can show whether an editor removes defects."
        if edits.oracle_passes
        else "is not shown to be above one half. Even a perfect editor may fail with this autoencoder, so a low "
        "removal says nothing about the editor and gets no verdict. Survival is not affected."
    )
    return (
        f"From strength {first['strength']:g} to {last['strength']:g} the survival of the defect goes from "
        f"{first['survival']:.2f} to {last['survival']:.2f}, and fidelity from {first['fidelity']:.2f} to "
        f"{last['fidelity']:.2f}. The removal of the oracle, {written(*ends)}, {judged}"
    )


def settings(edits: EditStudy) -> str:
    points = edits.points()
    good = int(((points["removal"] > 0.5) & (points["drift"] < 0.5)).sum())
    best = points.loc[points["removal"].idxmax()]
    return (
        f"{good} of {len(points)} settings lie in the green corner. The largest mean removal is "
        f"{best['removal']:.2f}, at strength {best['strength']:g}; the oracle's is "
        f"{edits.oracle_row()['removal']:.2f}."
    )


def small_defects(edits: EditStudy) -> str:
    small = edits.drifts[edits.drifts["smaller_half"]]
    effect = over_images(small["log2_drift"].to_numpy())
    return (
        f"For the smaller half of the defects the mean log2 of drift over defect is {written(*effect[:3], sign='+')}, "
        f"which {relation(effect.low, effect.high, 1.0)} 1 (a drift twice as large as the defect). The autoencoder's "
        f"own error is not part of this drift; in the same unit it is {small['log2_vae'].mean():+.2f}."
    )


def two_pass_detection(cells: Tensor, labels: Tensor, accuracy: pd.DataFrame, gain: Interval) -> str:
    """``cells`` : masks found; ``accuracy`` : `img2img_grid.accuracies`; ``gain`` : two passes minus one."""
    row = accuracy.loc["img2img_masked"]
    normal, defective = (float(cells[labels == label].float().mean()) for label in (0, 1))
    return (
        f"The mask covers {normal:.0%} of the area of normal images and {defective:.0%} of that of defective ones. As "
        f"a detector the two passes have an I-AUROC of {written(row['I-AUROC'], row['low'], row['high'])}, which "
        f"{relation(*gain[1:3])} that of one pass (difference {written(*gain, sign='+')})."
    )


def escape(study: TwoPassStudy) -> str:
    """The answer to "do two passes remove the defect and keep the rest?"."""
    best = study.best()
    one, own, true = (best.loc[name] for name in EDITORS)

    def value(row: pd.Series) -> str:
        return written(row["value"], row["low"], row["high"])

    def against(row: pd.Series) -> str:
        gain = written(row["gain"], row["gain low"], row["gain high"], sign="+")
        return f"{relation(row['gain low'], row['gain high'])} one pass (difference {gain})"

    if own["gain low"] > 0:
        answer = "Yes, in part: a second pass inside the mask found does better than one pass."
    elif true["gain low"] > 0:
        answer = "No, but a better mask would help: with the true mask, two passes do better than one."
    else:
        answer = "No: no gain is shown even with the true mask, so the mask alone is not the reason."
    return (
        "**Do two passes remove the defect and keep the rest?** Both numbers should be high: *defect gone* "
        "(1 - survival) and *rest kept* (fidelity). We take the smaller of the two, and for each editor the "
        f"{study.axis} at which it is largest. It is {value(one)} for one pass. Two passes with the mask found reach "
        f"{value(own)}, which {against(own)}; with the true mask {value(true)}, which {against(true)}. **{answer}** "
        f"The best {study.axis} was chosen on the same images, for all three alike."
    )


def trade(study: TwoPassStudy) -> str:
    """What the second pass changes at the highest strength."""
    table = study.table()
    last = table[table["strength"] == table["strength"].max()].set_index("editor")
    one, own = last.loc[EDITORS[0]], last.loc[EDITORS[1]]
    return (
        f"At {study.axis} {one['strength']:g} the drift is {own['drift']:.2f} of a defect's size with two passes and "
        f"{one['drift']:.2f} with one; the survival of the defect is {own['survival']:.2f} with two and "
        f"{one['survival']:.2f} with one. A defect that the mask misses is not redrawn, so it survives."
    )


def repeatability(deviation: Mapping[str, Tensor], of_defects: bool) -> str:
    """``deviation`` : `img2img_stability.deviations`, in units of the defects' mean size or of the autoencoder's."""
    unit = "a defect's mean absolute size" if of_defects else "the autoencoder's error"
    seeds, guidance = (over_images(values) for values in deviation.values())
    return (
        f"A pixel's standard deviation is {written(*seeds[:3])} of {unit} from seed to seed, and "
        f"{written(*guidance[:3])} between the guidance scales. The picture shows where in the images. It does "
        "not show whether the mean over seeds is right."
    )


def prompts(moved: Mapping[str, float]) -> str:
    """``moved`` : mean change by prompt, in units of the autoencoder's error."""
    listed = ", ".join(f"{name}: {value:.2f}" for name, value in moved.items())
    return (
        f"Mean change compared with the first prompt, in units of the autoencoder's error: {listed}. A change alone "
        "does not mean that the words were understood."
    )


def near_identity(identity: Identity) -> str:
    growth = over_images(identity.lipschitz - 1)
    kind = (
        "shrinks it" if growth.high < 0 else "enlarges it" if growth.low > 0 else "is not shown to shrink or enlarge it"
    )
    return (
        f"The squared error is {2 ** float(identity.error.mean()):.2f} times the autoencoder's. The change by a pasted "
        f"defect is passed on with the factor {growth.value + 1:.2f}, so img2img {kind}. The reconstruction's distance "
        f"from the autoencoder's image is {2 ** float(identity.distance.mean()):.2f} times that of the nearest normal "
        "training image. By CLIP, the reconstruction's distance from normal training images is "
        f"{2 ** float(identity.strangeness.mean()):.2f} times that of the autoencoder's image."
    )


def inversion(drifts: Mapping[tuple[float, int], Tensor]) -> str:
    """``drifts`` : of `img2img_stability.round_trips`, by guidance scale and steps."""
    steps = max(steps for scale, steps in drifts if scale == 1)
    effect = over_images(drifts[1.0, steps])
    return (
        f"Without guidance {steps} steps leave a drift of {written(*effect[:3])} of the autoencoder's error, which "
        f"{relation(effect.low, effect.high, 0.1)} a tenth."
    )


def part_scales(scale: Mapping[str, float]) -> str:
    """``scale`` : standard deviations of the parts on normal training images."""
    larger, smaller = (
        ("CLIP's part", "the squared error") if scale["clip"] > scale["mse"] else ("the squared error", "CLIP's part")
    )
    ratio = max(scale["clip"] / scale["mse"], scale["mse"] / scale["clip"])
    return (
        f"On normal training images {larger} varies {ratio:.1f} times as much as {smaller}, so it outweighs it in "
        "(2) at equal weights."
    )


def alpha(found: Mapping[tuple[str, str], Effect]) -> str:
    """``found`` : on C22 and C23, from the draws of `img2img_settings.alpha_effects`."""
    shares = " and ".join(f"{_share(*found['C23', part][:3])} to {part}" for part in WEAKER.values())
    ends = [end for part in WEAKER.values() for end in found["C23", part][1:3]]
    beyond = min(ends) < -0.005 or max(ends) > 1.005
    outside = " (A share is a covariance: it is below 0 or above 1 where the parts vary against each other.)" * beyond
    return (
        "From alpha 0.3 to 0.9 the raw score's rank correlation with the squared error changes by "
        f"{written(*found['C22', ''][:3], sign='+')}. Of the score's variance it owes {shares}: there each part has "
        f"its smallest weight.{outside} The highest point on the left is no advice for alpha: it was found with the "
        "test labels."
    )


def _share(value: float, low: float, high: float) -> str:
    """A share with its interval: none is written with a power of ten."""
    if max(map(abs, (value, low, high))) < 0.005:
        return "less than 0.01"
    return written(*(0.0 if abs(each) < 0.005 else each for each in (value, low, high)))


def changes(response: Response, clip: str) -> str:
    local, error = over_images(response.log_ratio), over_images(response.log_ratio_mse)
    more = "more" if local.low > 0 else "less" if local.high < 0 else "not clearly more or less"
    return (
        f"CLIP answers to the global changes {more} than to a spot that is as visible: log2 of the ratio is "
        f"{written(*local[:3], sign='+')}. For the squared error it is {written(*error[:3], sign='+')}, because that "
        "adds up over the area. The part with the smaller ratio is the more local one. This is a property of the CLIP "
        f"used here ({clip}). A model whose training captions name defects may have learned to see spots."
    )


def sweep(table: pd.DataFrame) -> str:
    best, worst = (table.loc[getattr(table["I-AUROC"], name)()] for name in ("idxmax", "idxmin"))
    return (
        f"I-AUROC lies between {worst['I-AUROC']:.2f} (strength {worst['strength']:g}, guidance "
        f"{worst['guidance_scale']:g}, {worst['num_inference_steps']:.0f} steps) and {best['I-AUROC']:.2f} (strength "
        f"{best['strength']:g}, guidance {best['guidance_scale']:g}, {best['num_inference_steps']:.0f} steps). The "
        "best was found with the test labels; the next figure removes this advantage."
    )


def what_varies(found: Sensitivity, settings: int) -> str:
    """The beginning of a caption: over what the range is taken; ``settings`` : of the sweep, each with every alpha."""
    return f"Range of I-AUROC over {settings} settings of the sweep x {found.settings // settings} values of alpha"


def value_range(found: Sensitivity) -> str:
    low, high = found.bounds.values()
    largest = max(found.explained, key=found.explained.get)
    least, most = found.clip_steadier.values()
    return (
        f"The range of I-AUROC lies between {written(*low)} (cross-fitted) and {written(*high)} (on the same images). "
        f"Of the variance over the settings {found.explained[largest]:.0%} is due to {largest} alone. The range of the "
        "squared error's I-AUROC minus that of the CLIP distance's lies between "
        f"{written(*least, sign='+')} and {written(*most, sign='+')}; a value above 0 would mean that CLIP depends "
        "less on the settings."
    )


def order(agreement: Interval, quality: str, settings: Sequence[Setting]) -> str:
    """``settings`` : of the sweep, whose order is compared."""
    factors: dict[str, list[float]] = {
        "strength": sorted({each.strength for each in settings}),
        "guidance scale": sorted({each.guidance_scale for each in settings}),
        "DDIM steps": sorted({each.num_inference_steps for each in settings}),
    }
    named = "; ".join(f"{name} {enumerated([f'{value:g}' for value in of])}" for name, of in factors.items())
    return (
        f"Over the {len(settings)} settings of the sweep ({named}), I-AUROC and the quality of the reconstruction "
        f"({quality}) have a rank correlation of {written(*agreement, sign='+')}; its interval is over images, not "
        "over settings. Where it is low, a better I-AUROC is no evidence of a better reconstruction."
    )


def misplaced(outside: Tensor, oracle: float, area: float) -> str:
    """``outside`` : share [N] of the brightest residual pixels outside the mask; ``oracle`` : mean of a perfect
    editor's; ``area`` : mean share of the image that a defect covers."""
    effect = over_images(outside)
    judged = "" if oracle < 0.5 else " Even a perfect editor behind this autoencoder has more than half there, so C09 "
    judged += "" if oracle < 0.5 else "gets no verdict."
    return (
        f"Of the 1 % brightest residual pixels a share of {written(*effect[:3])} lies outside the mask, which "
        f"{relation(effect.low, effect.high, 0.5)} one half. Pixels drawn at random would have {1 - area:.2f} "
        f"there.{judged}"
    )


def cost(one: int, two: int, timing: Mapping[str, Mapping[str, float]]) -> str:
    """Network evaluations of one pass and of both, and their times."""
    one_ms, two_ms = (timing[name]["ms_per_image"] for name in ("img2img", "img2img_masked"))
    return (
        f"Two passes cost {two} network evaluations an image instead of {one}, and {two_ms / one_ms:.1f} times as long "
        f"({two_ms:.0f} ms instead of {one_ms:.0f})."
    )


def reasons(found: Reasons) -> str:
    listed = "; ".join(f"{name}: *{reason.verdict}*" for name, reason in found.found.items())
    return f"By the rule above: {listed}. The rows of global statistics show whether one of them alone would detect."


def search(found: Mapping[str, Any]) -> str:
    best = ", ".join(f"{name} {value:.2f}" for name, value in found["best"].items())
    return (
        f"Best of {found['trials']} trials: {best}; I-AUROC {found['best_value']:.2f} on {found['validation_images']} "
        "validation images. It is not used above."
    )


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(
    task: Task,
    edits: EditStudy | None,
    predictions: Mapping[str, Prediction],
    trivial: TrivialBaseline,
    reasons: Reasons,
) -> str:
    """The notebook's questions and what this run answers; predictions : of img2img, img2img_masked, clip_knn
    and `ALONE`."""
    if edits is None:
        removes = f"{task.name} has no defect-free counterparts, so this cannot be measured"
    else:
        points = edits.points()
        good = points[(points["removal"] > 0.5) & (points["drift"] < 0.5)]
        removes = (
            f"on {task.name} {len(good)} of {len(points)} settings of strength, guidance and steps remove more than "
            "half of the defect and change the rest by less than half of its size, in the mean over defects"
        )
    score = {name: each.score for name, each in predictions.items()}
    gain = task.difference(score["img2img_masked"], score["img2img"])
    second_pass = detects("Img2img with a second pass", {"with one": gain})
    rivals = {"the trivial baseline": trivial.chosen.score}
    rivals["the autoencoder's round trip, which has no diffusion"] = score[ALONE]
    rivals["CLIP's distance to normal images, which reconstructs nothing"] = score["clip_knn"]
    rivals = {name: task.difference(score["img2img"], other) for name, other in rivals.items()}
    verdict = reasons.found["hybrid score"].verdict
    right = f"Its score {'is ' * verdict.startswith('right')}{verdict}"
    if verdict == "undecided":
        right = "Whether its score is right for the right reason is undecided"
    return (
        f"**Does it take the defect away and leave everything else, and at which settings?** In short: {removes}. "
        f"**Does it help to redraw only where a first pass has found something?** {second_pass}. **Does the difference "
        f"detect defective images, and because of the defects?** {detects('Img2img', rivals)}. {right}."
    )
