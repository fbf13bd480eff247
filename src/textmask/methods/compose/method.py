"""`compose`: programs of prompts executed over the logits of named structures, next to a path that reads all words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from einops import rearrange
from torch import Tensor

from textmask.errors import DataError
from textmask.losses.segmentation import bce, soft_dice
from textmask.methods.base import Method
from textmask.methods.compose.model import (
    REGIONS,
    Existence,
    PixelEmbedding,
    QueryHead,
    Regions,
    scaled_products,
)
from textmask.nn.pretrained_text import build_text_encoder
from textmask.nn.sentence_head import SentenceHead
from textmask.nn.soft_program import EMPTY, ProgramExecutor, soft_and
from textmask.statement import Laterality, Level, Side
from textmask.text.program import Nothing, Program, Unknown
from textmask.text.program_grammar import parse_program
from textmask.text.structures import structure_list
from textmask.types import Batch, Image, Output, PromptReading, Text, send

if TYPE_CHECKING:
    from textmask.methods.compose import ComposeRecipe
    from textmask.nn.text_cache import TextCache
    from textmask.nn.text_encoders import TextEncoder


class Compose(Method):
    """A pixel embedding, queries of the names in a prompt, and the program that combines their logits."""

    text_encoder: TextEncoder | TextCache
    reads_words = True

    def __init__(self, recipe: ComposeRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.executor = ProgramExecutor(structure_list())
        self.text_encoder = build_text_encoder(recipe.text_encoder)
        self.pixels = PixelEmbedding(recipe.image_encoder, recipe.width)
        self.existence = Existence(recipe.width)
        self.query_head: QueryHead | None = None
        self.neural: SentenceHead | None = None
        if recipe.mode != "neural":
            self.regions = Regions(recipe.width)
            self.query_head = QueryHead(self.text_encoder.width, recipe.hidden, recipe.width)
        if recipe.mode != "program":
            net = (self.pixels.decoder.out_channels, self.pixels.stride, self.text_encoder.width)
            self.neural = SentenceHead(*net, recipe.hidden, recipe.heads)

    def forward(self, image: Image, text: Text) -> Output:
        """Image B 3 H W in [0, 1] and its prompts -> logits B 1 H W; `aux["existence"]` is a probability B 1 1 1."""
        return self.decode(self.image_features(image), image, text)

    def image_features(self, image: Image) -> tuple[Tensor, ...]:
        """Pixel embedding B D H W, decoder feature B C h w, and with a program path the logits of regions B 6 H W."""
        maps: tuple[Tensor, ...] = self.pixels(image)
        return maps if self.query_head is None else (*maps, self.regions(maps[0]))

    def decode(self, features: tuple[Tensor, ...] | None, image: Image, text: Text) -> Output:
        """The maps of `image_features` and the prompts -> as `forward`; None computes the maps."""
        maps = self.image_features(image) if features is None else features
        logits, existence = self._answer(maps, text, self._programs(text), None)
        return Output(logits, {"existence": torch.sigmoid(existence)})

    def losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        """`dice` and `bce`; `exist`, cross-entropy of existence; `paraphrase`, squared distance between synonyms."""
        if batch.mask is None:
            raise DataError("compose trains on labelled rows only. Add masks to the manifest.")
        maps = self.image_features(batch.image)
        programs = self._programs(batch.text)
        seed = int(torch.randint(2**31, ()))  # every step draws other synonyms
        logits, existence = self._answer(maps, batch.text, programs, seed)

        # pieces have no gradient: without the neural path nothing is learned from their prompts
        learns = None
        if self.neural is None and not all(map(self.executor.is_soft, programs)):
            counted = torch.tensor([self.executor.is_soft(program) for program in programs])
            learns = send(counted, batch.mask.device)
        exist = bce(existence, batch.mask.amax(dim=(2, 3), keepdim=True))
        losses = {
            "dice": soft_dice(logits, batch.mask, learns),
            "bce": bce(logits, batch.mask, learns),
            "exist": exist,
            "paraphrase": exist * 0,
        }
        if self.query_head is not None and self.recipe.stage(stage).weights.get("paraphrase"):
            canonical, _ = self._answer(maps, batch.text, programs, None)
            difference = torch.sigmoid(logits) - torch.sigmoid(canonical)
            losses["paraphrase"] = difference.square().mean()
        return losses

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode the prompts if their words are read. Phrases for names are encoded when they are first drawn."""
        super().prepare(prompts if self.neural is not None else ())

    def reading(self, text: Text) -> list[PromptReading]:
        """What is understood of each prompt: its program, and the nearest names of what is refused."""
        found, known = [], tuple(self.executor.structures.structures)
        for program in self._programs(text):
            nearest = {" ".join(step.words): step.nearest for step in self._refused(program, text)}
            found.append(PromptReading(program.as_json(), known, nearest))
        return found

    def _programs(self, text: Text) -> list[Program]:
        """The prompts as programs, with sides in the convention of their statements."""
        sides = [statement.laterality for statement in text.statements]
        sides = sides or [Laterality.UNKNOWN] * len(text)
        return [parse_program(p, side) for p, side in zip(text.prompts, sides, strict=True)]

    def _answer(
        self, maps: tuple[Tensor, ...], text: Text, programs: list[Program], seed: int | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of mask and existence, of both paths; `seed` draws the synonyms, None takes the names themselves."""
        embedding, feature, *regions = maps
        size = (embedding.shape[-2], embedding.shape[-1])
        logits = torch.zeros_like(embedding[:, :1], dtype=torch.float32)
        if self.query_head is not None:
            queries = self._queries(text, programs, seed)
            logits = self._executed(embedding, regions[0], programs, queries)
        if self.neural is not None:
            logits = logits + self.neural(feature, self.text_encoder(text), size)
        existence = self.existence(logits, embedding)
        logits = soft_and(logits, existence.expand_as(logits))

        # nothing is asked for, or nothing that is known
        for i, program in enumerate(programs):
            refused = not self.training and self._refused(program, text)
            if refused or isinstance(program.step, Nothing):
                chosen = send(torch.arange(len(programs)) == i, logits.device)[:, None, None, None]
                logits, existence = (x.masked_fill(chosen, EMPTY) for x in (logits, existence))
        return logits, existence

    def _queries(self, text: Text, programs: list[Program], seed: int | None) -> dict[str, Tensor]:
        """Name -> query, of all names that the programs rest on."""
        distinct = list(dict.fromkeys(name for p in programs for name in self._names(p)))
        vectors = self._vectors([self._wording(name, seed) for name in distinct], text)
        return dict(zip(distinct, cast(QueryHead, self.query_head)(vectors), strict=True))

    def _names(self, program: Program) -> tuple[str, ...]:
        """The names of a program; the first of the vocabulary if it has none, so that there is something to stack."""
        return self.executor.names(program) or (next(iter(self.executor.structures.structures)),)

    def _executed(
        self,
        embedding: Tensor,
        regions: Tensor,
        programs: list[Program],
        queries: dict[str, Tensor],
    ) -> Tensor:
        """Logits B 1 H W of the programs."""
        # all products at once, the shorter lists of names filled up
        names = [self._names(program) for program in programs]
        most = max(map(len, names))
        stacked = []
        for listed in names:
            filled = (*listed, *listed[:1] * (most - len(listed)))
            stacked.append(torch.stack([queries[name] for name in filled]))
        products = scaled_products(torch.stack(stacked), embedding)

        found = []
        for i, program in enumerate(programs):
            logits = dict(zip(names[i], products[i], strict=False))

            def region_of(place: Side | Level, region: Tensor = regions[i]) -> Tensor:
                return region[REGIONS.index(place)]

            found.append(self.executor.logits(program, logits, region_of, self.training))
        # every process must have a gradient for every parameter, whatever its prompts name
        return rearrange(torch.stack(found), "b h w -> b 1 h w") + 0 * regions[:, :1]

    def _vectors(self, phrases: list[str], text: Text) -> Tensor:
        """The text vector of each phrase, on the device of the prompts."""
        zones = text.zones[:1].expand(len(phrases), -1)
        vectors: Tensor = self.text_encoder(Text(tuple(phrases), zones)).text_embedding
        return vectors

    def _wording(self, name: str, seed: int | None) -> str:
        """The name itself, or one of the phrases for it that a seed draws."""
        phrases = self.executor.wordings(name)
        return name if seed is None else phrases[(zlib.crc32(name.encode()) ^ seed) % len(phrases)]

    def _refused(self, program: Program, text: Text) -> list[Unknown]:
        """Targets outside the vocabulary that no name is near to, by the cosine of their text vectors."""
        if self.query_head is None or not program.refused:
            return []
        words = [" ".join(step.words) for step in program.refused]
        vectors = self._vectors([*words, *self.executor.structures.structures], text).float()
        unit = torch.nn.functional.normalize(vectors, dim=1)
        nearest = (unit[: len(words)] @ unit[len(words) :].T).amax(dim=1).tolist()
        pairs = zip(program.refused, nearest, strict=True)
        return [step for step, cosine in pairs if cosine < self.recipe.near]
