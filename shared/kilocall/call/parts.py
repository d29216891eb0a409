"""What one party's side of a call consists of: made by the node, looked at by its statistics, controls and outputs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from kilocall.call.audio_bridge import AvSync, Loudspeaker, PageMedia, Speech
from kilocall.call.link import Link, RoomAddress
from kilocall.call.rate_control import RateControl
from kilocall.call.session import Session
from kilocall.call.settings import CallSettings
from kilocall.receiver.live import ReceivePipeline
from kilocall.runtime.lag import DelayAboveMinimum, LoopLag
from kilocall.sender.live import SendPipeline

__all__ = ["CallParts", "now_us", "program_version"]


def now_us() -> int:
    """This side's clock."""
    return time.monotonic_ns() // 1000


def program_version() -> str:
    try:
        return version("kilocall")
    except PackageNotFoundError:
        return "from source"


@dataclass
class CallParts:
    """All of it lives as long as the node, but for the session, which begins when the models are loaded."""

    settings: CallSettings
    address: RoomAddress
    link: Link
    sending: SendPipeline
    receiving: ReceivePipeline
    speech: Speech
    loudspeaker: Loudspeaker
    media: PageMedia
    rate: RateControl
    session: Session | None = None
    av_sync: AvSync = field(default_factory=AvSync)
    loop_lag: LoopLag = field(default_factory=LoopLag)
    send_ms: DelayAboveMinimum = field(default_factory=DelayAboveMinimum)
    """From the capture of a packet's last frame to its sending."""
