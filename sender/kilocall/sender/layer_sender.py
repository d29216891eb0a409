"""The video layer of a live call: what of it goes with which message of motion."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from kilocall.proto.control import LayerReport
from kilocall.proto.layer_frame import LAYER_NUMBERS, MAX_FRAGMENTS, LayerFragment, LayerFrame, fragment_bytes
from kilocall.proto.motion_message import MAX_LAYERED_BYTES, MotionMessage
from kilocall.proto.motion_packet import MotionPacket, wire_time_ms
from kilocall.sender.layer_encoder import (
    CAMERA_LADDER,
    LADDER,
    QUICK_PRESET,
    LayerEncoder,
    LayerSetting,
    ToCode,
    setting_for,
)

__all__ = ["LayerSender"]

#: Data of a fragment; four of them make the largest key frames that the ladder gives.
FRAGMENT_BYTES: Final = 900
#: Fragments that wait for a message. More of them means that no motion is sent, and they would come too late.
MOST_WAITING: Final = 12
#: While so many wait, as where messages are rare and a key frame is on its way, no further frame is coded.
MOST_BEHIND: Final = 5
#: A frame so small is carried again by the next message on a link that loses: it costs less than a new key frame.
SMALL_BYTES: Final = 200


class LayerSender:
    """Belongs to the sending thread; its counters to anybody."""

    def __init__(self) -> None:
        self.frames = self.key_frames = self.bytes_sent = 0
        self._planned_bps = self._camera_bps = self._asked_bps = 0
        self._allowed = True
        self._whole = self._hurried = False
        self._encoder: LayerEncoder | None = None
        self._waiting: deque[LayerFragment] = deque()
        self._sent_last: tuple[LayerFragment, ...] = ()
        self._number = 0

    @property
    def setting(self) -> LayerSetting | None:
        """What is sent now; None: nothing."""
        return None if self._encoder is None else self._encoder.setting

    def begin(self) -> None:
        """A new connection: nothing is sent before the other side has said that it takes a layer."""
        self._asked_bps = 0
        self._set()

    def follow(self, planned_bps: int, camera_bps: int = 0) -> None:
        """So much may be spent, and so much while the camera's whole picture is shown."""
        self._planned_bps, self._camera_bps = planned_bps, camera_bps
        self._set()

    @property
    def may_show_camera(self) -> bool:
        """Whether the other side and the plan have room for the camera's whole picture."""
        return setting_for(min(self._camera_bps, self._asked_bps) / 1000, CAMERA_LADDER) is not None

    @property
    def allowed(self) -> bool:
        """Whether the layer may show who speaks."""
        return self._allowed

    def show_camera(self, whole: bool) -> None:
        """From now on the camera's whole picture is pushed, or crops again."""
        self._whole = whole
        self._set()

    def hurry(self) -> None:
        """Before anything is sent: coding must take no more of this computer's time than it has to."""
        self._hurried = True

    def asked(self, report: LayerReport) -> None:
        """The other side takes so much, or misses a frame."""
        self._asked_bps = report.wanted_bps
        self._set()
        if report.key_needed and self._encoder is not None:
            self._encoder.want_key()

    def allow(self, allowed: bool) -> None:
        """Not while somebody else's picture is moved in this side's place: the layer would show who moves it."""
        self._allowed = allowed
        self._set()

    def _set(self) -> None:
        planned_bps = self._planned_bps if self._allowed else 0
        if self._whole:  # somebody has said so, or nothing else is moved
            planned_bps = self._camera_bps
        setting = setting_for(min(planned_bps, self._asked_bps) / 1000, CAMERA_LADDER if self._whole else LADDER)
        if setting is not None and self._hurried:
            setting = replace(setting, preset=max(setting.preset, QUICK_PRESET))
        if setting != self.setting:
            self._drop()
            self._encoder = None if setting is None else LayerEncoder(setting, MAX_FRAGMENTS * FRAGMENT_BYTES)

    @property
    def waits(self) -> bool:
        """Whether something is to go with a message."""
        return bool(self._waiting)

    @property
    def key_wanted(self) -> bool:
        """Whether the other side waits for a frame that can be decoded without any other."""
        return self._encoder is not None and self._encoder.key_wanted

    def push(self, picture: ToCode, capture_us: int) -> None:
        """A picture, with whose motion it goes."""
        if self._encoder is None or (len(self._waiting) > MOST_BEHIND and not self._encoder.key_wanted):
            return
        coded = self._encoder.push(picture, capture_us)
        if coded is None:
            return
        self._number = (self._number + 1) % LAYER_NUMBERS
        frame = LayerFrame(self._number, wire_time_ms(capture_us), coded.key, coded.data, self._whole)
        if coded.key:
            self._waiting.clear()  # nobody needs what was before it
        self._waiting.extend(frame.fragments(FRAGMENT_BYTES))
        self.frames += 1
        self.key_frames += coded.key
        if len(self._waiting) > MOST_WAITING:
            self._drop()
            self._encoder.want_key()

    def take(self, room: int, *, again: bool) -> tuple[LayerFragment, ...]:
        """What goes with a message that has so many bytes left; `again`: the small frames of the last one too."""
        taken: list[LayerFragment] = []
        while self._waiting and len(taken) < MAX_FRAGMENTS and _size(self._waiting[0]) <= room:
            taken.append(self._waiting.popleft())
            room -= _size(taken[-1])
        repeated = [one for one in self._sent_last if again and one.index == 0 and one.last]
        repeated = [one for one in repeated if len(one.data) <= SMALL_BYTES]
        self._sent_last = tuple(taken)
        for fragment in repeated:
            if _size(fragment) <= room and len(taken) < MAX_FRAGMENTS:
                taken.insert(0, fragment)
                room -= _size(fragment)
        self.bytes_sent += sum(_size(one) for one in taken)
        return tuple(taken)

    def behind(self, packet: MotionPacket, *, again: bool) -> MotionMessage:
        """The packet's message with what of the layer fits behind it; `again` as for `take`."""
        return MotionMessage(packet, self.take(MAX_LAYERED_BYTES - len(bytes(packet)), again=again))

    def _drop(self) -> None:
        self._waiting.clear()
        self._sent_last = ()


def _size(fragment: LayerFragment) -> int:
    """In a message, bytes."""
    return fragment_bytes(len(fragment.data))
