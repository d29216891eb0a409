"""Fine-tunes the compact renderer to one person.

The clips are followed by the sender's own networks, so no labels are needed, and the source pictures are compressed
as a receiver gets them. Batch norms keep their statistics; the implicit keypoints stay, because the sender finds them
and need not know that the receiver has a speaker adapter. Motion field, appearance and generator all learn: what each
of them is worth alone is in docs/finetuning.md (the idea of freezing what does not help is FreezeD's, Mo et al. 2020).

Little footage is learnt by heart by a network that may change at will. So gains and biases learn, weights only by a
low-rank change (`low_rank`), and every step sees the pictures in another view (`views`).

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
from dataclasses import dataclass, replace
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

from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.model.compact.expression_gain import ExpressionGain
from kilocall.model.compact.extractor import Extractor, is_light
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.int8_checkpoint import unpack
from kilocall.model.compact.regions import regions
from kilocall.model.compact.renderer import IMPLICIT, Appearance, Light, Renderer
from kilocall.model.compact.speaker_adapter import MOST_BYTES, WEIGHTS, SpeakerAdapter, base_hash
from kilocall.model.family import Family, Source
from kilocall.proto.errors import BadInput, KilocallError, NoFace
from kilocall.runtime.files import check_output, write_whole
from kilocall.sender.clip import GROUPS
from kilocall.sender.motion import MotionExtractor
from kilocall.sender.source_picture import choose_source, pack_source
from kilocall.train.align import aligned, seen_slopes
from kilocall.train.footage import LEAST_SECONDS, Footage, read_footage
from kilocall.train.loop import on_device, precision
from kilocall.train.losses import gradient_l1, ssim_loss, texture_energy, weighted_l1
from kilocall.train.low_rank import learn_low_rank, plain_state
from kilocall.train.perceptual import LandmarkPerception, Seen
from kilocall.train.renderer import (
    DISAGREEMENT,
    EXTRACTION_NOISE,
    MOVEMENT,
    PERCEPTION,
    watched,
)
from kilocall.train.run import choose_device, first_interrupt, tiny_numbers_as_zero
from kilocall.train.views import Pair, vary

__all__ = ["PARTS", "FinetuneReport", "Looks", "finetune"]

Say = Callable[[str], None]

PARTS: Final = ("field", "appearance", "generator")
RATE: Final = 3e-3
BATCH: Final = 4  # driving frames of one source picture
STEPS: Final = 300
WARM_UP: Final = 20
#: Of the alignment of a frame that has none before it.
ALIGNMENT_STEPS: Final = 4
CHECK_EVERY: Final = 50
PATIENCE: Final = 4  # checks without a better one
AVERAGE: Final = 0.97  # of the weights, over some thirty steps
#: Of the changes of the weights, and how large a weight must be to change at all.
RANK: Final = 8
LEAST_LOW_RANK: Final = 4096
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
#: The part that is kept for stopping follows what was learnt at once: later seconds gain so much of what it says.
LATER: Final = 0.5
#: What a pixel that landmarks lie further off than everybody's renderer has them costs, dB.
PIXEL_DB: Final = 20.0
#: What it costs that lids or lips open a pixel less (or more) for a pixel of the truth, dB.
OPENING_DB: Final = 4.0
#: So much worse is chance in the few frames of that part: counted whole, a clip went 35 % of the way for lids that were
#: as good after all of it, and lost half of its gain.
CHANCE_PX: Final = 0.02
CHANCE_OPENINGS: Final = 0.1
#: A clip's held-back part must be better by this much, dB: less is chance.
LEAST_GAIN_DB: Final = 0.05
#: Landmarks may end so much further off there, and lids and lips together open so much less as the truth does.
WORSE_PX: Final = 0.05
WORSE_OPENINGS: Final = 0.2


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


@tiny_numbers_as_zero()
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
    """Learns from `clips` and writes a speaker adapter for `family`'s weights, whole or not at all.

    Training ends after `steps` or `minutes` or when it gets no better; Ctrl-C ends it too and goes on with what is
    learnt so far, and a second one ends at once without a file. Raises BadInput for clips that cannot be used and
    KilocallError where the held-back part (the last share of each clip) got no better; no file is written then.
    """
    started = time.monotonic()
    family = _checked_family(family)
    _check_settings(clips, out, held_back, steps, minutes, parts)
    chosen = choose_device(device)
    _use_threads(threads)
    with tempfile.TemporaryDirectory(prefix="kilocall-") as folder:
        footage = read_footage(clips, family, Path(folder), least_seconds=least_seconds, progress=progress)
        for warning in footage.warnings:
            say(warning)
        split = Split.of(footage, held_back)
        source = _chosen_source(footage, split.learn, family)
        say(f"{footage.seconds:.0f} s of face: {split.text}")
        before = measure(family, source, footage, split.held, everybody=family)
        learner = Learner(family, footage, split, source, parts=parts, device=chosen, seed=seed)
        train_s = _train(learner, steps, minutes, say, progress)
        share, adapter = _as_far_as_it_helps(learner, family, footage, source, say)
        after = measure(family.adapted(adapter), source, footage, split.held, everybody=family)
    refuse_no_gain(before, after)
    adapter = adapter.with_figures(
        {"seconds": round(footage.seconds, 1), "before": before.model_dump(), "after": after.model_dump()}
    )
    written = _write(out, adapter)
    return FinetuneReport(
        out=out,
        bytes=written,
        hash=adapter.hash,
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


def _checked_family(family: Family) -> CompactFamily:
    if not isinstance(family, CompactFamily):
        raise BadInput(f"fine-tuning is for the family compact-256, not for {family.name}")
    if family.adapter is not None:
        raise BadInput("fine-tuning starts from the package's weights, not from a personal file")
    return family


def _use_threads(threads: int) -> None:
    """So many for the networks, 0: one a core; and one for what prepares pictures beside them."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    cv2.setNumThreads(1)


