"""What the fusion network learns from: clips as a receiver makes them, beside the truth and every kind of video layer.

Each clip is sent once, through the encoder and decoder of a call, its first frame as source picture; and its layer once
for every setting, coded and decoded as in a call. What comes out is kept in a cache folder, one file a clip, as long as
the clip, the networks and the settings are the same.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kilocall.api import Decoder, Encoder
from kilocall.model.compact.fusion import SIDE, WORK_SIDE
from kilocall.model.family import Family, Made, Picture
from kilocall.proto.errors import BadInput, NoFace
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.runtime.files import write_whole
from kilocall.runtime.progress import Progress, silent
from kilocall.sender.capture import open_clip
from kilocall.sender.layer_encoder import LADDER, LayerEncoder, LayerSetting

__all__ = ["SETTINGS", "Batch", "Sample", "SeenLayer", "SentClip", "gather", "send_clips"]

Bytes = NDArray[np.uint8]

#: A rate that no frame exceeds.
_ANY_KBPS: Final = 10_000.0
#: What a layer may look like: the ladder's, and others between and beside them.
SETTINGS: Final = (
    *LADDER,
    LayerSetting(_ANY_KBPS, 64, 6.25, 54),
    LayerSetting(_ANY_KBPS, 128, 6.25, 59),
    LayerSetting(_ANY_KBPS, 160, 10.0, 56),
    LayerSetting(_ANY_KBPS, 256, 12.5, 56),
    LayerSetting(24.0, 256, 12.5, 46),
)
#: Of a folder and of a clip at most: four seconds of a hundred clips, which take 7 GB.
MOST_CLIPS: Final = 100
MOST_FRAMES: Final = 100
#: Of the files in the cache.
_FORMAT: Final = 1


@dataclass(frozen=True)
class SeenLayer:
    """Frames of a clip's layer as they are decoded."""

    frames: NDArray[np.int64]  # [N] numbers of the clip's frames
    pictures: Bytes  # [N, L, L, 3]


@dataclass(frozen=True)
class SentClip:
    """T frames of a clip at the receiver, with where each of them comes from (`Placement`)."""

    name: str
    fps: float
    truth: Bytes  # [T, 256, 256, 3]
    made: Bytes  # [T, 256, 256, 3]
    displacement: NDArray[np.float16]  # [T, F, F, 2]
    painted: Bytes  # [T, 128, 128]: 255 is wholly
    visible: Bytes  # [T, F, F]
    layers: Mapping[LayerSetting, SeenLayer]


@dataclass(frozen=True)
class Sample:
    """One layer frame of a clip, and a frame that is shown after it came."""

    clip: SentClip
    setting: LayerSetting
    number: int
    """Of the layer frame."""
    shown: int
    """Number of the clip's frame."""
    mirrored: bool = False


@dataclass(frozen=True)
class Batch:
    """B samples; `then` is the moment of the layer frame, `now` that of the frame shown."""

    made_then: Tensor  # [B, 3, 256, 256] 0..1
    layer: Tensor  # [B, 3, 256, 256], enlarged as the fusion does
    painted: Tensor  # [B, 1, 128, 128]
    visible: Tensor  # [B, 1, F, F]
    size: Tensor  # [B] log2(L / 256)
    displacement_then: Tensor  # [B, 2, F, F]
    displacement_now: Tensor
    made_now: Tensor  # [B, 3, 256, 256]
    truth: Tensor


