"""Fine-tunes the compact renderer to one person.

The clips are followed by the sender's own networks, so no labels are needed, and the source pictures are compressed
as a receiver gets them. Batch norms keep their statistics; the implicit keypoints stay, because the sender finds them
and need not know that the receiver has a personal file. Motion field, appearance and generator all learn: what each
of them is worth alone is in docs/finetuning.md (the idea of freezing what does not help is FreezeD's, Mo et al. 2020).

Each clip is cut in time: it learns from the first part, a short second part says when to stop and how far to go, and
the last part is only measured, before and after, on the networks as they ship. What does not get better there is not
written.

How far to go: weights between everybody's and the learnt ones (Wortsman et al. 2022) give pictures as near to the truth
as the learnt ones, and lids and lips that stay where everybody's have them.
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kilocall.bench import metrics
from kilocall.model import landmarks as lm
from kilocall.model.compact.extractor import Extractor
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.personal import MOST_BYTES, WEIGHTS, Personal, base_hash
from kilocall.model.compact.regions import regions
from kilocall.model.compact.renderer import IMPLICIT, Appearance, Renderer
from kilocall.model.compact.stored import unpack
from kilocall.model.family import Family, Picture, Source
from kilocall.model.shape import ShapeModel
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.files import check_output, write_whole
from kilocall.sender.clip import GROUPS
from kilocall.sender.source_picture import choose_source, pack_source
from kilocall.train.footage import LEAST_SECONDS, Footage, read_footage
from kilocall.train.loop import on_device
from kilocall.train.losses import gradient_l1, ssim_loss, texture_energy, weighted_l1
from kilocall.train.perceptual import LandmarkPerception, Seen
from kilocall.train.renderer import (
    DISAGREEMENT,
    EXTRACTION_NOISE,
    MOVEMENT,
    PERCEPTION,
    Posed,
    driven_keypoints,
    jacobians,
    watched,
)
from kilocall.train.run import choose_device, first_interrupt

__all__ = ["PARTS", "FinetuneReport", "Looks", "finetune"]

Say = Callable[[str], None]

PARTS: Final = ("field", "appearance", "generator")
RATE: Final = 8e-4
BATCH: Final = 4  # driving frames of one source picture
STEPS: Final = 300
WARM_UP: Final = 20
CHECK_EVERY: Final = 50
PATIENCE: Final = 4  # checks without a better one
AVERAGE: Final = 0.97  # of the weights, over some thirty steps
#: What the landmark networks see counts so much of what it does in the training of everybody's renderer. Whole, a
#: clip's pictures had gained 4.1 instead of 5.9 dB after 150 steps; without it, landmarks got 0.07 px worse.
LOOKS: Final = 0.3
#: Source pictures to learn from; the one that a call would choose is drawn half the time.
SOURCES: Final = 16
CHECKED: Final = 32  # frames of a check
MEASURED: Final = 300  # frames measured before and after at most
HELD_BACK: Final = 0.2
#: Of what is not held back, the share that says when to stop.
STOPPING: Final = 0.12
#: Shares of the way from everybody's weights to the learnt ones that are tried, and the frames that each is tried on.
SHARES: Final = (1.0, 0.75, 0.5, 0.35)
TRIED: Final = 64
#: What a pixel that landmarks lie further off than everybody's renderer has them costs, dB. The part that is kept for
#: stopping follows what was learnt at once and gains twice what later minutes gain: at 10, .05 px too much were lost.
PIXEL_DB: Final = 20.0
#: A clip's held-back part must be better by this much, dB: less is chance.
LEAST_GAIN_DB: Final = 0.05


class Looks(BaseModel):
    """How close the pictures of the held-back part are to the truth."""

    psnr_db: float
    ssim: float
    landmark_px: float
    sharpness: float | None
    mouth_gain: float | None  # pixels that lips open for a pixel of the truth
    eye_gain: float | None


class FinetuneReport(BaseModel):
    """What a fine-tuning made and cost."""

    out: Path
    bytes: int
    hash: str
    seconds_of_face: float
    frames_learnt: int
    frames_held_back: int
    steps: int
    share: float
    """Of the way from everybody's weights to the learnt ones."""
    before: Looks
    after: Looks
    train_s: float
    wall_s: float
    device: str
    warnings: list[str]


