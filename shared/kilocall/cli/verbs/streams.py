"""Clips and stream files: encode, decode, info, replay, export-page, demo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kilocall.cli.options import (
    AdapterFile,
    AsJson,
    CodebookFile,
    EngineChoice,
    Engines,
    FamilyName,
    GalleryKb,
    GallerySize,
    LayerRate,
    Models,
    MotionQuality,
    Pitch,
    Roll,
    Threads,
    Weights,
    Yaw,
)

__all__ = ["decode", "demo", "encode", "export_page", "info", "replay"]


class Crops(StrEnum):
    face = "face"
    whole = "whole"


Stream = Annotated[Path, typer.Argument(metavar="STREAM.kcs", help="Stream file, or sample:astronaut, sample:drawing.")]


def encode(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Video of one speaker, any size.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Stream file to write.")],
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best frame of the clip.")] = None,
    fps: Annotated[
        float | None, typer.Option(min=1, max=60, help="Frames per second; default: those of the clip.")
    ] = None,
    quality: MotionQuality = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the source picture in pixels: 256, or 512 for more detail.", show_default="256"),
    ] = None,
    crop: Annotated[
        Crops,
        typer.Option(help="face: found and followed. whole: all of a square clip that was cut to the face before."),
    ] = Crops.face,
    frames_per_packet: Annotated[
        int, typer.Option(min=1, max=8, help="Frames in a packet: more save headers and cost delay.")
    ] = 3,
    gallery: GallerySize = 0,
    gallery_kb: GalleryKb = 40,
    audio_kbps: Annotated[float, typer.Option(min=6, max=64, help="Kilobits a second for the clip's speech.")] = 12,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave the clip's sound out.")] = False,
    layer: LayerRate = 0,
    check_speaker: Annotated[
        bool,
        typer.Option(
            "--check-speaker/--any-speaker", help="Hold the picture still where somebody else comes into the clip."
        ),
    ] = True,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """Video file to stream file."""
    from kilocall.cli.streams import encode_clip

    encode_clip(
        clip,
        out,
        Models(family, weights, codebook, engine.value, threads),
        source=source,
        fps=fps,
        quality=quality,
        size=size,
        crop=crop.value,
        frames_per_packet=frames_per_packet,
        gallery=gallery,
        gallery_kb=gallery_kb,
        audio_kbps=None if no_audio else audio_kbps,
        layer=layer,
        check_speaker=check_speaker,
    )


def decode(
    stream: Stream,
    out: Annotated[Path, typer.Option("--out", "-o", help="Video to write: .mp4, .mkv or .mov.")],
    source: Annotated[Path | None, typer.Option(help="Another picture to move; default: the stream's own.")] = None,
    yaw: Yaw = 0,
    pitch: Pitch = 0,
    roll: Roll = 0,
    size: Annotated[
        int | None, typer.Option(min=64, max=1024, help="Side of the picture in pixels, even; default: the source's.")
    ] = None,
    full_frame: Annotated[bool, typer.Option("--full-frame", help="Put the face back into the whole frame.")] = False,
    background: Annotated[
        Path | None, typer.Option(help="Picture or clip around the face of --full-frame; default: the --source.")
    ] = None,
    constant_rate: Annotated[
        bool, typer.Option("--constant-rate", help="Repeat and leave out frames where the clip's rate varied.")
    ] = False,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Write the pictures alone.")] = False,
    no_layer: Annotated[bool, typer.Option("--no-layer", help="Leave the stream's video layer alone.")] = False,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: AdapterFile = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """Stream file to video file."""
    from kilocall.cli.streams import decode_stream

    decode_stream(
        stream,
        out,
        Models(family, weights, codebook, engine.value, threads, personal),
        source=source,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        size=size,
        background=background,
        full_frame=full_frame,
        constant_rate=constant_rate,
        sound=not no_audio,
        layer=not no_layer,
    )


def info(
    stream: Stream,
    json: AsJson = False,
) -> None:
    """What is in a stream file and what it would cost on the wire."""
    from kilocall.cli.streams import show_info

    show_info(stream, json)


def replay(
    stream: Stream,
    source: Annotated[Path | None, typer.Option(help="Another picture to move; default: the stream's own.")] = None,
    yaw: Yaw = 0,
    pitch: Pitch = 0,
    roll: Roll = 0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of the page; default: 8765, or a free one if it is taken. 0: a free one."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    window: Annotated[bool, typer.Option("--window", help="A window instead of the page.")] = False,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: AdapterFile = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """Play a stream in real time, on a page in the browser."""
    from kilocall.cli.replay import replay_stream

    replay_stream(
        stream,
        Models(family, weights, codebook, engine.value, threads, personal),
        source=source,
        view=(yaw, pitch, roll),
        loop=loop,
        host=host,
        port=port,
        open_page=open_page,
        window=window,
    )


def export_page(
    stream: Stream,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; one written before is replaced.")],
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """A stream as a folder for any web server: its page renders it in the browser."""
    from kilocall.cli.streams import write_page

    write_page(stream, out, Models(engine=engine.value, threads=threads))


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("demo"),
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
    call_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds they talk; 0: no call. Default: until Ctrl-C, or 15 without a terminal."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open both pages of the call.")] = False,
) -> None:
    """The built-in speakers: encoded and decoded, with a picture and the numbers; then they call each other."""
    import sys

    from kilocall.cli.demo import run_demo

    run_demo(out, engine=engine.value, threads=threads)
    if call_seconds is None:
        call_seconds = 24 * 3600 if sys.stdin.isatty() else 15
    if call_seconds:
        from kilocall.call.demo import demo_call
        from kilocall.cli.call import print_report

        for name, report in demo_call(call_seconds, out, browser=browser, engine=engine.value).reports.items():
            print_report(report, name)
