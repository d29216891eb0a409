"""serve and call: the meeting point and one party of a call."""

from __future__ import annotations

import logging
import webbrowser
from typing import Any

from rich.logging import RichHandler
from rich.text import Text

from kilocall.call.report import CallReport
from kilocall.call.running import run_call, run_server
from kilocall.call.settings import settings_from
from kilocall.cli.screen import console, print_facts
from kilocall.proto.errors import BadInput

__all__ = ["make_call", "serve_meeting_point"]


def serve_meeting_point(host: str, port: int, verbose: bool) -> None:
    _log(verbose)
    run_server(host, port, on_ready=lambda address: _say(f"meeting point at {address}; Ctrl-C ends it"))


def make_call(*, open_page: bool, verbose: bool, **options: Any) -> None:
    _log(verbose)
    settings = settings_from(**options)
    if settings.headless and settings.seconds is None:
        raise BadInput("seconds is missing: a call without a page ends after --seconds N")

    def page(address: str) -> None:
        _say(f"page: {address}")
        if open_page:
            webbrowser.open(address)

    report = run_call(settings, on_page=page, on_link=lambda link: _say(f"the other side joins with: --room '{link}'"))
    print_report(report)


def print_report(report: CallReport, title: str = "call") -> None:
    print_facts(
        f"{title}: {report.seconds:.1f} s, {report.phase}",
        [
            ("first picture", _ms(report.first_picture_ms)),
            ("delay, capture to picture", f"{_ms(report.delay_p50_ms)}, 95 %: {_ms(report.delay_p95_ms)}"),
            (
                "video on the wire",
                f"{report.steady_out.data:.1f} kbit/s out, {report.steady_into.data:.1f} in, all headers counted",
            ),
            ("everything on the wire", f"{report.steady_out.total:.1f} kbit/s out, {report.steady_into.total:.1f} in"),
            ("motion", f"{report.payload_bits_per_frame:.1f} bits a frame, {report.frames_per_message} a message"),
            ("frames", f"{report.fps_out:.1f} a second out, {report.fps_in:.1f} in"),
            ("loss", "unknown" if report.loss_pct is None else f"{report.loss_pct:.1f} %"),
            ("speech heard", f"{report.sound.heard_s:.1f} s"),
            ("memory", f"{report.memory_mib:.0f} MiB"),
        ],
    )


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f} ms"


def _say(text: str) -> None:
    console(stderr=True).print(Text(text), soft_wrap=True)


def _log(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        handlers=[RichHandler(console=console(stderr=True), show_path=False)],
    )
    for name in ("aioice", "aiortc"):
        logging.getLogger(name).setLevel(logging.WARNING)
