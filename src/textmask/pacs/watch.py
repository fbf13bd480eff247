"""Watch a PACS: segment the images and series that have a prompt, and store SEG and SR back exactly once.

Exactly-once semantics: a task is identified by image, request and model. The UIDs of its results are derived
from these three, so after a crash between storing and recording it, the same instances are found or stored again.
Events never identify a patient: images and prompts are hashed.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from textmask.errors import ConfigError, DataError, PacsDownError, PacsError, TextMaskError
from textmask.io.dicom.facts import ResultUids
from textmask.pacs.answers import DicomSegmentation, DicomSegmenter
from textmask.pacs.client import Instance, Pacs, Series
from textmask.pacs.results import results, short_hash
from textmask.pacs.state import State, TaskKey
from textmask.pacs.worklist import WorklistItem, prompt_problem

SLICED = ("CT", "MR", "PT")  # one task per series; other modalities have one task per image
NOT_IMAGES = ("SEG", "SR", "OT", "SC", "PR", "KO", "DOC", "RTSTRUCT")  # results and other objects
MAX_SLICES = 2000
MAX_SERIES_BYTES = 2 << 30
MAX_ATTEMPTS = 5  # then a task has failed, even if each attempt ended this process
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
WAITS_ONCE = 8  # with --once, about two minutes


@dataclass(frozen=True)
class PacsTask:
    """An image, or all slices of a series, and a prompt; `subject` is the UID of the image or series."""

    subject: str
    instances: tuple[Instance, ...]
    prompt: str


@dataclass(frozen=True)
class WatchEvent:
    """An event for the log. `image` and `prompt` are the first letters of hashes; `detail` never names a patient."""

    what: str
    image: str = ""
    prompt: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """The event as one line of a log."""
        named = [
            f"image {self.image}" if self.image else "",
            f"prompt {self.prompt}" if self.prompt else "",
        ]
        return " ".join(part for part in (self.what, *named, self.detail) if part)


@dataclass
class WatchSettings:
    """Settings of a watcher.

    Attributes:
        modalities: modalities to segment.
        since: read only reports of studies since this date (YYYYMMDD).
        with_capture: also store a secondary capture.
        fractional: the SEG contains probabilities.
        interval_s: seconds between two rounds, at least 1.

    Raises:
        ConfigError: there are no modalities, one of them has no images, or another value is invalid.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "CT")
    since: str | None = None
    with_capture: bool = False
    fractional: bool = False
    interval_s: float = 30.0

    def __post_init__(self) -> None:
        wrong = [
            name
            for name in self.modalities
            if name in NOT_IMAGES or not (name.isalnum() and name.isupper())
        ]
        if wrong or not self.modalities:
            raise ConfigError(
                f"modalities {', '.join(wrong) or 'are missing'}: expected those of images, such as CR, DX, CT, MR."
            )
        if self.since is not None and not (len(self.since) == 8 and self.since.isdigit()):
            raise ConfigError(f"since is {self.since!r}, expected a date as YYYYMMDD.")
        if not self.interval_s >= 1:
            raise ConfigError(f"interval is {self.interval_s} s, expected at least 1.")


