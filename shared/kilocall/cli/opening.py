"""What verbs open: a stream by its name, and the family that its options or a stream ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kilocall.api import open_family
from kilocall.cli.options import Models
from kilocall.cli.screen import progress_bar, warn
from kilocall.model.family import DEFAULT_FAMILY, OWN_WEIGHTS, Family
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.proto.stream_file import StreamReader
from kilocall.sample import sample_stream

__all__ = ["find_stream", "open_models"]

SAMPLE: Final = "sample:"


def find_stream(stream: Path) -> Path:
    """The file that `stream` names: itself, or with `sample:NAME` a built-in one."""
    name = str(stream)
    return sample_stream(name.removeprefix(SAMPLE)) if name.startswith(SAMPLE) else stream


def open_models(models: Models, stream: Path | None = None) -> Family:
    """The family, by default that of `stream`, with a progress bar while weights are read.

    Raises BadInput for options that do not fit, WrongFamily for a stream of another family.
    """
    name = models.family
    if stream is not None:
        header = StreamReader(stream).header
        if name is not None and name != header.family:
            raise WrongFamily(f"{stream} is of family {header.family}, --family is {name}")
        name = header.family
        if name in OWN_WEIGHTS and models.weights is None:
            raise BadInput(
                f"{stream} was made with {name} weights {header.weights_hash[:12]}, which are not in the package: "
                f"--weights {OWN_WEIGHTS[name]}; `kilocall weights check` shows a file's hash"
            )
    name = name or DEFAULT_FAMILY
    with progress_bar(f"reading the weights of {name}") as progress:
        family = open_family(
            name,
            weights=models.weights,
            codebook=models.codebook,
            engine=models.engine,
            threads=models.threads,
            progress=progress,
        )
    if name in OWN_WEIGHTS:
        from kilocall.model.checkpoints import LICENCES

        warn(f"{name} weights: {LICENCES[name]}")
    return family if models.personal is None else _adapted(family, models.personal)


def _adapted(family: Family, path: Path) -> Family:
    from kilocall.model.compact.family import CompactFamily
    from kilocall.model.compact.speaker_adapter import read_speaker_adapter

    if not isinstance(family, CompactFamily):
        raise WrongFamily(f"--personal is for the family {DEFAULT_FAMILY}, not for {family.name}")
    return family.adapted(read_speaker_adapter(path))
