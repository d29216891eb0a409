"""Families whose weights the user brings: weights check and convert, fit."""

from __future__ import annotations

import json
from pathlib import Path

from kilocall.cli.opening import find_stream
from kilocall.cli.screen import console, needs, print_facts, progress_bar
from kilocall.runtime.files import check_output

__all__ = ["check_weights", "convert_weights", "fit_to_streams"]


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
