"""Random commands of random methods, killed at random moments and random times, until the minutes are over.

Usage: python tests/chaos/long.py --minutes 10 [--seed 0]. Each round prints one line; the first broken promise is
printed with the folder in which it can be seen, and the exit status is 1.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from killer import Clock, prepare, run
from promises import SMALL, assert_whole, content, evaluation, leftovers, study, training

METHODS = ("unet", "statement_unet", "text_prior", "ukan", "mmi_unet", "biclip", "dusss", "c2seg")
METHODS += ("guide_decoder", "mean_teacher", "semi_medref", "ssa")
METHODS += ("unet_pp", "attention_unet", "nnunet_like", "trans_unet", "swin_unet")
METHODS += ("lvit", "lavt", "tganet")
METHODS += ("cps", "fixmatch", "unimatch", "ua_mt", "cct", "bcp", "mc_net", "ucmt", "spc")
MOST_KILLS = 3


@dataclass(frozen=True)
class Promise:
    """A command, the commands that bring it to its end after a kill, and what must be equal then.

    Attributes:
        command: arguments; {work} is the folder.
        again: arguments of the same after a kill.
        state: what is compared, of the folder.
        at_once: whether a kill leaves the old state or the new one, never another.
    """

    command: list[str]
    again: list[str]
    state: Callable[[Path], object]
    at_once: bool


def promises(data: Path, image: Path, method: str) -> dict[str, Promise]:
    """The commands by name."""
    small, fast = list(SMALL), ["--device", "cpu"]
    epochs = ["--set", f"stages.*.epochs={1 if method == 'text_prior' else 2}"]
    train = ["train", method, str(data), *small, *epochs, "--save-every-steps", "1"]
    train += ["--out", "{work}/new"]
    words = ["predict", "{work}/run", str(image), "opacity in the left lung", *fast]
    words += ["--out", "{work}/masks"]
    score = ["evaluate", "{work}/run", str(data), "--seed", "1", "--no-surface", *fast]
    hub = ["export", "{work}/run", "--target", "hf", "--out", "{work}/hub"]
    trials = ["study", "labels", "unet", str(data), *small, "--fractions", "0.5,1"]
    trials += ["--out", "{work}/study", "--cache-dir", "{work}/cache"]
    several = ["ensemble", "{work}/run", "{work}/run", "--out", "{work}/both"]
    return {
        "train": Promise(train, [*train, "--resume"], lambda at: training(at / "new"), False),
        "evaluate": Promise(score, score, lambda at: evaluation(at / "run"), True),
        "report": Promise(
            ["report", "{work}/run"],
            ["report", "{work}/run"],
            lambda at: content(at / "run").get("report.html"),
            True,
        ),
        "predict": Promise(words, words, lambda at: masks(at / "masks"), False),
        "export": Promise(hub, hub, lambda at: weights(at / "hub"), True),
        "ensemble": Promise(several, several, lambda at: weights(at / "both"), True),
        "study": Promise(trials, trials, lambda at: study(at / "study"), False),
    }


def masks(folder: Path) -> dict[str, bytes]:
    """Masks by name."""
    return {name: data for name, data in content(folder).items() if name.endswith(".png")}


def weights(folder: Path) -> dict[str, bytes]:
    """Weights by name."""
    found = content(folder)
    return {name: data for name, data in found.items() if name.endswith(".safetensors")}


class Rounds:
    """The rounds of one call.

    Args:
        folder: everything is below it.
        clock: of this process.
        rng: chooses.
    """

    def __init__(self, folder: Path, clock: Clock, rng: random.Random) -> None:
        from textmask.data.manifest import read_manifest
        from textmask.data.phantom import PhantomConfig, write_phantoms

        self.folder, self.clock, self.rng = folder, clock, rng
        counts = {"train": 8, "valid": 4, "test": 4}
        self.data = write_phantoms(folder / "data", counts, PhantomConfig(size=(32, 32)), seed=0)
        self.image = self.data.parent / read_manifest(self.data).rows[0].image
        self.known: dict[str, tuple[object, int, float]] = {}
        self.number, self.method = 0, METHODS[0]

    def pristine(self, method: str) -> Path:
        """A trained and evaluated run of a method, made once."""
        at = self.folder / f"pristine-{method}"
        if not at.exists():
            at.mkdir()
            every = promises(self.data, self.image, method)
            command = ["{work}/run" if w == "{work}/new" else w for w in every["train"].command]
            score = ["evaluate", "{work}/run", str(self.data), "--no-surface", "--device", "cpu"]
            for arguments in (command, score):
                self.child(arguments, at, 0, None)
        return at

    def round(self) -> str:
        """One random command with its kills; returns what was done."""
        rng, self.number = self.rng, self.number + 1
        # a new method needs trainings of its own first
        self.method = rng.choice(METHODS) if not self.known or rng.random() < 0.1 else self.method
        method = self.method
        pristine = self.pristine(method)
        name = rng.choice(list(promises(self.data, self.image, method)))
        promise = promises(self.data, self.image, method)[name]
        new, moments, seconds = self.whole(method, name, promise, pristine)
        old = promise.state(pristine) if promise.at_once else None

        at = self.folder / f"round{self.number}"
        shutil.copytree(pristine, at)
        done, arguments = [], promise.command
        for _ in range(rng.randint(1, MOST_KILLS)):
            moment = rng.randint(1, moments) if rng.random() < 0.5 else 0
            delay = None if moment else rng.uniform(0, seconds)
            done.append(f"moment {moment}" if moment else f"{delay:.2f} s")
            if not self.child(arguments, at, moment, delay):
                done[-1] += " (ended before)"
                arguments = []
                break
            assert_whole(at)
            if promise.at_once and promise.state(at) not in (old, new):
                raise AssertionError("a state that is neither the old nor the new one")
            arguments = promise.again
            # what never replaces anything may be there already
            if name in ("export", "ensemble") and promise.state(at):
                arguments = []
                break

        if arguments:
            self.child(arguments, at, 0, None)
        if promise.state(at) != new:
            raise AssertionError("the end is not that of the command without kills")
        if left := leftovers(at):
            raise AssertionError(f"unfinished files {left}")
        shutil.rmtree(at)
        return f"{name} of {method}: killed at {', '.join(done)}"

    def whole(
        self, method: str, name: str, promise: Promise, pristine: Path
    ) -> tuple[object, int, float]:
        """State, moments and seconds of a command that is not killed."""
        key = f"{name}-{method}"
        if key not in self.known:
            at = self.folder / f"whole-{key}"
            shutil.copytree(pristine, at)
            begin = time.perf_counter()
            moments = self.child(promise.command, at, 0, None)
            seconds = time.perf_counter() - begin
            self.known[key] = promise.state(at), moments, seconds
            shutil.rmtree(at)
        return self.known[key]

    def child(self, arguments: list[str], at: Path, moment: int, delay: float | None) -> int:
        """Run a command in a fork and kill it; returns 0 if it ended before, without kill its number of moments."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(os.open(self.folder / "output.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
            os.dup2(1, 2)
            self.clock.start(str(at), moment)
            status = 1
            try:
                status = run(arguments, at)
            finally:
                seen, self.clock.inside = self.clock.seen, ""
                os.write(writing, str(seen).encode())
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

        os.close(writing)
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as stream:
            seen = int(stream.read() or 0)
        if os.WIFSIGNALED(status):
            return 1
        if code := os.waitstatus_to_exitcode(status):
            said = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
            raise AssertionError(f"exit status {code} of textmask {' '.join(arguments)}:\n{said}")
        return 0 if moment or delay is not None else seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()

    folder = Path(tempfile.mkdtemp(prefix="textmask-chaos-"))
    os.environ["TEXTMASK_CACHE"] = str(folder / "cache")
    rounds = Rounds(folder, prepare(), random.Random(options.seed))
    print(f"seed {options.seed}, {folder}", flush=True)
    end = time.monotonic() + 60 * options.minutes
    done: Counter[str] = Counter()
    while time.monotonic() < end:
        try:
            said = rounds.round()
        except AssertionError as error:
            print(f"round {rounds.number}: BROKEN: {error}\nSee {folder}/round{rounds.number}")
            return 1
        done[said.partition(" ")[0]] += 1
        print(f"round {rounds.number}: {said}", flush=True)
    shutil.rmtree(folder)
    print(f"{rounds.number} rounds, nothing broken: {dict(done)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
