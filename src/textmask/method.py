"""The one base class of all methods, and how methods are found."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from textmask.errors import CheckpointError, ConfigError, choose

if TYPE_CHECKING:
    from textmask.config import EMA, Recipe
    from textmask.types import Batch, Embedding, Image, Output, Text

ENTRY_POINT_GROUP = "textmask.methods"
PRESETS = ("paper", "lite", "smoke")
Net = TypeVar("Net", bound=nn.Module)


class Method(nn.Module):
    """A model, its losses, and what it does after a step. The training loop knows nothing else of it.

    Subclasses implement `forward` and `losses`. The mask is never an input of `forward`.
    """

    def forward(self, image: Image, text: Text) -> Output:
        """Predict: image B 3 H W in [0, 1] and its sentences -> logits B 1 H W."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def image_features(self, image: Image) -> tuple[Tensor, ...] | None:
        """What of a picture can be computed before its sentence is known: image B 3 H W in [0, 1] -> maps for `decode`.

        None: the sentence is mixed in from the start, and every sentence costs a whole `forward`.
        """
        return None

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The rest of `forward`: `decode(image_features(x), x, text)` equals `self(x, text)`."""
        out: Output = self(image, text)
        return out

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """Unweighted loss terms (scalars), named as in the paper; the recipe's `weights` must name the same terms."""
        raise NotImplementedError(f"{type(self).__name__}.losses")

    def embed_image(self, image: Image) -> Embedding:
        """One vector a picture, where a method has one: image B 3 H W in [0, 1] -> B D.

        Raises:
            ConfigError: this method publishes none.
        """
        raise ConfigError(
            f"{type(self).__name__} publishes no image vector. Take a run of a method that implements "
            "`Method.embed_image`, such as one that aligns pictures with sentences."
        )

    def prepare(self, prompts: Sequence[str]) -> None:
        """See every distinct training sentence once before the first stage (statistics, cached text features)."""

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many sentences have an end that the method's `text_encoder` does not read; 0 where it has none."""
        count = getattr(getattr(self, "text_encoder", None), "too_long", None)
        return 0 if count is None else int(count(prompts))

    def observe(self, stage: str, batch: Batch) -> None:
        """See one batch of a stage without gradient training (`Stage.optim is None`)."""
        raise NotImplementedError(f"{type(self).__name__}.observe")

    def monitors(self) -> dict[str, Tensor]:
        """Scalars of the last step that are logged beside the losses (mean over the epoch) but not trained on."""
        return {}

    def after_step(self, stage: str, step: int) -> None:
        """Run after each optimiser step; a teacher's moving average lives here."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Weights that can answer in eval mode; training validates each and keeps the better one."""
        return ("student", "teacher") if isinstance(getattr(self, "teacher", None), Teacher) else ()

    def use(self, variant: str) -> None:
        """Let one of `variants` answer from now on; the choice is part of the state dict.

        Raises:
            ConfigError: there is no such variant.
        """
        if variant not in self.variants:
            raise ConfigError(f"{type(self).__name__} has no weights {variant!r}; it has: {', '.join(self.variants)}.")
        self.get_submodule("teacher").get_buffer("answers").fill_(variant == "teacher")

    def answering(self, student: Net) -> Net:
        """The student; or the network of its teacher where that one was chosen and this is no training."""
        teacher = getattr(self, "teacher", None)
        chosen = isinstance(teacher, Teacher) and not self.training and bool(teacher.answers)
        return cast(Net, teacher.net) if chosen and teacher is not None else student


