from collections import defaultdict

import cv2
import numpy as np
import pytest

from textmask.data.manifest import read_manifest
from textmask.data.phantom import (
    CHEST_BANDS,
    ZONE_BOXES,
    PhantomConfig,
    make_phantom,
    write_phantoms,
)
from textmask.errors import ConfigError, DataError
from textmask.io.images import read_image
from textmask.io.masks import read_mask
from textmask.statement import LUNG_ZONES, Laterality, Level, Side
from textmask.text.grammar import parse

SEEDS = range(40)
MEASURED = {
    Level.UPPER: (0.0, 0.45),
    Level.MIDDLE: (0.35, 0.68),
    Level.LOWER: (0.42, 0.80),
}  # on QaTa


def zones_with_pixels(mask, laterality=Laterality.IMAGE):
    """The (side, level) cells of halves x bands that hold a pixel, and how many pixels lie in no cell."""
    h, w = mask.shape
    zones, counted = set(), 0
    for side, level in LUNG_ZONES:
        band = [round(share * h) for share in CHEST_BANDS[level]]
        cell = (
            mask[band[0] : band[1], : w // 2]
            if side is Side.LEFT
            else mask[band[0] : band[1], w // 2 :]
        )
        counted += cell.sum()
        if cell.any():
            zones.add((side if laterality is Laterality.IMAGE else side.mirrored, level))
    return frozenset(zones), int(mask.sum() - counted)


def test_bands_do_not_overlap_and_lie_inside_the_measured_ones():
    edges = [edge for level in Level for edge in CHEST_BANDS[level]]
    assert edges == sorted(edges)
    for level, (low, high) in CHEST_BANDS.items():
        assert MEASURED[level][0] <= low < high <= MEASURED[level][1]
    for (side, level), (top, bottom, left, right) in ZONE_BOXES.items():
        assert CHEST_BANDS[level][0] <= top < bottom <= CHEST_BANDS[level][1]
        assert (right < 0.5) if side is Side.LEFT else (left > 0.5)


@pytest.mark.parametrize("size", [(224, 224), (112, 112), (64, 64), (150, 97), (32, 32)])
@pytest.mark.parametrize("laterality", [Laterality.IMAGE, Laterality.PATIENT])
def test_mask_lies_exactly_in_the_zones_of_the_statement(size, laterality):
    config = PhantomConfig(size=size, laterality=laterality, p_absent=0.1, difficulty=0.6)
    for seed in SEEDS:
        film = make_phantom(config, seed)
        assert film.image.shape == film.mask.shape == size
        assert film.image.dtype == film.mask.dtype == np.uint8
        assert set(np.unique(film.mask)) <= {0, 1}
        assert zones_with_pixels(film.mask, laterality) == (film.statement.zones, 0)
        assert film.statement.laterality is laterality
        assert film.statement.absent == (not film.mask.any())


@pytest.mark.parametrize("size", [(224, 224), (64, 64)])
def test_count_is_the_number_of_lesions_and_of_components(size):
    counts = []
    for seed in SEEDS:
        film = make_phantom(PhantomConfig(size=size, p_absent=0.1), seed)
        components = cv2.connectedComponents(film.mask, connectivity=8)[0] - 1
        assert film.statement.count == len(film.lesions) == components
        sides = {lesion.zone[0] for lesion in film.lesions}
        assert film.statement.lateral == {0: None, 1: "unilateral", 2: "bilateral"}[len(sides)]
        counts.append(components)
    assert min(counts) == 0
    assert 4 <= max(counts) <= 9


@pytest.mark.parametrize("style", ["qata", "qata_original", "mosmed", "report"])
@pytest.mark.parametrize("laterality", [Laterality.IMAGE, Laterality.PATIENT])
def test_the_prompt_says_the_statement(style, laterality):
    config = PhantomConfig(size=(32, 32), styles=(style,), p_absent=0.15, laterality=laterality)
    absent = 0
    for seed in range(80):
        film = make_phantom(config, seed)
        grammar = "mosmed" if style == "mosmed" else "auto"
        said = parse(film.text, grammar, laterality)
        assert said.zones == film.statement.zones, film.text
        assert said.absent == film.statement.absent, film.text
        assert not said.warnings, film.text
        if style != "report":  # which says no number
            assert said.count == film.statement.count, film.text
        absent += said.absent
    assert 3 <= absent <= 30


def test_distractors_look_alike_but_are_neither_masked_nor_named():
    on_other_side = 0
    for seed in SEEDS:
        film = make_phantom(PhantomConfig(distractor_share=1.0), seed)
        named = {lesion.zone for lesion in film.lesions}
        others = {lesion.zone for lesion in film.distractors}
        assert not named & others
        assert others or named == set(LUNG_ZONES)
        on_other_side += {side for side, _ in named} != {side for side, _ in named | others}
    assert on_other_side >= 15  # both "left lung" and "right lung" can be asked of such a film


def test_opacities_are_brighter_than_the_same_film_without_them():
    brighter = []
    for seed in SEEDS:
        film = make_phantom(PhantomConfig(difficulty=0.5, distractor_share=1.0), seed)
        zones = [lesion.zone for lesion in film.lesions]
        for lesions, store in ((film.lesions, "lesion"), (film.distractors, "distractor")):
            for lesion in lesions:
                core = np.zeros(film.mask.shape, np.uint8)
                cv2.fillPoly(core, [np.rint(lesion.outline_px).astype(np.int32)], 1)
                around = cv2.dilate(core, np.ones((25, 25), np.uint8)) & ~core & 1
                brighter.append(
                    (store, film.image[core == 1].mean() - film.image[around == 1].mean())
                )
        assert zones
    by_kind = {
        kind: np.mean([v for k, v in brighter if k == kind]) for kind in ("lesion", "distractor")
    }
    assert min(by_kind.values()) > 15
    assert abs(by_kind["lesion"] - by_kind["distractor"]) < 8


def test_difficulty_adds_noise_and_distractors_and_takes_contrast():
    easy, hard = PhantomConfig(difficulty=0), PhantomConfig(difficulty=1)
    assert easy.contrast > 2 * hard.contrast > 0
    assert hard.noise > 3 * easy.noise
    share = {
        d: np.mean(
            [
                bool(make_phantom(PhantomConfig((32, 32), d), seed).distractors)
                for seed in range(100)
            ]
        )
        for d in (0.0, 0.5, 1.0)
    }
    assert share[0.0] < 0.35 < share[0.5] < 0.8 < share[1.0]


def test_sides_levels_and_numbers_all_occur():
    zones, sides = defaultdict(int), defaultdict(int)
    for seed in range(300):
        statement = make_phantom(PhantomConfig((32, 32)), seed).statement
        sides[len(statement.sides)] += 1
        for zone in statement.zones:
            zones[zone] += 1
    assert set(zones) == set(LUNG_ZONES)
    assert max(zones.values()) < 2 * min(zones.values())
    assert sides[1] > 120
    assert sides[2] > 80


def test_same_seed_same_film():
    a, b, c = (make_phantom(PhantomConfig((64, 64)), seed) for seed in (3, 3, 4))
    assert (a.image == b.image).all()
    assert (a.mask == b.mask).all()
    assert (a.text, a.statement, a.lesions, a.distractors) == (
        b.text,
        b.statement,
        b.lesions,
        b.distractors,
    )
    assert (a.image != c.image).any()


def test_films_of_one_patient_share_their_anatomy():
    config = PhantomConfig((112, 112), difficulty=0, distractor_share=0, p_absent=1.0)
    first, second = (make_phantom(config, seed, patient=5).image.astype(float) for seed in (1, 2))
    other = make_phantom(config, 2, patient=6).image.astype(float)

    def distance(a, b):  # after taking out the exposure, which differs between films
        return np.abs((a - a.mean()) / a.std() - (b - b.mean()) / b.std()).mean()

    assert distance(first, second) < 0.5 * distance(first, other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": (16, 224)}, "16"),
        ({"difficulty": 1.2}, "difficulty 1.2"),
        ({"p_absent": -0.1}, "p_absent -0.1"),
        ({"distractor_share": float("nan")}, "distractor_share nan"),
        ({"styles": ()}, "style"),
        ({"laterality": Laterality.UNKNOWN}, "laterality"),
    ],
)
def test_impossible_settings_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        PhantomConfig(**wrong)


def test_unknown_style_is_named():
    with pytest.raises(ConfigError, match="nosuchstyle"):
        make_phantom(PhantomConfig((32, 32), styles=("nosuchstyle",)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    return write_phantoms(
        root, {"train": 60, "valid": 20, "test": 20}, PhantomConfig((64, 64)), seed=3
    )


def test_written_set_reads_back(written):
    manifest = read_manifest(written)
    assert manifest.splits == {"train": 60, "valid": 20, "test": 20}
    assert manifest.laterality is Laterality.IMAGE
    for row in manifest.rows:
        assert row.labelled
        image, mask = read_image(manifest.image_path(row)), read_mask(manifest.mask_path(row))
        assert image.shape[:2] == mask.shape == (64, 64)
        assert zones_with_pixels(mask) == (parse(row.text).zones, 0)


def test_patients_have_several_films_and_one_split(written):
    groups = defaultdict(list)
    for row in read_manifest(written).rows:
        groups[row.group].append(row.split)
    assert all(len(set(splits)) == 1 for splits in groups.values())
    assert {len(splits) for splits in groups.values()} == {1, 2, 3}


def test_written_set_is_reproducible_and_splits_are_independent(written, tmp_path):
    smaller = write_phantoms(tmp_path, {"test": 10}, PhantomConfig((64, 64)), seed=3)
    reference = {row.image: row for row in read_manifest(written).rows_of("test")}
    for row in read_manifest(smaller).rows:
        assert row == reference[row.image]
        for folder in (row.image, row.mask):
            assert (tmp_path / folder).read_bytes() == (written.parent / folder).read_bytes()
    other = write_phantoms(tmp_path / "other", {"test": 10}, PhantomConfig((64, 64)), seed=4)
    assert [row.text for row in read_manifest(other).rows] != [
        row.text for row in read_manifest(smaller).rows
    ]


def test_no_two_films_are_equal(written):
    manifest = read_manifest(written)
    assert len({manifest.image_path(row).read_bytes() for row in manifest.rows}) == len(manifest)


@pytest.mark.parametrize(
    "n", [{}, {"train": 0}, {"train": -1, "test": 5}, {"../train": 4}, {"validation": 4}]
)
def test_impossible_numbers_are_refused_before_anything_is_written(n, tmp_path):
    with pytest.raises(ConfigError, match="write_phantoms"):
        write_phantoms(tmp_path / "new", n)
    assert not (tmp_path / "new").exists()


def test_negative_seed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="seed -1"):
        write_phantoms(tmp_path / "new", {"train": 1}, seed=-1)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file"):
        write_phantoms(tmp_path / "file", {"train": 1})
