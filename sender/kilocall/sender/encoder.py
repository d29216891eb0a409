"""The sender's last stage: motion in, packets out, some frames in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.family import Family, Picture, Source, Track
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import MAX_FRAMES
from kilocall.proto.motion_packet import MAX_SPACING_US, MotionPacket
from kilocall.sender.motion import MotionExtractor

#: Spacings of one packet that differ by no more than this share are one.
UNEVEN: Final = 0.2


class PacketEncoder:
    """Face crops of one speaker to motion packets.

    `push` returns a packet once `frames_per_packet` frames are gathered, `flush` what is left. The bytes do not
    depend on how the frames arrive.

    With `redundant_frames` a packet begins with up to so many frames of the packets before, as far as those are not
    known to have arrived: whoever lost one has its frames a little later. The receiver tells them by their times.
    """

    def __init__(
        self,
        family: Family,
        source: Source,
        *,
        fps: float = 25.0,
        quality: float = 50,
        frames_per_packet: int = 3,
        key_every_s: float = 2.0,
        reference: Literal["previous", "acknowledged"] = "previous",
        target: Source | None = None,
        smooth: bool = True,
        check_speaker: bool = True,
    ) -> None:
        if not 1 <= frames_per_packet <= MAX_FRAMES:
            raise BadInput(f"frames_per_packet is {frames_per_packet}, allowed are 1 to {MAX_FRAMES}")
        if not 1 <= fps <= 240:
            raise BadInput(f"fps is {fps}, allowed are 1 to 240")
        self.source, self.frames_per_packet = source, frames_per_packet
        self.redundant_frames = 0
        self.extractor = MotionExtractor(family, source, target=target, smooth=smooth, check_speaker=check_speaker)
        self.codec = MotionEncoder(
            family.codebook, quality, reference=reference, key_interval=max(1, round(key_every_s * fps))
        )
        self.spacing_us = round(1e6 / fps)
        """From frame to frame, about; may be changed with the frame rate."""
        self._gathered: list[tuple[int, NDArray[np.float32]]] = []
        self._before: deque[list[tuple[int, NDArray[np.float32]]]] = deque(maxlen=MAX_FRAMES)  # by packet
        self._first_us = 0
        self.last_motion: Motion | None = None

    def push(self, crop: Picture, capture_us: int) -> MotionPacket | None:
        """A crop uint8 [S, S, 3] captured at `capture_us`."""
        return self.push_track(self.extractor.track(crop), capture_us)

    def push_track(self, track: Track | None, capture_us: int) -> MotionPacket | None:
        """None: there was no face yet, and the source picture rests."""
        extractor = self.extractor
        self.last_motion = extractor.rest if track is None else extractor.from_track(track, capture_us)
        self._gathered.append((capture_us, self.last_motion.vector))
        return self.flush() if len(self._gathered) >= self.frames_per_packet else None

    def push_still(self, capture_us: int) -> MotionPacket | None:
        """A frame in which nothing has moved since the one before, whatever the camera sees."""
        self.last_motion = self.last_motion or self.extractor.rest
        self._gathered.append((capture_us, self.last_motion.vector))
        return self.flush() if len(self._gathered) >= self.frames_per_packet else None

    def breaks_off(self, capture_us: int) -> bool:
        """Whether a frame at this time must begin a new packet (`flush` first) to keep its own time: a packet has one
        spacing for all its frames."""
        if not self._gathered:
            return False
        times = [time_us for time_us, _ in self._gathered]
        gap_us = capture_us - times[-1]
        usual_us = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else gap_us
        return gap_us > MAX_SPACING_US or abs(gap_us - usual_us) > UNEVEN * usual_us

    def flush(self) -> MotionPacket | None:
        """The frames gathered so far as one packet; None if there are none."""
        if not self._gathered:
            return None
        frames = [*self._repeated(), *self._gathered]
        self._before.append(self._gathered)
        self._gathered = []
        times = [time_us for time_us, _ in frames]
        coded = self.codec.encode(np.stack([vector for _, vector in frames]))
        # A camera's frames do not come at the nominal rate; the packet says how far apart these were.
        spans = len(frames) - 1
        spacing = round((times[-1] - times[0]) / spans) if spans else self.spacing_us
        self._first_us = times[0]
        return MotionPacket.carry(coded, times[0], spacing)

    def _repeated(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Frames of the packets before that belong into the next one."""
        most = min(self.redundant_frames, MAX_FRAMES - len(self._gathered))
        if most <= 0:
            return []
        back = self.codec.packets_back
        packets = list(self._before)
        unknown = packets if back is None else packets[max(0, len(packets) - back + 1) :]
        frames: list[tuple[int, NDArray[np.float32]]] = []
        next_us = self._gathered[0][0]
        for packet in reversed(unknown):
            for time_us, vector in reversed(packet):
                # Behind a pause the mean spacing would put all at wrong times.
                if len(frames) == most or next_us - time_us > min(3 * self.spacing_us, MAX_SPACING_US):
                    return frames[::-1]
                frames.append((time_us, vector))
                next_us = time_us
        return frames[::-1]

    def follow(self, source: Source, *, target: Source | None = None) -> None:
        """Another source picture from the next frame on; what is gathered belongs to the old one: `flush` first.

        The codec's state stays: it predicts numbers and knows no picture. No further picture is held of the new one.
        """
        self.source = source
        self._before.clear()
        before = self.extractor
        self.extractor = MotionExtractor(
            before.family, source, target=target, smooth=before.smooth, check_speaker=before.check_speaker
        )

    def set_references(self, references: Sequence[ReferencePicture]) -> None:
        """The further pictures of the speaker that the receiver holds from now on; implicit keypoints are placed by the
        picture that a frame is shown on."""
        if self.extractor.keypoint_aligner is not None:
            self.extractor.keypoint_aligner.set_references(references)

    def restart(self) -> None:
        """For a new connection: sequence 0, a key packet next, nothing gathered. Source and quality stay."""
        self._gathered = []
        self._before.clear()
        self.codec.reset()
        self.extractor.reset()

    @property
    def first_us(self) -> int:
        """Capture time of the first frame of the packet that was returned last."""
        return self._first_us
