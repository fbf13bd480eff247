"""Separate program that converts a pickled state dict to safetensors: `python unpickle.py FILE.pt OUT`.

Nothing of textmask is imported here, and only tensors are read, because torch refuses every other object.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

# keys under which trainers store the weights
NESTED = ("state_dict", "model_state_dict", "model", "network", "net")
# in the messages of torch's restricted reader
UNSUPPORTED = re.compile(r"unsupported (?:global|class|operand)\b[^\n]*?(?=[.]?\s*$)", re.I | re.M)


def convert_pickle(source: str, out: str) -> int:
    """Convert a file; returns 0 on success and 1 if it is refused, with the reason on stderr."""
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        print(_reason(error), file=sys.stderr)
        return 1
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(k, str) for k in found):
        print("it does not contain a state dict (names and tensors)", file=sys.stderr)
        return 1
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        print("its state dict contains values that are not tensors", file=sys.stderr)
        return 1

    # parallel trainers add a prefix to all names
    tensors = {}
    for key, value in found.items():
        tensors[key.removeprefix("module.")] = value.clone().contiguous()
    if len(tensors) < len(found):
        print("it contains the same name with and without the prefix `module.`", file=sys.stderr)
        return 1
    save_file(tensors, out, {"format": "pt"})
    return 0


def _reason(error: Exception) -> str:
    """The line of torch's message that says what was found; never its advice to read the file unguarded."""
    found = UNSUPPORTED.search(str(error))
    if found:
        return found.group()[:300]
    first = next(iter(str(error).splitlines()), "")
    return type(error).__name__ if not first or first.startswith("Weights only") else first[:300]


if __name__ == "__main__":
    raise SystemExit(convert_pickle(sys.argv[1], sys.argv[2]))
