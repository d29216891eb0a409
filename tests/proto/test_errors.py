from __future__ import annotations

import pytest

from kilocall.proto import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_kilocall_error(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.KilocallError)


def test_refused_bytes_and_input_are_value_errors_too() -> None:
    for kind in (errors.BadPacket, errors.BadInput, errors.NoFace, errors.WrongFamily):
        assert issubclass(kind, ValueError)
    assert not issubclass(errors.BadPacket, errors.BadInput)
