"""The two programs of a call: serve, call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilocall.call import ROOM_VARIABLE
from kilocall.cli.options import CodebookFile, EngineChoice, Engines, FamilyName, GalleryKb, Weights

__all__ = ["call", "serve"]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8700,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens.")] = False,
) -> None:
    """The meeting point, where two parties find each other."""
    from kilocall.cli.call import serve_meeting_point

    serve_meeting_point(host, port, verbose)


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
    relay_only: Annotated[
        bool, typer.Option("--relay-only", help="Only through the TURN server; hides this machine's address.")
    ] = False,
    ice: Annotated[
        list[str] | None,
        typer.Option(help="stun:HOST, or turn:HOST,USER,PASSWORD; repeatable. None: nobody else is contacted."),
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
        relay_only=relay_only,
        ice_servers=ice or [],
        family=family,
        weights=weights,
        codebook=codebook,
        personal=personal,
        engine=engine.value,
        threads=threads,
    )
