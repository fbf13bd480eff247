"""Generated prompts as rows: each row's mask, read from its values alone, is what its prompt asks for."""

from pathlib import Path

import numpy as np
import pytest
from test_referring_data import NAMES, PATIENT, body, write

from textmask.data.cache import open_split
from textmask.data.label_maps import ClassNames
from textmask.data.referring import open_referring
from textmask.data.referring_rows import referring_rows
from textmask.errors import DataError
from textmask.text.program_grammar import parse_program

SIZE = (32, 32)


def test_the_mask_of_a_row_is_the_one_of_its_prompt(tmp_path: Path) -> None:
    manifest = write(tmp_path, PATIENT, body(), np.where(body() == 3, 0, body()))
    cache = tmp_path / "c"
    made = referring_rows(manifest, NAMES, "train", 12, size=SIZE, cache_dir=cache)
    assert len(made) > 12
    truth = open_referring(manifest, NAMES, "train", SIZE, cache_dir=cache)
    data = open_split(made, "train", SIZE, cache)
    number = {row.image: i for i, row in enumerate(truth.data.rows)}
    empty = 0
    for row, mask in zip(data.rows, data.masks, strict=True):
        program = parse_program(row.text, row.laterality)
        expected = truth.mask(number[row.image], program)
        np.testing.assert_array_equal(mask, expected, err_msg=row.text)
        empty += not mask.any()
    assert 0 < empty < len(data)


def test_prompts_repeat_with_the_seed_and_change_with_it(tmp_path: Path) -> None:
    manifest, cache = write(tmp_path, PATIENT, body()), tmp_path / "c"
    texts = []
    for seed in (0, 0, 1):
        made = referring_rows(manifest, NAMES, "train", 6, size=SIZE, seed=seed, cache_dir=cache)
        texts.append([row.text for row in made.rows])
        assert len(set(texts[-1])) == len(texts[-1]) <= 6
    assert texts[0] == texts[1] != texts[2]


def test_a_structure_with_the_value_of_empty_masks_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, PATIENT, np.where(body() == 1, 255, body()).astype(np.uint8))
    classes = ClassNames({255: "liver", 2: "left kidney", 3: "right kidney", 4: "pancreas"})
    with pytest.raises(DataError, match="names the value 255"):
        referring_rows(manifest, classes, "train", 4, size=SIZE, cache_dir=tmp_path / "c")
