"""Results that were measured before, one JSON file each, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from kilocall.bench.quality.jobs import Job, job_key
from kilocall.bench.quality.results import PointResult
from kilocall.proto.errors import BadInput
from kilocall.runtime.files import write_whole

__all__ = ["Cache"]


class Cache:
    """A folder of results; None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"cache {folder}: cannot be made ({error.strerror or error})") from error

    def get(self, job: Job) -> PointResult | None:
        """What is known of the job; a file that is damaged or of another version counts as unknown."""
        if self.folder is None:
            return None
        try:
            found = PointResult.model_validate_json(self._file(job).read_bytes())
        except (OSError, ValidationError):
            return None
        self.hits += 1
        # The same file may have had another name then.
        return found.model_copy(update={"clip": found.clip.model_copy(update={"name": job.clip.name})})

    def put(self, job: Job, result: PointResult) -> None:
        if self.folder is not None:
            write_whole(self._file(job), result.model_dump_json().encode())

    def _file(self, job: Job) -> Path:
        assert self.folder is not None
        return self.folder / f"{job_key(job)}.json"
