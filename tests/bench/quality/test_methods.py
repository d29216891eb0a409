"""The methods of the comparison as values."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from kilocall.bench.quality.codecs import RatePoint, named
from kilocall.bench.quality.jobs import Job, job_key
from kilocall.bench.quality.methods import FrozenPicture, Method, Motion, Video
from kilocall.bench.quality.settings import QualitySettings
from kilocall.model.family_loader import FamilyChoice
from kilocall.sender.layer_encoder import LADDER

FROZEN = FrozenPicture()
MOTION = Motion("compact-256", FamilyChoice(), 50.0)
LAYERED = Motion("compact-256", FamilyChoice(), 50.0, 3.0)
VIDEO = Video(named("x264-live"), RatePoint(51, half_side=True))


def job(method: Method) -> Job:
    return Job(Path("a.mp4"), "00", method, QualitySettings(), crop=False, tools="ffmpeg 7")


def test_each_says_what_the_report_calls_it() -> None:
    assert [(m.codec, m.setting, m.quality) for m in (FROZEN, MOTION, LAYERED, VIDEO)] == [
        ("frozen", "first frame", 0),
        ("compact-256", "quality 50", 50),
        ("compact-256", "quality 50, layer 3", 50),
        ("x264-live", "q51, half side", 51),
    ]
    assert [method.stands_still for method in (FROZEN, MOTION, VIDEO)] == [True, False, False]


@pytest.mark.parametrize(
    ("method", "key"),
    [
        (FROZEN, "b56e5e3e96a6eb511f35c5eb3c727edc"),
        (MOTION, "9d9c2788a96a828e3c82c60f5a843390"),
        (VIDEO, "d6db3fe9e74389f2f252b14ebf997de9"),
    ],
)
def test_results_that_were_kept_before_are_found_again(method: Method, key: str) -> None:
    """Their names in the cache. Where numbers come out differently, MEASURES_VERSION changes, and these with it."""
    assert job_key(job(method)) == key


def test_results_with_a_layer_are_kept_apart_and_by_what_its_rate_is_spent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {job_key(job(method)) for method in (MOTION, LAYERED, replace(LAYERED, layer=6.0))}
    assert len(keys) == 3
    sharper = replace(LADDER[1], crf=(LADDER[1].crf or 0) - 1)
    monkeypatch.setattr("kilocall.bench.quality.methods.setting_for", lambda kbps: sharper)
    assert job_key(job(LAYERED)) not in keys


def test_each_travels_to_a_worker() -> None:
    for method in (FROZEN, MOTION, LAYERED, VIDEO):
        assert pickle.loads(pickle.dumps(job(method))) == job(method)
