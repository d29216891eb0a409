"""serve and call: the signalling server and one party of a call."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from rich.logging import RichHandler
from rich.text import Text

from kilocall.call.link import find_room
from kilocall.call.report import CallReport, RateInUse
from kilocall.call.running import run_call, run_server
from kilocall.call.settings import settings_from
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.cli.screen import console, needs, print_facts, print_table, progress_bar
from kilocall.proto.errors import BadInput
from kilocall.runtime.browser import open_in_browser
from kilocall.runtime.files import check_output_folder
from kilocall.runtime.web import LOOPBACK

if TYPE_CHECKING:
    from kilocall.bench.soak import Growth

__all__ = [
    "make_call",
    "measure_call",
    "measure_meeting",
    "measure_pages",
    "measure_soak",
    "print_report",
    "say_what_is_seen",
    "serve_signalling",
]

MOST_LINK: Final = 400
"""Characters."""


def serve_signalling(
    host: str,
    port: int,
    settings: SignallingSettings,
    *,
    metrics_port: int | None,
    redis: str | None,
    json_log: bool,
    verbose: bool,
) -> None:
    if redis is not None:
        needs("redis", "redis")
    if json_log:
        _log_json()
    else:
        _log(verbose)

    def ready(address: str) -> None:
        if json_log:
            logging.getLogger(__name__).info("ready", extra={"listens": address})
        else:
            _say(f"meeting point at {address}; Ctrl-C ends it")

    run_server(host, port, settings, metrics_port=metrics_port, redis=redis, on_ready=ready)


def make_call(
    *, room: str, room_is_public: bool, open_page: bool, verbose: bool, family: str | None, **options: Any
) -> None:
    """`room_is_public`: it came as an argument, which other users of this machine can see."""
    _log(verbose)
    if room == "-":
        options["room"] = _read_link()
    else:
        options["room"] = room
        if "#" in room and room_is_public:
            _say("other users of this machine can see a link in a program's arguments; --room - reads it instead")
    if family is not None:
        options["family"] = family
    settings = settings_from(**options)
    if settings.headless and settings.seconds is None:
        raise BadInput("seconds is missing: a call without a page ends after --seconds N")

    say_what_is_seen(find_room(settings.room, settings.server).server)

    def page(address: str) -> None:
        _say(f"page: {address}")
        if open_page:
            open_in_browser(address)

    report = run_call(settings, on_page=page, on_link=_tell_link)
    print_report(report)


def _read_link() -> str:
    """The first line of standard input."""
    if sys.stdin.isatty():
        _say("the link, or the name of a room:")
    line = sys.stdin.readline(MOST_LINK + 1).strip()
    if not line:
        raise BadInput("room is '-', but standard input holds no line")
    return line


def say_what_is_seen(server: str) -> None:
    """What a way to the signalling server without TLS leaves open."""
    parts = urlsplit(server if "://" in server else f"http://{server}")
    if parts.scheme in ("http", "ws") and parts.hostname not in LOOPBACK:
        _say(
            "the meeting point is asked without TLS: it and the network on the way there see that a call takes place "
            "and your addresses, and can keep it from taking place; they cannot see, hear or take part"
        )


def measure_call(
    minutes: float,
    out: Path,
    *,
    loss: float,
    rate_kbps: float,
    delay_ms: float,
    jitter_ms: float,
    saver: bool,
    idle: bool,
    gallery: int | None,
    layer: float | None,
    slower: float,
    engine: str,
) -> None:
    from kilocall.bench import call as bench
    from kilocall.sender.layer_encoder import check_layer_kbps

    if layer and idle:
        raise BadInput(f"layer is {layer:g} and idle is on: an empty room has none; allowed is one of them")
    network = bench.Link(loss=loss, rate_kbps=rate_kbps, delay_ms=delay_ms, jitter_ms=jitter_ms)
    options = ["--saver"] if saver else []
    if gallery is not None:
        options += ["--gallery", str(gallery)]
    if layer is not None:
        options += ["--layer", f"{check_layer_kbps(layer):g}"]
    with progress_bar("talking") as progress:
        report = bench.measure_call(
            minutes, out, network, options=options, idle=idle, slower=slower, engine=engine, progress=progress
        )
    rows: list[tuple[str, Callable[[bench.PartyReport], str]]] = [
        ("first picture", lambda party: _ms(party.call.first_picture_ms)),
        ("delay, half of the pictures", lambda party: _ms(party.call.delay_p50_ms)),
        ("delay, 95 %", lambda party: _ms(party.call.delay_p95_ms)),
        ("pictures a second", lambda party: f"{party.call.fps_in:.1f}"),
        ("longest pause", lambda party: _ms(party.call.gaps_ms.most)),
        ("pauses over 250 ms", lambda party: str(party.call.gaps_ms.over_250)),
        ("video out, kbit/s", lambda party: f"{party.call.steady_out.data:.1f}"),
        ("everything out, kbit/s", lambda party: f"{party.call.steady_out.total:.1f}"),
        ("idle, everything out, kbit/s", lambda party: _idle(party.call)),
        ("further pictures sent", lambda party: str(max(0, party.call.gallery_pictures - 1))),
        ("memory, MiB", lambda party: f"{party.call.memory_mib:.0f}"),
        ("memory, % an hour", lambda party: _slope(party.memory_percent_per_hour)),
        ("delay, ms an hour", lambda party: _slope(party.delay_ms_per_hour)),
    ]
    parties = report.parties
    print_table(
        f"{report.minutes:g} minutes on {report.cores} cores"
        + (f", {100 * report.slower:.0f} % of each taken away" if report.slower else ""),
        ["", *parties],
        [[title, *(value(party) for party in parties.values())] for title, value in rows],
    )
    console().print(f"wrote {out}/report.json and the logs", soft_wrap=True)


def measure_soak(minutes: float, out: Path, *, gallery: int | None, engine: str) -> None:
    from kilocall.bench import soak

    options = [] if gallery is None else ["--gallery", str(gallery)]
    with progress_bar("talking") as progress:
        report = soak.measure_soak(minutes, out, options=options, engine=engine, progress=progress)
    rows: list[tuple[str, Callable[[soak.ProcessSoak], str]]] = [
        ("memory, MiB", lambda one: _from_to(f"{look.memory_mib:.0f}" for look in one.looks)),
        ("memory, MiB an hour", lambda one: _growth(one.growth)),
        ("threads", lambda one: _from_to(str(look.threads) for look in one.looks)),
        ("open files", lambda one: _from_to(str(look.open_files) for look in one.looks)),
        ("delay, median, ms", lambda one: _range([look.delay_p50_ms for look in one.looks])),
        ("delay, 95 %, ms", lambda one: _range([look.delay_p95_ms for look in one.looks])),
        ("pictures a second", lambda one: _range([look.fps_in for look in one.looks], 1)),
    ]
    print_table(
        f"{report.minutes:g} minutes on {report.cores} cores, first to last minute; delay and pictures: least to most",
        ["", *report.processes],
        [[title, *(value(one) for one in report.processes.values())] for title, value in rows],
    )
    console().print(Text(report.sentence, style="red" if report.verdict == "grows" else ""), soft_wrap=True)
    console().print(f"wrote {out}/report.json, soak.csv and the logs", soft_wrap=True)


def _from_to(values: Iterable[str]) -> str:
    first, *rest = values
    return f"{first} to {rest[-1]}" if rest else first


def _range(values: Sequence[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.{digits}f} to {max(known):.{digits}f}" if known else ""


def _growth(found: Growth | None) -> str:
    if found is None:
        return "too short"
    return f"{found.mib_per_hour:+.1f} ±{found.error_mib_per_hour:.1f}, {found.verdict}"


def measure_pages(seconds: float, fps: int, out: Path | None) -> None:
    needs("playwright", "dev")
    from kilocall.bench.two_pages import measure, report

    with contextlib.ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        measured = measure(folder.absolute(), seconds=seconds, fps=fps)
    print_facts(f"two pages, {seconds:g} s", report(measured))


def measure_meeting(joins: int, held: int, redis: str | None, as_json: bool) -> None:
    if redis is not None:
        needs("redis", "redis")
    from kilocall.bench.meeting import measure_meeting as measure

    with progress_bar("joining") as progress:
        report = measure(joins, held, redis, instances=1 if redis is None else 2, progress=progress)
    if as_json:
        print(report.model_dump_json(indent=2))
        return
    per_party = report.memory_kib_per_party
    print_facts(
        f"{report.instances} meeting point{'s, rooms in Redis' if report.redis else ''}, {report.cores} cores",
        [
            ("joins a second", f"{report.joins_per_second:.0f}, of {report.joins}"),
            ("pairs a second", f"{report.pairs_per_second:.0f}"),
            ("parties held", str(report.held)),
            ("one more joins in", f"{_ms(report.join_p50_ms)}, 95 %: {_ms(report.join_p95_ms)}"),
            ("a message takes", f"{report.signal_p50_ms:.1f} ms, 95 %: {report.signal_p95_ms:.1f} ms"),
            ("memory, empty", f"{report.memory_mib:.0f} MiB"),
            ("memory a party", "unknown" if per_party is None else f"{per_party:.0f} KiB"),
        ],
    )


def _idle(call: CallReport) -> str:
    return f"{call.idle_out.total:.2f} in {call.idle_out.seconds:.0f} s" if call.idle_out.seconds else "never idle"


def _slope(value: float | None) -> str:
    return "call too short" if value is None else f"{value:+.1f}"


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
            ("aimed at", f"{_rate(report.rate_out)} out, {_rate(report.rate_in)} in"),
            ("pictures of you", f"{report.gallery_pictures}, {report.gallery_bytes} bytes for the further ones"),
            ("loss", "unknown" if report.loss_pct is None else f"{report.loss_pct:.1f} %"),
            ("speech heard", f"{report.sound.heard_s:.1f} s"),
            ("memory", f"{report.memory_mib:.0f} MiB"),
        ],
    )
    for remark in report.remarks:
        console().print(Text(remark), soft_wrap=True)


def _rate(rate: RateInUse) -> str:
    return f"{rate.fps:g}" if rate.limit == "none" else f"{rate.fps:g} ({rate.limit})"


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f} ms"


def _tell_link(link: str) -> None:
    _say(f"the other side joins with: --room '{link}', or opens that link in a browser")


def _say(text: str) -> None:
    console(stderr=True).print(Text(text), soft_wrap=True)


def _log_json() -> None:
    """One object a line on stderr: time, level, event and what belongs to it."""
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{message}",
            style="{",
            rename_fields={"levelname": "level", "message": "event"},
            timestamp="time",
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _log(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        handlers=[RichHandler(console=console(stderr=True), show_path=False)],
    )
    for name in ("aioice", "aiortc"):
        logging.getLogger(name).setLevel(logging.WARNING)
