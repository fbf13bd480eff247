"""Watch a PACS: films and series that somebody has a sentence for are segmented, and SEG and SR stored back, once.

Once means: a job is known by its image, what was asked and the model. Its results have UIDs made of these three, so
that a crash between storing and noting it stores the same instances again, if the server does not say that it has them.
Nothing that names a patient is told to `tell`: images and sentences are hashed.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from textmask.errors import ConfigError, DataError, PacsDownError, PacsError, TextMaskError
from textmask.io.dicom.facts import ResultUids
from textmask.pacs.answers import DicomSegmentation, DicomSegmenter
from textmask.pacs.client import Instance, Pacs, Series
from textmask.pacs.results import results, short_hash
from textmask.pacs.state import State, TaskKey
from textmask.pacs.worklist import WorklistItem, sentence_problem

SLICED = ("CT", "MR", "PT")  # a series is one request; of other modalities each image is
OURS = ("SEG", "SR", "OT", "SC", "PR", "KO", "DOC", "RTSTRUCT")  # results, or no images
MAX_SLICES = 2000
MAX_SERIES_BYTES = 2 << 30
MAX_ATTEMPTS = 5  # then a job has failed, also when each attempt ended this process
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
WAITS_ONCE = 8  # of --once, about two minutes


@dataclass(frozen=True)
class PacsTask:
    """A film, or all slices of a series, and a sentence."""

    subject: str
    instances: tuple[Instance, ...]
    sentence: str


@dataclass(frozen=True)
class WatchEvent:
    """Something that happened. `image` and `sentence` are the first letters of hashes, `detail` names no patient."""

    what: str
    image: str = ""
    sentence: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """One line of a log."""
        named = [
            f"image {self.image}" if self.image else "",
            f"sentence {self.sentence}" if self.sentence else "",
        ]
        return " ".join(part for part in (self.what, *named, self.detail) if part)


@dataclass
class WatchSettings:
    """How to watch.

    Attributes:
        modalities: what is segmented.
        since: only studies since that date (YYYYMMDD), where reports are looked for.
        with_capture: also store a secondary capture.
        fractional: the SEG holds probabilities.
        interval_s: between two rounds.

    Raises:
        ConfigError: a modality that results have, or none.
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
            if name in OURS or not (name.isalnum() and name.isupper())
        ]
        if wrong or not self.modalities:
            raise ConfigError(
                f"modalities {', '.join(wrong) or 'are missing'}: expected images such as CR, DX, CT, MR."
            )
        if self.since is not None and not (len(self.since) == 8 and self.since.isdigit()):
            raise ConfigError(f"since is {self.since!r}, expected a date as YYYYMMDD.")
        if not self.interval_s >= 1:
            raise ConfigError(f"interval is {self.interval_s} s, expected at least 1.")


