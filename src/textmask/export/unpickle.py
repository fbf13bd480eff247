"""Run as a program of its own: a state dict from a pickle to safetensors, `python unpickle.py FILE.pt OUT`.

Nothing of textmask is imported here, and only tensors are read: torch refuses every other object.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "network",
    "net",
)  # where trainers keep the weights


def convert_pickle(source: str, out: str) -> int:
    """Convert; 0 done, 1 refused, with the reason on stderr."""
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        print(next(iter(str(error).splitlines()), type(error).__name__)[:300], file=sys.stderr)
        return 1
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(k, str) for k in found):
        print("it holds no state dict (names and tensors)", file=sys.stderr)
        return 1
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        print("not everything in its state dict is a tensor", file=sys.stderr)
        return 1
    save_file(
        {key.removeprefix("module."): value.clone().contiguous() for key, value in found.items()},
        out,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(convert_pickle(sys.argv[1], sys.argv[2]))
