"""What a training must find again to go on with the same numbers: its data, and the machine that it ran on."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from textmask.config import Recipe
from textmask.data.cache import SplitData
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.io.files import read_json, write_json
from textmask.runs import layout
from textmask.runs.folder import write_names
from textmask.runs.record import NAME_HASHES, stored_names
from textmask.statement import Statement

# what is compared, in the order of what explains most: a changed row changes all that follows
PARTS = {
    "rows": "rows were added, removed or moved from another split",
    "prompts": "prompts differ",
    "statements": "prompts are read in another way (laterality or grammar)",
    "content": "images or masks were changed, or masks are read in another way",
}
MACHINE = {"device": "device", "processes": "number of processes", "threads": "threads of torch"}
DETERMINISTIC = "--set deterministic=true trains with one thread and does not depend on it"


def data_record(splits: Mapping[str, SplitData]) -> dict[str, dict[str, str]]:
    """A hash of each of `PARTS` for each split, as a run stores it."""
    record = {}
    for name, data in splits.items():
        pairs = zip(data.keys, data.prompts, data.statements, strict=True)
        read = [(key, prompt, _reading(statement)) for key, prompt, statement in pairs]
        record[name] = {
            "rows": _hash(key for key, _, _ in read),
            "prompts": _hash(f"{key}\t{prompt}" for key, prompt, _ in read),
            "statements": _hash(f"{key}\t{statement}" for key, _, statement in read),
            "content": data.content,
        }
    return record


def machine_record(fabric: Fabric, recipe: Recipe) -> dict[str, Any]:
    """Where a training runs: the type of the device, processes and threads; other values give other last digits."""
    one = recipe.deterministic or fabric.device.type != "cpu"
    return {
        "device": fabric.device.type,
        "processes": fabric.world_size,
        "threads": 1 if one else torch.get_num_threads(),
    }


def refuse_changes(
    run: Path,
    recipe: Recipe,
    splits: Mapping[str, SplitData],
    fabric: Fabric,
    *,
    accept: bool = False,
) -> None:
    """Check that a resumed run finds its data and its machine as they were.

    Args:
        run: the run folder; one of an older version stored nothing, and nothing is compared.
        recipe: of the run.
        splits: as they are now.
        fabric: as it is now.
        accept: warn instead of refusing.

    Raises:
        DataError: the data differ; the message says how.
        ConfigError: the machine differs in a way that changes the numbers.
    """
    stored = read_json(run / layout.DATA)
    differences = _data_differences(stored.get("identity", {}), data_record(splits))
    if differences:
        text = f"{run} was trained on other data: {'; '.join(differences)}."
        if not accept:
            raise DataError(
                f"{text} Resume with the data as they were, start a new run with another --out, or give "
                "--accept-changes to go on with what is there now."
            )
        warnings.warn(f"{text} Going on with what is there now.", DataWarning, stacklevel=3)
        if fabric.is_global_zero:
            _add_names(run, stored, splits)

    now, before = machine_record(fabric, recipe), stored.get("machine", {})
    changed = [
        f"{words} {before[name]} -> {now[name]}"
        for name, words in MACHINE.items()
        if name in before and before[name] != now[name]
    ]
    if changed:
        text = f"{run} was trained on a machine that differs: {', '.join(changed)}"
        if not accept:
            same = "the same machine"
            if before.get("threads", now["threads"]) != now["threads"]:
                count = before["threads"]
                same = (
                    f"{count} threads (OMP_NUM_THREADS={count}, of a study also --threads {count})"
                )
            raise ConfigError(
                f"{text}, which changes the last digits of all that follows ({DETERMINISTIC}). Resume with {same}, "
                "or give --accept-changes to go on here."
            )
        warnings.warn(f"{text}; the numbers are not those of one run.", DataWarning, stacklevel=3)


def _add_names(run: Path, stored: dict[str, Any], splits: Mapping[str, SplitData]) -> None:
    """List what the run is trained on from now on next to what it was trained on: leak checks need both."""
    lists = {}
    for name, data in splits.items():
        lists[name] = list(dict.fromkeys((*stored_names(run, name), *data.keys)))
    # without a hash for a moment: a kill between the files leaves no list that looks damaged
    kept = {name: found for name, found in stored.get(NAME_HASHES, {}).items() if name not in lists}
    write_json(run / layout.DATA, {**stored, NAME_HASHES: kept})
    write_json(run / layout.DATA, {**stored, NAME_HASHES: {**kept, **write_names(run, lists)}})


def note_machine(run: Path, machine: Mapping[str, Any], step: int) -> None:
    """Write into a resumed run on what it goes on; nothing if that is where it was.

    Args:
        run: the run folder; `machine` of its data.json says where the run is trained now, `machines` lists the
            earlier ones with the step at which each was left.
        machine: as of `machine_record`.
        step: finished steps.
    """
    stored = read_json(run / layout.DATA)
    before = stored.get("machine")
    if before is None or before == dict(machine):
        return
    stored["machines"] = [*stored.get("machines", ()), {**before, "until_step": step}]
    stored["machine"] = dict(machine)
    write_json(run / layout.DATA, stored)


def _data_differences(
    stored: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> list[str]:
    found = []
    for split in sorted(stored.keys() | now.keys()) if stored else ():
        before, after = stored.get(split), now.get(split)
        if before is None or after is None:
            found.append(f"split {split} is {'new' if before is None else 'missing'}")
            continue
        # the first part that differs explains the rest
        differing = [name for name in PARTS if before.get(name) != after.get(name)]
        if differing:
            found.append(f"in split {split}, {PARTS[differing[0]]}")
    return found


def _reading(statement: Statement) -> str:
    """What was read of a prompt, the same in every process: sets have no order of their own."""
    zones = [sorted(map(str, found)) for found in (statement.zones, statement.negated)]
    other = (statement.laterality, statement.grammar, statement.absent, statement.count)
    return json.dumps([*zones, *map(str, other)])


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest()
