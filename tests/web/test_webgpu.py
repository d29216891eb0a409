"""Networks on a graphics processor: the same pictures, nothing more where there is none, and back when it is lost.

Chromium's SwiftShader stands for one. It computes on the processor, some hundred times as slowly as WebAssembly, so
that the page's address has to ask for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.runtime.web_files import GPU_NETWORKS, WEIGHTS, gpu_files
from meeting import Server
from web.hosting import CHROMIUM, Hosted, has_browser, has_engine, put_modules
from web.test_call_media import PAGE, MediaPage, _packets

pytestmark = [
    has_engine,
    has_browser,
    pytest.mark.skipif(not gpu_files(), reason="what WebGPU needs is missing: run `make web` where onnx is installed"),
]

WITH_GPU: Final = ("--enable-unsafe-webgpu",)
#: Shaders are compiled for some ten seconds a network here.
LOADED_WITHIN_S: Final = 240
#: A picture takes up to half a minute.
MADE_WITHIN_S: Final = 120
NEAR: Final = 1.0
#: So that a test can take the graphics processor away: every device that is made is kept.
KEEP_DEVICE: Final = """
const request = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...all) { return self.device = await request.apply(this, all); };
"""


@pytest.fixture(scope="module")
def browsers() -> Iterator[Any]:
    """Chromium with these arguments."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        started: dict[tuple[str, ...], Any] = {}

        def browser(*arguments: str) -> Any:
            if arguments not in started:
                started[arguments] = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
            return started[arguments]

        yield browser
        for one in started.values():
            one.close()


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("webgpu")
    put_modules(folder, PAGE)
    (folder / "networks").mkdir()
    networks = {f"networks/{path.name}": path for path in WEIGHTS.iterdir()} | gpu_files()
    for name, path in networks.items():
        if name.startswith("networks/"):
            (folder / name).symlink_to(path)
    (folder / "gpu_worker.js").rename(folder / "own_gpu_worker.js")
    (folder / "keep_device.js").write_text(KEEP_DEVICE)
    (folder / "gpu_worker.js").write_text('import "./keep_device.js";\nimport "./own_gpu_worker.js";\n')
    server = Hosted(folder)
    server.isolate()
    yield server
    server.close()


