"""Families whose weights the user brings: opening them, weights check and convert, fit."""

from __future__ import annotations

import json
from pathlib import Path

from kilocall.api import open_family
from kilocall.cli.options import Models
from kilocall.cli.screen import console, needs, print_facts, progress_bar, warn
from kilocall.model.family import DEFAULT_FAMILY, OWN_WEIGHTS, Family
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.proto.stream_file import StreamReader
from kilocall.runtime.files import check_output

__all__ = ["check_weights", "convert_weights", "fit_to_streams", "open_models"]


def open_models(models: Models, stream: Path | None = None) -> Family:
    """What `Models.open` does."""
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


def check_weights(path: Path, as_json: bool) -> None:
    needs("torch", "torch")
    from kilocall.model.checkpoints import read_checkpoint

    with progress_bar(f"reading {path.name}") as progress:
        found = read_checkpoint(path, progress=progress)
    facts = {
        "path": str(path),
        "family": found.family,
        "version": found.version,
        "licence": found.licence,
        "hash": found.hash,
        "precision": found.precision,
        "parameters": found.parameters,
        "ignored": list(found.ignored),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print_facts(
        str(path),
        [
            ("family", f"{found.family}, {found.version}"),
            ("licence", found.licence),
            ("hash", found.hash),
            ("precision", found.precision),
            ("parameters", f"{found.parameters / 1e6:.1f} million, none missing, none of another shape"),
            ("not needed", ", ".join(found.ignored) or "nothing"),
        ],
    )


def convert_weights(path: Path, out: Path, half: bool) -> None:
    needs("torch", "torch")
    from kilocall.model.checkpoints import convert, read_checkpoint

    check_output(out, [path])
    with progress_bar(f"reading {path.name}") as progress:
        found = read_checkpoint(path, progress=progress)
    with progress_bar(f"writing {out.name}"):
        convert(found, out, half=half)
    console().print(
        f"wrote {out}: {found.family}, {found.version}, {out.stat().st_size / 1e6:.0f} MB; {found.licence}",
        soft_wrap=True,
    )


def fit_to_streams(streams: list[Path], out: Path, codebook: Path | None) -> None:
    from kilocall.cli.streams import find_stream
    from kilocall.model.fit import fit_coding

    streams = [find_stream(stream) for stream in streams]
    check_output(out, [*streams, codebook])
    with progress_bar("fitting"):
        found = fit_coding(streams, codebook)
    found.coding.save(out)
    print_facts(
        str(out),
        [
            ("family", found.coding.family),
            ("codebook", found.coding.codebook.hash),
            ("fitted to", f"{found.streams} streams, {found.frames} frames"),
            ("numbers a frame", f"{found.numbers_after}, before {found.numbers_before}"),
            ("motion", f"{found.bits_after:.1f} bits a frame, before {found.bits_before:.1f}"),
            ("error", f"{found.error_after:.5f}, before {found.error_before:.5f}, of a delta"),
        ],
    )
