"""Python still gives what the modules of a call's protocol are tested against."""

from __future__ import annotations

import json
from typing import Any

import pytest

from web import protocol_vectors as pv


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return pv.everything()


@pytest.mark.parametrize("name", ["control", "signalling", "rate", "session"])
def test_what_the_modules_are_held_against(made: dict[str, Any], name: str) -> None:
    assert made[name] == json.loads((pv.VECTORS / f"web_{name}.json").read_text())


def test_traces_of_rate_control_go_down_and_up_and_are_guarded(made: dict[str, Any]) -> None:
    plans = [plan for trace in made["rate"] for plan in trace["plans"]]
    assert {rung for rung, *_ in plans} >= {0, 1, 2, 3, 4, 5}
    assert {guarded for _, guarded, *_ in plans} == {True, False}


def test_traces_of_sessions_ask_for_everything_and_come_to_every_phase(made: dict[str, Any]) -> None:
    steps = [step for trace in made["session"] for step in trace]
    asked = {one[0] for _, _, asks, _ in steps for one in asks}
    sending = {"confirm", "follow", "limit", "askLayer", "takeCamera"}
    receiving = {"prepare", "use", "refer", "expect", "forget", "showCamera"}
    assert asked == sending | receiving | {"say", "plan", "reference"}
    said = {int(one[1][2:4], 16) for _, _, asks, _ in steps for one in asks if one[0] == "say"}
    assert said >= {1, 2, 5, 6, 7, 8, 10, 11, 14, 15, 16, 18, 19, 20, 21}
    assert {state[0] for *_, state in steps if state} >= {"connecting", "open", "lost", "refused"}
    assert any(state[12] for *_, state in steps if state), "the other side's words are never known"
    assert any(state[14] for *_, state in steps if state), "no further picture is ever held"
