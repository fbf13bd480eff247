"""The file names of a run folder, and which folder a name stands for. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from textmask.errors import ConfigError

RECIPE = "recipe.json"
DATA = "data.json"
ENVIRONMENT = "environment.json"
LOG = "log.jsonl"
LOG_CSV = "log.csv"
WEIGHTS = "weights.safetensors"
LAST = "last.safetensors"  # everything that resuming a training needs
RESULT = "result.json"  # written last by a training: the run is finished
CARD = "card.md"
CALIBRATION = "calibration.json"
REPORT = "report.html"
SPLITS = "splits"
EVALUATION = "evaluation"
SUMMARY = "summary.json"  # in the folder of an evaluation or a study
PER_IMAGE = "per_image.csv"
SCORES = "scores.npz"
STUDIES = "studies"
EXPORT_FOLDER = "onnx"
EXPORT = "export.json"

# several runs in one folder, made by `textmask ensemble`
ENSEMBLE = "ensemble.json"
MEMBERS = "members"

# a folder as model hubs hold it, made by `textmask export --target hf`
HUB_CONFIG = "config.json"
HUB_WEIGHTS = "model.safetensors"

DEFAULT = "default"  # the name of the bundled model
PACKAGE = Path(__file__).resolve().parents[1]
DEFAULT_RUN = PACKAGE / "default"


def run_path(run: Path | str) -> Path:
    """The folder of a run; `default` is the bundled model unless there is a folder of that name."""
    # a folder that the user made comes first
    path = Path(run)
    return DEFAULT_RUN if str(path) == DEFAULT and not path.exists() else path


def is_hub_folder(run: Path) -> bool:
    """Whether the folder was made by `textmask export --target hf`, like the bundled model."""
    return (run / HUB_CONFIG).is_file() and not (run / RECIPE).exists()


def is_run(run: Path) -> bool:
    """Whether the folder looks like a run, or like one made by `textmask export --target hf`."""
    return (run / RECIPE).is_file() or is_hub_folder(run)


def is_ensemble(run: Path) -> bool:
    """Whether the folder was made by `textmask ensemble`."""
    return (run / ENSEMBLE).is_file()


def member_folder(run: Path, number: int) -> Path:
    """A member of an ensemble; the first has the number 1."""
    return run / MEMBERS / str(number)


def is_bundled(run: Path) -> bool:
    """Whether this is the bundled model, which is part of the package and never written to."""
    return run.resolve() == DEFAULT_RUN


def weights_file(run: Path) -> Path:
    """The weights of a run; of an ensemble the file with the hashes of its members' weights, which identifies it."""
    if is_ensemble(run):
        return run / ENSEMBLE
    return run / (HUB_WEIGHTS if is_hub_folder(run) else WEIGHTS)


def stage_weights(run: Path, stage: str) -> Path:
    """The weights chosen in an earlier stage of a run."""
    return run / f"weights-{stage}.safetensors"


def split_list(run: Path, split: str) -> Path:
    """The image names of a split, one per line."""
    return run / SPLITS / f"{split}.txt"


def labelled_list(run: Path, stage: str) -> Path:
    """The training images that kept their masks in a stage; the file exists only if some did not."""
    return split_list(run, f"labelled-{stage}")


def output_folder(run: Path, out: Path | None, *inside: str) -> Path:
    """Where a command writes what it finds about a run.

    Args:
        run: the run folder.
        out: the folder the user chose; None means inside the run.
        inside: where inside the run, such as "evaluation", "test".

    Raises:
        ConfigError: the folder is inside the installed package, as it is for the bundled model without `out`.
    """
    # an installed package may be read-only, shared, or replaced by an update
    folder = run.joinpath(*inside) if out is None else out
    if PACKAGE in (folder.resolve(), *folder.resolve().parents):
        raise ConfigError(
            f"{folder} is inside the installed package, where nothing may be written. Name another place with --out "
            "(in Python: out=...); the bundled model always needs one."
        )
    return folder
