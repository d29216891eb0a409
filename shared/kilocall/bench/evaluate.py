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
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.api import GALLERY_KB, Decoder, Encoder, open_family
from kilocall.bench.contact_sheet import SheetPair, SheetRow, contact_sheet, sheet_frames
from kilocall.bench.evaluation import (
    ClipResult,
    Evaluation,
    Failure,
    Means,
    ReferenceScores,
    Scores,
    SourceChoice,
    beside,
    markdown,
    rounded,
    worst_first,
)
from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.gallery import MadeFrames, gallery_markdown, gallery_plot, make_frames
from kilocall.bench.gallery import means as gallery_means
from kilocall.bench.landmark_measure import FamilyMeter, LandmarkMeter, MeasuredLandmarks, MediaPipeMeter
from kilocall.bench.vmaf import vmaf
from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.model.family import Family, Picture, Source, Track
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture, check_reference_budget
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.files import check_output_folder, write_whole
from kilocall.runtime.pictures import as_png, fitted
from kilocall.runtime.progress import Progress

__all__ = ["MAX_FRAMES", "STILL_PSNR", "evaluate_folder"]


#: Scored of a clip at most; 2 x 750 pictures of 256x256 are 295 MB, and they are held until the clip is
#: scored.
MAX_FRAMES: Final = 750
#: A frozen picture better than this, in dB, is a speaker who hardly moves.
STILL_PSNR: Final = 29.0

_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".y4m")
_FACE_CERTAINTY: Final = 0.5
_CANDIDATES: Final = 40


@dataclass(frozen=True)
class _Footage:
    """The original as face crops, with what the sender sees in them."""

    crops: list[Picture]
    times_us: list[int]
    tracks: list[Track]
    fps: float
    crop_given: bool
    left_out: bool


@dataclass(frozen=True)
class _Received:
    pictures: list[Picture]
    bits: NDArray[np.float64]  # payload of every frame
    coding_px: float
    packed: SourcePicture
    source: Source
    motions: list[Motion]
    plain: list[Motion]
    """Before implicit keypoints were aligned, and before coding."""
    lost: int

    @property
    def source_bytes(self) -> int:
        return len(self.packed.data)


def evaluate_folder(
    folder: Path | str,
    out: Path | str,
    *,
    quality: float = 50,
    frames_per_packet: int = 3,
    source: SourceChoice = "first",
    engine: str = "auto",
    threads: int = 0,
    mediapipe_python: Path | None = None,
    limit: int | None = None,
    gallery: int = 0,
    gallery_kb: float = GALLERY_KB,
    progress: Progress | None = None,
    family: Family | None = None,
) -> Evaluation:
    """Scores the clips of `folder` (the first `limit` by name) and writes evaluation.json, table.md and
    contact_sheet.png to `out`.

    `source` says which frame is the source picture; it is used as the receiver gets it, compressed. Landmarks
    are measured by the family's own extractor, or by MediaPipe where `mediapipe_python` names a Python that
    has it. With a `gallery` of two pictures or more each clip is also shown on 2, 4 and 8 pictures of its speaker, up
    to `gallery`, `gallery_kb` for all of them together: gallery.md, and gallery.png where matplotlib is installed.
    `progress` gets clips done and clips in all. A clip that cannot be scored is listed with its
    reason; BadInput when that goes for all, or there is none.
    """
    started = time.monotonic()
    if source not in ("first", "best"):
        raise BadInput(f"source is {source!r}, allowed are first and best")
    check_reference_budget(gallery, gallery_kb)
    paths = _clips_of(Path(folder), limit)
    out = Path(out)
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    family = family or open_family(engine=engine, threads=threads)
    meter: LandmarkMeter = MediaPipeMeter(mediapipe_python) if mediapipe_python else FamilyMeter(family)
    clips: list[ClipResult] = []
    rows: dict[str, SheetRow] = {}
    failures: list[Failure] = []
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths))
        try:
            result, row = _evaluate_clip(path, family, meter, source, quality, frames_per_packet, gallery, gallery_kb)
        except (KilocallError, OSError) as error:
            failures.append(Failure(name=path.name, reason=str(error).removeprefix(f"{path}: ")))
            continue
        clips.append(result)
        rows[result.name] = row
    if progress:
        progress(len(paths), len(paths))
    if not clips:
        raise BadInput(f"{folder}: none of {len(paths)} clips could be scored; {_listed(failures)}")
    used = getattr(family, "engine", None)
    evaluation = Evaluation(
        folder=Path(folder),
        family=family.name,
        weights_hash=family.weights_hash,
        engine=getattr(used, "name", engine),
        threads=getattr(used, "threads", threads),
        quality=quality,
        frames_per_packet=frames_per_packet,
        source=source,
        landmarks_by=meter.name,
        min_opening_std_px=metrics.MIN_OPENING_STD,
        still_psnr_db=STILL_PSNR,
        mean=_means(clips),
        clips=clips,
        gallery=gallery_means([clip.gallery for clip in clips]),
        gallery_kb=gallery_kb if gallery > 1 else None,
        failures=failures,
        wall_s=time.monotonic() - started,
    )
    write_whole(out / "evaluation.json", evaluation.model_dump_json(indent=2).encode())
    write_whole(out / "table.md", markdown(evaluation).encode())
    write_whole(out / "contact_sheet.png", as_png(contact_sheet([rows[clip.name] for clip in worst_first(clips)])))
    if evaluation.gallery:
        named = [(clip.name, clip.gallery) for clip in clips]
        write_whole(out / "gallery.md", gallery_markdown(named, evaluation.gallery, gallery_kb).encode())
        if find_spec("matplotlib") is not None:
            write_whole(out / "gallery.png", gallery_plot(evaluation.gallery))
    return evaluation


