"""Description of an export: JSON for programs, and a card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textmask.evaluation.summary import EvaluationSummary, read_summary
from textmask.evaluation.tables import evaluation_table
from textmask.io.files import file_sha256
from textmask.methods.registry import get_method
from textmask.runs.checkpoint import Run, text_fingerprint
from textmask.runs.environment import git_commit
from textmask.runs.layout import EVALUATION, SUMMARY
from textmask.statement import ZONES

VALUES = (
    "float32 in [0, 1]: 8-bit gray levels or RGB divided by 255 after the resize; gray images are repeated in three "
    "channels; the graph normalizes further"
)
RESIZE = (
    "to the rows and columns of the shape, whatever the aspect ratio, in 8-bit levels: area averaging if rows x "
    "columns become fewer (each pixel is the mean of the area that it covers; OpenCV INTER_AREA), otherwise bilinear "
    "with pixel centers at halves (OpenCV INTER_LINEAR); an image of that size is unchanged"
)
MASK_RESIZE = (
    "the probability, in float32, to the rows and columns of the image, bilinear with pixel centers at halves (OpenCV "
    "INTER_LINEAR); then foreground is where it is greater than the threshold"
)
VIEW = (
    "an image whose orientation is known is turned first, so that the patient's left is on the right of the image and "
    "the head (axial: the front) at the top, and the mask is turned back"
)
USE = "Research use only: not a medical device, not validated for any clinical use."


def describe_graphs(run: Run) -> dict[str, Any]:
    """Everything a program needs to use the weights: recipe, data, normalization, laterality convention, text."""
    from textmask import __version__

    recipe = run.recipe
    size = list(recipe.image_size)
    encoder = run.method.text_encoder
    # a path of this machine is no business of those who get the export
    data = {name: value for name, value in run.data.items() if name != "source"}
    return {
        "library_name": "textmask",
        "textmask_version": __version__,
        "git_commit": git_commit(),
        "model_type": recipe.method,
        "weights_sha256": file_sha256(run.weights),
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "result": run.result,
        "image": {
            "shape": ["batch", 3, *size],
            "values": VALUES,
            "resize": RESIZE,
            "view": VIEW,
            "tiles": None if recipe.tiles is None else recipe.tiles.model_dump(mode="json"),
        },
        "mask": {
            "from": "sigmoid of the logits",
            "resize": MASK_RESIZE,
            "threshold": recipe.threshold,
        },
        "laterality": str(run.data.get("laterality", "unknown")),
        "text": {
            "used": get_method(recipe.method).card.uses_text,
            "encoder": "" if encoder is None else encoder.name,
            "fingerprint": text_fingerprint(run.method),
            "max_tokens": getattr(encoder, "max_length", 0),
            "tokenizer": "the tokenizer folder, or the encoder's own",
            "zones": "float32 batch 9, 1 where textmask.text.grammar.parse finds the zone, in this order",
            "zone_order": [f"{side} {level}" for side, level in ZONES],
        },
    }


def graph_facts(run: Run) -> dict[str, str]:
    """The facts that each ONNX file carries itself, as text: the model, its input, its mask and its laterality."""
    found = describe_graphs(run)
    return {
        "made_by": f"textmask {found['textmask_version']}",
        "method": found["model_type"],
        "weights_sha256": found["weights_sha256"],
        "image_size": "x".join(str(side) for side in run.recipe.image_size),
        "image_values": VALUES,
        "image_resize": RESIZE,
        "image_view": VIEW,
        "mask_from": found["mask"]["from"],
        "mask_resize": MASK_RESIZE,
        "threshold": str(run.recipe.threshold),
        "laterality": found["laterality"],
        "zone_order": ", ".join(found["text"]["zone_order"]),
        "use": USE,
    }


def gate_lines(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per runtime with the figures of `Parity`."""
    lines = []
    for runtime, m in measured.items():
        dice = "no true masks"
        if m["dice_loss"] is not None:
            dice = (
                f"mean Dice per image {m['dice_exported']:.4f} (eager {m['dice_eager']:.4f}, loss "
                f"{m['dice_loss']:.5f}, n = {m['n_masks']})"
            )
        lines.append(
            f"{runtime}: {m['flipped']:.2e} of the pixels flipped, largest difference of a probability "
            f"{m['max_dp']:.1e}, n = {m['n']}; {dice}"
        )
    return lines


