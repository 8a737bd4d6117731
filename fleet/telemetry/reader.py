"""One look at this machine, from every source there is."""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

from fleet.telemetry.nvml import Nvml, NvmlAnswer
from fleet.telemetry.patience import Patient
from fleet.telemetry.readings import Gpu, Machine
from fleet.telemetry.survey import gpus_from_survey, ram_from_survey
from fleet.telemetry.system import System, disk_free_bytes, has_unified_memory
from fleet.weights.finding import models_folder

Surveyed = tuple[tuple[Gpu, ...], int | None, str]  # the GPUs, the memory in bytes, a sentence

logger = logging.getLogger(__name__)

NVML_SECONDS = 5.0
SURVEY_SECONDS = 5.0
DISK_SECONDS = 2.0  # models may lie on another machine's disk, which may be gone
SURVEY_EVERY_SECONDS = 600.0  # what is built into a machine seldom changes, and the survey starts a program
SURVEY_AGAIN_SECONDS = 60.0  # after one that failed: LM Studio may have been started since

HANGING = "The graphics driver does not answer. If this lasts, restart the machine."
FROM_SURVEY = "LM Studio's hardware survey tells what GPUs there are, but not how much of them is in use."
NONE_IN_SURVEY = "LM Studio's hardware survey found no GPU either."
SURVEY_FAILED = "LM Studio's hardware survey could not be had. Check that LM Studio is installed and running."
SURVEY_SLOW = "LM Studio's hardware survey has not come yet."
NO_SURVEY = (), None, ""
UNIFIED = "Processors and GPU share one memory on this machine."


class MachineReader:
    """Reads this machine, from any thread. `survey` returns the JSON of `lms runtime survey --json`, parsed, or None
    as long as there is nothing here that could be asked for it.

    It is asked only where NVML knows no GPU, at most every ten minutes, and may raise. `folder` is LM
    Studio's: processes whose program lies below it are marked as the daemon's, and its models lie on the disk whose
    free bytes are told.
    """

    def __init__(
        self,
        survey: Callable[[], object] | None = None,
        folder: Path | None = None,
        *,
        nvml: Nvml | None = None,
        nvml_seconds: float = NVML_SECONDS,
    ):
        self._system = System()
        self._nvml = Patient((nvml or Nvml(folder=folder)).read, nvml_seconds, "nvml")
        self._known = NvmlAnswer()
        self._disk = Patient(lambda: disk_free_bytes(models_folder(folder)), DISK_SECONDS, "disk") if folder else None
        self._survey = SurveyedMachine(survey) if survey else None

    def read(self) -> Machine:
        """The machine now. Never raises; takes some milliseconds, and up to 5 s when a source starts to hang."""
        answer, ram = self._gpus(), None
        if not answer.gpus and answer.note != HANGING and self._survey:
            gpus, ram, note = self._survey.read()
            is_nvidia_missed = not gpus or any("nvidia" in gpu.name.lower() for gpu in gpus)
            note = f"{note} {answer.note}".strip() if is_nvidia_missed else note
            answer = dataclasses.replace(answer, gpus=gpus, note=note)
        system = self._system.read()
        system["ram_total_bytes"] = system["ram_total_bytes"] or ram
        return Machine(
            at=time.time(),
            **system,
            disk_free_bytes=self._disk_free(),
            driver_version=answer.driver_version,
            cuda_version=answer.cuda_version,
            gpu_note=f"{answer.note} {UNIFIED}".strip() if has_unified_memory() else answer.note,
            gpus=answer.gpus,
        )

    def _disk_free(self) -> int | None:
        try:
            return self._disk.ask() if self._disk else None
        except TimeoutError:
            return None

    def _gpus(self) -> NvmlAnswer:
        """What NVML tells. While it hangs, the GPUs as they were known, with no figure that may have changed."""
        try:
            self._known = self._nvml.ask()
        except TimeoutError:
            gpus = tuple(_without_figures(gpu) for gpu in self._known.gpus)
            return dataclasses.replace(self._known, gpus=gpus, note=HANGING)
        return self._known


class SurveyedMachine:
    """The latest survey. The first reader waits for it some seconds; it is renewed while readers go on."""

    def __init__(self, survey: Callable[[], object], clock: Callable[[], float] = time.monotonic):
        self._survey = survey
        self._clock = clock
        self._renewal = Patient(self._renew, SURVEY_SECONDS, "survey")
        self._due_at = clock()
        self._is_known = False
        self._known: Surveyed = ((), None, SURVEY_SLOW)

    def read(self) -> Surveyed:
        """The GPUs, the memory in bytes, and a sentence on where they come from. Never raises."""
        if self._clock() < self._due_at:
            return self._known
        if self._is_known:
            self._renewal.begin()
            return self._known
        try:
            self._renewal.ask()
        except TimeoutError:
            logger.info("survey.slow")
        return self._known

    def _renew(self) -> None:
        """Runs in a thread of its own and leaves its outcome here, so that a late one is not lost."""
        if self._clock() < self._due_at:
            return
        try:
            if (survey := self._survey()) is None:
                self._known, self._is_known = NO_SURVEY, False
                return
            gpus, rest = gpus_from_survey(survey), SURVEY_EVERY_SECONDS
            self._known = gpus, ram_from_survey(survey), FROM_SURVEY if gpus else NONE_IN_SURVEY
        except Exception as error:
            logger.info("survey.failed error=%s", type(error).__name__)
            gpus, ram, _ = self._known
            self._known = gpus, ram, FROM_SURVEY if gpus else SURVEY_FAILED
            rest = SURVEY_AGAIN_SECONDS
        self._is_known = True
        self._due_at = self._clock() + rest


def _without_figures(gpu: Gpu) -> Gpu:
    kept = ("index", "name", "source", "uuid", "memory_total_bytes", "is_integrated", "mig")
    return Gpu(**{name: getattr(gpu, name) for name in kept}, problem=HANGING)
