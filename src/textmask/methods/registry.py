"""How methods are described and found."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from textmask.errors import CheckpointError, ConfigError, TextMaskError, choose

if TYPE_CHECKING:
    from textmask.config import Recipe
    from textmask.methods.base import Method

ENTRY_POINT_GROUP = "textmask.methods"
PRESETS = ("paper", "lite", "smoke")


@dataclass(frozen=True)
class Card:
    """What a user should know about a method before using it.

    Attributes:
        title: one line.
        paper: citation, or "" for a baseline.
        uses_image, uses_text: what the prediction depends on.
        published: dataset -> metric -> value as printed in the paper; metric names include the protocol.
        printed_for: data set -> settings that the paper prints for it and that differ from the preset `paper`.
        symbols: paper symbol -> (our name, shape).
        limits: known limitations.
        sources: path of a recipe field, as `Recipe.override` takes it, with * for any part -> what a source states,
            such as "paper: 224" or "code: 3e-4" (released code). What no path matches is chosen by us; see `origins`.
        deviations: in what else this implementation differs from the paper or the released code.
    """

    title: str
    paper: str = ""
    uses_image: bool = True
    uses_text: bool = True
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    printed_for: dict[str, tuple[str, ...]] = field(default_factory=dict)
    symbols: dict[str, tuple[str, str]] = field(default_factory=dict)
    limits: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()


def per_image(dice: float, iou: float, hd95: float, assd: float) -> dict[str, float]:
    """Published figures in the order of C2Seg's tables, as `Card.published` names them: percent, then pixels."""
    return {
        "dice_per_image": dice,
        "iou_per_image": iou,
        "hd95_pooled_px": hd95,
        "assd_px": assd,
    }


@dataclass(frozen=True)
class Arm:
    """One row of an ablation table: settings as for `Recipe.override`, and another method if `method` is set."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    method: str | None = None


# tables that every method has; the paper's own come from its `MethodSpec`
COMMON_TABLES = {
    "sizes": (
        Arm("full", "all steps at full size"),
        Arm(
            "sizes",
            "half size for 40 % of the steps, 0.7 for 30 %, then full size",
            ("stages.*.sizes=[[0.5,0.4],[0.7,0.3]]",),
        ),
    )
}


@dataclass(frozen=True)
class MethodSpec:
    """What a method's package exports as `SPEC`: card, recipe class and constructor.

    `ablation_tables` are the tables of the paper that `textmask study` can run: name -> rows in the paper's order.
    """

    name: str
    card: Card
    recipe: Any  # type[Recipe]; a subclass gives `method` and `stages` defaults
    build: Any  # Callable[[Recipe], Method]; each method takes its own recipe class
    ablation_tables: Mapping[str, tuple[Arm, ...]] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, tuple[Arm, ...]]:
        """The tables of the paper, then those that every method has."""
        return {**self.ablation_tables, **COMMON_TABLES}


def list_methods() -> list[str]:
    """Names of all methods: the folders of `textmask.methods` and the entry points of third parties."""
    from textmask import methods

    names = {module.name for module in pkgutil.iter_modules(methods.__path__) if module.ispkg}
    return sorted(names | set(_third_party()))


@lru_cache(maxsize=1)
def _third_party() -> dict[str, EntryPoint]:
    """Entry points of installed packages by name. Cached: finding them reads a file of every package."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def get_method(name: str) -> MethodSpec:
    """The method of that name.

    Raises:
        ConfigError: unknown name; the message lists the valid ones.
    """
    choose("method", name, list_methods())

    # third parties first, so that their package need not be a module of textmask
    point = _third_party().get(name)
    spec = import_module(f"textmask.methods.{name}").SPEC if point is None else point.load()

    if not isinstance(spec, MethodSpec):
        raise ConfigError(
            f"method {name!r} exports {type(spec).__name__}, expected a MethodSpec called SPEC."
        )
    return spec


def load_recipe(text: str) -> Recipe:
    """The recipe in a JSON text, as an instance of its method's recipe class.

    A field that is not in the text has the value of `Recipe.before`, so that older runs keep their network.

    Raises:
        ConfigError: the text is not JSON, names no known method, or has a wrong field.
    """
    import json

    try:
        tree = json.loads(text)
        name = tree["method"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            "The recipe is not a JSON object with a field 'method'. Use a recipe.json written by textmask."
        ) from None
    kind = get_method(name).recipe
    recipe: Recipe = kind.from_json(json.dumps({**kind.before, **tree}))
    return recipe


def preset_recipe(name: str, preset: str) -> Recipe:
    """A method's recipe: as in its paper, as the CPU preset (`lite`) or as the test preset (`smoke`).

    Raises:
        ConfigError: unknown method or preset.
    """
    choose("preset", preset, PRESETS)
    base: Recipe = get_method(name).recipe()
    return base if preset == "paper" else getattr(base, preset)()


def origins(spec: MethodSpec, recipe: Recipe) -> list[tuple[str, str, str]]:
    """Every setting of a recipe with its source: (path, value as JSON, what paper or code states, or "chosen by us").

    The list is made from the recipe, so that no addition can be left out of it.
    """
    import json

    rows: list[tuple[str, str, str]] = []
    for path, value in _leaves(recipe.model_dump(mode="json")):
        if path == "method":
            continue
        source = next((s for p, s in spec.card.sources.items() if fnmatchcase(path, p)), None)
        rows.append((path, json.dumps(value), source or "chosen by us"))
    return rows


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values below nested settings, stages by their names."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {stage["name"]: {k: v for k, v in stage.items() if k != "name"} for stage in value}
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{path}.{key}" if path else key)


def build_method(recipe: Recipe) -> Method:
    """Build the method of a recipe, with weights initialized from `recipe.seed`.

    The global random state does not change.
    """
    import torch  # cards and recipes are read without it

    from textmask.methods.base import Method

    spec = get_method(recipe.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            method = spec.build(recipe)
        except (TextMaskError, OSError, ImportError):
            raise
        except Exception as error:  # PyTorch refuses sizes in many ways
            found = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(
                f"the network of {recipe.method} cannot be built from these settings: {found}. Compare the widths, "
                f"heads and sizes you set with those of `textmask methods show {recipe.method}`."
            ) from error
    if not isinstance(method, Method):
        raise CheckpointError(
            f"method {recipe.method!r} built a {type(method).__name__}, expected a Method."
        )
    return method


def count_parameters(recipe: Recipe, part: str = "") -> int:
    """Number of parameters that the recipe's method trains; a frozen text encoder does not count, installed or not.

    Args:
        recipe: of the method.
        part: how the names of the parameters begin that are counted, for example `net.`; "" is all.
    """
    from textmask.weights import stand_in_towers

    with stand_in_towers():
        total = 0
        for name, parameter in build_method(recipe).named_parameters():
            total += parameter.numel() if name.startswith(part) else 0
    return total
