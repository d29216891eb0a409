"""Passwords of a TURN server that expire: what coturn takes with `use-auth-secret`.

The scheme is draft-uberti-behave-turn-rest-00: the user name says until when it is good, and the password is made from
it with a secret that the server has too. Nothing is asked and nothing is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from kilocall.call.signalling import MOST_RELAYS, Relay
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput

__all__ = ["SECRET_VARIABLE", "Relays", "password"]

#: As turn.sh asks for: the secret alone decides who may use the server.
SECRET_VARIABLE: Final = "TURN_SECRET"
LEAST_SECRET: Final = 32


def password(secret: str, username: str) -> str:
    """That of a user name, `UNIX TIME:ANYTHING`."""
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), hashlib.sha1)).decode()


class Relays:
    """The TURN servers of a signalling server; none without an address. `clock` is Unix seconds. Raises BadInput."""

    def __init__(self, settings: SignallingSettings, clock: Callable[[], float] = time.time) -> None:
        self._urls, self._secret, self._clock = settings.turn_urls, settings.turn_secret, clock
        self._valid_s = settings.turn_valid_s
        if not self._urls:
            return
        if len(self._urls) > MOST_RELAYS:
            raise BadInput(f"turn_url is given {len(self._urls)} times, most is {MOST_RELAYS}")
        if len(self._secret) < LEAST_SECRET:
            raise BadInput(
                f"{SECRET_VARIABLE} has {len(self._secret)} characters; turn_url needs one of at least {LEAST_SECRET}"
            )
        for url in self._urls:
            try:
                Relay(url=url, username="", credential="")
            except ValidationError:
                raise BadInput(
                    f"turn_url is {url!r:.120}; allowed are turn:HOST[:PORT] and turns:HOST[:PORT]"
                ) from None

    def for_one(self) -> tuple[Relay, ...] | None:
        """With a user name of their own; None where there are none."""
        if not self._urls:
            return None
        username = f"{int(self._clock() + self._valid_s)}:{secrets.token_hex(8)}"
        credential = password(self._secret, username)
        return tuple(Relay(url=url, username=username, credential=credential) for url in self._urls)
