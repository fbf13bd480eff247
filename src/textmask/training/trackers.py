"""Experiment trackers, in addition to the CSV and JSONL log of every run. Both packages are optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from textmask.config import Recipe
from textmask.errors import ConfigError, choose

TRACKERS = ("tensorboard", "mlflow")


class Tracker(Protocol):
    """Receives the results of each epoch."""

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Log the row of an epoch."""

    def close(self) -> None:
        """Flush."""


class TensorBoardTracker:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tracker 'tensorboard' needs: pip install 'textmask[tensorboard]'."
            ) from error
        self.writer: Any = SummaryWriter(str(out / "tensorboard"))
        self.writer.add_text("recipe", f"```json\n{recipe.to_json()}```")

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Log the row of an epoch."""
        for key, value in row.items():
            if isinstance(value, float):
                self.writer.add_scalar(key, value, epoch)

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


class MlflowTracker:
    """An MLflow run, named after the run folder, on the server of MLFLOW_TRACKING_URI."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError("tracker 'mlflow' needs: pip install 'textmask[mlflow]'.") from error
        self.mlflow: Any = mlflow
        mlflow.start_run(run_name=out.name)
        mlflow.log_params({"method": recipe.method, "seed": recipe.seed})
        mlflow.log_text(recipe.to_json(), "recipe.json")

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Log the row of an epoch."""
        self.mlflow.log_metrics(
            {key: value for key, value in row.items() if isinstance(value, float)}, step=epoch
        )

    def close(self) -> None:
        """End the run."""
        self.mlflow.end_run()


def build_trackers(names: Sequence[str], out: Path, recipe: Recipe) -> list[Tracker]:
    """Build trackers by name.

    Args:
        names: of `TRACKERS`.
        out: the run folder.
        recipe: of the run, logged as parameters.

    Raises:
        ConfigError: a name is unknown or its package is not installed.
    """
    kinds: dict[str, type[TensorBoardTracker] | type[MlflowTracker]] = {
        "tensorboard": TensorBoardTracker,
        "mlflow": MlflowTracker,
    }
    return [kinds[choose("tracker", name, TRACKERS)](out, recipe) for name in names]