def run_card(run: Run, description: Mapping[str, Any]) -> str:
    """The card of an export with graphs.

    Args:
        run: the trained run.
        description: the content of `export.json`.
    """
    gate = description["gate"]
    lines = [
        *_about(run),
        "",
        "## Input and mask",
        "",
        f"- view: {VIEW}",
        f"- resize: {RESIZE}",
        f"- values: {VALUES}",
        f"- mask: sigmoid of the logits; {MASK_RESIZE} ({run.recipe.threshold})",
        "- zones: 1 where the prompt names the zone, in the order of `zone_order` in export.json",
        "",
        "## Graphs",
        "",
    ]
    for graph in description["graphs"].values():
        inputs, outputs = ", ".join(graph["inputs"]), ", ".join(graph["outputs"])
        lines.append(f"- `{graph['file']}`: {inputs} -> {outputs}; sha256 {graph['sha256']}")

    lines += ["", f"## Compared with eager fp32 ({description['precision']})", ""]
    if not gate["checked"]:
        lines.append("**Not compared**: exported with --no-gate.")
    else:
        own = "the run's own data" if gate["data_of_the_run"] else "other data than the run's"
        runtimes = ", ".join(description["engines"])
        lines += [f"- {line}" for line in gate_lines(gate["measured"])]
        lines += [
            f"- rows: split {gate['split']} of {own}, sha256 {gate['data_sha256']}",
            f"- bound: {gate['bound']:g} on {gate['bound_on']}; may be run by {runtimes}",
        ]
    return "\n".join(lines) + "\n"


def hub_card(run: Run, notes: Sequence[str] = ()) -> str:
    """The model card with front matter for model hubs, the evaluations of the run, and notes."""
    front = [
        "---",
        "license: other",
        "license_name: see-data-and-weights",
        "library_name: textmask",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- medical",
        "- image-segmentation",
        "- text-guided",
        f"- {run.recipe.method}",
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
        "The license depends on the training data and on the pre-trained weights. Fill it in before publishing.",
        "",
    ]
    more = ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(front + _about(run) + _measured(run) + more + use)


def _measured(run: Run) -> list[str]:
    """The tables of the run's evaluations, each with its protocol and all rows."""
    paths = sorted((run.path / EVALUATION).glob(f"*/{SUMMARY}"))
    tables = [evaluation_table(read_summary(path, EvaluationSummary)).rstrip() for path in paths]
    return ["", "## Measured", "", "\n\n".join(tables)] if tables else []


def _about(run: Run) -> list[str]:
    card = get_method(run.recipe.method).card
    data, side = run.data, run.data.get("laterality", "unknown")
    rows, columns = run.recipe.image_size
    lines = [
        f"# {run.recipe.method}: {card.title}",
        "",
        f"**{USE}**",
        "",
        f"- laterality convention of its prompts: {side}",
        f"- trained on {data.get('name') or 'own data'} {data.get('counts', {})}, sha256 {data.get('hash')}",
    ]
    for key, value in run.result.items():
        if key.startswith("valid/"):
            lines.append(f"- chosen by {key} = {value:.4f}")
    lines += [
        f"- images {rows} x {columns}, threshold {run.recipe.threshold}",
        f"- weights sha256 {file_sha256(run.weights)}",
        f"- frozen text encoder: {text_fingerprint(run.method) or 'none'}",
        f"- paper: {card.paper or 'none, a baseline'}",
    ]
    if card.limits:
        lines.append(f"- limits: {card.limits}")
    return lines