def _train(
    learner: Learner, steps: int, minutes: float, say: Say, progress: Callable[[int, int | None], None]
) -> float:
    """Seconds that it took, until one of the limits or Ctrl-C."""
    with first_interrupt() as interrupted:
        began = time.monotonic()
        learner.run(steps, lambda: interrupted() or time.monotonic() - began > 60 * minutes, say, progress)
        return time.monotonic() - began


def _write(out: Path, adapter: SpeakerAdapter) -> int:
    """Its bytes. KilocallError where they are too many for a receiver."""
    data = bytes(adapter)
    if len(data) > MOST_BYTES:
        raise KilocallError(f"the personal file would be {len(data)} bytes, allowed are {MOST_BYTES}; nothing written")
    write_whole(out, data)
    return len(data)


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

    @property
    def text(self) -> str:
        """For people."""
        return f"{len(self.learn)} pictures to learn from, {len(self.stop)} to stop by, {len(self.held)} held back"

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
) -> tuple[float, SpeakerAdapter]:
    """The share of the way that does best on the part that is kept for stopping, and the file that goes so far."""
    stop = learner.split.stop
    before = measure(family, source, footage, stop, everybody=family, most=TRIED)
    base = base_hash(family.manifest["files"])
    best: tuple[float, float, SpeakerAdapter] | None = None
    for share in SHARES:
        adapter = SpeakerAdapter.between(learner.base, learner.stored(share), family=family.name, base=base)
        looks = measure(family.adapted(adapter), source, footage, stop, everybody=family, most=TRIED)
        off, openings = looks.landmark_px - before.landmark_px, _openings_worse(before, looks)
        gain = worth(before, looks)
        say(
            f"{share:.0%} of the way: {looks.psnr_db - before.psnr_db:+.2f} dB, landmarks {off:+.2f} px"
            + (f", lids and lips {openings:.2f} worse" if openings else "")
        )
        if best is None or gain > best[0]:
            best = (gain, share, adapter)
    assert best is not None
    return best[1:]


def worth(before: Looks, after: Looks) -> float:
    """What a share of the way is worth, dB, by what it does to the part that is kept for stopping."""
    off, openings = after.landmark_px - before.landmark_px, _openings_worse(before, after)
    costs = PIXEL_DB * max(0.0, off - CHANCE_PX) + OPENING_DB * max(0.0, openings - CHANCE_OPENINGS)
    return LATER * (after.psnr_db - before.psnr_db) - costs


def _openings_worse(before: Looks, after: Looks) -> float:
    """By how much lids and lips together open less as the truth does; 0 where they hardly move."""
    pairs = ((before.mouth_gain, after.mouth_gain), (before.eye_gain, after.eye_gain))
    return sum(max(0.0, abs(a - 1) - abs(b - 1)) for b, a in pairs if b is not None and a is not None)


