"""Encodes, decodes and scores every clip of a folder: what the codec costs and how good it looks.

Every score stands beside that of the frozen picture, which is the source frame held for the whole clip:
motion that does not beat it is worth nothing. Pictures are scored on every frame but the source's own,
landmarks on every frame in which a face was measured in both. A clip of 256x256 with a label file
(`name.npz`) beside it is a face crop already and is taken as it is; of any other the crop that the sender
cuts is the original.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kilocall.api import GALLERY_KB, open_family
from kilocall.bench.contact_sheet import SheetRow, contact_sheet
from kilocall.bench.evaluate.clip import SCORED, STILL_PSNR, ClipSettings, evaluate_clip
from kilocall.bench.evaluate.gallery import gallery_markdown, gallery_plot
from kilocall.bench.evaluate.gallery import means as gallery_means
from kilocall.bench.evaluate.results import ClipResult, ClipScores, Evaluation, Failure, Means, SourceChoice
from kilocall.bench.evaluate.tables import markdown, worst_first
from kilocall.bench.landmark_measure import open_meter
from kilocall.bench.quality.clips import CLIP_SUFFIXES
from kilocall.bench.scores import Scorer, mean_of_known
from kilocall.codec.codebook import usual_quality
from kilocall.model import metrics
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.files import check_output_folder, write_whole
from kilocall.runtime.pictures import as_png
from kilocall.runtime.progress import Progress, silent

__all__ = ["evaluate_folder"]


def evaluate_folder(
    folder: Path | str,
    out: Path | str,
    *,
    quality: float | None = None,
    frames_per_packet: int = 3,
    source: SourceChoice = "first",
    engine: str = "auto",
    threads: int = 0,
    mediapipe_python: Path | None = None,
    limit: int | None = None,
    gallery: int = 0,
    gallery_kb: float = GALLERY_KB,
    layer: float = 0,
    hold: bool = False,
    progress: Progress | None = None,
    family: Family | None = None,
) -> Evaluation:
    """Scores the clips of `folder` (the first `limit` by name) and writes evaluation.json, table.md and
    contact_sheet.png to `out`.

    `source` says which frame is the source picture; it is used as the receiver gets it, compressed. Landmarks
    are measured by the family's own extractor, or by MediaPipe where `mediapipe_python` names a Python that
    has it. With a `gallery` of two pictures or more each clip is also shown on 2, 4 and 8 pictures of its speaker, up
    to `gallery`, `gallery_kb` for all of them together: gallery.md, and gallery.png where matplotlib is installed.
    With a `layer` of so many kbit/s clips are sent with real video under the motion, whose `quality` is 50 or, beside a
    layer of 3 kbit/s or more, 75; with `hold` pictures are made as on a slow processor, some moved on from one before.
    `progress` gets clips done and clips in all. A clip that cannot be scored is listed with its reason; BadInput when
    that goes for all, or there is none.
    """
    started = time.monotonic()
    quality = usual_quality(layer) if quality is None else quality
    settings = ClipSettings(quality, frames_per_packet, source, gallery, gallery_kb, layer, hold)
    paths = _clips_of(Path(folder), limit)
    out = _output_folder(Path(out))
    family = family or open_family(engine=engine, threads=threads)
    scorer = Scorer(open_meter(mediapipe_python, family), SCORED)
    clips, rows, failures = _evaluate_clips(paths, family, scorer, settings, progress or silent)
    used = getattr(family, "engine", None)
    evaluation = Evaluation(
        folder=Path(folder),
        family=family.name,
        weights_hash=family.weights_hash,
        engine=getattr(used, "name", engine),
        threads=getattr(used, "threads", threads),
        quality=quality,
        frames_per_packet=frames_per_packet,
        layer=layer,
        hold=hold,
        source=source,
        landmarks_by=scorer.meter.name,
        min_opening_std_px=metrics.MIN_OPENING_STD,
        still_psnr_db=STILL_PSNR,
        mean=_means(clips),
        clips=clips,
        gallery=gallery_means([clip.gallery for clip in clips]),
        gallery_kb=gallery_kb if gallery > 1 else None,
        failures=failures,
        wall_s=time.monotonic() - started,
    )
    _write(out, evaluation, rows)
    return evaluation


def _clips_of(folder: Path, limit: int | None) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}, at least 1 clip")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in CLIP_SUFFIXES and path.is_file())
    if not paths:
        raise BadInput(f"{folder}: holds no clip ({', '.join(CLIP_SUFFIXES)})")
    return paths[:limit]


def _output_folder(out: Path) -> Path:
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def _evaluate_clips(
    paths: Sequence[Path], family: Family, scorer: Scorer, settings: ClipSettings, progress: Progress
) -> tuple[list[ClipResult], dict[str, SheetRow], list[Failure]]:
    """Results, their rows of the contact sheet by the clip's name, and the clips that could not be scored.

    BadInput where that goes for all.
    """
    clips: list[ClipResult] = []
    rows: dict[str, SheetRow] = {}
    failures: list[Failure] = []
    for done, path in enumerate(paths):
        progress(done, len(paths))
        try:
            result, row = evaluate_clip(path, family, scorer, settings)
        except (KilocallError, OSError) as error:
            failures.append(Failure(name=path.name, reason=str(error).removeprefix(f"{path}: ")))
            continue
        clips.append(result)
        rows[result.name] = row
    progress(len(paths), len(paths))
    if not clips:
        raise BadInput(f"{paths[0].parent}: none of {len(paths)} clips could be scored; {_listed(failures)}")
    return clips, rows, failures


def _write(out: Path, evaluation: Evaluation, rows: dict[str, SheetRow]) -> None:
    write_whole(out / "evaluation.json", evaluation.model_dump_json(indent=2).encode())
    write_whole(out / "table.md", markdown(evaluation).encode())
    sheet = contact_sheet([rows[clip.name] for clip in worst_first(evaluation.clips)])
    write_whole(out / "contact_sheet.png", as_png(sheet))
    if evaluation.gallery and evaluation.gallery_kb is not None:
        named = [(clip.name, clip.gallery) for clip in evaluation.clips]
        table = gallery_markdown(named, evaluation.gallery, evaluation.gallery_kb)
        write_whole(out / "gallery.md", table.encode())
        if find_spec("matplotlib") is not None:
            write_whole(out / "gallery.png", gallery_plot(evaluation.gallery))


def _means(clips: Sequence[ClipResult]) -> Means:
    def of(value: Callable[[ClipResult], float | None]) -> float | None:
        return mean_of_known(value(clip) for clip in clips)

    def certain(value: Callable[[ClipResult], float]) -> float:
        return float(np.mean([value(clip) for clip in clips]))

    def scores(rows: Sequence[ClipScores]) -> ClipScores:
        return ClipScores.model_validate(
            {name: mean_of_known(getattr(row, name) for row in rows) for name in ClipScores.model_fields}
        )

    return Means(
        payload_bits_mean=certain(lambda clip: clip.payload_bits_mean),
        payload_bits_p95=certain(lambda clip: clip.payload_bits_p95),
        payload_kbps=certain(lambda clip: clip.payload_kbps),
        layer_kbps=certain(lambda clip: clip.layer_kbps),
        coding_px=certain(lambda clip: clip.coding_px),
        decoded=scores([clip.decoded for clip in clips]),
        frozen=scores([clip.frozen for clip in clips]),
        truth_jitter_px=of(lambda clip: clip.truth_jitter_px),
        mouth_clips=sum(clip.decoded.mouth_r is not None for clip in clips),
        eye_clips=sum(clip.decoded.eye_r is not None for clip in clips),
        still_clips=sum(clip.still_gain_db is not None for clip in clips),
        worse_than_frozen=sum(clip.worse_than_frozen for clip in clips),
        still_gain_db=of(lambda clip: clip.still_gain_db),
    )


def _listed(failures: Sequence[Failure]) -> str:
    first = f"{failures[0].name}: {failures[0].reason}"
    return first if len(failures) == 1 else f"{first} (and {len(failures) - 1} more)"
