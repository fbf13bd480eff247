import json
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from textmask.data.manifest import Manifest, Row, read_manifest, write_manifest
from textmask.data.published import compare_counts
from textmask.data.splits import hold_out, merge_split
from textmask.errors import ConfigError, DataError, DataWarning
from textmask.layouts.read import LAYOUTS, detect, read_layout
from textmask.statement import Laterality

LEFT = "Unilateral pulmonary infection, one infected area, upper left lung."
RIGHT = "Unilateral pulmonary infection, one infected area, lower right lung."
BOM = "\ufeff"


def pictures(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def workbook(
    path: Path, *rows: tuple[str, str], header: tuple[str, str] = ("Image", "Description")
) -> None:
    book = openpyxl.Workbook()
    for cells in (header, *rows):
        book.active.append(cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def brief(manifest: Manifest) -> list[tuple[str, str | None, str, str]]:
    return [(row.image, row.mask, row.text, row.split) for row in manifest.rows]


# --- A: LViT ----------------------------------------------------------------------------------------------------------


def lvit_qata(root: Path) -> Path:
    """QaTa as LViT ships it: the table names masks, one workbook serves train and val."""
    pictures(root, "Train_Folder/img/covid_1.png", "Train_Folder/labelcol/mask_covid_1.png")
    val = "sub-S08047_ses-E1_run-1_bp-chest_vp-ap_cr"
    pictures(root, f"Val_Folder/img/{val}.png", f"Val_Folder/labelcol/mask_{val}.png")
    pictures(
        root,
        "Test_Folder/img/sub-S2_ses-E2_cr.png",
        "Test_Folder/labelcol/mask_sub-S2_ses-E2_cr.png",
    )
    both = (("mask_covid_1.png", LEFT), (f"mask_{val}.png", RIGHT))
    workbook(root / "Train_Folder/Train_Val_text.xlsx", *both)
    workbook(root / "Val_Folder/Train_Val_text.xlsx", *both)  # some copies carry the workbook twice
    workbook(root / "Test_Folder/Test_text.xlsx", ("mask_sub-S2_ses-E2_cr.png", LEFT))
    return root


def test_lvit_qata(tmp_path: Path) -> None:
    root = lvit_qata(tmp_path / "QaTa-Covid19")
    assert detect(root) == "lvit"
    manifest = read_layout(root)
    val = "sub-S08047_ses-E1_run-1_bp-chest_vp-ap_cr"
    assert sorted(brief(manifest)) == sorted(
        [
            (
                "Train_Folder/img/covid_1.png",
                "Train_Folder/labelcol/mask_covid_1.png",
                LEFT,
                "train",
            ),
            (f"Val_Folder/img/{val}.png", f"Val_Folder/labelcol/mask_{val}.png", RIGHT, "valid"),
            (
                "Test_Folder/img/sub-S2_ses-E2_cr.png",
                "Test_Folder/labelcol/mask_sub-S2_ses-E2_cr.png",
                LEFT,
                "test",
            ),
        ]
    )
    assert {row.group for row in manifest.rows} == {"covid_1", "sub-s08047", "sub-s2"}
    assert manifest.laterality is Laterality.IMAGE
    assert manifest.name == "qata-cov19-v2 (lvit)"


def test_lvit_monuseg_with_tif_beside_png(tmp_path: Path) -> None:
    name = "TCGA-2Z-A9J9-01A-01-TS1"
    pictures(tmp_path, f"Test_Folder/img/{name}.tif", f"Test_Folder/labelcol/{name}.png")
    other = "TCGA-21-5784-01Z-00-DX1"
    pictures(
        tmp_path,
        *(f"Train_Folder/img/{other}{s}" for s in (".tif", ".png")),
        f"Train_Folder/labelcol/{other}.png",
    )
    workbook(
        tmp_path / "Test_Folder/Test_text.xlsx",
        (f"{name}.png", "The nuclei are evenly distributed."),
    )
    workbook(
        tmp_path / "Train_Folder/Train_text.xlsx",
        (f"{other}.png", "The nuclei are sparsely distributed."),
    )
    manifest = read_layout(tmp_path)
    rows = {row.split: row for row in manifest.rows}
    assert rows["test"].image == f"Test_Folder/img/{name}.tif"
    assert rows["test"].mask == f"Test_Folder/labelcol/{name}.png"
    assert rows["train"].image == f"Train_Folder/img/{other}.png"
    assert rows["train"].group == "tcga-21-5784"
    assert manifest.laterality is Laterality.IMAGE


def test_lvit_kvasir_clinic_of_reclmis(tmp_path: Path) -> None:
    pictures(tmp_path, "Train/images/a.jpg", "Train/bin_masks/a.png")
    workbook(tmp_path / "Train/text_alpha.xlsx", ("a.jpg", "one polyp"))
    assert brief(read_layout(tmp_path)) == [
        ("Train/images/a.jpg", "Train/bin_masks/a.png", "one polyp", "train")
    ]


def test_two_prompts_for_one_image(tmp_path: Path) -> None:
    root = lvit_qata(tmp_path)
    workbook(root / "Val_Folder/Train_Val_text.xlsx", ("mask_covid_1.png", RIGHT))
    with pytest.raises(DataError, match=r"covid_1\.png has another prompt already"):
        read_layout(root)


def test_a_workbook_that_is_a_bomb_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "Train_Folder/img/a.png", "Train_Folder/labelcol/a.png")
    path = tmp_path / "Train_Folder/Train_text.xlsx"
    workbook(path, *((f"{i}.png", LEFT) for i in range(500)))
    monkeypatch.setattr(
        "textmask.io.spreadsheets.MAX_TABLE_BYTES", path.stat().st_size
    )  # it unpacks to more
    with pytest.raises(
        DataError, match=r"Train_text\.xlsx: unpacks to [0-9,]+ bytes, the limit is"
    ):
        read_layout(path)
    path.write_bytes(b"not a workbook")
    with pytest.raises(DataError, match=r"Train_text\.xlsx: cannot be read as an Excel workbook"):
        read_layout(path)


# --- B: LanGuideMedSeg ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("Images", "GTs"), ("Images", "Ground-truths")])
def test_languidemedseg(tmp_path: Path, folders: tuple[str, str]) -> None:
    images, masks = folders
    names = [f"mask_covid_{i}.png" for i in range(10)]
    pictures(
        tmp_path,
        *(f"Train/{images}/{n[5:]}" for n in names),
        *(f"Train/{masks}/{n}" for n in names),
    )
    pictures(tmp_path, f"Test/{images}/covid_1.png", f"Test/{masks}/mask_covid_1.png")
    shuffled = names[::-1]
    write(
        tmp_path / "prompt/train.csv",
        "Image,Description\n" + "".join(f'{n},"{LEFT}"\n' for n in shuffled),
    )
    write(tmp_path / "prompt/test.csv", f'Image,Description\nmask_covid_1.png,"{RIGHT}"\n')
    assert detect(tmp_path) == "languidemedseg"
    manifest = read_layout(tmp_path)
    assert manifest.splits == {"train": 8, "valid": 2, "test": 1}
    assert [row.image for row in manifest.rows_of("valid")] == [
        f"Train/{images}/covid_{i}.png" for i in (9, 8)
    ]
    assert (
        manifest.rows_of("test")[0].image == f"Test/{images}/covid_1.png"
    )  # not train's covid_1.png
    assert "last fifth" in manifest.name


def test_languidemedseg_with_a_valid_table(tmp_path: Path) -> None:
    for split in ("Train", "Val", "Test"):
        names = [f"Jun_coronacases_case{len(split)}_{i}" for i in range(6)]
        pictures(
            tmp_path,
            *(f"{split}/{folder}/{n}.png" for n in names for folder in ("frames", "masks")),
        )
        rows = "".join(f"{n}.png,No pulmonary infection; zero infected areas.\n" for n in names)
        write(tmp_path / f"prompt/{split.lower()}.csv", "Image,Description\n" + rows)
    manifest = read_layout(tmp_path)
    assert manifest.splits == {"train": 6, "valid": 6, "test": 6}
    assert {row.group for row in manifest.rows} == {
        "jun_coronacases_case5",
        "jun_coronacases_case3",
        "jun_coronacases_case4",
    }
    assert manifest.laterality is Laterality.UNKNOWN  # nobody measured MosMedData+
    assert manifest.name == "mosmeddata+ (languidemedseg)"


# --- C: SGSeg, D: Semi-MedRef -----------------------------------------------------------------------------------------


def sgseg(root: Path, on_disk: str = "sub-S08047_ses-E1_cr") -> Path:
    pictures(root, f"train/images/{on_disk}.png", f"train/masks/mask_{on_disk}.png")
    pictures(root, "valid/images/sub-s2_ses-e2_cr.png", "valid/masks/mask_sub-s2_ses-e2_cr.png")
    entry = {"pulmonary_infection": 1, "infected_area": 1, "pseudo_label": [1, 0, 0, 0, 0, 0]}
    content = {
        "train": [
            {"image_path": "mask_sub-s08047_ses-e1_cr.png", "caption": LEFT.lower(), **entry}
        ],
        "valid": [{"image_path": "mask_sub-s2_ses-e2_cr.png", "caption": RIGHT.lower(), **entry}],
        "test": [],
    }
    write(root / "prompts/annotation.json", json.dumps(content))
    return root


def test_sgseg_finds_upper_case_files_of_lower_case_names(tmp_path: Path) -> None:
    root = sgseg(tmp_path)
    assert detect(root) == "sgseg"
    manifest = read_layout(root)
    disk = "sub-S08047_ses-E1_cr.png"
    assert brief(manifest)[0] == (
        f"train/images/{disk}",
        f"train/masks/mask_{disk}",
        LEFT.lower(),
        "train",
    )
    assert manifest.splits == {"train": 1, "valid": 1}
    assert [row.group for row in manifest.rows] == ["sub-s08047", "sub-s2"]
    assert manifest.laterality is Laterality.IMAGE


def test_sgseg_stray_copies_in_other_letter_case(tmp_path: Path) -> None:
    root = sgseg(tmp_path)
    pictures(
        root, "train/images/sub-s08047_ses-e1_cr.png", "train/masks/mask_sub-s08047_ses-e1_cr.png"
    )
    manifest = read_layout(root)  # no warning of unused images either
    assert manifest.rows[0].image == "train/images/sub-s08047_ses-e1_cr.png"
    assert manifest.rows[0].mask == "train/masks/mask_sub-s08047_ses-e1_cr.png"


def test_semi_medref_csv(tmp_path: Path) -> None:
    tables = {
        "train": "Train_text_MosMedData+ 1(in).plabel.csv",
        "valid": "Val_text_MosMedData+ 1(in).csv",
        "test": "Test_text_MosMedData+(in).csv",
    }
    for split, table in tables.items():
        name = f"Morozov_study_0295_{len(split)}.png"
        pictures(tmp_path, f"{split}/images/{name}", f"{split}/masks/{name}")
        label = ',"[0, 1, 0, 0, 0, 0]"' if split == "train" else ""
        header = "Image,text" + (",pseudo_label" if split == "train" else "")
        write(tmp_path / table, f'{BOM}{header}\n{name},"{LEFT}"{label}\n')
    pictures(tmp_path, "train/images/bjorke_7.png")
    with pytest.warns(DataWarning, match=r"1 images have no prompt .*bjorke_7\.png"):
        manifest = read_layout(tmp_path)
    assert detect(tmp_path) == "semi_medref_csv"
    assert manifest.splits == {"train": 1, "valid": 1, "test": 1}
    assert {row.group for row in manifest.rows} == {"morozov_study_0295"}
    assert manifest.rows_of("train")[0].text == LEFT


# --- E: MedVLSM, F: MAdapter ------------------------------------------------------------------------------------------


def test_medvlsm(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        pictures(tmp_path, f"images/{split}_1.jpg", f"masks/{split}_1.png")
        prompts = {
            "p0": "",
            "p6": f"one polyp, located in {split}",
            "p9": [f"first {split}", f"second {split}"],
        }
        entry = {"img_name": f"{split}_1.jpg", "mask_name": f"{split}_1.jpg", "prompts": prompts}
        write(tmp_path / f"anns/{split}.json", json.dumps([entry]))
    assert detect(tmp_path) == "medvlsm"
    manifest = read_layout(tmp_path)
    assert manifest.splits == {"train": 1, "valid": 1, "test": 1}
    assert brief(manifest)[0] == (
        "images/test_1.jpg",
        "masks/test_1.png",
        "one polyp, located in test",
        "test",
    )
    assert [row.text for row in read_layout(tmp_path, text_column="p9").rows_of("train")] == [
        "first train"
    ]
    assert [
        row.text for row in read_layout(tmp_path, text_column="prompts.p9").rows_of("valid")
    ] == ["first val"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert read_layout(tmp_path, text_column="p0").rows[0].text == ""
    with pytest.raises(ConfigError, match=r"unknown prompt .* 'p5'.*Valid: p0, p6, p9"):
        read_layout(tmp_path, text_column="p5")


def test_madapter(tmp_path: Path) -> None:
    pictures(tmp_path, "images/001.jpg", "images/002.jpg", "masks/001.png", "masks/002.png")
    text = "One colonic polyp.One medium,irregular,smooth colonic polyp on the bottom left."
    write(tmp_path / "Clinic_DB_train.csv", f'{BOM}Image,Description\n001.png,"{text}"\n')
    write(tmp_path / "Clinic_DB_test.csv", f"{BOM}Image,Description\n002.png,Polyp middle left.\n")
    assert detect(tmp_path) == "madapter"
    manifest = read_layout(tmp_path)
    assert sorted(brief(manifest)) == [
        ("images/001.jpg", "masks/001.png", text, "train"),
        ("images/002.jpg", "masks/002.png", "Polyp middle left.", "test"),
    ]
    write(tmp_path / "Kvasir_train.csv", "Image,Description\n001.png,One polyp.\n")
    with pytest.raises(DataError, match=r"several data sets \(Clinic_DB, Kvasir\)"):
        read_layout(tmp_path)


# --- plain CSV and native table ---------------------------------------------------------------------------------------


def plain(root: Path, header: str, row: str, name: str = "texts.csv") -> Path:
    pictures(root, "films/a.png", "targets/a_seg.png")
    write(root / name, f"{header}\n{row}\n")
    return root


def test_plain_csv_with_aliases(tmp_path: Path) -> None:
    header = "id,IMG_NAME,mask_path,Caption,subset,patient_id,laterality,labelled"
    root = plain(
        tmp_path,
        header,
        'x,films/a.png,targets/a_seg.png,"left, upper",Validation,p7,patient,false',
    )
    assert detect(root) == "csv"
    manifest = read_layout(root)
    want = Row(
        "films/a.png", "targets/a_seg.png", "left, upper", "valid", "p7", Laterality.PATIENT, False
    )
    assert manifest.rows == (want,)
    assert read_layout(root / "texts.csv").rows == (want,)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_plain_csv_with_other_separators(tmp_path: Path, mark: str) -> None:
    header = mark.join(("image", "mask", "text", "split", "extra"))
    root = plain(
        tmp_path,
        header,
        mark.join(("films/a.png", "targets/a_seg.png", "left, upper", "train", "")),
    )
    assert brief(read_layout(root)) == [
        ("films/a.png", "targets/a_seg.png", "left, upper", "train")
    ]


def test_plain_csv_with_several_texts_and_splits(tmp_path: Path) -> None:
    header = "image,mask,split_madapter,text_madapter,split_medvlsm,medvlsm_p6,medvlsm_p9"
    root = plain(tmp_path, header, "films/a.png,targets/a_seg.png,train,A,val,B,C | D")
    first = read_layout(root)
    assert (first.rows[0].text, first.rows[0].split) == ("A", "train")
    assert first.name.endswith("(csv: split_madapter, text_madapter)")
    by_text = read_layout(root, text_column="medvlsm_p9")
    assert (by_text.rows[0].text, by_text.rows[0].split) == ("C", "valid")
    by_split = read_layout(root, split_column="split_medvlsm")
    assert (by_split.rows[0].text, by_split.rows[0].split) == ("B", "valid")
    mixed = read_layout(root, text_column="text_madapter", split_column="split_medvlsm")
    assert (mixed.rows[0].text, mixed.rows[0].split) == ("A", "valid")
    with pytest.raises(
        ConfigError, match=r"unknown column of texts.csv 'medvlsm_p7'.*Valid: image, mask"
    ):
        read_layout(root, text_column="medvlsm_p7")


def test_plain_csv_without_text_and_split_warns(tmp_path: Path) -> None:
    root = plain(
        tmp_path, "id,image,mask,orig_name", "1,films/a.png,targets/a_seg.png,x", "index.csv"
    )
    with pytest.warns(DataWarning) as caught:
        manifest = read_layout(root)
    assert brief(manifest) == [("films/a.png", "targets/a_seg.png", "", "train")]
    assert sorted(str(w.message).split(": ")[1][:20] for w in caught) == [
        "1 of 1 rows have no ",
        "has no split column;",
    ]


def test_plain_csv_row_without_mask_is_unlabelled(tmp_path: Path) -> None:
    root = plain(tmp_path, "image,mask,text,split,x", "films/a.png,,left,train,")
    row = read_layout(root).rows[0]
    assert row.mask is None
    assert not row.labelled


def test_plain_csvs_named_after_splits(tmp_path: Path) -> None:
    root = plain(tmp_path, "image,mask,text", "films/a.png,targets/a_seg.png,left", "train.csv")
    assert brief(read_layout(root)) == [
        ("films/a.png", "targets/a_seg.png", "left", "train")
    ]  # without a warning
    pictures(root, "films/b.png", "targets/b_seg.png")
    write(root / "val.csv", "image,mask,text\nfilms/b.png,targets/b_seg.png,right\n")
    assert read_layout(root).splits == {"train": 1, "valid": 1}
    write(root / "more.csv", "image,mask,text\nfilms/b.png,targets/b_seg.png,right\n")
    with pytest.raises(DataError, match=r"several tables \(more\.csv, train\.csv, val\.csv\)"):
        read_layout(root)


def test_an_unquoted_comma_is_an_error_not_a_shift(tmp_path: Path) -> None:
    root = plain(
        tmp_path, "image,mask,text,split,x", "films/a.png,targets/a_seg.png,left, upper,train,"
    )
    with pytest.raises(
        DataError, match=r"texts\.csv row 2: 6 cells, the header has 5; quote texts"
    ):
        read_layout(root)


def test_damaged_json_entries(tmp_path: Path) -> None:
    good = {"img_name": "a.png", "prompts": {"p6": "x"}}
    for bad, why in (
        (3, "expected a list of objects"),
        ({"prompts": {"p6": "x"}}, r"\[1\]: has no text 'img_name'"),
        ({"img_name": "a.png", "prompts": ["x"]}, r"\[1\]: has no object 'prompts'"),
    ):
        write(tmp_path / "train.json", json.dumps([good, bad]))
        with pytest.raises(DataError, match=why):
            read_layout(tmp_path)


@pytest.mark.parametrize("cell", ["../a.png", "/etc/a.png", "C:\\a.png", "..\\a.png"])
def test_plain_csv_cannot_leave_its_folder(tmp_path: Path, cell: str) -> None:
    pictures(tmp_path, "a.png")
    root = plain(
        tmp_path / "set", "image,mask,text,split,x", f"{cell},targets/a_seg.png,left,train,"
    )
    with pytest.raises(DataError, match=r"texts\.csv row 2: .*(climbs|absolute|drive)"):
        read_layout(root)


def test_plain_csv_reports_bad_cells(tmp_path: Path) -> None:
    header = "image,mask,text,split,laterality,labelled,x"
    root = plain(tmp_path, header, "films/a.png,targets/a_seg.png,left,a/b,viewer,perhaps,")
    with pytest.raises(DataError) as error:
        read_layout(root)
    for what in ("split 'a/b'", "laterality 'viewer'", "labelled 'perhaps'"):
        assert f"texts.csv row 2: {what}" in str(error.value)


def test_native_table_is_found_and_wins(tmp_path: Path) -> None:
    root = lvit_qata(tmp_path)
    manifest = read_layout(root)
    write_manifest(manifest, root / "manifest.csv")
    assert detect(root) == "manifest"
    again = read_layout(root)
    assert again.rows == manifest.rows == read_manifest(root / "manifest.csv").rows
    assert again.hash() == manifest.hash()
    assert read_layout(root, "lvit").hash() == manifest.hash()
    with pytest.raises(ConfigError, match="do not apply to a manifest"):
        read_layout(root, text_column="text")


def test_a_native_table_with_a_typo_in_a_column_is_told(tmp_path: Path) -> None:
    write(tmp_path / "manifest.csv", "image,mask,text,spilt\na.png,b.png,left,train\n")
    with pytest.raises(DataError, match="unknown column 'spilt'"):
        read_layout(tmp_path)


# --- for all ----------------------------------------------------------------------------------------------------------


def test_names_without_files_are_listed(tmp_path: Path) -> None:
    root = lvit_qata(tmp_path)
    workbook(
        root / "Test_Folder/Test_text.xlsx",
        *((f"mask_covid_{i}.png", LEFT) for i in range(90, 105)),
    )
    with pytest.raises(DataError) as error:
        read_layout(root)
    message = str(error.value)
    assert (
        "15 of 19 names have no image: 'mask_covid_90.png' (Test_Folder/Test_text.xlsx row 2)"
        in message
    )
    assert "and 5 more; looked in Test_Folder/img, Train_Folder/img, Val_Folder/img" in message
    (root / "Train_Folder/labelcol/mask_covid_1.png").unlink()
    workbook(root / "Test_Folder/Test_text.xlsx", ("mask_sub-S2_ses-E2_cr.png", LEFT))
    with pytest.raises(DataError, match=r"names have no mask: 'mask_covid_1\.png'"):
        read_layout(root)


def test_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    write(tmp_path / "task/notes.csv", "a,b\n1,2\n")
    with pytest.raises(DataError) as error:
        detect(tmp_path)
    for layout in LAYOUTS:
        assert f"\n  {layout} " in str(error.value)
    assert "tables below task" in str(error.value)
    with pytest.raises(DataError, match="no such file or folder"):
        read_layout(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"unknown layout 'lvitt'. Did you mean 'lvit'"):
        read_layout(tmp_path, "lvitt")
    with pytest.raises(DataError, match="no rows in the layout 'lvit'"):
        read_layout(tmp_path, "lvit")


def test_a_stray_unreadable_table_does_not_hide_the_others(tmp_path: Path) -> None:
    root = lvit_qata(tmp_path)
    (root / "notes.csv").write_bytes(b"\xff\xfe\x00")
    write(root / "broken.json", "{")
    assert detect(root) == "lvit"
    with pytest.raises(DataError, match=r"broken\.json: cannot be read as JSON"):
        read_layout(root / "broken.json")


def test_hospital_names_alone_do_not_make_it_image_sided(tmp_path: Path) -> None:
    name = "sub-S08047_ses-E1_bp-chest_vp-ap_cr.png"
    pictures(tmp_path, f"images/{name}", f"masks/{name}")
    write(
        tmp_path / "texts.csv",
        f"image,mask,text,split,x\nimages/{name},masks/{name},Left lower lobe opacity.,train,\n",
    )
    manifest = read_layout(tmp_path)
    assert manifest.laterality is Laterality.UNKNOWN
    assert manifest.rows[0].group == "sub-s08047"
    assert read_layout(tmp_path, laterality=Laterality.PATIENT).laterality is Laterality.PATIENT


def test_counts_beside_the_published_ones(tmp_path: Path) -> None:
    counts = compare_counts(read_layout(lvit_qata(tmp_path)))
    assert counts is not None
    assert not counts.equal
    assert [(c.split, c.found, c.published) for c in counts.splits] == [
        ("train", 1, 5716),
        ("valid", 1, 1429),
        ("test", 1, 2113),
    ]
    assert compare_counts(Manifest(tmp_path, (Row("a.png", None, "left", "train"),))) is None


# --- folders: BM-Seg and images of one's own -----------------------------------------------------------------------


def test_bm_seg_as_its_authors_publish_it(tmp_path: Path) -> None:
    root = tmp_path / "BM-Seg"
    names = [f"1 ({i}).jpg" for i in (2, 10)]
    pictures(
        root,
        *(f"{folder}/{name}" for folder in ("image", "lesion mask", "bone mask") for name in names),
    )
    with pytest.warns(DataWarning) as caught:
        manifest = read_layout(root)
    assert [str(w.message).split(": ")[1] for w in caught] == [
        "no folder names a split; every row is 'train'.",
        "2 of 2 rows have no text.",
    ]
    assert detect(root) == "folders"
    assert brief(manifest) == [
        (f"image/{n}", f"lesion mask/{n}", "", "train") for n in sorted(names)
    ]
    assert manifest.name == "bm-seg (folders)"
    assert manifest.laterality is Laterality.UNKNOWN
    assert {row.group for row in manifest.rows} == {""}  # its names tell no patient
    counts = compare_counts(manifest)
    assert counts is not None
    assert (counts.source, [c.published for c in counts.splits]) == ("DuSSS", [200, 70])


@pytest.mark.parametrize(
    ("train", "image", "mask"), [("Train_Folder", "img", "labelcol"), ("train", "images", "masks")]
)
def test_folders_named_after_splits(tmp_path: Path, train: str, image: str, mask: str) -> None:
    pictures(
        tmp_path, f"{train}/{image}/a.png", f"{train}/{image}/a.tif", f"{train}/{mask}/mask_a.png"
    )
    pictures(tmp_path, f"Test/{image}/a.png", f"Test/{mask}/a.png")
    with pytest.warns(DataWarning, match="2 of 2 rows have no text"):
        manifest = read_layout(tmp_path, laterality=Laterality.IMAGE)
    assert brief(manifest) == [
        (f"Test/{image}/a.png", f"Test/{mask}/a.png", "", "test"),
        (f"{train}/{image}/a.png", f"{train}/{mask}/mask_a.png", "", "train"),
    ]
    assert manifest.laterality is Laterality.IMAGE  # the user has said so


def test_the_published_sizes_of_bm_seg_can_be_held_out() -> None:
    rows = tuple(Row(f"image/{i}.png", f"lesion mask/{i}.png", "", "train") for i in range(270))
    assert hold_out(Manifest(Path("bm-seg"), rows), 70 / 270, name="test").splits == {
        "train": 200,
        "test": 70,
    }


def test_folders_whose_files_do_not_fit(tmp_path: Path) -> None:
    pictures(
        tmp_path,
        "train/images/a.png",
        "train/images/b.png",
        "train/masks/a.png",
        "train/masks/c.png",
    )
    told = pytest.warns(
        DataWarning, match=r"1 masks have no image and are left out, the first: c\."
    )
    with told, pytest.raises(DataError, match=r"1 of 2 names have no mask: 'train/images/b\.png'"):
        read_layout(tmp_path)
    with pytest.raises(ConfigError, match="it has no prompts"):
        read_layout(tmp_path, text_column="p6")
    write(
        tmp_path / "notes.csv", "a,b\n1,2\n"
    )  # a table that may hold the prompts is not passed over in silence
    with pytest.raises(DataError, match="no layout recognized"):
        read_layout(tmp_path)


# --- hold_out ---------------------------------------------------------------------------------------------------------


def grouped(groups: int, size: int) -> Manifest:
    rows = [
        Row(f"{g}_{i}.png", "m.png", "t", "train", f"g{g}")
        for g in range(groups)
        for i in range(size)
    ]
    return Manifest(Path(), (*rows, Row("t.png", "m.png", "t", "test", "gt")))


def test_hold_out_moves_whole_groups(tmp_path: Path) -> None:
    manifest = hold_out(grouped(20, 5), 0.2, seed=3)
    assert manifest.splits == {"train": 80, "valid": 20, "test": 1}
    assert not {r.group for r in manifest.rows_of("train")} & {
        r.group for r in manifest.rows_of("valid")
    }
    assert [row.image for row in manifest.rows] == [row.image for row in grouped(20, 5).rows]
    assert manifest.hash() == hold_out(grouped(20, 5), 0.2, seed=3).hash()
    assert manifest.hash() != hold_out(grouped(20, 5), 0.2, seed=4).hash()


def test_hold_out_without_groups_is_exact() -> None:
    rows = tuple(Row(f"{i}.png", "m.png", "t", "train") for i in range(900))
    assert hold_out(Manifest(Path(), rows)).splits == {"train": 810, "valid": 90}
    reversed_rows = Manifest(Path(), rows[::-1])
    assert hold_out(reversed_rows).hash() == hold_out(Manifest(Path(), rows)).hash()


def test_hold_out_with_groups_larger_than_the_share() -> None:
    assert hold_out(grouped(3, 10), 0.1).splits == {"train": 20, "valid": 10, "test": 1}


def test_merged_splits_are_trained_on_and_test_never_is() -> None:
    manifest = hold_out(grouped(20, 5), 0.2, seed=3)
    merged = merge_split(manifest)
    assert merged.splits == grouped(20, 5).splits
    assert merged.hash() == grouped(20, 5).hash()
    assert hold_out(merged, 0.2, seed=3).hash() == manifest.hash()
    for pair in (("test", "train"), ("valid", "test")):
        with pytest.raises(ConfigError, match="only for scoring"):
            merge_split(manifest, *pair)
    with pytest.raises(ConfigError, match="split"):
        merge_split(merged)


def test_hold_out_refuses() -> None:
    with pytest.raises(ConfigError, match=r"fraction is 1\.5"):
        hold_out(grouped(3, 2), 1.5)
    with pytest.raises(ConfigError, match="a split 'test' already"):
        hold_out(grouped(3, 2), name="test")
    with pytest.raises(ConfigError, match="one group"):
        hold_out(grouped(1, 5))
    with pytest.raises(ConfigError, match="Valid: train, test"):
        hold_out(grouped(3, 2), source="dev")


# --- real data --------------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    root = os.environ.get("TEXTMASK_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"TEXTMASK_DATA does not name a folder with {name}")
    return Path(root) / name


@pytest.mark.data
def test_real_qata() -> None:
    manifest = read_layout(real("qata-cov19-v2"))
    assert manifest.splits == {"train": 5716, "valid": 1429, "test": 1072}
    assert manifest.laterality is Laterality.IMAGE
    assert all(row.group for row in manifest.rows)
    assert sum(row.group.startswith("covid_") for row in manifest.rows) == 2951
    assert read_layout(real("qata-cov19-v2") / "texts.csv").hash() == manifest.hash()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "splits"),
    [
        ("kvasir-seg", {}, {"train": 900, "test": 100}),
        ("kvasir-seg", {"layout": "madapter"}, {"train": 900, "test": 100}),
        ("kvasir-seg", {"text_column": "medvlsm_p6"}, {"train": 800, "valid": 100, "test": 100}),
        ("kvasir-seg", {"layout": "medvlsm"}, {"train": 800, "valid": 100, "test": 100}),
        ("cvc-clinicdb", {}, {"train": 462, "test": 54}),
        (
            "cvc-clinicdb",
            {"split_column": "split_medvlsm"},
            {"train": 413, "valid": 54, "test": 49},
        ),
        ("monuseg-lvit", {}, {"train": 24, "valid": 6, "test": 14}),
        ("monuseg-lvit", {"layout": "lvit"}, {"train": 24, "valid": 6, "test": 14}),
    ],
)
def test_real_counts(name: str, options: dict[str, str], splits: dict[str, int]) -> None:
    manifest = read_layout(real(name), **options)
    assert manifest.splits == splits
    assert manifest.laterality is Laterality.IMAGE
    assert all(
        manifest.image_path(row).is_file() and manifest.mask_path(row).is_file()
        for row in manifest.rows
    )


@pytest.mark.data
def test_real_layouts_of_one_data_set_agree() -> None:
    """The same prompts through the plain CSV and through the raw tables of the repositories."""
    for name, layout, options in (
        ("kvasir-seg", "madapter", {}),
        ("kvasir-seg", "medvlsm", {"text_column": "medvlsm_p6"}),
        ("monuseg-lvit", "lvit", {}),
    ):
        from_csv = {
            row.image: (row.mask, row.text, row.split)
            for row in read_layout(real(name), **options).rows
        }
        raw = {
            row.image: (row.mask, row.text, row.split)
            for row in read_layout(real(name), layout).rows
        }
        assert raw == from_csv


@pytest.mark.data
def test_real_cvc_groups_are_video_sequences() -> None:
    manifest = read_layout(real("cvc-clinicdb"))
    assert len({row.group for row in manifest.rows}) == 24
    held = hold_out(manifest, 0.1)
    assert not {r.group for r in held.rows_of("valid")} & {r.group for r in held.rows_of("train")}


@pytest.mark.data
def test_real_bm_seg_has_no_text() -> None:
    path = real("bm-seg-mini")
    with pytest.warns(DataWarning) as caught:
        manifest = read_layout(path)
    assert sorted(str(w.message).split(": ")[1] for w in caught) == [
        "24 of 24 rows have no text.",
        "has no split column; every row is 'train'.",
    ]
    assert manifest.splits == {"train": 24}
    assert {row.text for row in manifest.rows} == {""}


@pytest.mark.data
def test_real_monuseg_has_the_splits_of_both_papers() -> None:
    manifest = read_layout(real("monuseg-lvit"))
    assert manifest.splits == {"train": 24, "valid": 6, "test": 14}
    merged = merge_split(manifest)
    assert merged.splits == {"train": 30, "test": 14}
    counts = compare_counts(merged)
    assert (counts.source, counts.equal) == ("DuSSS", True)
    assert hold_out(merged, 0.2).splits == {"train": 24, "valid": 6, "test": 14}
    assert merged.rows_of("test") == manifest.rows_of("test")
