"""Every correction to aiortc and aioice that kilocall needs, in one place; a module for each protocol.

`apply` puts in force those of CORRECTIONS whose package has a version they were tested with; another version
gets a logged warning and the package as it is. Peer calls it; importing this package changes nothing. What can
be set on one connection alone (speech codec, loopback, counting) is a function or class and touches no other
connection of the process.
"""

from __future__ import annotations

import logging
from importlib import metadata

from kilocall.runtime.aiortc_fixes import dtls, ice, rtp, sack, sctp
from kilocall.runtime.aiortc_fixes.correction import Correction, Undo
from kilocall.runtime.aiortc_fixes.ice import TurnServer, on_datagrams, use_relays
from kilocall.runtime.aiortc_fixes.rtp import (
    PromptVideoBuffer,
    SpeechJitterBuffer,
    set_prompt_video,
    set_speech_decoder,
)
from kilocall.runtime.aiortc_fixes.sack import SACK_DELAY_S
from kilocall.runtime.aiortc_fixes.sctp import on_delivery
from kilocall.runtime.aiortc_fixes.speech import PACKET_MS, SilenceGate, SpeechEncoder, set_speech_encoder

__all__ = [
    "CORRECTIONS",
    "PACKET_MS",
    "SACK_DELAY_S",
    "Correction",
    "PromptVideoBuffer",
    "SilenceGate",
    "SpeechEncoder",
    "SpeechJitterBuffer",
    "TurnServer",
    "apply",
    "in_force",
    "on_datagrams",
    "on_delivery",
    "set_prompt_video",
    "set_speech_decoder",
    "set_speech_encoder",
    "use_relays",
    "withdraw",
]

logger = logging.getLogger(__name__)

TESTED = {"aiortc": "1.16.", "aioice": "0.13."}
"""Beginning of the versions that each package's corrections were tested with."""

CORRECTIONS = (*dtls.CORRECTIONS, *sctp.CORRECTIONS, *sack.CORRECTIONS, *rtp.CORRECTIONS, *ice.CORRECTIONS)

_undo: dict[str, Undo] = {}


def apply() -> tuple[str, ...]:
    """Puts all corrections in force that fit the installed versions; says which are. May be called again."""
    for correction in CORRECTIONS:
        if correction.name in _undo:
            continue
        version = metadata.version(correction.package)
        if version.startswith(TESTED[correction.package]):
            _undo[correction.name] = correction.put()
        else:
            logger.warning(
                "%s %s is not the %s* that the correction %r was tested with; left as it is",
                correction.package,
                version,
                TESTED[correction.package],
                correction.name,
            )
    return in_force()


def in_force() -> tuple[str, ...]:
    """Names of the corrections that are in force."""
    return tuple(correction.name for correction in CORRECTIONS if correction.name in _undo)


def withdraw(name: str) -> None:
    """Takes one correction back; for tests, and to find out whether it is to blame."""
    if name not in _undo:
        return
    # Two may wrap the same method, so they come off in reverse and the others go back on.
    for back in reversed(list(_undo.values())):
        back()
    kept = [correction for correction in CORRECTIONS if correction.name in _undo and correction.name != name]
    _undo.clear()
    for correction in kept:
        _undo[correction.name] = correction.put()
