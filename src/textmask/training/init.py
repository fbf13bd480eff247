"""Fine-tuning: a new run starts from the weights of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from textmask.config import Recipe
from textmask.errors import CheckpointError
from textmask.io.files import file_sha256, read_json
from textmask.methods.base import Method
from textmask.runs import layout
from textmask.runs.checkpoint import read_tensors, text_fingerprint
from textmask.runs.record import read_record
from textmask.statement import Laterality

SHOWN = 4  # names per list


@dataclass(frozen=True)
class InitReport:
    """What became of the tensors of the other run.

    Attributes:
        source: the run, as it was given.
        method: of that run.
        weights_sha256: of its weights file.
        loaded: number of tensors that were taken.
        missing: tensors of the new model that the other one does not have; they stay as they were made.
        reshaped: tensors of the same name and another shape; they stay as they were made.
        unused: tensors of the other run that the new model does not have.
        laterality: convention of the other run if it differs from that of the data, otherwise "".
    """

    source: str
    method: str
    weights_sha256: str
    loaded: int
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    unused: tuple[str, ...]
    laterality: str = ""

    def lines(self) -> list[str]:
        """The report in words."""
        total = self.loaded + len(self.missing) + len(self.reshaped)
        lines = [f"init: {self.source} ({self.method}): {self.loaded} of {total} tensors loaded"]
        kinds = (
            ("missing there, new here", self.missing),
            ("of another shape, new here", self.reshaped),
            ("not used", self.unused),
        )
        for kind, names in kinds:
            if names:
                lines.append(f"  {len(names)} {kind}: {_some(names)}")
        if self.laterality:
            lines.append(
                f"  warning: left and right in its prompts are of the {self.laterality}, in these data they are not. "
                "Training has to unlearn that; check --laterality."
            )
        return lines

    def record(self) -> dict[str, object]:
        """The report as it is stored in the run."""
        return asdict(self)


def load_init(
    method: Method, recipe: Recipe, source: Path, laterality: Laterality | None = None
) -> InitReport:
    """Put the weights of another run into a new model, tensor by tensor by their names.

    Args:
        method: receives the weights.
        recipe: of the new run.
        source: a run folder, a hub folder, or `default`.
        laterality: convention of the new data.

    Raises:
        CheckpointError: it cannot be read, was trained with another text encoder, or no tensor fits.
    """
    record = read_record(source)
    path = layout.weights_file(record.path)
    tensors, metadata = read_tensors(path)

    # the text branch of the model only understands the embeddings of its own encoder
    theirs, ours = metadata.get("text_encoder") or "", text_fingerprint(method)
    if theirs and ours and theirs != ours:
        raise CheckpointError(
            f"{source} was trained with the frozen text encoder {theirs!r}, this recipe uses {ours!r}. Use the "
            "encoder of that run (--set text_encoder=...), or start without --init."
        )

    own = method.state_dict()
    missing = [name for name in own if name not in tensors]
    reshaped = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    left = {*missing, *reshaped}
    fitting = {name: tensors[name] for name in own if name not in left}
    if not fitting:
        raise CheckpointError(
            f"no tensor of {source} ({record.method}, {len(tensors)} tensors) fits {recipe.method!r} with this preset. "
            f"Its tensors are {_some(list(tensors))}; expected {_some(list(own))}. Train {record.method!r}, with the "
            "preset of that run."
        )
    method.load_state_dict(fitting, strict=False)

    other = str(record.data.get("laterality") or "")
    differs = bool(recipe.needs_text and laterality and other and other != str(laterality))
    return InitReport(
        source=str(Path(source).absolute() if Path(source).exists() else source),
        method=record.method,
        weights_sha256=file_sha256(path),
        loaded=len(fitting),
        missing=tuple(missing),
        reshaped=tuple(reshaped),
        unused=tuple(name for name in tensors if name not in own),
        laterality=other if differs else "",
    )


def stored_init(run: Path) -> Path | None:
    """Where the weights of a run came from that was stopped before its first epoch; None for any other run."""
    data = run / layout.DATA
    stored = read_json(data).get("init") if data.is_file() else None
    return Path(stored["source"]) if stored else None


def _some(names: Sequence[str]) -> str:
    """The first names of a list."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