def _clips_of(folder: Path, limit: int | None) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}, at least 1 clip")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise BadInput(f"{folder}: holds no clip ({', '.join(_SUFFIXES)})")
    return paths[:limit]


def _evaluate_clip(
    path: Path,
    family: Family,
    meter: LandmarkMeter,
    choice: SourceChoice,
    quality: float,
    frames_per_packet: int,
    gallery: int,
    gallery_kb: float,
) -> tuple[ClipResult, SheetRow]:
    footage = _read(path, family)
    if len(footage.crops) < 2:
        raise BadInput(f"{path}: has one frame, scoring needs two or more")
    chosen = 0 if choice == "first" else _best_frame(footage)
    received = _transmit(footage, footage.crops[chosen], family, quality, frames_per_packet)
    # What the sender saw in the original is what its own extractor measures there; once is enough.
    truth = meter.of_tracks(footage.tracks) if isinstance(meter, FamilyMeter) else meter.measure(footage.crops)
    made = meter.measure(received.pictures)
    held = _frozen_landmarks(truth, chosen)
    decoded = _scores(received.pictures, made, footage.crops, truth, {chosen}, footage.fps)
    frozen = _scores([footage.crops[chosen]] * len(footage.crops), held, footage.crops, truth, {chosen}, footage.fps)
    bits = received.bits
    result = ClipResult(
        name=path.name,
        crop_given=footage.crop_given,
        frames=len(footage.crops),
        frames_left_out=footage.left_out,
        fps=footage.fps,
        source_frame=chosen,
        source_bytes=received.source_bytes,
        lost_frames=received.lost,
        landmark_frames=int((made.valid & truth.valid).sum()),
        payload_bits_mean=float(bits.mean()),
        payload_bits_p95=float(np.percentile(bits, 95)),
        payload_kbps=float(bits.mean()) * footage.fps / 1000,
        coding_px=received.coding_px,
        decoded=decoded,
        frozen=frozen,
        truth_jitter_px=metrics.jitter(truth.points, truth.valid),
        still_gain_db=decoded.psnr_db - frozen.psnr_db if frozen.psnr_db > STILL_PSNR else None,
        gallery=_gallery(
            footage,
            received,
            lambda references: (
                (
                    _transmit(
                        footage, footage.crops[chosen], family, quality, frames_per_packet, references, show=False
                    )
                ).motions
            ),
            truth,
            made,
            chosen,
            family,
            meter,
            gallery,
            gallery_kb,
        ),
    )
    return result, _sheet_row(result, footage, received, chosen)


def _read(path: Path, family: Family) -> _Footage:
    # The sender's side is imported late: an image with the receiver alone can still import this package's
    # parts.
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import Tracker
    from kilocall.sender.face_crop import FaceCropper, plan_crops

    video = open_clip(path)
    crops: list[Picture] = []
    times_us: list[int] = []
    tracks: list[Track] = []
    crop_given = (video.width, video.height) == (family.size, family.size) and path.with_suffix(".npz").is_file()
    tracker = Tracker(family)
    cropper = None if crop_given else FaceCropper(tracker, plan=plan_crops(video, tracker))
    frames = iter(video)
    for frame in islice(frames, MAX_FRAMES):
        crop = frame.rgb if cropper is None else cropper.crop(frame).rgb
        if cropper is None:
            tracker.landmarks(crop)
        assert tracker.last is not None  # the cropper tracks every frame that it cuts
        crops.append(crop)
        times_us.append(frame.capture_us)
        tracks.append(tracker.last)
    left_out = next(frames, None) is not None
    return _Footage(crops, times_us, tracks, video.fps, crop_given, left_out)


