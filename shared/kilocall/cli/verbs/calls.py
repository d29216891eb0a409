"""The two programs of a call: serve, call."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kilocall.call import ROOM_VARIABLE
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.cli.options import CallLayer, CodebookFile, EngineChoice, Engines, FamilyName, GalleryKb, Weights

__all__ = ["call", "serve"]


class LogFormat(StrEnum):
    text = "text"
    json = "json"


Limits = "Limits"
"""Panel of the help."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8700,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="Address or network of a proxy whose X-Forwarded-For is believed; repeatable. None: of nobody.",
            envvar="KILOCALL_PROXY",
            metavar="ADDRESS",
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Page that may connect, as https://meet.example, besides those of the server's own name; repeatable.",
            envvar="KILOCALL_ORIGIN",
            metavar="URL",
        ),
    ] = None,
    turn_url: Annotated[
        list[str] | None,
        typer.Option(
            help="TURN server that parties may use, with passwords that expire, made from TURN_SECRET; repeatable.",
            envvar="KILOCALL_TURN_URL",
            metavar="turn:HOST",
        ),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(
            help="Redis that several meeting points keep their rooms in. None: rooms are in this process.",
            envvar="KILOCALL_REDIS",
            metavar="redis://HOST",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port on 127.0.0.1 with numbers for Prometheus. None: there are none.",
            envvar="KILOCALL_METRICS_PORT",
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=8,
            help="Told to terminate, go on for so long without new rooms.",
            envvar="KILOCALL_DRAIN_SECONDS",
        ),
    ] = SignallingSettings.drain_s,
    log_format: Annotated[
        LogFormat,
        typer.Option(help="json: one object a line for every event, without addresses.", envvar="KILOCALL_LOG_FORMAT"),
    ] = LogFormat.text,
    rooms: Annotated[
        int, typer.Option(min=1, help="Most rooms.", envvar="KILOCALL_ROOMS", rich_help_panel=Limits)
    ] = SignallingSettings.most_rooms,
    connections: Annotated[
        int, typer.Option(min=1, help="Most open connections.", envvar="KILOCALL_CONNECTIONS", rich_help_panel=Limits)
    ] = SignallingSettings.most_connections,
    connections_per_address: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most open connections of one address; of IPv6, of one /64.",
            envvar="KILOCALL_CONNECTIONS_PER_ADDRESS",
            rich_help_panel=Limits,
        ),
    ] = SignallingSettings.connections_per_address,
    joins_per_second: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Joins of one address a second, on average.",
            envvar="KILOCALL_JOINS_PER_SECOND",
            rich_help_panel=Limits,
        ),
    ] = SignallingSettings.joins_per_second,
    join_burst: Annotated[
        int,
        typer.Option(min=1, help="Joins of one address at once.", envvar="KILOCALL_JOIN_BURST", rich_help_panel=Limits),
    ] = SignallingSettings.join_burst,
    rooms_per_minute: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="New rooms of one address a minute.",
            envvar="KILOCALL_ROOMS_PER_MINUTE",
            rich_help_panel=Limits,
        ),
    ] = SignallingSettings.rooms_per_minute,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens.")] = False,
) -> None:
    """The meeting point, where two parties find each other."""
    from kilocall.cli.call import serve_signalling

    settings = SignallingSettings(
        most_rooms=rooms,
        most_connections=connections,
        connections_per_address=connections_per_address,
        joins_per_second=joins_per_second,
        join_burst=join_burst,
        rooms_per_minute=rooms_per_minute,
        drain_s=drain_seconds,
        origins=tuple(origin or ()),
        proxies=tuple(proxy or ()),
        turn_urls=tuple(turn_url or ()),
        # Not an option: other users of the machine see those.
        turn_secret=os.environ.get("TURN_SECRET", ""),
    )
    serve_signalling(
        host,
        port,
        settings,
        metrics_port=metrics_port,
        redis=redis,
        json_log=log_format is LogFormat.json,
        verbose=verbose,
    )


def call(
    context: typer.Context,
    room: Annotated[
        str,
        typer.Option(
            help="Name of the room, or the link that the other side sent; -: read it from standard input.",
            envvar=ROOM_VARIABLE,
        ),
    ],
    server: Annotated[str, typer.Option(help="Meeting point.", metavar="URL")] = "http://127.0.0.1:8700",
    camera: Annotated[
        str, typer.Option(help="Number of a camera, a clip, or `browser`: that of the page.", metavar="0|CLIP|browser")
    ] = "0",
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best of the first frames.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of the page; default: 8710, or a free one if it is taken. 0: a free one."
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    size: Annotated[
        int, typer.Option(help="Side of your source picture in pixels: 256, or 512 for more detail.")
    ] = 256,
    saver: Annotated[bool, typer.Option("--saver", help="Fewer bits for more delay.")] = False,
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Give the picture to other programs as a camera.")
    ] = False,
    recordings: Annotated[Path, typer.Option(help="Folder for recordings.")] = Path(),
    headless: Annotated[bool, typer.Option("--headless", help="Without a page; needs --seconds.")] = False,
    seconds: Annotated[float | None, typer.Option(min=1, max=86400, help="End after so many seconds.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    microphone: Annotated[Path | None, typer.Option(help="Sound file as microphone, without a page.")] = None,
    keep_pictures: Annotated[
        Path | None, typer.Option(help="Folder for crops sent and pictures shown, to measure them.")
    ] = None,
    fps: Annotated[float, typer.Option(min=1, max=60, help="Most frames a second.")] = 25,
    gallery: Annotated[
        int | None,
        typer.Option(min=0, max=8, help="Most pictures of you, sent in the background.", show_default="8; --saver: 1"),
    ] = None,
    gallery_kb: GalleryKb = 40,
    layer: CallLayer = None,
    relay_only: Annotated[
        bool, typer.Option("--relay-only", help="Only through a TURN server; hides this machine's address.")
    ] = False,
    ice: Annotated[
        list[str] | None,
        typer.Option(help="stun:HOST, or turn:HOST,USER,PASSWORD; repeatable. Before the meeting point's own."),
    ] = None,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: Annotated[
        Path | None, typer.Option(help="What `kilocall finetune` wrote, of you: offered to the other side.")
    ] = None,
    engine: EngineChoice = Engines.auto,
    threads: Annotated[int, typer.Option(min=0, max=64, help="CPU threads of each direction.")] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens.")] = False,
) -> None:
    """One party of a call: camera in, the other side's picture on a page."""
    from kilocall.cli.call import make_call

    source_of_room = context.get_parameter_source("room")
    make_call(
        room_is_public=source_of_room is not None and source_of_room.name == "COMMANDLINE",
        open_page=open_page,
        verbose=verbose,
        room=room,
        server=server,
        camera=camera,
        source=source,
        port=port,
        size=size,
        saver=saver,
        virtual_camera=virtual_camera,
        recordings=recordings,
        headless=headless,
        seconds=seconds,
        report=report,
        microphone=microphone,
        keep_pictures=keep_pictures,
        fps=fps,
        gallery=gallery,
        gallery_kb=gallery_kb,
        layer=layer,
        relay_only=relay_only,
        ice_servers=ice or [],
        family=family,
        weights=weights,
        codebook=codebook,
        personal=personal,
        engine=engine.value,
        threads=threads,
    )