def finetune(
    clips: Sequence[Path],
    out: Path,
    family: Family,
    *,
    held_back: float = HELD_BACK,
    steps: int = STEPS,
    minutes: float = 60.0,
    parts: Sequence[str] = PARTS,
    device: str = "auto",
    threads: int = 0,
    least_seconds: float = LEAST_SECONDS,
    seed: int = 0,
    say: Say = lambda line: None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> FinetuneReport:
    """Learns from `clips` and writes a personal file for `family`'s weights, whole or not at all.

    Training ends after `steps` or `minutes` or when it gets no better; Ctrl-C ends it too and goes on with what is
    learnt so far, and a second one ends at once without a file. Raises BadInput for clips that cannot be used and
    KilocallError where the held-back part (the last share of each clip) got no better; no file is written then.
    """
    started = time.monotonic()
    if not isinstance(family, CompactFamily):
        raise BadInput(f"fine-tuning is for the family compact-256, not for {family.name}")
    if family.personal is not None:
        raise BadInput("fine-tuning starts from the package's weights, not from a personal file")
    _check_settings(clips, out, held_back, steps, minutes, parts)
    chosen = choose_device(device)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory(prefix="kilocall-") as folder:
        footage = read_footage(clips, family, Path(folder), least_seconds=least_seconds, progress=progress)
        for warning in footage.warnings:
            say(warning)
        split = Split.of(footage, held_back)
        source = _chosen_source(footage, split.learn, family)
        say(
            f"{footage.seconds:.0f} s of face: {len(split.learn)} pictures to learn from, {len(split.stop)} to stop "
            f"by, {len(split.held)} held back"
        )
        before = measure(family, source, footage, split.held)
        learner = Learner(family, footage, split, source, parts=parts, device=chosen, seed=seed)
        with first_interrupt() as interrupted:
            trained = time.monotonic()
            learner.run(steps, lambda: interrupted() or time.monotonic() - trained > 60 * minutes, say, progress)
            train_s = time.monotonic() - trained
        share, personal = _as_far_as_it_helps(learner, family, footage, source, say)
        after = measure(family.personalised(personal), source, footage, split.held)
    _refuse_no_gain(before, after)
    personal = personal.with_figures(
        {"seconds": round(footage.seconds, 1), "before": before.model_dump(), "after": after.model_dump()}
    )
    data = bytes(personal)
    if len(data) > MOST_BYTES:
        raise KilocallError(f"the personal file would be {len(data)} bytes, allowed are {MOST_BYTES}; nothing written")
    write_whole(out, data)
    return FinetuneReport(
        out=out,
        bytes=len(data),
        hash=personal.hash,
        seconds_of_face=footage.seconds,
        frames_learnt=len(split.learn),
        frames_held_back=len(split.held),
        steps=learner.steps,
        share=share,
        before=before,
        after=after,
        train_s=train_s,
        wall_s=time.monotonic() - started,
        device=str(chosen),
        warnings=list(footage.warnings),
    )


def _check_settings(
    clips: Sequence[Path], out: Path, held_back: float, steps: int, minutes: float, parts: Sequence[str]
) -> None:
    if not clips:
        raise BadInput("no clip is named; at least one is needed")
    check_output(out)
    if any(out.exists() and clip.exists() and out.samefile(clip) for clip in clips):
        raise BadInput(f"output {out} is one of the clips")
    if not 0.05 <= held_back <= 0.6:
        raise BadInput(f"held_back is {held_back}, allowed are 0.05 to 0.6")
    if steps < 1:
        raise BadInput(f"steps is {steps}, at least 1")
    if not minutes > 0:
        raise BadInput(f"minutes is {minutes}, more than 0 are needed")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise BadInput(f"parts are {', '.join(parts) or 'none'}; allowed are {', '.join(PARTS)}")


@dataclass(frozen=True)
class Split:
    """Frame numbers to learn from, to stop by, and held back; in this order within each clip."""

    learn: NDArray[np.int64]
    stop: NDArray[np.int64]
    held: NDArray[np.int64]

    @staticmethod
    def of(footage: Footage, held_back: float) -> Split:
        learn: list[int] = []
        stop: list[int] = []
        held: list[int] = []
        for clip in footage.clips:
            last = clip.start + round(len(clip) * (1 - held_back))
            first = clip.start + round((last - clip.start) * (1 - STOPPING))
            learn.extend(range(clip.start, first))
            stop.extend(range(first, last))
            held.extend(range(last, clip.stop))
        if min(len(learn) - 2, len(stop), len(held) - 1) < 1:
            raise BadInput(f"the clips have {len(footage.tracks)} frames, too few to learn from and to measure")
        return Split(np.array(learn), np.array(stop), np.array(held))


def _chosen_source(footage: Footage, numbers: NDArray[np.int64], family: Family) -> int:
    """The frame that a call would choose as source picture."""
    some = [int(n) for n in numbers[:: max(1, len(numbers) // 40)]]
    best = choose_source(
        [np.array(footage.pictures[n]) for n in some],
        np.stack([footage.tracks[n].points for n in some]),
        [footage.tracks[n].certainty for n in some],
        GROUPS,
    )
    return some[best]


def _as_far_as_it_helps(
    learner: Learner, family: CompactFamily, footage: Footage, source: int, say: Say
) -> tuple[float, Personal]:
    """The share of the way that does best on the part that is kept for stopping, and the file that goes so far."""
    stop = learner.split.stop
    before = measure(family, source, footage, stop, most=TRIED)
    base = base_hash(family.manifest["files"])
    best: tuple[float, float, Personal] | None = None
    for share in SHARES:
        personal = Personal.between(learner.base, learner.stored(share), family=family.name, base=base)
        looks = measure(family.personalised(personal), source, footage, stop, most=TRIED)
        off = looks.landmark_px - before.landmark_px
        gain = looks.psnr_db - before.psnr_db - PIXEL_DB * max(0.0, off)
        say(f"{share:.0%} of the way: {looks.psnr_db - before.psnr_db:+.2f} dB, landmarks {off:+.2f} px")
        if best is None or gain > best[0]:
            best = (gain, share, personal)
    assert best is not None
    return best[1:]


def measure(
    family: Family, source: int, footage: Footage, numbers: NDArray[np.int64], *, most: int = MEASURED
) -> Looks:
    """The frames `numbers`, or `most` of them, as a receiver shows them, beside the truth; landmarks by the family's
    own extractor.

    The source picture is compressed as it is sent. Motion is not: its coding is the same before and after.
    """
    numbers = numbers[:: math.ceil(len(numbers) / most)]
    shown: Source = family.source(pack_source(np.array(footage.pictures[source]))[1])
    renderer = family.renderer(shown)
    truth = [np.array(footage.pictures[n]) for n in numbers]
    made: list[Picture] = []
    last = None
    for n in numbers:
        last = family.motion(footage.tracks[n], shown, last)
        made.append(renderer.render(last))
    # Crop units to pixels of 256.
    found, wanted = (
        np.stack(points).astype(np.float32) * 128
        for points in ([family.track(p).points for p in made], [footage.tracks[n].points for n in numbers])
    )
    return Looks(
        psnr_db=metrics.psnr(made, truth),
        ssim=metrics.ssim(made, truth),
        landmark_px=metrics.landmark_distance(found, wanted),
        sharpness=metrics.sharpness(made, truth),
        mouth_gain=metrics.opening_gain(found, wanted, lm.LIP_PAIRS),
        eye_gain=metrics.opening_gain(found, wanted, lm.LID_PAIRS),
    )


def _refuse_no_gain(before: Looks, after: Looks) -> None:
    gain = after.psnr_db - before.psnr_db
    if gain < LEAST_GAIN_DB or after.ssim < before.ssim:
        raise KilocallError(
            f"the held-back part got no better: PSNR {before.psnr_db:.2f} to {after.psnr_db:.2f} dB, SSIM "
            f"{before.ssim:.3f} to {after.ssim:.3f}; no file was written"
        )


class Learner:
    """The network, its pictures and its best weights so far."""

    def __init__(
        self,
        family: CompactFamily,
        footage: Footage,
        split: Split,
        source: int,
        *,
        parts: Sequence[str],
        device: torch.device,
        seed: int,
    ) -> None:
        self.base: Mapping[str, Any] = {
            name: value.numpy() for name, value in load_file(family.folder / WEIGHTS).items()
        }
        self.network = load_renderer(self.base).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.eval()  # batch norms keep their statistics: one person's are too narrow
        self.device, self.split, self.footage = device, split, footage
        self.model: ShapeModel = family.shape_model
        self.rng = np.random.default_rng(seed)
        points = np.stack([np.column_stack((t.points, t.depth)) for t in footage.tracks]).astype(np.float32)
        self.free = np.stack([t.free for t in footage.tracks]).astype(np.float32)
        self.posed = Posed.of(points, self.model)
        self.sources = self._sources(family, source)
        self.perception = on_device(LandmarkPerception(load_extractor(family.folder)), device)
        self.trained = [p for name, p in self.network.named_parameters() if _learns(name, parts)]
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.averaged = copy.deepcopy(self.network)
        self.best = copy.deepcopy(self.network.state_dict())
        self.start = self.best
        self.steps = 0

    def _sources(self, family: CompactFamily, chosen: int) -> list[_SourcePicture]:
        learn = self.split.learn
        numbers = [chosen, *learn[:: max(1, len(learn) // SOURCES)][:SOURCES].tolist()]
        found = []
        for number in numbers:
            picture = pack_source(np.array(self.footage.pictures[number]))[1]
            seen = family.track(picture)
            points = np.column_stack((seen.points, seen.depth)).astype(np.float32)
            found.append(_SourcePicture(picture, points, seen.free))
        return found

    def run(
        self, steps: int, should_stop: Callable[[], bool], say: Say, progress: Callable[[int, int | None], None]
    ) -> None:
        """Trains, and keeps the weights that do best on the part that is kept for stopping."""
        optimizer = torch.optim.AdamW(self.trained, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
        best = self.check(self.network)
        say(f"step 0: {best:.2f} dB")
        worse = 0
        while self.steps < steps and worse < PATIENCE and not should_stop():
            done = self.steps / steps
            for group in optimizer.param_groups:
                falling = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
                group["lr"] = RATE * min(1.0, (self.steps + 1) / WARM_UP) * falling
            loss = self.loss()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.trained, 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            self.steps += 1
            keep = min(AVERAGE, self.steps / (self.steps + 9))
            with torch.no_grad():
                for mean, now in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)
            progress(self.steps, steps)
            if self.steps % CHECK_EVERY == 0 or self.steps == steps:
                found = self.check(self.averaged)
                worse = 0 if found > best else worse + 1
                say(f"step {self.steps}: {found:.2f} dB" + ("" if worse == 0 else ", no better"))
                if found > best:
                    best, self.best = found, copy.deepcopy(self.averaged.state_dict())

    def loss(self) -> Tensor:
        source = self.sources[0 if self.rng.random() < 0.5 else int(self.rng.integers(len(self.sources)))]
        driving = self.rng.choice(self.split.learn, BATCH)
        made, truth, x_d = self._made(self.network, source, driving, noise=EXTRACTION_NOISE)
        # About half as much for eyes and mouth as in the training of everybody's renderer: those are learnt already.
        weight = (watched(x_d) + 1) / 2
        half = [F.avg_pool2d(t, 2) for t in (made, truth, weight)]
        quarter = [F.avg_pool2d(t, 2) for t in half]
        total = weighted_l1(made, truth, weight) + weighted_l1(*half) + weighted_l1(*quarter)
        total = total + 0.25 * ssim_loss(made, truth) + 0.25 * gradient_l1(made, truth, weight)
        # With less for the texture the pictures get softer as they get closer.
        total = total + 3 * texture_energy(made, truth) + 20 * (made - truth).square().mean()
        # Without what the landmark networks see, lids and lips follow a little less afterwards.
        close = self._put(np.stack([regions(points) for points in x_d.cpu().numpy()]))
        with torch.autocast(self.device.type, torch.bfloat16):
            seen: Seen = self.perception(made, truth, close)
        looks: Tensor = PERCEPTION * seen.features + DISAGREEMENT * seen.disagreement + MOVEMENT * seen.movement
        return total + LOOKS * looks

    @torch.no_grad()
    def check(self, network: Renderer) -> float:
        """Mean PSNR, dB, over the frames kept for stopping, moved from the source picture that a call would choose."""
        stop = self.split.stop
        chosen = stop[np.linspace(0, len(stop) - 1, min(CHECKED, len(stop))).astype(int)]
        found = []
        for start in range(0, len(chosen), 8):
            made, truth, _ = self._made(network, self.sources[0], chosen[start : start + 8], noise=0.0)
            error = (made - truth).square().mean((1, 2, 3)).clamp(min=1e-6)
            found.append(-10 * error.log10())
        return float(torch.cat(found).mean())

    def stored(self, share: float = 1.0) -> dict[str, Any]:
        """Weights `share` of the way to the best ones as they are stored: 8-bit ones in the steps of the base, so that
        differences are small."""
        stored: dict[str, Any] = {}
        for name, old in self.base.items():
            if name.endswith(".scale"):
                stored[name] = old
                continue
            new = torch.lerp(self.start[name].float(), self.best[name].float(), share).cpu().numpy()
            if old.dtype == np.int8:
                scale = self.base[name + ".scale"].astype(np.float32).reshape(-1, *[1] * (old.ndim - 1))
                stored[name] = np.clip(np.rint(new / scale), -127, 127).astype(np.int8)
            else:
                stored[name] = new.astype(old.dtype)
        return stored

    def _made(
        self, network: Renderer, source: _SourcePicture, driving: NDArray[np.int64], *, noise: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Made and true pictures [B, 3, S, S] in 0..1 and the landmarks that drive them."""
        count = len(driving)
        own = Posed.of(source.points[None], self.model)
        both = Posed(
            *(
                np.concatenate((getattr(own, field), getattr(self.posed, field)[driving]))
                for field in ("rotation", "translation", "scale", "shape")
            )
        )
        first, rest = np.zeros(count, np.int64), np.arange(1, count + 1)
        x_d = driven_keypoints(both, self.model, first, rest)
        jacobian = jacobians(both, first, rest)
        if noise:
            x_d = x_d + self.rng.normal(0, noise, x_d.shape).astype(np.float32)
        free = self.free[driving]
        moved = np.concatenate((x_d, free), 1).astype(np.float32)
        still = np.concatenate((source.points[:, :2], source.free)).astype(np.float32)
        x_s = self._put(np.repeat(still[None], count, 0))
        picture = self._put(source.picture[None]).permute(0, 3, 1, 2).float().div_(255)
        truth = self._put(np.array(self.footage.pictures[driving])).permute(0, 3, 1, 2).float().div_(255)
        with torch.autocast(self.device.type, torch.bfloat16):
            seen = network.appearance(picture.contiguous(memory_format=torch.channels_last))
            appearance = Appearance(*(t.expand(count, *t.shape[1:]) for t in seen))
            made, _, _ = network(appearance, x_s, self._put(moved), self._put(jacobian))
        return made, truth, self._put(x_d)

    def _put(self, value: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value)).to(self.device)


@dataclass(frozen=True)
class _SourcePicture:
    """As a receiver gets it and sees it."""

    picture: Picture
    points: NDArray[np.float32]  # [K, 3]
    free: NDArray[np.float32]  # [N, 2]


def load_extractor(folder: Path) -> Extractor:
    """The landmark networks of a weights folder."""
    network = Extractor()
    missing = network.load_state_dict(unpack(load_file(folder / "extractor.safetensors")), strict=False)
    if [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")] + missing.unexpected_keys:
        raise BadInput(f"weights in {folder}: extractor.safetensors does not fit the landmark networks")
    return network.eval().requires_grad_(False)


def load_renderer(stored: Mapping[str, Any]) -> Renderer:
    """The float network of stored weights."""
    network = Renderer()
    state = unpack({name: torch.from_numpy(np.array(value)) for name, value in stored.items()})
    missing = network.load_state_dict(state, strict=False)
    # Batch norms count batches, which nothing reads.
    wrong = [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")] + missing.unexpected_keys
    if wrong:
        raise BadInput(f"the stored weights do not fit the renderer: {wrong[0]}")
    assert network.field.log_spread.shape[0] == lm.LANDMARKS + IMPLICIT
    return network


def _learns(name: str, parts: Sequence[str]) -> bool:
    """Convolutions and batch norms of the parts; spreads and affinities are folded into constants on export."""
    top, _, rest = name.partition(".")
    return top in parts and rest.split(".")[0] not in ("log_spread", "log_heat_spread", "affinity", "background")