def measure(
    family: Family,
    source: int,
    footage: Footage,
    numbers: NDArray[np.int64],
    *,
    everybody: Family,
    most: int = MEASURED,
) -> Looks:
    """The frames `numbers`, or `most` of them, as a receiver shows them, beside the truth; landmarks by the family's
    own extractor.

    The source picture is compressed as it is sent. Motion is not: its coding is the same before and after. It comes
    from `everybody`'s networks, as a sender's does, also where `family` is a person's.
    """
    numbers = numbers[:: math.ceil(len(numbers) / most)]
    shown: Source = family.source(pack_source(np.array(footage.pictures[source]))[1])
    renderer = family.renderer(shown)
    truth = [np.array(footage.pictures[n]) for n in numbers]
    extractor = MotionExtractor(everybody, shown, smooth=False)
    made = [renderer.render(extractor.from_track(footage.tracks[n], 0)) for n in numbers]
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


def refuse_no_gain(before: Looks, after: Looks) -> None:
    """KilocallError where the held-back part got no better, or what people look at got worse."""
    gain = after.psnr_db - before.psnr_db
    pictures = f"PSNR {before.psnr_db:.2f} to {after.psnr_db:.2f} dB, SSIM {before.ssim:.3f} to {after.ssim:.3f}"
    if gain < LEAST_GAIN_DB or after.ssim < before.ssim:
        raise KilocallError(f"the held-back part got no better: {pictures}; no file was written")
    if after.landmark_px - before.landmark_px > WORSE_PX or _openings_worse(before, after) > WORSE_OPENINGS:
        raise KilocallError(
            f"faces got worse on the held-back part: landmarks {before.landmark_px:.2f} to {after.landmark_px:.2f} px "
            f"off, lips open {_told(before.mouth_gain)} to {_told(after.mouth_gain)}, lids "
            f"{_told(before.eye_gain)} to {_told(after.eye_gain)} px a px, though {pictures}; no file was written"
        )