def _best_frame(footage: _Footage) -> int:
    """The frame that an encoder would choose as source picture."""
    from kilocall.sender.clip import GROUPS
    from kilocall.sender.source_picture import choose_source

    numbers = range(0, len(footage.crops), -(-len(footage.crops) // _CANDIDATES))
    return numbers[
        choose_source(
            [footage.crops[i] for i in numbers],
            np.stack([footage.tracks[i].points for i in numbers]),
            [footage.tracks[i].certainty for i in numbers],
            GROUPS,
        )
    ]


def _transmit(
    footage: _Footage,
    source: Picture,
    family: Family,
    quality: float,
    frames_per_packet: int,
    references: Sequence[ReferencePicture] = (),
    *,
    show: bool = True,
) -> _Received:
    """Sends the crops through encoder, packet bytes and decoder, to a receiver that holds `references` as well."""
    encoder = Encoder(source, fps=footage.fps, quality=quality, frames_per_packet=frames_per_packet, family=family)
    encoder.packets.set_references(references)
    decoder = Decoder(encoder.source_picture, family=family)
    waiting: list[NDArray[np.float32]] = []  # keypoints before coding of frames that are not sent yet
    pictures: list[Picture] = []
    bits: list[float] = []
    errors: list[float] = []
    seen: Track | None = None
    decoded: list[Motion] = []
    plain: list[Motion] = []
    lost = 0
    for number, (when, track) in enumerate(zip(footage.times_us, footage.tracks, strict=True)):
        if track.certainty < _FACE_CERTAINTY:
            lost += 1
        else:
            seen = track
        packet = encoder.packets.push_track(seen or track, when)
        assert encoder.packets.last_motion is not None
        assert encoder.packets.extractor.plain is not None
        plain.append(encoder.packets.extractor.plain)
        waiting.append(family.keypoints(encoder.source, encoder.packets.last_motion))
        if number + 1 == len(footage.tracks):
            packet = packet or encoder.flush()
        if packet is None:
            continue
        # Decoder.push, taken apart, because the motion is wanted as well.
        motions = decoder.packets.push(bytes(packet))
        if len(motions) != len(waiting):
            raise BadInput(f"packet {packet.sequence} was not decoded: {decoder.packets.last_problem}")
        bits += [8 * len(packet.payload) / packet.frame_count] * packet.frame_count
        for before, timed in zip(waiting, motions, strict=True):
            moved = family.keypoints(encoder.source, timed.motion) - before
            errors.append(float(np.linalg.norm(moved, axis=-1).mean()) * family.size / 2)
            # Some families make larger pictures than the crops that they are compared with.
            decoded.append(timed.motion)
            if show:
                pictures.append(fitted(decoder.renderer.render(timed.motion), family.size))
        waiting.clear()
    return _Received(
        pictures, np.array(bits), float(np.mean(errors)), encoder.source_picture, encoder.source, decoded, plain, lost
    )


def _gallery(
    footage: _Footage,
    received: _Received,
    send: Callable[[Sequence[ReferencePicture]], Sequence[Motion]],
    truth: MeasuredLandmarks,
    alone: MeasuredLandmarks,
    chosen: int,
    family: Family,
    meter: LandmarkMeter,
    pictures: int,
    kilobytes: float,
) -> list[ReferenceScores]:
    """The clip with the source picture alone, measured in `alone`, and with further ones; on the same frames."""
    if pictures < 2:
        return []
    made, frames = make_frames(
        family,
        received.source,
        received.packed,
        footage.crops,
        received.plain,
        send,
        pictures=pictures,
        kilobytes=kilobytes,
    )
    one = MadeFrames(1, 1, received.source_bytes, 0, received.pictures)
    left_out = {chosen, *frames}
    out = []
    for row in (one, *made):
        points = alone if row is one else meter.measure(row.frames)
        out.append(
            ReferenceScores(
                at_most=row.at_most,
                pictures=row.pictures,
                picture_bytes=row.picture_bytes,
                changes=row.changes,
                scores=_scores(row.frames, points, footage.crops, truth, left_out, footage.fps, points_too=True),
            )
        )
    return out


def _frozen_landmarks(truth: MeasuredLandmarks, chosen: int) -> MeasuredLandmarks:
    """What is measured in the source frame, held; nothing where no face was measured there."""
    valid = np.full(len(truth.valid), truth.valid[chosen])
    return MeasuredLandmarks(np.repeat(truth.points[chosen : chosen + 1], len(valid), 0), valid, truth.followed)


def _scores(
    pictures: Sequence[Picture],
    made: MeasuredLandmarks,
    originals: Sequence[Picture],
    truth: MeasuredLandmarks,
    left_out: set[int],
    fps: float,
    points_too: bool = False,
) -> Scores:
    """`points_too`: landmarks as well are not scored on the frames that are left out."""
    shown, wanted = _without(pictures, left_out), _without(originals, left_out)
    both = made.valid & truth.valid
    if points_too:
        both[list(left_out)] = False
    some = bool(both.any())
    face, true_face = made.face[both], truth.face[both]
    return Scores(
        psnr_db=metrics.psnr(shown, wanted),
        ssim=metrics.ssim(shown, wanted),
        l1=metrics.l1(shown, wanted),
        vmaf=_vmaf(shown, wanted, fps),
        sharpness=metrics.sharpness(shown, wanted),
        flicker=metrics.flicker(shown, wanted),
        landmark_px=metrics.landmark_distance(made.points[both], truth.points[both]) if some else None,
        mouth_r=metrics.opening_correlation(face, true_face, lm.LIP_PAIRS) if some else None,
        eye_r=metrics.opening_correlation(face, true_face, lm.LID_PAIRS) if some else None,
        mouth_gain=metrics.opening_gain(face, true_face, lm.LIP_PAIRS) if some else None,
        eye_gain=metrics.opening_gain(face, true_face, lm.LID_PAIRS) if some else None,
        gaze_r=metrics.gaze_correlation(face, true_face) if some else None,
        gaze_gain=metrics.gaze_gain(face, true_face) if some else None,
        interior_off=_interior_error(pictures, originals, truth, left_out),
        jitter_px=metrics.jitter(made.points, made.valid),
    )


def _interior_error(
    pictures: Sequence[Picture], originals: Sequence[Picture], truth: MeasuredLandmarks, left_out: set[int]
) -> float | None:
    seen = [int(number) for number in np.flatnonzero(truth.valid) if number not in left_out]
    shown, wanted = ([frames[number] for number in seen] for frames in (pictures, originals))
    return metrics.interior_error(shown, wanted, truth.face[seen]) if seen else None


def _vmaf(shown: Sequence[Picture], wanted: Sequence[Picture], fps: float) -> float | None:
    try:
        if "libvmaf" not in find_ffmpeg().filters:
            return None
    except BadInput:
        return None
    return vmaf(wanted, shown, fps)


def _without(frames: Sequence[Picture], left_out: set[int]) -> list[Picture]:
    return [frame for number, frame in enumerate(frames) if number not in left_out]


def _means(clips: Sequence[ClipResult]) -> Means:
    def of(value: Callable[[ClipResult], float | None]) -> float | None:
        known = [v for clip in clips if (v := value(clip)) is not None]
        return float(np.mean(known)) if known else None

    def certain(value: Callable[[ClipResult], float]) -> float:
        return float(np.mean([value(clip) for clip in clips]))

    def scores(rows: Sequence[Scores]) -> Scores:
        means = {}
        for name in Scores.model_fields:
            known = [value for row in rows if (value := getattr(row, name)) is not None]
            means[name] = float(np.mean(known)) if known else None
        return Scores.model_validate(means)

    return Means(
        payload_bits_mean=certain(lambda clip: clip.payload_bits_mean),
        payload_bits_p95=certain(lambda clip: clip.payload_bits_p95),
        payload_kbps=certain(lambda clip: clip.payload_kbps),
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


def _sheet_row(result: ClipResult, footage: _Footage, received: _Received, chosen: int) -> SheetRow:
    made, held = result.decoded, result.frozen
    lines = (
        f"frame {chosen}, {received.source_bytes} bytes",
        f"PSNR {beside(made.psnr_db, held.psnr_db, 1)} dB",
        f"SSIM {beside(made.ssim, held.ssim, 3)}",
        f"landm. {beside(made.landmark_px, held.landmark_px, 1)} px",
        f"mouth r {rounded(made.mouth_r, 2)}, eye {rounded(made.eye_r, 2)}",
        f"gain {rounded(made.mouth_gain, 2)}, eye {rounded(made.eye_gain, 2)}",
        f"sharpness {rounded(made.sharpness, 2)}",
        f"{result.payload_bits_mean:.0f} bit/frame",
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


def _listed(failures: Sequence[Failure]) -> str:
    first = f"{failures[0].name}: {failures[0].reason}"
    return first if len(failures) == 1 else f"{first} (and {len(failures) - 1} more)"