def send_clips(
    folder: Path,
    cache: Path,
    family: Family,
    *,
    settings: Sequence[LayerSetting] = SETTINGS,
    most_clips: int = MOST_CLIPS,
    most_frames: int = MOST_FRAMES,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[SentClip, ...]:
    """The labelled clips of `folder`, evenly chosen where there are too many. Those without a face are left out.

    Raises BadInput for a folder without such clips, one that cannot be read, or one of another size.
    """
    if not folder.is_dir():
        raise BadInput(f"training data: {folder} is not a folder")
    clips = [clip for clip in sorted(folder.glob("*.mp4")) if clip.with_suffix(".npz").is_file()]
    if not clips:
        raise BadInput(f"training data: {folder} holds no labelled clip (NAME.mp4 with NAME.npz)")
    if len(clips) > most_clips:
        clips = [clips[i] for i in np.linspace(0, len(clips) - 1, most_clips).round().astype(int)]
    cache.mkdir(parents=True, exist_ok=True)
    sent: list[SentClip] = []
    for done, clip in enumerate(clips):
        progress(done, len(clips))
        key, kept = _key(clip, family, settings, most_frames), cache / f"{clip.stem}.npz"
        one = _read(kept, key, clip.stem, settings)
        if one is None:
            try:
                one = _send(clip, family, settings, most_frames)
            except NoFace as error:
                say(f"{clip} is left out: {error}")
                continue
            _write(kept, key, one)
        if any(len(layer.frames) for layer in one.layers.values()):
            sent.append(one)
        else:
            say(f"{clip} is left out: it has no frame of a layer")
    progress(len(clips), len(clips))
    if not sent:
        raise BadInput(f"training data: none of {len(clips)} clips in {folder} could be sent")
    return tuple(sent)


class _Recorder:
    """Stands where a FaceRenderer has its layer, and keeps what it is shown."""

    def __init__(self) -> None:
        self.made: list[Made] = []

    def mix(self, made: Made, time_us: int) -> Picture:
        self.made.append(made)
        return made.picture

    def reset(self) -> None:
        self.made.clear()


def _send(path: Path, family: Family, settings: Sequence[LayerSetting], most_frames: int) -> SentClip:
    video = open_clip(path)
    if (video.width, video.height) != (SIDE, SIDE):
        raise BadInput(f"training data: {path} is {video.width}x{video.height}, not {SIDE}x{SIDE}")
    crops: list[Picture] = []
    times: list[int] = []
    for frame in video:
        crops.append(frame.rgb)
        times.append(frame.capture_us)
        if len(crops) == most_frames:
            break
    encoder = Encoder(crops[0], fps=video.fps, family=family)
    decoder = Decoder(encoder.source_picture, family=family)
    recorder = _Recorder()
    decoder.renderer.layer = recorder
    packets = [encoder.push(crop, when) for crop, when in zip(crops, times, strict=True)]
    for packet in (*packets, encoder.flush()):
        if packet is not None:
            for timed in decoder.packets.push(bytes(packet)):
                decoder.renderer.render(timed.motion, timed.time_us)
    if len(recorder.made) != len(crops):
        raise BadInput(f"training data: of {len(crops)} frames of {path} {len(recorder.made)} came back")
    placements = [made.placement for made in recorder.made if made.placement is not None]
    if len(placements) != len(crops):
        raise BadInput(f"family {family.name} does not tell where its pictures come from: it takes no video layer")
    wide = (cv2.resize(one.painted, (WORK_SIDE, WORK_SIDE), interpolation=cv2.INTER_LINEAR) for one in placements)
    return SentClip(
        name=path.stem,
        fps=video.fps,
        truth=np.stack(crops),
        made=np.stack([made.picture for made in recorder.made]),
        displacement=np.stack([one.displacement for one in placements]).astype(np.float16),
        painted=np.stack([_bytes(share) for share in wide]),
        visible=np.stack([_bytes(one.visible) for one in placements]),
        layers={setting: _layer(setting, crops, times) for setting in settings},
    )


def _layer(setting: LayerSetting, crops: Sequence[Picture], times: Sequence[int]) -> SeenLayer:
    encoder, decoder = LayerEncoder(setting), LayerDecoder()
    frames: list[int] = []
    pictures: list[Picture] = []
    for number, (crop, when) in enumerate(zip(crops, times, strict=True)):
        coded = encoder.push(crop, when)
        seen = None if coded is None else decoder.push(coded.data, key=coded.key)
        if seen is not None:
            frames.append(number)
            pictures.append(seen)
    empty = np.zeros((0, setting.side, setting.side, 3), np.uint8)
    return SeenLayer(np.array(frames, np.int64), np.stack(pictures) if pictures else empty)


def _bytes(share: NDArray[Any]) -> Bytes:
    return np.asarray(np.rint(255 * np.clip(share, 0, 1)), np.uint8)


def _key(clip: Path, family: Family, settings: Sequence[LayerSetting], most_frames: int) -> str:
    coded = hashlib.sha256(clip.read_bytes()).hexdigest()
    return hashlib.sha256(
        repr((_FORMAT, family.weights_hash, family.codebook.hash, coded, tuple(settings), most_frames)).encode()
    ).hexdigest()


def _write(path: Path, key: str, clip: SentClip) -> None:
    arrays: dict[str, Any] = {name: getattr(clip, name) for name in _ARRAYS}
    for number, layer in enumerate(clip.layers.values()):
        arrays |= {f"layer_frames_{number}": layer.frames, f"layer_{number}": layer.pictures}
    sink = BytesIO()
    np.savez(sink, key=np.array(key), fps=np.array(clip.fps), **arrays)
    write_whole(path, sink.getvalue())


def _read(path: Path, key: str, name: str, settings: Sequence[LayerSetting]) -> SentClip | None:
    """What was kept of a clip; None where there is nothing, or of something else."""
    try:
        with np.load(path) as kept:
            if str(kept["key"]) != key:
                return None
            layers = {
                setting: SeenLayer(kept[f"layer_frames_{number}"], kept[f"layer_{number}"])
                for number, setting in enumerate(settings)
            }
            return SentClip(name=name, fps=float(kept["fps"]), layers=layers, **{a: kept[a] for a in _ARRAYS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


_ARRAYS: Final = ("truth", "made", "displacement", "painted", "visible")


def gather(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Samples as tensors; all randomness is in the samples."""
    rows = [_row(sample) for sample in samples]
    made_then, layer, painted, visible, then, now, made_now, truth = (
        torch.from_numpy(np.ascontiguousarray(np.stack(column))).to(device) for column in zip(*rows, strict=True)
    )
    size = [np.log2(sample.setting.side / SIDE) for sample in samples]
    return Batch(
        made_then=_levels(made_then),
        layer=_levels(layer),
        painted=_levels(painted),
        visible=_levels(visible),
        size=torch.tensor(size, dtype=torch.float32, device=device),
        displacement_then=then.permute(0, 3, 1, 2).float(),
        displacement_now=now.permute(0, 3, 1, 2).float(),
        made_now=_levels(made_now),
        truth=_levels(truth),
    )


def _row(sample: Sample) -> list[NDArray[Any]]:
    clip, seen = sample.clip, sample.clip.layers[sample.setting]
    then, layer = int(seen.frames[sample.number]), seen.pictures[sample.number]
    if len(layer) != SIDE:
        layer = np.asarray(cv2.resize(layer, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
    moved = [clip.displacement[then], clip.displacement[sample.shown]]
    pictures = [clip.made[then], layer, clip.painted[then][..., None], clip.visible[then][..., None]]
    row = [*pictures, *moved, clip.made[sample.shown], clip.truth[sample.shown]]
    if sample.mirrored:
        row = [values[:, ::-1] for values in row]
        row[4:6] = [values * np.array([-1, 1], np.float16) for values in row[4:6]]
    return row


def _levels(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2).float() / 255
