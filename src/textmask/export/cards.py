"""What an export says of itself: the description for programs and the card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textmask.evaluation.summary import EvaluationSummary, read_summary
from textmask.evaluation.tables import evaluation_table
from textmask.io.files import file_sha256
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run, text_fingerprint
from textmask.runs.environment import git_commit
from textmask.statement import ZONES

USE = "Research use only: not a medical device, not validated for any clinical use."


def describe_graphs(run: Run) -> dict[str, Any]:
    """What a program must know to use the weights: recipe, data, normalisation, sides, sentence."""
    from textmask import __version__

    recipe = run.recipe
    size = list(recipe.image_size)
    encoder = getattr(run.method, "text_encoder", None)
    return {
        "library_name": "textmask",
        "textmask_version": __version__,
        "git_commit": git_commit(),
        "model_type": recipe.method,
        "weights_sha256": file_sha256(run.weights),
        "recipe": recipe.model_dump(mode="json"),
        "data": run.data,
        "result": run.result,
        "image": {
            "shape": ["batch", 3, *size],
            "values": "float32 in [0, 1], grey pictures repeated; the graph normalises further",
            "resize": "bilinear to the shape, as textmask.io.images.resize_image does",
            "tiles": None if recipe.tiles is None else recipe.tiles.model_dump(mode="json"),
        },
        "mask": {"from": "sigmoid of the logits", "threshold": recipe.threshold},
        "laterality": str(run.data.get("laterality", "unknown")),
        "text": {
            "used": get_method(recipe.method).card.uses_text,
            "encoder": getattr(encoder, "name", ""),
            "fingerprint": text_fingerprint(run.method),
            "max_tokens": getattr(encoder, "max_length", 0),
            "tokenizer": "the tokenizer folder, or the encoder's own",
            "zones": "float32 batch 9, 1 where textmask.text.grammar.parse finds the zone, in this order",
            "zone_order": [f"{side} {level}" for side, level in ZONES],
        },
    }


def gate_lines(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line an engine."""
    lines = []
    for engine, m in measured.items():
        dice = "no true masks"
        if m["dice_loss"] is not None:
            dice = (
                f"mean Dice per image {m['dice_exported']:.4f} (eager {m['dice_eager']:.4f}, loss "
                f"{m['dice_loss']:.5f}, n = {m['n_masks']})"
            )
        lines.append(
            f"{engine}: {m['flipped']:.2e} of the pixels flipped, largest difference of a probability "
            f"{m['max_dp']:.1e}, n = {m['n']}; {dice}"
        )
    return lines


def run_card(run: Run, told: Mapping[str, Any]) -> str:
    """The card of an export with graphs."""
    gate = told["gate"]
    lines = [*_about(run), "", "## Graphs", ""]
    lines += [
        f"- `{g['file']}`: {', '.join(g['inputs'])} -> {', '.join(g['outputs'])}; sha256 {g['sha256']}"
        for g in told["graphs"].values()
    ]
    lines += ["", f"## Compared with eager fp32 ({told['precision']})", ""]
    if not gate["checked"]:
        lines += ["**Not compared**: exported with --no-gate."]
    else:
        own = "the run's own data" if gate["data_of_the_run"] else "other data than the run's"
        lines += [f"- {line}" for line in gate_lines(gate["measured"])]
        lines += [
            f"- rows: split {gate['split']} of {own}, sha256 {gate['data_sha256']}",
            f"- bound: {gate['bound']:g} on {gate['bound_on']}; may be run by {', '.join(told['engines'])}",
        ]
    return "\n".join(lines) + "\n"


def hub_card(run: Run, notes: Sequence[str] = ()) -> str:
    """Model card with the front matter that model hubs read, the run's last evaluation, and notes."""
    front = [
        "---",
        "license: other",
        "license_name: see-data-and-weights",
        "library_name: textmask",
        "pipeline_tag: image-segmentation",
        "tags:",
        *[
            f"- {tag}"
            for tag in ("medical", "image-segmentation", "text-guided", run.recipe.method)
        ],
        "metrics:",
        "- dice",
        "---",
        "",
    ]
    use = [
        "",
        "## Use",
        "",
        "```python",
        "import textmask",
        'textmask.load("FOLDER").set_image("film.png").segment("lower left lung").mask',
        "```",
        "",
        "The licence depends on the training data and on the pre-trained weights that were used: fill it in before "
        "publishing.",
        "",
    ]
    told = ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(front + _about(run) + _measured(run) + told + use)


def _measured(run: Run) -> list[str]:
    """The tables of the run's evaluations, each with its protocol and the rows beside it."""
    tables = [
        evaluation_table(read_summary(path, EvaluationSummary)).rstrip()
        for path in sorted(run.path.glob("evaluation/*/summary.json"))
    ]
    return ["", "## Measured", "", "\n\n".join(tables)] if tables else []


def _about(run: Run) -> list[str]:
    card = get_method(run.recipe.method).card
    data, side = run.data, run.data.get("laterality", "unknown")
    score = {key: value for key, value in run.result.items() if key.startswith("valid/")}
    return [
        f"# {run.recipe.method}: {card.title}",
        "",
        f"**{USE}**",
        "",
        f"- left and right in its sentences mean the {side} side",
        f"- trained on {data.get('name') or 'own data'} {data.get('counts', {})}, sha256 {data.get('hash')}",
        *[f"- chosen by {key} = {value:.4f}" for key, value in score.items()],
        f"- pictures {run.recipe.image_size[0]} x {run.recipe.image_size[1]}, threshold {run.recipe.threshold}",
        f"- weights sha256 {file_sha256(run.weights)}",
        f"- frozen text encoder: {text_fingerprint(run.method) or 'none'}",
        f"- paper: {card.paper or 'none, a baseline'}",
        *([f"- limits: {card.limits}"] if card.limits else []),
    ]