class Teacher(nn.Module):
    """A moving average of a student's weights: never trained, always in eval mode, without gradient.

    Its tensors are buffers, so that optimisers, gradient checks and parameter counts pass it by and checkpoints do not.

    Args:
        student: the network; the teacher starts as its copy.
        ema: how fast it follows.
    """

    steps: Tensor
    answers: Tensor

    def __init__(self, student: nn.Module, ema: EMA) -> None:
        super().__init__()
        self.ema = ema
        self.net = deepcopy(student)
        for module in self.net.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer(
            "answers", torch.zeros((), dtype=torch.bool)
        )  # whether it predicts, rather than the student
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """What the averaged network says."""
        return self.net(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """One step towards the student."""
        decay = self.ema.at(int(self.steps))
        self.steps += 1
        weights = {name for name, _ in student.named_parameters()}
        mine, theirs = self.net.state_dict(), student.state_dict()
        averaged = [name for name in mine if name in weights or self.ema.buffers == "average"]
        averaged = [name for name in averaged if mine[name].is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in averaged], [theirs[name] for name in averaged], 1 - decay)
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])


@dataclass(frozen=True)
class Card:
    """What a person should know of a method before using it.

    Attributes:
        title: one line.
        paper: citation, or "" for a baseline.
        uses_image, uses_text: what the prediction depends on.
        published: dataset -> metric -> value as printed in the paper (metric names carry the protocol).
        symbols: paper symbol -> (our name, shape).
        limits: what not to expect.
    """

    title: str
    paper: str = ""
    uses_image: bool = True
    uses_text: bool = True
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    symbols: dict[str, tuple[str, str]] = field(default_factory=dict)
    limits: str = ""


@dataclass(frozen=True)
class Arm:
    """One row of a study: settings as `Recipe.override` takes them, on another method where `method` names one."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    method: str | None = None


@dataclass(frozen=True)
class MethodSpec:
    """What a method's package exports as `SPEC`: its card, its recipe class and how to build it.

    `studies` holds the paper's tables that `textmask study` can run again: name -> rows in the paper's order.
    """

    name: str
    card: Card
    recipe: Any  # type[Recipe]; a subclass gives `method` and `stages` defaults
    build: Any  # Callable[[Recipe], Method]; each method takes its own recipe class
    studies: Mapping[str, tuple[Arm, ...]] = field(default_factory=dict)


def list_methods() -> list[str]:
    """Names of all methods: the folders of `textmask.methods` and the entry points of third parties."""
    from textmask import methods

    names = {module.name for module in pkgutil.iter_modules(methods.__path__) if module.ispkg}
    return sorted(names | {point.name for point in entry_points(group=ENTRY_POINT_GROUP)})


def get_method(name: str) -> MethodSpec:
    """The method of that name.

    Raises:
        ConfigError: unknown name; lists the valid ones.
    """
    choose("method", name, list_methods())
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            spec = point.load()
            break
    else:
        spec = import_module(f"textmask.methods.{name}").SPEC
    if not isinstance(spec, MethodSpec):
        raise ConfigError(f"method {name!r} exports {type(spec).__name__}, expected a MethodSpec called SPEC.")
    return spec


def load_recipe(text: str) -> Recipe:
    """The recipe in a JSON text, as an instance of its method's recipe class.

    Raises:
        ConfigError: no JSON, no known method, or a wrong field.
    """
    import json

    try:
        name = json.loads(text)["method"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError("a recipe is a JSON object with a field 'method'; this text is not.") from None
    recipe: Recipe = get_method(name).recipe.from_json(text)
    return recipe


def preset_recipe(name: str, preset: str) -> Recipe:
    """A method's recipe as in its paper, as the CPU preset or as the smoke test.

    Raises:
        ConfigError: unknown method or preset.
    """
    choose("preset", preset, PRESETS)
    base: Recipe = get_method(name).recipe()
    return base if preset == "paper" else getattr(base, preset)()


def build_method(recipe: Recipe) -> Method:
    """Build the method of a recipe, with weights initialised from `recipe.seed`.

    The global random state is left as it was.
    """
    spec = get_method(recipe.method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        method = spec.build(recipe)
    if not isinstance(method, Method):
        raise CheckpointError(f"method {recipe.method!r} built a {type(method).__name__}, expected a Method.")
    return method


def count_parameters(recipe: Recipe) -> int:
    """Parameters that the recipe's method trains; a frozen text tower does not count and need not be installed."""
    from textmask.text.pretrained import stand_in_towers

    with stand_in_towers():
        return sum(parameter.numel() for parameter in build_method(recipe).parameters())