@dataclass
class Watcher:
    """Segments what one PACS receives, with one model and one state file.

    Attributes:
        pacs: the server.
        segmenter: the model.
        state: what was done before.
        worklist: called once per round; returns the prompts, e.g. of a worklist or of the reports.
        settings: see `WatchSettings`.
        report: called with every event.
        wait: sleeps this number of seconds.
    """

    pacs: Pacs
    segmenter: DicomSegmenter
    state: State
    worklist: Callable[[], Iterable[WorklistItem]]
    settings: WatchSettings = field(default_factory=WatchSettings)
    report: Callable[[WatchEvent], None] = lambda event: None
    wait: Callable[[float], None] = time.sleep
    _sizes: dict[str, int] = field(default_factory=dict)
    _reported: set[TaskKey] = field(default_factory=set)

    def run(self, once: bool = False) -> Counter[str]:
        """Run rounds until stopped, or one round. If the server does not answer, wait longer each time.

        Args:
            once: run one round only.

        Returns:
            Number of tasks by outcome: `stored`, `known`, `failed` and `later`.

        Raises:
            PacsDownError: `once` is set, and the server did not answer for about two minutes.
            ConfigError: the server refuses the credentials.
        """
        done: Counter[str] = Counter()
        delay, waits = FIRST_WAIT_S, 0
        while True:
            try:
                self._round(done, settle=not once)
            except PacsDownError as error:
                waits += 1
                if once and waits > WAITS_ONCE:
                    raise
                self.report(WatchEvent("waiting", detail=f"{delay:.0f} s: {error}"))
                self.wait(delay)
                delay = min(2 * delay, LONGEST_WAIT_S)
                continue

            if once:
                return done
            delay, waits = FIRST_WAIT_S, 0
            self.wait(self.settings.interval_s)

    def _round(self, done: Counter[str], settle: bool) -> None:
        sizes = self._sizes
        self._sizes = {}
        try:
            for item in self.worklist():
                for task in self._tasks(item, sizes if settle else None):
                    done[self._do(task)] += 1
        except PacsDownError:
            raise
        except PacsError as error:
            self.report(WatchEvent("cannot search", detail=str(error)))

    def _tasks(self, item: WorklistItem, before: dict[str, int] | None) -> Iterator[PacsTask]:
        """The tasks of an item; a series only if it has as many slices as one round ago (`before`)."""
        try:
            groups = list(self._groups(item))
        except PacsDownError:
            raise
        except PacsError as error:
            prompt = short_hash(item.prompt)
            self.report(WatchEvent("cannot search", prompt=prompt, detail=str(error)))
            return

        for subject, instances in groups:
            wanted = [one for one in instances if not item.images or one.uid in item.images]
            if not wanted:
                continue
            if len(instances) > 1:  # a series may still be arriving
                self._sizes[subject] = len(instances)
                if before is not None and before.get(subject) != len(instances):
                    continue
            yield PacsTask(subject, tuple(instances), item.prompt)

    def _groups(self, item: WorklistItem) -> Iterator[tuple[str, list[Instance]]]:
        """What an item refers to: (UID, instances) of each image or series."""
        if item.kind == "instance":
            found = self.pacs.instance(item.value)
            if found is not None and found.modality in self.settings.modalities:
                yield found.uid, [found]
            return

        studies = self.pacs.studies(item.value) if item.kind == "accession" else [item.value]
        for study in studies:
            for modality in self.settings.modalities:
                for series in self.pacs.series(modality, study):
                    yield from self._of_series(series)

    def _of_series(self, series: Series) -> Iterator[tuple[str, list[Instance]]]:
        instances = self.pacs.instances(series)
        if series.modality in SLICED and instances:
            yield series.uid, instances
        else:
            for one in instances:
                yield one.uid, [one]

    def _do(self, task: PacsTask) -> str:
        """Do a task unless it was done before; returns `stored`, `known`, `failed` or `later`."""
        request = f"{task.prompt}\0{self.segmenter.settings}\0{self.settings.fractional}"
        digest = hashlib.sha256(request.encode(errors="surrogatepass")).hexdigest()
        key = TaskKey(task.subject, digest, self.segmenter.model.weights_sha256)
        entry = self.state.get(key)
        if entry is not None and entry.status in ("stored", "failed"):
            more = len(task.instances) - entry.images
            if entry.status == "stored" and more > 0 and key not in self._reported:
                self._reported.add(key)
                self._log("grown", task, f"{more} slices arrived after it was segmented")
            return "known"

        # the attempt is recorded first, so that an image that ends the process is not tried forever
        if self.state.start(key, len(task.instances)) > MAX_ATTEMPTS:
            return self._failed(key, task, "Stopped", f"{MAX_ATTEMPTS} attempts did not finish")
        uids = ResultUids.of(*key.parts)
        try:
            known = self._store(task, uids)
        except PacsDownError as error:
            return self._interrupted(key, task, error)
        except PacsError as error:
            return self._later(key, task, error)
        except ConfigError:
            self.state.release(key)
            raise
        except (TextMaskError, OSError) as error:
            return self._failed(key, task, type(error).__name__, str(error))
        except Exception as error:  # one bad image does not stop the others
            return self._failed(key, task, type(error).__name__, "unexpected; please report it")

        self.state.finish(key, "stored", seg=uids.seg)
        self._log("was there" if known else "stored", task)
        return "stored"

    def _store(self, task: PacsTask, uids: ResultUids) -> bool:
        """Segment, and store the results that the server does not have; returns whether it had all."""
        if problem := prompt_problem(task.prompt):
            raise DataError(problem)
        study = task.instances[0].study
        wanted = [uids.seg, uids.sr]
        if self.settings.with_capture:
            wanted.append(uids.capture)
        missing = [uid for uid in wanted if not self.pacs.holds(study, uid)]
        if not missing:
            return True

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of libraries quote values of the image
            found = self.segmenter(self._files(task), task.prompt)
            _check_sources(task, found)
            made = results(
                found,
                self.segmenter,
                uids,
                with_capture=self.settings.with_capture,
                fractional=self.settings.fractional,
            )
            datasets = [dataset for dataset in made if dataset.SOPInstanceUID in missing]
            self.pacs.store(study, datasets)
        return False

    def _files(self, task: PacsTask) -> list[bytes]:
        if len(task.instances) > MAX_SLICES:
            raise DataError(
                f"the series has {len(task.instances)} slices; the limit is {MAX_SLICES}."
            )
        files, total = [], 0
        for instance in task.instances:
            files.append(self.pacs.fetch(instance))
            total += len(files[-1])
            if total > MAX_SERIES_BYTES:
                raise DataError(
                    f"the series has more than {MAX_SERIES_BYTES:,} bytes, which is the limit."
                )
        return files

    def _interrupted(self, key: TaskKey, task: PacsTask, error: PacsDownError) -> str:
        """If the server does not answer at all, everything waits; if it fails for this task only, the task does."""
        try:
            self.pacs.ping()
        except PacsError:
            self.state.release(key)
            raise error from None
        return self._later(key, task, error)

    def _later(self, key: TaskKey, task: PacsTask, error: PacsError) -> str:
        entry = self.state.get(key)
        if entry is not None and entry.attempts >= MAX_ATTEMPTS:
            return self._failed(key, task, type(error).__name__, str(error))
        self._log("later", task, str(error))
        return "later"

    def _failed(self, key: TaskKey, task: PacsTask, kind: str, reason: str) -> str:
        # error messages quote the prompt in these forms; it may come from a report
        for quoted in (task.prompt, task.prompt[:80], repr(task.prompt[:80])):
            reason = reason.replace(quoted, "(prompt)") if quoted else reason
        self.state.finish(key, "failed", f"{kind}: {reason}")
        self._log("failed", task, kind)
        return "failed"

    def _log(self, what: str, task: PacsTask, detail: str = "") -> None:
        self.report(WatchEvent(what, short_hash(task.subject), short_hash(task.prompt), detail))


def _check_sources(task: PacsTask, found: DicomSegmentation) -> None:
    """Make sure that the server did not send another patient's image under the requested UID."""
    sent = sorted(str(one.get("SOPInstanceUID")) for one in found.sources)
    wanted = sorted(one.uid for one in task.instances)
    studies = {str(one.get("StudyInstanceUID")) for one in found.sources}
    if sent != wanted or studies != {task.instances[0].study}:
        raise DataError("the PACS returned other images than the requested ones.")
