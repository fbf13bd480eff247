"""The vocabulary of structures: what it knows, and which files it refuses."""

import pytest

from textmask.errors import ConfigError
from textmask.text.structures import Named, read_structures, structure_list

# the values of the label maps of the public sets
LABELS = """right lung,left lung,heart,right clavicle,left clavicle,right ventricle,myocardium,left ventricle
vocal folds,other tissue,glottal space,pathology,surgical tool,intubation,L1 vertebra,L5 vertebra,nucleus,cytoplasm
artery,vein,crossing or uncertain,pancreas,right kidney,liver,left kidney,large bowel,small bowel,stomach"""


def test_every_name_of_the_public_label_maps_is_known() -> None:
    known = structure_list()
    for label in LABELS.replace("\n", ",").split(","):
        named = known.find(label)
        assert named is not None
        assert named.label == label
        assert label in known.labels(named.structure)


def test_names_are_found_by_synonym_abbreviation_plural_and_side() -> None:
    known = structure_list()
    assert known.find("RV") == Named("right ventricle")
    assert known.find("Left collarbone").label == "left clavicle"
    assert known.find("Kidneys") == Named("kidney")
    assert known.labels("kidney") == ("right kidney", "left kidney")
    assert known.labels("vertebra") == tuple(f"L{i} vertebra" for i in range(1, 6))
    assert known.find("optic disc") is None
    assert known.find("left heart") is None  # it has no pair


def test_regions_list_what_occurs_together() -> None:
    assert structure_list().regions["abdomen"] == (
        "pancreas", "liver", "right kidney", "left kidney",
    )  # fmt: skip


def test_the_nearest_names_look_alike() -> None:
    assert structure_list().nearest(("kidny", "stone"))[0] == "kidney"
    assert len(structure_list().nearest(())) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "has no structures"),
        ("[structure]\n", "has no structures"),
        ("[structure.liver", "is not a TOML file"),
        ('[structure.liver]\nmodality = "CT"\n', "'liver': has no regions"),
        ('[structure.liver]\nregions = "a"\ncolour = "red"\n', "unknown field colour"),
        ('[structure.liver]\nregions = "a"\npaired = "yes"\n', "paired is 'yes'; expected a bool"),
        ('[structure.liver]\nregions = "a"\nstart = "upwards"\n', "expected top, bottom, left, right"),
        ('[structure.liver]\nregions = "a"\ninside = "belly"\n', "inside names 'belly', which"),
        (
            '[structure.a]\nregions = "x"\ninside = "b"\n[structure.b]\nregions = "x"\ninside = "c"\n'
            '[structure.c]\nregions = "x"\ninside = "a"\n',
            "inside goes in a circle: a -> b -> c -> a",
        ),
        (
            '[structure.a]\nregions = "x"\nmembers = "b"\n[structure.b]\nregions = "x"\nmembers = "a"\n',
            "members goes in a circle",
        ),
        (
            '[structure.liver]\nregions = "a"\nlay = "Big  gland"\n'
            '[structure.pancreas]\nregions = "a"\nlay = "big gland"\n',
            "the phrase 'big gland' belongs to 'liver' and to 'pancreas'",
        ),
        (
            '[foreign]\nnames = "liver"\n[structure.liver]\nregions = "a"\n',
            "foreign names 'liver', which is a phrase of 'liver'",
        ),
    ],
)  # fmt: skip
def test_bad_files_of_structures(tmp_path, content: str, why: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why):
        read_structures(path)


def test_a_file_of_ones_own(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[structure.adrenal]\nregions = "belly"\npaired = true\nlay = "cap gland"\n')
    own = read_structures(path)
    assert own.find("right cap glands") == Named("adrenal", own.find("right adrenal").side)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_structures(tmp_path / "gone.toml")
