"""One clip sent and scored: its numbers, and its row of the contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.api import GALLERY_KB
from kilocall.bench.contact_sheet import SheetPair, SheetRow, sheet_frames
from kilocall.bench.evaluate.footage import Footage, best_frame, read_footage
from kilocall.bench.evaluate.gallery import MadeFrames, make_frames
from kilocall.bench.evaluate.results import ClipResult, ClipScores, ReferenceScores, SourceChoice
from kilocall.bench.evaluate.tables import beside, rounded
from kilocall.bench.evaluate.transmission import Received, Transmission
from kilocall.bench.landmark_measure import FamilyMeter
from kilocall.bench.scores import MeasuredFrames, Part, Scorer
from kilocall.model import metrics
from kilocall.model.family import Family
from kilocall.model.reference_pictures import check_reference_budget
from kilocall.proto.errors import BadInput
from kilocall.sender.layer_encoder import check_layer_kbps

__all__ = ["STILL_PSNR", "ClipSettings", "evaluate_clip"]

#: A frozen picture better than this, in dB, is a speaker who hardly moves.
STILL_PSNR: Final = 29.0
#: What an evaluation asks for.
SCORED: Final = (
    Part.L1,
    Part.VMAF,
    Part.SHARPNESS,
    Part.FLICKER,
    Part.LIDS,
    Part.GAZE,
    Part.GAINS,
    Part.INTERIOR,
    Part.JITTER,
)


@dataclass(frozen=True)
class ClipSettings:
    """How each clip is sent; BadInput for what is out of range. With a `gallery` of two pictures or more it is also
    shown on several."""

    quality: float = 50
    frames_per_packet: int = 3
    source: SourceChoice = "first"
    gallery: int = 0
    gallery_kb: float = GALLERY_KB
    layer: float = 0
    hold: bool = False
    """Pictures as on a slow processor (`FaceRenderer.hold`)."""

    def __post_init__(self) -> None:
        if self.source not in ("first", "best"):
            raise BadInput(f"source is {self.source!r}, allowed are first and best")
        check_reference_budget(self.gallery, self.gallery_kb)
        check_layer_kbps(self.layer)


def evaluate_clip(path: Path, family: Family, scorer: Scorer, settings: ClipSettings) -> tuple[ClipResult, SheetRow]:
    """Raises BadInput for a clip that cannot be scored."""
    footage = read_footage(path, family)
    count = len(footage.crops)
    if count < 2:
        raise BadInput(f"{path}: has one frame, scoring needs two or more")
    chosen = 0 if settings.source == "first" else best_frame(footage)
    transmission = Transmission(
        footage, chosen, family, settings.quality, settings.frames_per_packet, settings.layer, settings.hold
    )
    received = transmission.send()
    truth = _measured(footage, scorer)
    made = scorer.measured(received.pictures)
    decoded = scorer.score(made, truth, footage.fps, left_out={chosen})
    frozen = scorer.score(truth.held(chosen, count), truth, footage.fps, left_out={chosen})
    bits = received.bits
    result = ClipResult(
        name=path.name,
        crop_given=footage.crop_given,
        frames=count,
        frames_left_out=footage.left_out,
        fps=footage.fps,
        source_frame=chosen,
        source_bytes=received.source_bytes,
        lost_frames=received.lost,
        landmark_frames=decoded.landmark_frames,
        payload_bits_mean=float(bits.mean()),
        payload_bits_p95=float(np.percentile(bits, 95)),
        payload_kbps=float(bits.mean()) * footage.fps / 1000,
        layer_kbps=8 * received.layer_bytes * footage.fps / count / 1000,
        coding_px=received.coding_px,
        decoded=ClipScores.of(decoded),
        frozen=ClipScores.of(frozen),
        truth_jitter_px=metrics.jitter(truth.landmarks.points, truth.landmarks.valid),
        still_gain_db=decoded.psnr_db - frozen.psnr_db if frozen.psnr_db > STILL_PSNR else None,
        gallery=_with_further_pictures(transmission, received, truth, made, scorer, settings),
    )
    return result, _sheet_row(result, footage, received)


def _measured(footage: Footage, scorer: Scorer) -> MeasuredFrames:
    """The original. What the sender saw in it is what the family's own extractor measures there: once is enough."""
    if isinstance(scorer.meter, FamilyMeter):
        return MeasuredFrames(footage.crops, scorer.meter.of_tracks(footage.tracks))
    return scorer.measured(footage.crops)


def _with_further_pictures(
    transmission: Transmission,
    received: Received,
    truth: MeasuredFrames,
    alone: MeasuredFrames,
    scorer: Scorer,
    settings: ClipSettings,
) -> list[ReferenceScores]:
    """The clip with the source picture alone, measured in `alone`, and with further ones; on the same frames."""
    if settings.gallery < 2:
        return []
    footage = transmission.footage
    made, frames = make_frames(
        transmission.family,
        received.source,
        received.packed,
        footage.crops,
        received.plain,
        lambda references: transmission.send(references, show=False).motions,
        pictures=settings.gallery,
        kilobytes=settings.gallery_kb,
    )
    one = MadeFrames(1, 1, received.source_bytes, 0, received.pictures)
    left_out = {transmission.source_frame, *frames}
    out = []
    for row in (one, *made):
        shown = alone if row is one else scorer.measured(row.frames)
        scores = scorer.score(shown, truth, footage.fps, left_out=left_out, landmarks_too=True)
        out.append(
            ReferenceScores(
                at_most=row.at_most,
                pictures=row.pictures,
                picture_bytes=row.picture_bytes,
                changes=row.changes,
                scores=ClipScores.of(scores),
            )
        )
    return out


def _sheet_row(result: ClipResult, footage: Footage, received: Received) -> SheetRow:
    made, held, chosen = result.decoded, result.frozen, result.source_frame
    lines = (
        f"frame {chosen}, {received.source_bytes} bytes",
        f"PSNR {beside(made.psnr_db, held.psnr_db, 1)} dB",
        f"SSIM {beside(made.ssim, held.ssim, 3)}",
        f"landm. {beside(made.landmark_px, held.landmark_px, 1)} px",
        f"mouth r {rounded(made.mouth_r, 2)}, eye {rounded(made.eye_r, 2)}",
        f"gain {rounded(made.mouth_gain, 2)}, eye {rounded(made.eye_gain, 2)}",
        f"sharpness {rounded(made.sharpness, 2)}",
        f"{result.payload_bits_mean:.0f} bit/frame",
        *((f"layer {result.layer_kbps:.1f} kbit/s",) if result.layer_kbps else ()),
    )
    start = footage.times_us[0]
    # Copies: a row must not keep a whole clip's pictures alive through one that shares their memory.
    pairs = tuple(
        SheetPair((footage.times_us[i] - start) / 1e6, footage.crops[i].copy(), received.pictures[i].copy())
        for i in sheet_frames(len(footage.crops))
    )
    psnr = f"PSNR {made.psnr_db:.1f} dB, frozen {held.psnr_db:.1f}"
    title = f"{result.name}   {psnr}   above: original, below: decoded"
    return SheetRow(title, lines, footage.crops[chosen].copy(), pairs)
