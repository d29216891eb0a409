"""Every error that kilocall raises on purpose, in one tree.

    KilocallError            anything below; the command line turns it into one line and exit code 2
      BadPacket              bytes from a peer that are not what they claim to be (also a ValueError)
        NotProven            a description or nonce that may be of somebody who is not the other side
      BadInput               a file, picture or setting that cannot be used (also a ValueError)
        NoFace               a picture in which no face was found
        WrongFamily          weights, stream and codebook that do not belong together

A message says what was refused, which value it had and what is allowed.
"""

from __future__ import annotations

__all__ = ["BadInput", "BadPacket", "KilocallError", "NoFace", "NotProven", "WrongFamily"]


class KilocallError(Exception):
    """Base of every error that kilocall raises on purpose."""


class BadPacket(KilocallError, ValueError):  # noqa: N818  # reads as what it is
    """Bytes from a peer that are malformed, or that refer to something this side does not hold."""


class NotProven(BadPacket):
    """What should come from the other side, without the proof that it does."""


class BadInput(KilocallError, ValueError):  # noqa: N818
    """A file, picture or setting that cannot be used."""


class NoFace(BadInput):
    """A picture in which no face was found."""


class WrongFamily(BadInput):
    """Weights, stream and codebook that do not belong to the same model family."""
