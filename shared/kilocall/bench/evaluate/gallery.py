"""What further pictures of the speaker bring, measured beside the same stream with the source picture alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kilocall.bench.evaluate.results import ClipScores, ReferenceMeans, ReferenceScores
from kilocall.bench.evaluate.tables import rounded
from kilocall.model.family import Family, Picture, Source
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.control import SourcePicture
from kilocall.proto.limits import MOST_PICTURES
from kilocall.receiver.reference_renderer import ReferenceRenderer
from kilocall.runtime.pictures import decode_picture, fitted

__all__ = ["MadeFrames", "gallery_markdown", "gallery_plot", "make_frames", "means"]

COUNTS: Final = (2, 4, MOST_PICTURES)
#: Crops that are looked at as further pictures, spread over the clip, as for a file.
PROBES: Final = 80


@dataclass(frozen=True)
class MadeFrames:
    """A clip's frames shown on so many pictures."""

    at_most: int
    pictures: int
    picture_bytes: int
    changes: int
    frames: list[Picture]


def make_frames(
    family: Family,
    base: Source,
    packed: SourcePicture,
    crops: Sequence[Picture],
    motions: Sequence[Motion],
    send: Callable[[Sequence[ReferencePicture]], Sequence[Motion]],
    *,
    pictures: int,
    kilobytes: float,
) -> tuple[list[MadeFrames], list[int]]:
    """The clip as shown on 2, 4 and 8 pictures, up to `pictures`, and which frames those are.

    Pictures are chosen by `motions`; `send` gives those that a receiver gets who holds further pictures.
    """
    # The sender's side is imported late: an image with the receiver alone can still import this package's parts.
    from kilocall.sender.reference_search import Probe, bytes_each, choose_pictures

    each = bytes_each(pictures, kilobytes, packed, family.size)
    numbers = range(0, len(crops), -(-len(crops) // PROBES))
    probes = {Probe(crops[number], motions[number], crops[number]): number for number in numbers}
    chosen = choose_pictures(family, base, list(probes), pictures=pictures, max_bytes=each)
    made = []
    for at_most in sorted({min(count, pictures) for count in COUNTS}):
        renderer = ReferenceRenderer(family, base)
        used = chosen[: at_most - 1]
        for proposal in used:
            renderer.add(decode_picture(proposal.packed.data))
        sent = send([proposal.reference for proposal in used])
        frames = [fitted(renderer.render(motion), family.size) for motion in sent]
        data = len(packed.data) + sum(len(proposal.packed.data) for proposal in used)
        made.append(MadeFrames(at_most, 1 + len(used), data, renderer.changes, frames))
    return made, [probes[proposal.probe] for proposal in chosen]


def means(clips: Sequence[Sequence[ReferenceScores]]) -> list[ReferenceMeans]:
    """Over the clips, for each `at_most`."""
    out = []
    for at_most in sorted({row.at_most for clip in clips for row in clip}):
        rows = [row for clip in clips for row in clip if row.at_most == at_most]
        values = {}
        for name in ClipScores.model_fields:
            known = [value for row in rows if (value := getattr(row.scores, name)) is not None]
            values[name] = sum(known) / len(known) if known else None
        out.append(
            ReferenceMeans(
                at_most=at_most,
                pictures=sum(row.pictures for row in rows) / len(rows),
                picture_bytes=sum(row.picture_bytes for row in rows) / len(rows),
                changes=sum(row.changes for row in rows) / len(rows),
                scores=ClipScores.model_validate(values),
            )
        )
    return out


_HEADINGS: Final = ("pictures", "bytes", "changes", "landmarks px", "PSNR dB", "SSIM", "VMAF", "sharpness", "flicker",
                    "mouth r", "eye r")  # fmt: skip


def gallery_markdown(
    clips: Sequence[tuple[str, Sequence[ReferenceScores]]], mean: Sequence[ReferenceMeans], kilobytes: float
) -> str:
    """Tables: the means by number of pictures, and each clip with one picture beside all."""
    lines = [
        f"# Further pictures of the speaker, at most {kilobytes:g} KB in all",
        "",
        _line(("at most", *_HEADINGS)),
        _line("---:" for _ in ("", *_HEADINGS)),
    ]
    for row in mean:
        cells = (f"{row.pictures:.1f}", f"{row.picture_bytes:.0f}", f"{row.changes:.0f}", *_cells(row.scores))
        lines.append(_line((str(row.at_most), *cells)))
    lines += ["", _line(("clip", *_HEADINGS)), _line(("---", *("---:" for _ in _HEADINGS)))]
    for name, rows in clips:
        safe = " ".join(name.split()).replace("|", "\\|")
        for one in (rows[0], rows[-1]):
            cells = (str(one.pictures), str(one.picture_bytes), str(one.changes), *_cells(one.scores))
            lines.append(_line((safe, *cells)))
    lines += ["", "Frames that any gallery of the clip took as a picture are left out of all its rows."]
    return "\n".join(lines) + "\n"


def gallery_plot(mean: Sequence[ReferenceMeans]) -> bytes:
    """PNG: PSNR and landmark distance against the bytes of all pictures. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    kilobytes = [row.picture_bytes / 1000 for row in mean]
    panels = (("psnr_db", "PSNR dB"), ("landmark_px", "landmark distance px (lower is better)"))
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        values = [getattr(row.scores, name) for row in mean]
        known = [(x, y, row.at_most) for x, y, row in zip(kilobytes, values, mean, strict=True) if y is not None]
        axes.plot([x for x, _, _ in known], [y for _, y, _ in known], color="#D55E00", marker="o")
        for x, y, number in known:
            axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(6, 4), fontsize=9)
        axes.set_xlabel("KB of all pictures; the number of pictures beside the point")
        axes.set_title(title, fontsize=10)
        axes.grid(True, color="#e5e5e5", linewidth=0.6)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _cells(scores: ClipScores) -> tuple[str, ...]:
    return (
        rounded(scores.landmark_px, 2),
        rounded(scores.psnr_db, 2),
        rounded(scores.ssim, 3),
        rounded(scores.vmaf, 1),
        rounded(scores.sharpness, 2),
        rounded(scores.flicker, 2),
        rounded(scores.mouth_r, 2),
        rounded(scores.eye_r, 2),
    )


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