@dataclass
class Watcher:
    """One PACS, one model, one state.

    Attributes:
        pacs: the server.
        answerer: the model.
        state: what was done.
        asks: called once a round; gives the sentences, e.g. of a worklist or of the reports.
        settings: see there.
        tell: gets every event.
        wait: sleeps that many seconds.
    """

    pacs: Pacs
    answerer: DicomSegmenter
    state: State
    asks: Callable[[], Iterable[WorklistItem]]
    settings: WatchSettings = field(default_factory=WatchSettings)
    tell: Callable[[WatchEvent], None] = lambda event: None
    wait: Callable[[float], None] = time.sleep
    _sizes: dict[str, int] = field(default_factory=dict)
    _told: set[TaskKey] = field(default_factory=set)

    def run(self, once: bool = False) -> Counter[str]:
        """Round after round, or one round; a server that does not answer is waited for, longer each time.

        Returns:
            How many jobs this call stored, found stored, failed and left for later.

        Raises:
            PacsDownError: `once`, and the server stayed away for about two minutes.
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
                self.tell(WatchEvent("waiting", detail=f"{delay:.0f} s: {error}"))
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
            for ask in self.asks():
                for job in self._jobs(ask, sizes if settle else None):
                    done[self._do(job)] += 1
        except PacsDownError:
            raise
        except PacsError as error:
            self.tell(WatchEvent("cannot search", detail=str(error)))

    def _jobs(self, ask: WorklistItem, before: dict[str, int] | None) -> Iterator[PacsTask]:
        """The jobs of a request; of a series only when it has as many slices as a round ago (`before`)."""
        try:
            groups = list(self._groups(ask))
        except PacsDownError:
            raise
        except PacsError as error:
            self.tell(
                WatchEvent("cannot search", sentence=short_hash(ask.sentence), detail=str(error))
            )
            return
        for subject, instances in groups:
            wanted = [one for one in instances if not ask.images or one.uid in ask.images]
            if not wanted:
                continue
            if len(instances) > 1:
                self._sizes[subject] = len(instances)
                if before is not None and before.get(subject) != len(instances):
                    continue
            yield PacsTask(subject, tuple(instances), ask.sentence)

    def _groups(self, ask: WorklistItem) -> Iterator[tuple[str, list[Instance]]]:
        if ask.kind == "instance":
            found = self.pacs.instance(ask.value)
            if found is not None and found.modality in self.settings.modalities:
                yield found.uid, [found]
            return
        studies = self.pacs.studies(ask.value) if ask.kind == "accession" else [ask.value]
        for study in studies:
            for modality in self.settings.modalities:
                for series in self.pacs.series(modality, study):
                    yield from self._of_series(series)

    def _of_series(self, series: Series) -> Iterator[tuple[str, list[Instance]]]:
        instances = self.pacs.instances(series)
        if series.modality in SLICED and instances:
            yield series.uid, instances
        else:
            yield from ((one.uid, [one]) for one in instances)

    def _do(self, job: PacsTask) -> str:
        """Do a job that is not done: `stored`, `known`, `failed` or `later`."""
        model = self.answerer.model
        asked = f"{job.sentence}\0{self.answerer.settings}\0{self.settings.fractional}"
        asked = hashlib.sha256(asked.encode(errors="surrogatepass")).hexdigest()
        key = TaskKey(job.subject, asked, model.weights_sha256)
        entry = self.state.get(key)
        if entry is not None and entry.status in ("stored", "failed"):
            if (
                entry.status == "stored"
                and entry.images < len(job.instances)
                and key not in self._told
            ):
                self._told.add(key)
                self._say(
                    "grown",
                    job,
                    f"{len(job.instances) - entry.images} slices came after it was answered",
                )
            return "known"
        if self.state.start(key, len(job.instances)) > MAX_ATTEMPTS:
            return self._failed(
                key, job, "Stopped", f"{MAX_ATTEMPTS} attempts did not come to an end"
            )
        uids = ResultUids.of(*key.parts)
        try:
            known = self._store(job, uids)
        except PacsDownError as error:
            return self._interrupted(key, job, error)
        except PacsError as error:
            return self._later(key, job, error)
        except ConfigError:
            self.state.release(key)
            raise
        except (TextMaskError, OSError) as error:
            return self._failed(key, job, type(error).__name__, str(error))
        except Exception as error:  # one bad image does not stop the others
            return self._failed(key, job, type(error).__name__, "unexpected; please report it")
        self.state.finish(key, "stored", seg=uids.seg)
        self._say("was there" if known else "stored", job)
        return "stored"

    def _store(self, job: PacsTask, uids: ResultUids) -> bool:
        """Answer and store what the server does not have; whether it had all."""
        if problem := sentence_problem(job.sentence):
            raise DataError(problem)
        study = job.instances[0].study
        wanted = [uids.seg, uids.sr, *([uids.capture] if self.settings.with_capture else [])]
        missing = [uid for uid in wanted if not self.pacs.holds(study, uid)]
        if not missing:
            return True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries quote values of the image in theirs
            found = self.answerer(self._files(job), job.sentence)
            _check_sources(job, found)
            made = results(
                found,
                self.answerer,
                uids,
                with_capture=self.settings.with_capture,
                fractional=self.settings.fractional,
            )
            self.pacs.store(
                study, [dataset for dataset in made if dataset.SOPInstanceUID in missing]
            )
        return False

    def _files(self, job: PacsTask) -> list[bytes]:
        if len(job.instances) > MAX_SLICES:
            raise DataError(
                f"the series has {len(job.instances)} slices, at most {MAX_SLICES} are segmented."
            )
        files, total = [], 0
        for instance in job.instances:
            files.append(self.pacs.fetch(instance))
            total += len(files[-1])
            if total > MAX_SERIES_BYTES:
                raise DataError(
                    f"the series has more than {MAX_SERIES_BYTES:,} bytes, which are not taken."
                )
        return files

    def _interrupted(self, key: TaskKey, job: PacsTask, error: PacsDownError) -> str:
        """Where the server is gone for everything, all wait for it; where it is gone for this job, only that does."""
        try:
            self.pacs.ping()
        except PacsError:
            self.state.release(key)
            raise error from None
        return self._later(key, job, error)

    def _later(self, key: TaskKey, job: PacsTask, error: PacsError) -> str:
        entry = self.state.get(key)
        if entry is not None and entry.attempts >= MAX_ATTEMPTS:
            return self._failed(key, job, type(error).__name__, str(error))
        self._say("later", job, str(error))
        return "later"

    def _failed(self, key: TaskKey, job: PacsTask, kind: str, reason: str) -> str:
        for quoted in (
            job.sentence,
            job.sentence[:80],
            repr(job.sentence[:80]),
        ):  # as messages quote it
            reason = reason.replace(quoted, "(sentence)") if quoted else reason
        self.state.finish(key, "failed", f"{kind}: {reason}")
        self._say("failed", job, kind)
        return "failed"

    def _say(self, what: str, job: PacsTask, detail: str = "") -> None:
        self.tell(WatchEvent(what, short_hash(job.subject), short_hash(job.sentence), detail))


def _check_sources(job: PacsTask, found: DicomSegmentation) -> None:
    """The server could send another patient's image under the UID that was asked for."""
    sent: Sequence[str] = [str(one.get("SOPInstanceUID")) for one in found.sources]
    studies = {str(one.get("StudyInstanceUID")) for one in found.sources}
    if sorted(sent) != sorted(one.uid for one in job.instances) or studies != {
        job.instances[0].study
    }:
        raise DataError("the PACS sends other images than it was asked for.")