def _told(gain: float | None) -> str:
    return "too little to tell" if gain is None else f"{gain:.2f}"


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
        self.device, self.split, self.footage, self.family = device, split, footage, family
        self.rng = np.random.default_rng(seed)
        self.sources = self._sources(family, source)
        self.perception = on_device(LandmarkPerception(load_extractor(family.folder)), device)
        self.start: Mapping[str, Tensor] = plain_state(self.network)
        self.best = self.start
        self.everybody = copy.deepcopy(self.network).requires_grad_(False)
        self.trained = _learning(self.network, parts, torch.Generator().manual_seed(seed))
        self.averaged = copy.deepcopy(self.network)
        self.steps = 0

    def _sources(self, family: CompactFamily, chosen: int) -> list[Source]:
        """As a receiver gets them and sees them; the one that a call would choose comes first."""
        learn = self.split.learn
        found = []
        for number in [chosen, *learn[:: max(1, len(learn) // SOURCES)][:SOURCES].tolist()]:
            try:
                found.append(family.source(pack_source(np.array(self.footage.pictures[number]))[1]))
            except NoFace:
                if not found:
                    raise
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
                    best, self.best = found, plain_state(self.averaged)

    def loss(self) -> Tensor:
        source = self.sources[0 if self.rng.random() < 0.5 else int(self.rng.integers(len(self.sources)))]
        pair = self._pair(source, self.rng.choice(self.split.learn, BATCH))
        pair.x_d[:, : lm.LANDMARKS] += self.rng.normal(0, EXTRACTION_NOISE, (BATCH, lm.LANDMARKS, 2))
        pair = self._placed(vary(pair, self.network.implicit, self.rng))
        made, x_d = self._made(self.network, pair)
        truth = pair.truth
        # About half as much for eyes and mouth as in the training of everybody's renderer: those are learnt already.
        weight = (watched(x_d) + 1) / 2
        if pair.inside is not None:
            weight = weight * pair.inside
            truth = torch.lerp(made.detach(), truth, pair.inside)
        half = [F.avg_pool2d(t, 2) for t in (made, truth, weight)]
        quarter = [F.avg_pool2d(t, 2) for t in half]
        total = weighted_l1(made, truth, weight) + weighted_l1(*half) + weighted_l1(*quarter)
        total = total + 0.25 * ssim_loss(made, truth) + 0.25 * gradient_l1(made, truth, weight)
        # With less for the texture the pictures get softer as they get closer.
        total = total + 3 * texture_energy(made, truth) + 20 * (made - truth).square().mean()
        # Without what the landmark networks see, lids and lips follow a little less afterwards.
        close = self._put(np.stack([regions(points) for points in x_d.cpu().numpy()]))
        with precision(self.device):
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
            pair = self._placed(self._pair(self.sources[0], chosen[start : start + 8]))
            error = (self._made(network, pair)[0] - pair.truth).square().mean((1, 2, 3)).clamp(min=1e-6)
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

    def _pair(self, source: Source, driving: NDArray[np.int64]) -> Pair:
        """Driven by what a receiver composes from the sender's motion.

        Lids and irises are not amplified: learnt from so few blinks they move too little, and a receiver does it.
        """
        motions = [self.family.motion(self.footage.tracks[n], source) for n in driving]
        driven = [self.family.driving(source, motion, ExpressionGain()) for motion in motions]
        picture = self._put(source.picture[None]).permute(0, 3, 1, 2).float().div_(255)
        truth = self._put(np.array(self.footage.pictures[driving])).permute(0, 3, 1, 2).float().div_(255)
        return Pair(
            picture,
            truth,
            source.keypoints,
            np.concatenate([d["x_d"] for d in driven]),
            np.concatenate([d["jacobian"] for d in driven]),
            np.concatenate([d["interior"] for d in driven]),
        )

    def _placed(self, pair: Pair) -> Pair:
        """The implicit keypoints where the sender places them, who has everybody's motion field."""
        count = len(pair.truth)
        x_s, x_d = self._put(np.repeat(pair.x_s[None], count, 0)), self._put(pair.x_d)
        with precision(self.device), torch.no_grad():
            cue = self.everybody.appearance(pair.picture).motion_cue
            cue, seen = (t.expand(count, *t.shape[1:]) for t in (cue, seen_slopes(pair.picture)))
            implicit_points = aligned(
                self.everybody.field, cue, seen, x_s, x_d, self._put(pair.jacobian), pair.truth, ALIGNMENT_STEPS
            )
        placed = pair.x_d.copy()
        placed[:, lm.LANDMARKS :] = implicit_points.float().cpu().numpy()
        return replace(pair, x_d=placed)

    def _made(self, network: Renderer, pair: Pair) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, S, S] in 0..1 and the landmarks that drive them [B, K, 2]."""
        count = len(pair.truth)
        x_s, x_d = self._put(np.repeat(pair.x_s[None], count, 0)), self._put(pair.x_d)
        with precision(self.device):
            seen = network.appearance(pair.picture.contiguous(memory_format=torch.channels_last))
            appearance = Appearance(*(t.expand(count, *t.shape[1:]) for t in seen))
            made, _, _ = network(appearance, x_s, x_d, self._put(pair.jacobian), self._put(pair.interior))
        return made, x_d[:, : lm.LANDMARKS]

    def _put(self, value: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(value)).to(self.device)


def load_extractor(folder: Path) -> Extractor:
    """The landmark networks of a weights folder."""
    state = unpack(load_file(folder / "extractor.safetensors"))
    network = Extractor(light=is_light(state))
    missing = network.load_state_dict(state, strict=False)
    if [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")] + missing.unexpected_keys:
        raise BadInput(f"weights in {folder}: extractor.safetensors does not fit the landmark networks")
    return network.eval().requires_grad_(False)


def load_renderer(stored: Mapping[str, Any]) -> Renderer:
    """The float network of stored weights."""
    network = Renderer(Light.of(stored))
    state = unpack({name: torch.from_numpy(np.array(value)) for name, value in stored.items()})
    missing = network.load_state_dict(state, strict=False)
    # Batch norms count batches, which nothing reads.
    wrong = [n for n in missing.missing_keys if not n.endswith("num_batches_tracked")] + missing.unexpected_keys
    if wrong:
        raise BadInput(f"the stored weights do not fit the renderer: {wrong[0]}")
    assert network.field.log_spread.shape[0] == lm.LANDMARKS + IMPLICIT
    return network


def _learning(network: Renderer, parts: Sequence[str], generator: torch.Generator) -> list[nn.Parameter]:
    """What learns of the parts: gains and biases as they are, large weights by a low-rank change.

    Spreads, affinities and the background are folded into constants on export, so they stay.
    """
    network.requires_grad_(False)
    learning: list[nn.Parameter] = []
    for top, part in network.named_children():
        if top not in parts:
            continue
        for module in list(part.modules()):
            if isinstance(module, nn.Conv2d) and module.weight.numel() >= LEAST_LOW_RANK:
                learning.extend(learn_low_rank(module, "weight", RANK, generator))
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                learning.extend(p for p in (module.weight, module.bias) if isinstance(p, nn.Parameter) and p.ndim == 1)
    for parameter in learning:
        parameter.requires_grad_(True)
    return learning
