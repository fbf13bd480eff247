"""The command line: help with examples, clear errors without traceback, exit codes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from textmask.cli import app as cli
from textmask.cli.app import app
from textmask.data.manifest import read_manifest, write_manifest
from textmask.data.splits import hold_out, merge_split
from textmask.errors import ConfigError
from textmask.methods.registry import get_method

COMMANDS = [
    ["train"], ["ensemble"], ["evaluate"], ["predict"], ["calibrate"], ["report"], ["table"], ["verify-table"],
    ["demo"], ["serve"],
    ["data", "inspect"], ["data", "convert"], ["data", "describe"], ["data", "slices"],
    ["data", "phantom"], ["data", "cache"], ["data", "gap"], ["methods", "list"],
    ["methods", "show"], ["study", "ablation"], ["study", "ambiguity"], ["study", "claims"], ["study", "features"],
    ["study", "prompts"], ["study", "text-noise"], ["study", "corruption"], ["study", "reading"], ["study", "mix"],
    ["study", "labels"], ["study", "sensitivity"], ["study", "folds"], ["study", "tune"], ["dicom", "segment"],
    ["dicom", "watch"], ["export"], ["import-weights"], ["cache", "ls"], ["cache", "clear"],
    ["weights", "list"], ["weights", "get"], ["weights", "convert"],
    ["figure", "grid"],
]  # fmt: skip


def textmask(*arguments, **env):
    """Run the real command in a process: exit code and everything printed."""
    done = subprocess.run(
        [sys.executable, "-m", "textmask", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "300", **env}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: textmask " + " ".join(command) in " ".join(result.output.split())


@pytest.fixture(scope="module")
def table(phantom_manifest):
    path = phantom_manifest.root / "cli.csv"
    write_manifest(phantom_manifest, path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["train", "biklip", "TABLE", "--out", "OUT"],
            ["unknown method 'biklip'", "Did you mean 'biclip'", "unet"],
        ),
        (
            ["train", "unet", "TABLE", "--preset", "light", "--out", "OUT"],
            ["unknown preset 'light'", "lite"],
        ),
        (
            ["train", "unet", "TABLE", "--set", "sed=1", "--out", "OUT"],
            ["'sed'", "Did you mean 'seed'"],
        ),
        (
            ["train", "unet", "TABLE", "--set", "seed=x", "--preset", "smoke", "--out", "OUT"],
            ["seed", "valid integer"],
        ),
        (["train", "unet", "nowhere", "--out", "OUT"], ["nowhere"]),
        (["train", "unet", "--out", "OUT"], ["METHOD and DATA"]),
        (["evaluate", "OUT/none", "TABLE"], ["does not exist", "run folder"]),
        (
            ["predict", "OUT/none", "nofilm.png", "left lung"],
            ["none is not a run folder", "[RUN] SOURCE [PROMPT]"],
        ),
        (["predict", "nofilm.png", "left lung"], ["nofilm.png", "does not exist"]),
        (["methods", "show", "unett"], ["unknown method 'unett'", "statement_unet"]),
        (["data", "inspect", "nowhere"], ["nowhere"]),
        (
            ["data", "inspect", "TABLE", "--laterality", "mine"],
            ["unknown laterality", "image, patient, unknown"],
        ),
    ],
)
def test_a_users_mistake_is_one_message_without_traceback(arguments, said, table, tmp_path):
    arguments = [
        a.replace("TABLE", str(table)).replace("OUT", str(tmp_path / "out")) for a in arguments
    ]
    code, output = textmask(*arguments)
    assert code == 2, output
    assert "Traceback" not in output
    flat = " ".join(output.split())
    assert all(part in flat for part in said), flat
    assert not (tmp_path / "out" / "recipe.json").exists()


@pytest.mark.slow
def test_train_evaluate_predict_report(table, tmp_path):
    run, env = tmp_path / "runs" / "m", {"TEXTMASK_CACHE": str(tmp_path / "cache")}
    code, output = textmask(
        "train", "statement_unet", table, "--preset", "smoke", "--out", run, "--quiet", **env
    )
    assert code == 0, output
    code, output = textmask("evaluate", run, table, "--split", "test", **env)
    assert code == 0, output
    assert all(
        part in output
        for part in ("shuffled text", "empty text", "not trained", "n = 8", "dice_pooled")
    )
    code, output = textmask("evaluate", run, table, "--split", "tset", **env)
    assert code == 2
    assert "train, valid" in output
    film = tmp_path / "film.png"
    cv2.imwrite(str(film), np.zeros((40, 50), np.uint8))
    code, output = textmask("predict", run, film, "lower left lung", "--out", tmp_path / "masks")
    assert code == 0, output
    assert "image side" in output
    (tmp_path / "bad.png").write_bytes(b"no picture")
    code, output = textmask(
        "predict", run, tmp_path / "bad.png", "lower left lung", "--out", tmp_path / "masks"
    )
    assert code == 1
    assert "bad.png" in output
    code, output = textmask("report", run)
    assert code == 0, output
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_demo(tmp_path):
    code, output = textmask("demo", "--out", tmp_path / "demo", "--preset", "smoke")
    assert code == 0, output
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "two opposite prompts" in page
    assert "bundled-model.png" in output
    assert (tmp_path / "demo" / "bundled-model.png").stat().st_size
    assert len(re.findall("data:image/(?:png|jpeg);base64,", page)) >= 4


def test_methods_list_and_show():
    code, output = textmask("methods", "list")
    assert code == 0
    assert all(name in output for name in ("biclip", "unet", "text_prior", "statement_unet"))
    code, output = textmask("methods", "show", "biclip", "--preset", "smoke")
    assert code == 0, output
    assert "t' = t + g_BMF([t; i])" in output
    assert "trained parameters (smoke)" in output


def test_inspect_and_convert(table, tmp_path):
    code, output = textmask("data", "inspect", table, "--json", tmp_path / "findings.json")
    assert code == 0, output
    assert "train" in output
    assert json.loads((tmp_path / "findings.json").read_text())
    out = table.parent / "converted.csv"
    code, output = textmask("data", "convert", table, "--out", out)
    assert code == 0, output
    assert out.read_text().startswith("image,mask,text,split")
    code, output = textmask("data", "convert", table, "--out", tmp_path / "elsewhere.csv")
    assert code == 2
    assert not (tmp_path / "elsewhere.csv").exists()


def test_version():
    from textmask import __version__

    assert textmask("--version") == (0, f"{__version__}\n")


def leaves(command=None, path=()):
    """(words, command) of every command that does something."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None:
        return [(path, command)]
    return [leaf for name, child in below.items() for leaf in leaves(child, (*path, name))]


