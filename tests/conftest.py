"""What tests of several folders share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from kilocall.api import StreamPlayer, open_family
from kilocall.model.family import Family
from kilocall.sample import sample_clip, sample_stream

# The same examples in every run, and no time limit for one: a busy machine is no defect of the code.
settings.register_profile("kilocall", deadline=None, derandomize=True)
settings.load_profile("kilocall")

ROOT = Path(__file__).parents[1]

#: What runs whole calls and pages in a browser, or measures how long something takes: alone, one after the other.
REAL_TIME = (
    "bench/test_call.py",
    "bench/test_network.py",
    "bench/test_soak.py",
    "bench/test_streams.py",
    "call/test_bad_networks.py",
    "call/test_behind_nats.py",
    "call/test_camera_shown.py",
    "call/test_cameras.py",
    "call/test_floods.py",
    "call/test_further_pictures.py",
    "call/test_operation.py",
    "call/test_page.py",
    "call/test_page_media.py",
    "call/test_services.py",
    "call/test_slow_computer.py",
    "call/test_two_pages.py",
    "call/test_two_processes.py",
    "receiver/test_page.py",
    "web/test_call_firefox.py",
    "web/test_call_media.py",
    "web/test_call_page.py",
    "web/test_call_protocol.py",
    "web/test_webgpu.py",
)

#: What waits for a connection, a timer or a process for most of its time: several at once. The rest computes, and
#: shares the cores. What a folder has in the list above is not meant.
WAITS = (
    "call",
    "model/test_gpu_trial.py",
    "receiver/test_display.py",
    "receiver/test_playback.py",
    "runtime/aiortc_fixes",
    "runtime/test_lag.py",
    "runtime/test_long_messages.py",
    "runtime/test_peer.py",
    "runtime/test_picture_process.py",
    "runtime/test_service.py",
    "runtime/test_web.py",
    "runtime/test_worker.py",
    "sender/test_capture.py",
    "sender/test_reference_selector.py",
    "test_docker.py",
)

#: What takes long and rarely breaks: `make test-all` runs it, and so does CI; `make test` does not. Whole files and
#: folders are listed here; single tests say it themselves.
SLOW = (
    "bench/compress",
    "bench/quality",
    "bench/test_call.py",
    "bench/test_evaluate.py",
    "bench/test_loss.py",
    "bench/test_network.py",
    "bench/test_streams.py",
    "call/test_bad_networks.py",
    "call/test_behind_nats.py",
    "call/test_cameras.py",
    "call/test_further_pictures.py",
    "call/test_idle.py",
    "call/test_page.py",
    "call/test_page_media.py",
    "call/test_services.py",
    "call/test_slow_computer.py",
    "call/test_two_pages.py",
    "fuzz",
    "model/facevid2vid",
    "model/liveportrait",
    "model/test_checkpoints.py",
    "model/test_speaker_adapter.py",
    "model/test_volume_family.py",
    "receiver/test_page.py",
    "sender/test_clip_report.py",
    "sender/test_crop_whole.py",
    "sender/test_speaker_check.py",
    "test_docker.py",
    "test_gallery.py",
    "test_packaging.py",
    "test_real_clips.py",
    "test_sbom.py",
    "train/test_export.py",
    "train/test_expression_gain_fit.py",
    "train/test_finetune.py",
    "train/test_training.py",
    "web/test_call_firefox.py",
    "web/test_call_media.py",
    "web/test_call_page.py",
    "web/test_call_protocol.py",
    "web/test_export_page.py",
    "web/test_webgpu.py",
    "web/test_webkit.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    paths = {item.path for item in items}
    real_time, waits, slow = (_listed(paths, names) for names in (REAL_TIME, WAITS, SLOW))
    for item in items:
        for marked, mark in (
            (real_time, pytest.mark.real_time),
            (waits - real_time, pytest.mark.waits),
            (slow, pytest.mark.slow),
        ):
            if item.path in marked:
                item.add_marker(mark)
    # Long files first: where several processes share the tests, none is left alone with such a one in the end.
    items.sort(key=lambda item: item.path not in slow)


def _listed(paths: set[Path], names: Sequence[str]) -> set[Path]:
    listed = {ROOT / "tests" / name for name in names}
    return {path for path in paths if not listed.isdisjoint((path, *path.parents))}


@pytest.fixture(scope="session")
def clips() -> Path:
    """A folder with `test/` and `raw/` clips of people, which the project does not ship: KILOCALL_CLIPS names it."""
    named = os.environ.get("KILOCALL_CLIPS")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no clips of people at {folder}; KILOCALL_CLIPS can name such a folder")
    return folder


@pytest.fixture(scope="session")
def astronaut_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a built-in speaker, which take about as long to make: tests share it and leave it as it is."""
    return sample_clip("astronaut", tmp_path_factory.mktemp("astronaut"), threads=1)


@pytest.fixture(scope="session")
def drawing_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As above, of the other one."""
    return sample_clip("drawing", tmp_path_factory.mktemp("drawing"), threads=1)


@pytest.fixture(scope="session")
def family() -> Family:
    """The package's own, on one thread."""
    return open_family(threads=1)


@pytest.fixture(scope="module")
def player(family: Family) -> StreamPlayer:
    """The built-in astronaut; a module's tests leave it as it was."""
    return StreamPlayer(sample_stream("astronaut"), family=family)