class GpuPage(MediaPage):
    """A receiving side, to which a graphics processor may be lent."""

    def __init__(self, browser: Any, address: str) -> None:
        super().__init__(browser, address)
        self.warned: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.warned.append(said.text) if said.type == "warning" else None)
        self.page.context.on("request", lambda request: self.asked.append(request.url))

    def needs_adapter(self) -> None:
        found = self.page.evaluate("async () => !!(await navigator.gpu?.requestAdapter())")
        if not found:
            pytest.skip("this Chromium has no WebGPU adapter, not even SwiftShader")

    def show(self, player: StreamPlayer) -> None:
        source = player.reader.source_picture()
        assert source is not None
        self.page.evaluate("async () => { window.receiving = await media.Receiving.open(1); }")
        self.prepare(source.picture_hash, source.data)
        self.until("receiving.all('ready').length")
        self.page.evaluate("packets => receiving.play(packets)", _packets(player)[:3])
        self.until("receiving.pictures.length >= 1")
        self.page.wait_for_timeout(1000)

    def offer(self, wanted: str) -> None:
        code = "const { offerGpu } = await import('/gpu.js'); window.endGpu = offerGpu(wanted, [receiving.pipeline]);"
        self.page.evaluate(f"async (wanted) => {{ {code} }}", wanted)

    def turned(self, yaw: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The picture with the head turned, made by the networks: it is too far to move one there."""
        made = self.page.evaluate("receiving.pictures.length")
        self.page.evaluate(f"receiving.pipeline.setView({{ yaw: {yaw}, pitch: 0, roll: 0 }})")
        self.until(f"receiving.pictures.length > {made}", MADE_WITHIN_S)
        self.page.wait_for_timeout(600)
        return self.shown().astype(int)

    def numbers(self) -> dict[str, Any]:
        numbers: dict[str, Any] = self.page.evaluate("receiving.pipeline.numbers()")
        return numbers


@pytest.mark.parametrize("arguments", [(), WITH_GPU])
def test_without_a_graphics_processor_nothing_more_is_loaded(
    arguments: tuple[str, ...], browsers: Any, hosted: Hosted, player: StreamPlayer
) -> None:
    page = GpuPage(browsers(*arguments), hosted.address)
    page.show(player)
    page.offer("auto")
    page.page.wait_for_timeout(2000)
    page.turned(25)
    assert page.numbers()["engine"] == "WebAssembly, 1 thread"
    assert [url for url in page.asked if url.endswith("/gpu_worker.js")]  # which has looked for an adapter
    assert not [url for url in page.asked if "jspi" in url or ".gpu." in url]
    assert not page.warned
    page.close()


def test_pictures_are_the_same_on_a_graphics_processor_and_go_on_when_it_is_lost(
    browsers: Any, hosted: Hosted, player: StreamPlayer
) -> None:
    page = GpuPage(browsers(*WITH_GPU), hosted.address)
    page.needs_adapter()
    page.show(player)
    page.turned(25)
    straight, turned = page.turned(0), page.turned(25)
    assert np.abs(straight - turned).mean() > 5
    page.offer("webgpu")
    deadline = time.monotonic() + LOADED_WITHIN_S
    yaw = 25
    while set(page.numbers()["onGpu"]) != {"field", "generator"}:
        assert time.monotonic() < deadline, page.warned
        page.turned(yaw := 25 - yaw)
    assert page.numbers()["engine"].startswith("WebGPU, ")
    found = {yaw: page.turned(yaw) for yaw in (25 - yaw, yaw)}
    differences = [float(np.abs(found[0] - straight).mean()), float(np.abs(found[25] - turned).mean())]
    assert 0 < max(differences) < NEAR, differences
    assert not page.warned
    # Gone between two pictures; and nobody sees it.
    [worker] = [one for one in page.page.workers if "gpu_worker" in one.url]
    worker.evaluate("() => self.device.destroy()")
    page.turned(25 - yaw)
    again = page.turned(yaw)
    assert np.abs(again - (turned if yaw else straight)).mean() < 0.01
    assert page.numbers()["engine"] == "WebAssembly, 1 thread"
    [warning] = page.warned
    assert "the graphics processor is lost" in warning
    assert not page.told("receiving", "problem")
    page.close()


def test_every_network_computes_the_same_there(browsers: Any, hosted: Hosted) -> None:
    page = GpuPage(browsers(*WITH_GPU), hosted.address)
    page.needs_adapter()
    names = [Path(name).stem for name in GPU_NETWORKS]
    page.page.evaluate(
        """(names) => {
            window.said = [];
            const worker = new Worker("/gpu_worker.js", { type: "module" });
            worker.onmessage = ({ data }) => said.push(data);
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = ({ data }) => said.push(data);
            port1.postMessage({ do: "load", names });
            worker.postMessage({ do: "open", wanted: "webgpu", kept: null, ports: [port2] }, [port2]);
        }""",
        names,
    )
    page.until("said.length", LOADED_WITHIN_S)
    [offer] = page.page.evaluate("said")
    assert offer["offer"]["outcomes"] == {}  # none is known to be wrong
    assert sum(url.endswith(".gpu.onnx") for url in page.asked) == len(names)
    page.close()


def test_the_served_page_may_load_it(server: Server, browsers: Any) -> None:
    """Its policy allows the second engine; with nobody else there it is loaded after a while."""
    context = browsers(*WITH_GPU).new_context(permissions=["camera", "microphone"])
    page = context.new_page()
    problems: list[str] = []
    arrived: dict[str, int] = {}
    page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
    context.on("response", lambda response: arrived.update({response.url.rpartition("/")[2]: response.status}))
    page.goto(f"{server.url}/tea?engine=webgpu")
    if not page.evaluate("async () => !!(await navigator.gpu?.requestAdapter())"):
        pytest.skip("this Chromium has no WebGPU adapter, not even SwiftShader")
    deadline = time.monotonic() + LOADED_WITHIN_S
    wanted = {"ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm", "field.gpu.onnx"}
    while not wanted <= arrived.keys():
        assert time.monotonic() < deadline, (arrived, problems)
        page.wait_for_timeout(200)
    assert {arrived[name] for name in wanted} == {200}
    assert not problems
    context.close()