def test_the_list_of_commands_is_complete():
    assert sorted(" ".join(path) for path, _ in leaves()) == sorted(
        " ".join(words) for words in COMMANDS
    )


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves()]
)
def test_the_example_of_every_command_parses(path, command):
    lines = [
        line.partition("Example: ")[2] for line in command.help.splitlines() if "Example: " in line
    ]
    assert len(lines) == 1
    words = shlex.split(lines[0])
    assert tuple(words[: len(path) + 1]) == ("textmask", *path)
    command.make_context(
        path[-1], words[len(path) + 1 :]
    )  # raises where an option or argument is wrong


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The entry point in this process, quicker than a shell: (exit code, stdout, stderr)."""
    monkeypatch.setenv("TEXTMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(tmp_path)

    def enter(*arguments):
        monkeypatch.setattr(sys, "argv", ["textmask", *map(str, arguments)])
        code = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return enter


SMOKE = ("--preset", "smoke")
WRONG = {
    "method beside recipe": (
        ["train", "biclip", "TABLE", "--recipe", "recipe.json"],
        ["'biclip'", "'unet'"],
    ),
    "recipe that is not there": (
        ["train", "TABLE", "--recipe", "gone"],
        ["cannot read the recipe gone"],
    ),
    "recipe that is no JSON": (["train", "TABLE", "--recipe", "TABLE"], ["JSON"]),
    "recipe that is no text": (
        ["train", "TABLE", "--recipe", "bytes"],
        ["cannot read the recipe bytes"],
    ),
    "labelled list": (["train", "unet", "TABLE", *SMOKE, "--labelled-list", "gone"], ["gone"]),
    "labelled fraction": (
        ["train", "unet", "TABLE", "--labelled-fraction", "2"],
        ["labelled_fraction"],
    ),
    "setting without =": (["train", "unet", "TABLE", "--set", "seed"], ["has no '='"]),
    "tracker": (
        ["train", "unet", "TABLE", *SMOKE, "--tracker", "wandb"],
        ["'wandb'", "tensorboard, mlflow"],
    ),
    "hold-out": (["train", "unet", "TABLE", "--hold-out", "3"], ["3"]),
    "layout": (["data", "inspect", "TABLE", "--layout", "lvitt"], ["'lvitt'", "'lvit'", "medvlsm"]),
    "text column": (
        ["data", "inspect", "TABLE", "--layout", "csv", "--text-column", "words"],
        ["'words'", "text"],
    ),
    "findings": (
        ["data", "inspect", "TABLE", "--no-pixels", "--json", "gone/a.json"],
        ["gone/a.json"],
    ),
    "report": (["report", "gone"], ["gone", "run folder"]),
    "demo preset": (["demo", "--preset", "paper"], ["lite, smoke"]),
    "option": (["train", "--nope"], ["--nope"]),
    "study table": (
        ["study", "ablation", "c2seg", "TABLE", "--table", "table5"],
        ["'table5'", "table3", "table4-kan"],
    ),
    "study arm": (
        ["study", "ablation", "c2seg", "TABLE", "--table", "table3", "--arms", "a,z"],
        ["'z'", "a, b, c"],
    ),
    "study without data": (
        ["study", "ablation", "c2seg", "--table", "table3"],
        ["METHOD and DATA"],
    ),
    "study seeds": (
        ["study", "ablation", "c2seg", "TABLE", "--table", "table3", "--seeds", "0-2"],
        ["'0-2'", "0,1,2"],
    ),
    "study list of labels": (
        [
            "study",
            "ablation",
            "c2seg",
            "TABLE",
            *SMOKE,
            "--table",
            "table3",
            "--labelled-list",
            "gone.txt",
        ],
        ["gone.txt", "list of labelled images"],
    ),
    "study fractions": (
        ["study", "labels", "unet", "TABLE", "--fractions", "5%"],
        ["'5%'", "0.01,0.05,0.25"],
    ),
    "study field": (
        ["study", "sensitivity", "c2seg", "TABLE", "--field", "taw=1"],
        ["'taw'", "'tau'"],
    ),
    "study engine": (
        ["study", "labels", "unet", "TABLE", *SMOKE, "--engine", "slrum"],
        ["'slrum'", "'slurm'", "ray"],
    ),
    "no studies": (
        ["study", "ablation", "unet", "TABLE", "--table", "table3"],
        ["unknown table of unet 'table3'", "sizes"],
    ),
    "study severity": (
        ["study", "corruption", "gone", "TABLE", "--severity", "gamma"],
        ["'gamma'", "low_dose=500,140"],
    ),
    "study run": (["study", "prompts", "gone", "TABLE"], ["gone", "run folder"]),
    "study zones": (
        ["study", "prompts", "run", "TABLE", "--zones", "lungs"],
        ["unknown zone map 'lungs'", "phantom"],
    ),
    "evaluate split": (["evaluate", "run", "TABLE", "--split", "tset"], ["'tset'", "train, valid"]),
    "device name": (
        ["evaluate", "run", "TABLE", "--device", "gpu"],
        ["unknown device 'gpu'", "cuda:N"],
    ),
    "run that is a folder": (["calibrate", "folder", "TABLE"], ["folder contains no recipe.json"]),
    "resume what is no run": (["train", "--resume", "folder"], ["folder contains no recipe.json"]),
    "resume a run without data": (
        ["train", "--resume", "run"],
        ["does not record where its data are", "textmask train unet DATA --resume --out run"],
    ),
    "resume another method": (
        ["train", "biclip", "TABLE", "--resume", "--out", "run"],
        ["'biclip'", "run of 'unet'"],
    ),
    "two folders": (["export", "run", "a", "--out", "b"], ["two output folders", "--out"]),
    "no folder": (["import-weights", "model.pt"], ["needs one output folder", "--out"]),
    "threads": (["predict", "TABLE", "--threads", "2"], ["--threads requires --engine ray"]),
    "device count": (
        ["train", "unet", "TABLE", *SMOKE, "--device", "cuda:99"],
        ["device cuda:99 is not available"],
    ),
    "study kinds": (
        ["study", "text-noise", "gone", "TABLE", "--kinds", "typos"],
        ["'typos'", "real_typos"],
    ),
    "features": (["study", "features", "run", "TABLE"], ["occur more than once"]),
    "features run": (["study", "features", "gone", "TABLE"], ["gone", "run folder"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_further_mistakes_are_one_message(case, call, table, tmp_path):
    (tmp_path / "recipe.json").write_text(get_method("unet").recipe().smoke().to_json())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("folder", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "data.json").write_text("{}")
    shutil.copy(tmp_path / "recipe.json", tmp_path / "run")
    arguments, expected = WRONG[case]
    code, _, err = call(*[table if word == "TABLE" else word for word in arguments])
    assert code == 2
    assert "Traceback" not in err
    assert err.lower().count("error: ") == 1
    for part in expected:
        assert part in err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_debug_shows_where_it_happened(call, table):
    with pytest.raises(ConfigError):
        call("--debug", "train", "biklip", table)


def test_an_interrupted_training_says_how_to_go_on(call, table, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("textmask.training.loop.train", interrupted)
    code, _, err = call("train", "unet", table, *SMOKE)
    assert code == 130
    assert "--resume" in err


def test_settings_and_recipes_reach_the_run(call, table, tmp_path):
    recipe = get_method("unet").recipe().smoke().override("seed=5")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    arguments = ("--recipe", "recipe.json", "--labelled-fraction", "0.5", "--set", "threshold=0.4")
    code, _, err = call("train", table, *arguments, "--out", "run", "--quiet")
    assert code == 0, err
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (kept["seed"], kept["threshold"], kept["stages"][0]["labelled_fraction"]) == (
        5,
        0.4,
        0.5,
    )
    assert len((tmp_path / "run" / "splits" / "labelled-segment.txt").read_text().split()) == 12


def test_a_study_is_shown_trained_and_drawn(call, table, tmp_path):
    code, out, err = call("study", "ablation", "c2seg", "--table", "table4-kan", "--show")
    assert code == 0, err
    assert "bcam_map=linear" in out
    assert not (tmp_path / "runs").exists()
    ablation = (
        "study",
        "ablation",
        "c2seg",
        table,
        *SMOKE,
        "--table",
        "table4-rho",
        "--arms",
        "rho-1.0, rho-0.6",
    )
    (tmp_path / "few.txt").write_text(
        "\n".join(row.image for row in read_manifest(table).rows_of("train")[:8])
    )
    code, out, err = call(*ablation, "--seeds", "1", "--labelled-list", "few.txt", "--out", "study")
    assert code == 0, err
    assert "labelled: the 8 of 24 train images of few.txt" in out
    assert "[1/2] rho-0.6-seed1 (rho = 0.6): 2 trials left" in out
    assert "| rho-1.0 | rho-0.6 |" in out
    assert {path.name for path in (tmp_path / "study").iterdir()} == {
        *("rho-0.6-seed1", "rho-1.0-seed1"),
        *("study.csv", "study.json", "study.png", "scores.csv", "table.md"),
    }
    runs = (tmp_path / "study" / name for name in ("rho-0.6-seed1", "rho-1.0-seed1"))
    code, out, err = call(
        "study", "features", *runs, table, "--split", "train", "--out", "features.png"
    )
    assert code == 0, err
    assert "rho-1.0-seed1: silhouette" in out
    assert (tmp_path / "features.png").exists()


def test_a_run_is_tried_with_other_sentences_and_pictures(call, table, tmp_path):
    code, _, err = call("train", "statement_unet", table, *SMOKE, "--out", "run", "--quiet")
    assert code == 0, err
    few = ("run", table, "--limit", "4", "--bootstrap", "20", "--zones", "phantom")
    code, out, err = call("study", "prompts", *few)
    assert code == 0, err
    assert "| side_swapped |" in out
    assert "Rule: median IoU" in out
    code, out, err = call(
        "study", "text-noise", *few, "--kinds", "drop, abbreviation", "--split", "valid"
    )
    assert code == 0, err
    assert "| drop | 3 |" in out
    code, out, err = call(
        "study", "corruption", *few, "--kinds", "low_dose", "--severity", "low_dose=500,20"
    )
    assert code == 0, err
    assert "| low_dose | 500 |" in out
    assert {path.name for path in (tmp_path / "run" / "studies").iterdir()} == {
        *("prompts-test-4", "text-noise-valid-4", "corruption-test-4"),
    }
    for folder in (tmp_path / "run" / "studies").iterdir():
        assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
        assert {path.name for path in folder.iterdir()} == {
            *("summary.json", "table.md", "plot.png", "per_image.csv", "scores.csv", "predictions"),
        }


def test_label_fractions_and_sensitivity_are_drawn(call, table, tmp_path):
    few = (
        "--fractions",
        "0.5,1",
        "--beside",
        "statement_unet",
        "--threads",
        "1",
        "--out",
        "labels",
    )
    code, out, err = call("study", "labels", "unet", table, *SMOKE, *few)
    assert code == 0, err
    assert "# label fractions of unet, statement_unet" in out
    assert "| statement_unet-0.5 | unet-0.5 |" in out
    assert "labelled shares as above" in out
    kept = json.loads((tmp_path / "labels" / "study.json").read_text())
    assert [(arm["method"], arm["fraction"]) for arm in kept["arms"]] == [
        (method, fraction) for fraction in (0.5, 1.0) for method in ("unet", "statement_unet")
    ]
    code, out, err = call(
        "study",
        "sensitivity",
        "unet",
        table,
        "--preset",
        "smoke",
        "--field",
        "threshold=0.5,0.3",
        "--show",
    )
    assert code == 0, err
    assert "preset: threshold = 0.5; unet unchanged" in out
    assert "threshold-0.3: threshold = 0.3; unet threshold=0.3" in out
    assert "threshold-0.5" not in out


def test_jobs_are_told_apart_and_brackets_in_names_stay(call, table, tmp_path):
    train = ("train", "statement_unet", table, *SMOKE, "--out", "runs/[a]", "--quiet")
    code, out, err = call(*train)
    assert code == 0, err
    assert "textmask evaluate 'runs/[a]'" in out
    assert "preset: smoke" in out
    code, _, err = call(*train)
    assert code == 2
    assert "already contains a run" in err
    film = next(table.parent.rglob("test-*.png"))
    (tmp_path / "bad.png").write_bytes(b"")
    texts = ((film, "lower left lung"), ("bad.png", "lower left lung"), (film, "what a day [red]"))
    (tmp_path / "jobs.json").write_text(
        json.dumps([{"image": str(image), "text": text} for image, text in texts])
    )
    code, out, err = call("predict", "runs/[a]", "jobs.json", "--out", "masks")
    assert code == 1
    assert err.count("failed: ") == 1
    assert "bad.png" in err
    assert "what a day [red]" in err
    assert "nothing_parsed" in err
    assert "2 done, 0 skipped" in out
    assert len(list((tmp_path / "masks").glob("*.mask.png"))) == 2
    code, out, _ = call("predict", "runs/[a]", film, "lower left lung", "--out", "masks")
    assert code == 0
    assert "0 done, 1 skipped" in out
    patient = (
        "predict",
        "runs/[a]",
        film,
        "left lower lobe",
        "--laterality",
        "patient",
        "--out",
        "sides",
    )
    code, _, err = call(*patient)
    assert code == 1
    assert "failed: " in err
    assert "--view pa, ap, mirrored" in err
    code, out, _ = call(*patient, "--view", "pa")
    assert code == 0
    assert "1 of 1: left and right exchanged: from the patient side to the image side" in out
    report = "The left lung is clear. Opacity in the right lower lobe and left upper lobe. Nodule in the left apex."
    code, out, _ = call("predict", "runs/[a]", film, report, "--report", "--out", "findings")
    assert code == 0
    assert "2 findings with a place; denied: The left lung is clear" in out
    assert len(list((tmp_path / "findings").glob("*.mask.png"))) == 2
    code, out, _ = call("predict", "runs/[a]", film, "No effusion.", "--report", "--out", "none")
    assert code == 0
    assert "0 done, 0 skipped" in out
    code, _, err = call(
        "predict", "runs/[a]", film, "Hello World", "--no-abstain", "--out", "hello"
    )
    assert code == 0
    assert "no_medical_word: neither a place nor a medical word" in err
    code, _, err = call(
        "predict", "runs/[a]", film, "left lung", "--view", "upside", "--out", "none"
    )
    assert code == 2
    assert "unknown view 'upside'" in err
    code, _, err = call("calibrate", "runs/[a]", table)
    assert code == 2
    assert "expected at least 20" in err


@pytest.mark.slow
def test_a_folder_is_shared_among_the_tasks_of_ray(call, table, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'textmask[ray]'")
    run = tmp_path / "run"
    assert call("train", "statement_unet", table, *SMOKE, "--out", run, "--quiet")[0] == 0
    (tmp_path / "films").mkdir()
    for i in range(40):
        cv2.imwrite(str(tmp_path / "films" / f"{i}.png"), np.full((20, 20), i, np.uint8))
    ask = (
        "predict",
        run,
        tmp_path / "films",
        "lower left lung",
        "--out",
        tmp_path / "masks",
        "--engine",
        "ray",
    )
    for _ in range(3):  # Ray gives its parts 15 s to start, which a busy machine may miss
        code, output = textmask(*ask)
        if "cannot reach or start Ray" not in output:
            break
    assert code == 0, output
    assert "40 done" in output
    assert len(list((tmp_path / "masks").glob("*.json"))) == 40


def test_inspection_fails_if_there_are_errors_and_with_strict_on_warnings(call, tmp_path):
    counts = ("--train", 4, "--valid", 2, "--test", 2)
    assert call("data", "phantom", "--out", "films", "--size", 64, *counts)[0] == 0
    assert call("data", "inspect", "films", "--strict")[0] == 0

    # a repeated image is a warning, a truncated one an error
    first, second, *_ = sorted((tmp_path / "films" / "images").glob("*train*"))
    second.write_bytes(first.read_bytes())
    assert call("data", "inspect", "films")[0] == 0
    assert call("data", "inspect", "films", "--strict")[0] == 1
    first.write_bytes(first.read_bytes()[:100])
    assert call("data", "inspect", "films")[0] == 1


@pytest.mark.slow
def test_the_demo_deletes_only_what_a_demo_made(call, tmp_path):
    mine = tmp_path / "demo" / "runs" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("months of work")
    code, _, err = call("demo", *SMOKE, "--out", "demo")
    assert code == 2
    assert "is not a demo folder" in err
    assert mine.read_text() == "months of work"
    for _ in range(2):  # the second replaces the first
        code, _, err = call("demo", *SMOKE, "--out", "again")
        assert code == 0, err


@pytest.fixture
def two_texts(phantom_manifest):
    """The phantoms as a CSV with two prompt columns; the short one is read by default."""
    path = phantom_manifest.root / "two-texts.csv"
    lines = ["image,mask,text_short,text_long,split_short"]
    for row in phantom_manifest.rows:
        lines.append(f'{row.image},{row.mask},lesion,"{row.text}",{row.split}')
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_next_line_is_a_command_that_reads_the_data_as_the_training_did(
    call, two_texts, tmp_path
):
    train = ("train", "text_prior", two_texts, *SMOKE, "--out", "my runs/a", "--quiet")
    columns = ("--layout", "csv", "--text-column", "text_long")
    code, out, err = call(*train, *columns)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("Next: ")]
    words = shlex.split(line.removeprefix("Next: "))
    assert words[0] == "textmask"

    code, out, err = call(*words[1:], "--no-surface")
    assert code == 0, err
    assert "--layout csv --text-column text_long" in out
    summary = json.loads((tmp_path / "my runs/a/evaluation/test/summary.json").read_text())
    trained = json.loads((tmp_path / "my runs/a/data.json").read_text())
    assert summary["protocol"]["data_hash"] == trained["hash"]
    assert trained["source"] == str(two_texts.absolute())

    # the command line wins over the run
    code, out, err = call(*words[1:], "--no-surface", "--text-column", "text_short", "--out", "o")
    assert code == 0, err
    other = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert other["protocol"]["data_hash"] != trained["hash"]

    # options that do not fit other data name where they come from
    code, _, err = call("evaluate", "my runs/a", two_texts.parent / "cli.csv", "--layout", "auto")
    assert code == 2
    assert "was trained with --layout csv --text-column text_long" in err


def test_a_run_is_resumed_by_its_name_alone(call, table, tmp_path):
    few = tmp_path / "few.txt"
    rows = hold_out(merge_split(read_manifest(table)), 0.2).rows_of("train")
    few.write_text("\n".join(row.image for row in rows[:8]))
    (tmp_path / "data").symlink_to(table.parent)
    data = tmp_path / "data" / table.name
    more = (
        "--set",
        "stages.*.epochs=2",
        "--labelled-list",
        few,
        "--merge-valid",
        "--hold-out",
        0.2,
    )
    code, _, err = call("train", "unet", data, *SMOKE, *more, "--out", "run", "--quiet")
    assert code == 0, err
    trained = (tmp_path / "run" / "weights.safetensors").read_bytes()

    few.unlink()
    code, out, err = call("train", "--resume", "run", "--quiet")
    assert code == 0, err
    assert "resuming run: unet" in out
    assert call("train", "--resume", "--out", "run", "--quiet")[0] == 0
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == trained

    (tmp_path / "data").unlink()
    code, _, err = call("train", "--resume", "run")
    assert code == 2
    assert "does not exist any more" in err
    assert call("train", "unet", table, "--resume", "--out", "run", "--quiet")[0] == 0


def test_the_default_preset_is_the_same_and_is_said(call, table, monkeypatch):
    asked = {}
    result = SimpleNamespace(path="run", best=0.5, best_epoch=1, seconds=1.0)

    def trained(recipe, *arguments, **options):
        asked["train"] = recipe
        return result

    def studied(plan, manifest, out, options):
        asked["study"] = options.preset
        raise ConfigError("far enough")

    monkeypatch.setattr("textmask.training.loop.train", trained)
    monkeypatch.setattr("textmask.studies.grid.runner.run_study", studied)
    _, out, _ = call("train", "unet", table)
    assert asked["train"] == get_method("unet").recipe().lite()
    assert "preset: lite, the default" in out
    _, out, _ = call("study", "labels", "unet", table)
    assert asked["study"] == "lite"
    assert "preset: lite, the default" in out


def test_the_old_name_of_the_table_option_still_works(call):
    old = call("study", "ablation", "c2seg", "--list", "table3", "--show")
    assert old == call("study", "ablation", "c2seg", "--table", "table3", "--show")
    assert old[0] == 0


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves()]
)
def test_help_is_short_lines_that_give_the_defaults(path, command):
    output = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
    assert max(map(len, output.splitlines())) <= 80
    assert command.help.rstrip().splitlines()[-1].strip() in output  # the example is one line
    for parameter in command.params:
        text = parameter.help or ""
        if getattr(parameter, "hidden", False) or parameter.name in ("help", "run", "data", "path"):
            continue
        assert text[:1].isupper(), parameter.name
        assert text.endswith("."), parameter.name
        if parameter.param_type_name == "option" and not parameter.required:
            says = "(default" in text or "(required)" in text
            assert says or parameter.default is not None, parameter.name


def test_one_command_starts_a_training_and_resumes_it(call, table, tmp_path):
    """As a job script does, also after a kill that left a folder without a run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "splits").mkdir()
    command = ["train", "text_prior", table, "--resume", "--out", tmp_path / "run"]
    for said in ("preset: lite", "resuming"):
        code, out, err = call(*command)
        assert code == 0, err
        assert said in out + err


def test_the_panels_name_every_command():
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    assert max(map(len, output.splitlines())) <= 80
    titles = ("Train and evaluate:", "Predict:", "Data:", "Clinical:", "Export:")
    places = [output.index(title) for title in titles]
    assert places == sorted(places)
    group = typer.main.get_command(app)
    assert sorted(group.list_commands(None)) == sorted(group.commands)
