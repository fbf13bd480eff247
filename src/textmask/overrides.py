"""`Recipe.override`: one value of a tree of settings replaced by its dotted path."""

from __future__ import annotations

from typing import Any

from textmask.errors import ConfigError, choose

# a stage that is given one of these has no budget any more: its number of steps was chosen by hand
SETS_STEPS = ("epochs", "batch_size", "steps_per_epoch")


def sets_budget(assignment: str) -> bool:
    """Whether an override sets the budget of a stage."""
    keys = assignment.partition("=")[0].strip().split(".")
    return len(keys) == 3 and keys[0] == "stages" and keys[2] == "steps"


def assign(tree: Any, keys: list[str], value: Any, path: str) -> None:
    """Set tree[keys...] = value in place; stages are found by name or number."""
    key, rest = keys[0], keys[1:]

    # a list of stages: the key is a name, a number or *
    if isinstance(tree, list) and tree and isinstance(tree[0], dict) and "name" in tree[0]:
        names = [item["name"] for item in tree]
        if not rest:
            raise ConfigError(
                f"override {path!r} names a stage, but no field of it. Write for example {path}.epochs=3."
            )
        if key == "*":
            for item in tree:
                assign(item, rest, value, path)
            return
        if key not in map(str, range(len(tree))):
            choose(f"stage in override {path!r}: stage", key, names)
            key = str(names.index(key))
        assign(tree[int(key)], rest, value, path)
        return

    # a field; only weights and lr_scale take new names
    if not isinstance(tree, dict):
        parent = path.rsplit(f".{key}", 1)[0]
        raise ConfigError(f"override {path!r} does not name a field: {parent} is a scalar.")
    if not rest:
        if key not in tree and path.split(".")[-2:-1] not in (["weights"], ["lr_scale"]):
            choose(f"field in override {path!r}: field", key, list(tree))
        tree[key] = value
        return
    choose(f"field in override {path!r}: field", key, list(tree))
    assign(tree[key], rest, value, path)


def without_budget(tree: Any, keys: list[str], path: str) -> None:
    """Remove the budget of the stage whose number of steps was set by hand."""
    if keys[0] == "stages" and len(keys) == 3 and keys[2] in SETS_STEPS:
        assign(tree, [*keys[:2], "steps"], None, path)
