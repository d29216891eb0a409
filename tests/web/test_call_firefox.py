"""The page of a call in Firefox: it sees a `kilocall call` and is seen."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from kilocall.api import StreamPlayer
from meeting import SECRET, Server
from web.film import film_of
from web.firefox import Firefox, has_firefox
from web.hosting import has_engine
from web.python_party import python_party

pytestmark = [has_engine, has_firefox]

#: Compiling the engine and its networks takes seconds; a busy machine takes several times that.
WITHIN_S: Final = 180
CAMERA_FPS: Final = 8
SIDE: Final = 32
#: What is on the other side's canvas, SIDE wide.
SHOWN: Final = f"""(() => {{
  const small = Object.assign(document.createElement("canvas"), {{ width: {SIDE}, height: {SIDE} }}).getContext("2d");
  small.drawImage(document.getElementById("remote-picture"), 0, 0, {SIDE}, {SIDE});
  return JSON.stringify([...small.getImageData(0, 0, {SIDE}, {SIDE}).data]);
}})()"""


def test_firefox_sees_a_python_party_and_is_seen(
    server: Server, player: StreamPlayer, astronaut_clip: Path, tmp_path: Path
) -> None:
    link = f"{server.url}/tea#{SECRET.text}"
    with (
        python_party(link, astronaut_clip, tmp_path) as party,
        contextlib.closing(Firefox(tmp_path / "profile")) as firefox,
    ):
        firefox.film(film_of(player, CAMERA_FPS), CAMERA_FPS)
        firefox.open(link)
        # It does not say that camera and microphone may be used, so that the page asks for a click.
        firefox.until("document.getElementById('sound')?.hidden === false", WITHIN_S)
        firefox.evaluate("document.getElementById('sound-button').click()")
        firefox.until("window.kilocall.stats().drawn >= 3", WITHIN_S)
        assert firefox.evaluate("document.querySelectorAll('#words li').length") == 4
        firefox.until("document.getElementById('source-caption').textContent.startsWith('Taken at')", WITHIN_S)
        # What is shown is the other side's speaker.
        shown = np.array(json.loads(firefox.evaluate(SHOWN)), np.uint8).reshape(SIDE, SIDE, 4)[..., :3]
        speaker = cv2.resize(player.stream_source.picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        # Another crop of the same film; a canvas that nothing was drawn on has no correlation with anything.
        assert np.corrcoef(speaker.ravel(), shown.ravel())[0, 1] > 0.6
        # It decodes the layer as well.
        firefox.until("window.kilocall.stats().layer?.used >= 1", WITHIN_S)
        # The other side has said that it can move this side's picture.
        firefox.until("document.getElementById('gallery-pictures').textContent === '1'", WITHIN_S)
        firefox.until("Number(document.getElementById('fps-out').textContent) > 0", WITHIN_S)
        time.sleep(5)  # until it has, on a busy machine
        firefox.evaluate("document.getElementById('leave').click()")
        firefox.until("document.getElementById('status-title').textContent === 'The call is over'", WITHIN_S)
        time.sleep(3)  # what the farewell needs
        party.end()
        assert not firefox.problems
    told = party.told()
    assert told.pictures >= 1
    # Its layer is decoded here.
    assert told.layer.decoded >= 2
    assert told.layer.refused == 0
    assert (told.phase, told.malformed, told.connections) == ("ended", 0, 1)
