"""Which train rows are labelled: published counts, nested fractions, lists of names."""

import itertools

import pytest

from textmask.errors import ConfigError, DataError
from textmask.training.labels import indices_from_list, labelled_indices


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (5716, {0.01: 57, 0.05: 286, 0.10: 572, 0.25: 1429}),
        (2183, {0.01: 22, 0.05: 109, 0.10: 218, 0.25: 546}),
    ],
)
def test_label_fractions_have_the_published_counts_and_are_nested(n, counts):
    keys = [f"images/{i:05d}.png" for i in range(n)]
    sets = [set(labelled_indices(keys, fraction, seed=3).tolist()) for fraction in counts]
    assert [len(s) for s in sets] == list(counts.values())
    assert all(small < large for small, large in itertools.pairwise(sets))
    assert len(labelled_indices(keys, 1.0, seed=3)) == n


def test_label_fractions_depend_on_the_seed_and_not_on_the_row_order():
    keys = [f"{i}.png" for i in range(200)]
    chosen = {keys[i] for i in labelled_indices(keys, 0.1, 0)}
    assert {keys[::-1][i] for i in labelled_indices(keys[::-1], 0.1, 0)} == chosen
    assert {keys[i] for i in labelled_indices(keys, 0.1, 1)} != chosen
    with pytest.raises(ConfigError, match="labelled_fraction"):
        labelled_indices(keys, 0.0, 0)


def test_a_published_list_is_matched_whatever_its_spelling(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("mask_Sub-S1.png\nIMAGES/c2.PNG\n")
    assert indices_from_list(path, ["images/sub-s1.jpg", "x/b.png", "x/C2.jpg"]).tolist() == [0, 2]
    path.write_text("nobody.png\n")
    with pytest.raises(DataError, match=r"1 of 1 names match no training row.*nobody"):
        indices_from_list(path, ["a.png"])


def test_a_listed_name_that_means_two_rows_is_an_error_unless_its_path_tells_them_apart(tmp_path):
    keys = ["a/film.png", "b/film.png", "b/Other.png"]
    path = tmp_path / "list.txt"
    path.write_text("film.png\n")
    with pytest.raises(DataError, match=r"film\.png.*2 training rows.*a/film\.png, b/film\.png"):
        indices_from_list(path, keys)
    path.write_text("b/film.png\nother\nOTHER.png\n")
    assert indices_from_list(path, keys).tolist() == [1, 2]


@pytest.mark.data
def test_the_published_57_names_are_found(data_root):
    from textmask.layouts.read import read_layout

    rows = read_layout(data_root / "qata-cov19-v2").rows_of("train")
    path = data_root / "qata-cov19-v2" / "semimedref_labeled_0.01.txt"
    assert len(indices_from_list(path, [row.image for row in rows])) == 57


def test_all_rows_of_an_image_are_labelled_or_none(tmp_path):
    keys = [f"images/c{i}.png#{n}" for i in range(10) for n in (1, 2, 3)]
    chosen = labelled_indices(keys, 0.3, seed=0)
    assert len(chosen) == 9
    assert all(
        len({keys[i] for i in chosen if keys[i].startswith(f"images/c{j}.")}) in (0, 3)
        for j in range(10)
    )

    # a list may name an image, its stem or one of its rows
    path = tmp_path / "list.txt"
    path.write_text("images/c1.png\nc2\nimages/c3.png#2\n")
    assert indices_from_list(path, keys).tolist() == [3, 4, 5, 6, 7, 8, 10]
