"""Tracks of a live camera to motion packets, for one connection after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kilocall.model.family import Family, Source, Track
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.limits import LEVELS
from kilocall.proto.motion_packet import MotionPacket
from kilocall.runtime.clock import now_us
from kilocall.sender.encoder import PacketEncoder
from kilocall.sender.motion import MotionExtractor
from kilocall.sender.send_rate import Plan, SendRate

__all__ = ["MotionSender"]

#: A packet may say that its frames lie 204 ms apart, and no frame waits longer for others.
LONGEST_WAIT_US: Final = 200_000
#: What a frame's way from the camera to its message takes beside the wait.
ON_THE_WAY_US: Final = 50_000
#: Robustness against a receiver that has lost its state although packets were delivered; 1 bit a frame.
KEY_EVERY_S: Final = 4.0


class MotionSender:
    """Gathers frames into packets and gives those to `send`. Belongs to the sending thread; its counters to anybody.

    There is nothing to send before `refer_to` has named a source picture.
    """

    def __init__(self, rate: SendRate, send: Callable[[MotionPacket], None]) -> None:
        self.sent_frames = self.packets_sent = self.key_packets = self.payload_bits = 0
        self._rate, self._send = rate, send
        self._encoder: PacketEncoder | None = None
        # Further pictures of the speaker by hash, with their source picture's, and those that the other side holds.
        self._known: dict[str, tuple[str, ReferencePicture]] = {}
        self._held: list[str] = []
        self._last_us = 0
        self._gathered_since_us: int | None = None
        self._alone_once = False

    @property
    def extractor(self) -> MotionExtractor | None:
        """What makes motion of tracks, once there is a source picture."""
        return self._encoder.extractor if self._encoder is not None else None

    @property
    def payload_bits_per_frame(self) -> float:
        return self.payload_bits / max(1, self.sent_frames)

    @property
    def pictures(self) -> int:
        """How many pictures of the speaker frames are placed by: the source picture, and further ones that the other
        side holds."""
        aligner = self.extractor.keypoint_aligner if self.extractor is not None else None
        return 0 if aligner is None else len(aligner.references)

    def begin(self) -> None:
        """A new connection: nothing is known of what the other side holds, and the first frame goes at once."""
        self._held.clear()
        if self._encoder is not None:
            self._encoder.restart()
            self._encoder.set_references(())
        self._gathered_since_us = None
        self._alone_once = True

    def refer_to(self, family: Family, reference: Source, target: Source | None) -> None:
        """Motion refers to this source picture from the next frame on; `target`, if any, is what it moves."""
        self.flush()
        if self._encoder is None:
            self._encoder = PacketEncoder(
                family,
                reference,
                fps=self._rate.camera_fps,
                frames_per_packet=self._rate.frames_per_message,
                key_every_s=KEY_EVERY_S,
                reference="acknowledged",
                target=target,
            )
            self.follow(self._rate.plan)
        else:
            self._encoder.follow(reference, target=target)
        self._known.clear()
        self._held.clear()

    def push(self, track: Track | None, capture_us: int) -> MotionExtractor | None:
        """A frame of the face, or one in which it stays as it was; None while there is no source picture."""
        encoder = self._encoder
        if encoder is None:
            return None
        if self._gathered_since_us is not None and capture_us - self._last_us > LONGEST_WAIT_US:
            self.flush()
        if self._gathered_since_us is None:
            self._gathered_since_us = capture_us
        self._last_us = capture_us
        self.sent_frames += 1
        self._emit(encoder.push_still(capture_us) if track is None else encoder.push_track(track, capture_us))
        if self._alone_once:
            self._alone_once = False
            self.flush()
        return encoder.extractor

    def flush(self) -> None:
        """What is gathered goes now."""
        if self._encoder is not None:
            self._emit(self._encoder.flush())
        self._gathered_since_us = None

    def flush_overdue(self) -> None:
        """One frame that does not come is waited for; a camera that stands still is not."""
        since_us, rate = self._gathered_since_us, self._rate
        wait_us = min(LONGEST_WAIT_US, round(1e6 * rate.frames_per_message / rate.fps))
        if since_us is not None and now_us() - since_us > wait_us + ON_THE_WAY_US:
            self.flush()

    def face_again(self) -> None:
        """After a time without a face: its first frame goes at once, for the other side has been waiting."""
        if self._encoder is not None:
            self._encoder.extractor.reset()
            self._alone_once = True

    def reset(self) -> None:
        """The next frame is of somewhere else."""
        self.flush()
        if self._encoder is not None:
            self._encoder.extractor.reset()

    def follow(self, plan: Plan) -> None:
        self._rate.plan = plan
        if self._encoder is not None:
            self._encoder.redundant_frames = plan.redundant_frames
            self._encoder.codec.set_quality(100 * plan.level / (LEVELS - 1))
        self.fit_messages()

    def fit_messages(self) -> None:
        """After a change of the rate."""
        if self._encoder is not None:
            self._encoder.frames_per_packet = self._rate.frames_per_message
            self._encoder.spacing_us = round(1e6 / self._rate.fps)
            self._encoder.codec.key_interval = max(1, round(KEY_EVERY_S * self._rate.fps))

    # What the other side holds

    def acknowledge(self, sequence: int) -> None:
        if self._encoder is not None:
            self._encoder.codec.acknowledge(sequence)

    def forget_acknowledged(self) -> None:
        """Key packets until the next acknowledgement, for a receiver that has come in late."""
        if self._encoder is not None:
            codec = self._encoder.codec
            codec.state = replace(codec.state, reference=None)

    def offered_reference(self, base_hash: str, picture_hash: str, reference: ReferencePicture) -> None:
        """A further picture of this side's speaker goes to the other side."""
        self._known.setdefault(picture_hash, (base_hash, reference))

    def hold_reference(self, base_hash: str, picture_hash: str) -> None:
        """The other side holds a further picture beside the source picture `base_hash`."""
        base, reference = self._known.get(picture_hash, ("", None))
        if self._encoder is not None and base == base_hash and reference is not None and picture_hash not in self._held:
            self._held.append(picture_hash)
            self._encoder.set_references([self._known[name][1] for name in self._held])

    def _emit(self, packet: MotionPacket | None) -> None:
        if packet is None:
            return
        self._gathered_since_us = None
        self.payload_bits += 8 * len(packet.payload)
        self.packets_sent += 1
        self.key_packets += packet.is_key
        self._send(packet)
