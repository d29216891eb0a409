"""The verbs and their options, from which the help is made. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilocall.cli.bench import bench_app
from kilocall.cli.options import (
    CodebookFile,
    EngineChoice,
    Engines,
    FamilyName,
    GalleryKb,
    GallerySize,
    Models,
    PersonalFile,
    Pitch,
    Roll,
    Threads,
    Weights,
    Yaw,
)

app = typer.Typer(
    help="Talking-head video in a few bits a frame: motion is sent, the picture is made at the receiver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(help="Train the networks (needs the extra `train`).", no_args_is_help=True)
app.add_typer(train_app, name="train", rich_help_panel="Models")
app.add_typer(bench_app, name="bench", rich_help_panel="This machine")
weights_app = typer.Typer(help="Public weights of facevid2vid and liveportrait.", no_args_is_help=True)
app.add_typer(weights_app, name="weights", rich_help_panel="Models")

Stream = Annotated[Path, typer.Argument(metavar="STREAM.kcs", help="Stream file, or sample:astronaut, sample:drawing.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder with train/ and test/: 256x256 clips and landmarks.")]
CacheFolder = Annotated[Path, typer.Option("--cache", help="Where the decoded clips are kept between runs.")]
RunFolder = Annotated[Path, typer.Option("--run", help="Checkpoint and pictures; a second run goes on from it.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.", metavar="auto|cpu|cuda")]
Minutes = Annotated[float | None, typer.Option(min=0.1, help="Save and end then; the same command goes on.")]
TrainThreads = Annotated[int, typer.Option("--threads", min=0, max=256, help="CPU threads; 0: all cores.")]


@app.command(rich_help_panel="Streams")
def encode(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Video of one speaker, any size.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Stream file to write.")],
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best frame of the clip.")] = None,
    fps: Annotated[
        float | None, typer.Option(min=1, max=60, help="Frames per second; default: those of the clip.")
    ] = None,
    quality: Annotated[float, typer.Option(min=0, max=100, help="Precision of the motion.")] = 50,
    size: Annotated[
        int | None, typer.Option(help="Side of the source picture: 256, or 512 for more detail.", show_default="256")
    ] = None,
    frames_per_packet: Annotated[int, typer.Option(min=1, max=8, help="More cost delay and save headers.")] = 3,
    gallery: GallerySize = 0,
    gallery_kb: GalleryKb = 40,
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
        frames_per_packet=frames_per_packet,
        gallery=gallery,
        gallery_kb=gallery_kb,
    )


@app.command(rich_help_panel="Streams")
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
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: PersonalFile = None,
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
    )


@app.command(rich_help_panel="Streams")
def info(
    stream: Stream,
    json: AsJson = False,
) -> None:
    """What is in a stream file and what it would cost on the wire."""
    from kilocall.cli.streams import show_info

    show_info(stream, json)


@app.command(rich_help_panel="Streams")
def replay(
    stream: Stream,
    source: Annotated[Path | None, typer.Option(help="Another picture to move; default: the stream's own.")] = None,
    yaw: Yaw = 0,
    pitch: Pitch = 0,
    roll: Roll = 0,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8765, or a free one if it is taken.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    window: Annotated[bool, typer.Option("--window", help="A window instead of the page.")] = False,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: PersonalFile = None,
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


@app.command(rich_help_panel="Streams")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("demo"),
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
    call_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="How long they talk; 0: no call. Default: until Ctrl-C, or 15 s without a terminal."),
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


@app.command(rich_help_panel="Calls")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8700,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say what happens.")] = False,
) -> None:
    """The meeting point, where two parties find each other."""
    from kilocall.cli.call import serve_meeting_point

    serve_meeting_point(host, port, verbose)


@app.command(rich_help_panel="Calls")
def call(
    room: Annotated[str, typer.Option(help="Name of the room, or the link that the other side sent.")],
    server: Annotated[str, typer.Option(help="Meeting point.", metavar="URL")] = "http://127.0.0.1:8700",
    camera: Annotated[str, typer.Option(help="Number, clip or `browser`.", metavar="0|CLIP|browser")] = "0",
    source: Annotated[Path | None, typer.Option(help="Source picture; default: the best of the first frames.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the page; default: 8710, or a free one.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    size: Annotated[int, typer.Option(help="Side of your source picture: 256, or 512 for more detail.")] = 256,
    saver: Annotated[bool, typer.Option("--saver", help="Fewer bits for more delay.")] = False,
    virtual_camera: Annotated[
        bool, typer.Option("--virtual-camera", help="Give the picture to other programs as a camera.")
    ] = False,
    recordings: Annotated[Path, typer.Option(help="Folder for recordings.")] = Path(),
    headless: Annotated[bool, typer.Option("--headless", help="Without a page; needs --seconds.")] = False,
    seconds: Annotated[float | None, typer.Option(min=1, max=86400, help="End after so long.")] = None,
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

    make_call(
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


@train_app.command("extractor")
def train_extractor(
    data: DataFolder,
    cache: CacheFolder,
    run: RunFolder,
    steps: Annotated[int, typer.Option(min=1, help="Length of the schedule.")] = 30_000,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Faces a step.")] = 32,
    threads: TrainThreads = 0,
    device: Device = "auto",
    minutes: Minutes = None,
) -> None:
    """The networks that find a face's points."""
    from kilocall.cli.models import train

    train("extractor", data, cache, run, steps=steps, batch=batch, threads=threads, device=device, minutes=minutes)


@train_app.command("renderer")
def train_renderer(
    data: DataFolder,
    cache: CacheFolder,
    run: RunFolder,
    steps: Annotated[int, typer.Option(min=1, help="Length of the schedule.")] = 30_000,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Source pictures a step.")] = 4,
    threads: TrainThreads = 0,
    device: Device = "auto",
    extractor: Annotated[
        Path | None, typer.Option(help="Run folder of `train extractor`, for the second stage.")
    ] = None,
    discriminator: Annotated[
        bool, typer.Option("--discriminator", help="Third stage: discriminators beside --extractor.")
    ] = False,
    minutes: Minutes = None,
) -> None:
    """The network that makes the picture: first from the labels, then (--extractor) from what is really found."""
    from kilocall.cli.models import train

    train(
        "renderer",
        data,
        cache,
        run,
        steps=steps,
        batch=batch,
        threads=threads,
        device=device,
        extractor=extractor,
        discriminator=discriminator,
        minutes=minutes,
    )


@train_app.command("codebook")
def train_codebook(
    data: DataFolder,
    cache: CacheFolder,
    weights: Annotated[Path, typer.Option(help="Folder that `kilocall export` wrote.")],
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """The quantiser steps and coding tables of exported networks."""
    from kilocall.cli.models import train_codebook

    train_codebook(data, cache, weights, engine=engine.value, threads=threads)


@app.command(rich_help_panel="Models")
def export(
    extractor: Annotated[Path, typer.Option(help="Run folder of `train extractor`.")],
    renderer: Annotated[Path, typer.Option(help="Run folder of `train renderer`.")],
    data: DataFolder,
    cache: CacheFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights folder to write.")],
) -> None:
    """Trained networks to a weights folder: quantised where that is faster and costs nothing visible."""
    from kilocall.cli.models import export

    export(extractor, renderer, data, cache, out)


@app.command(rich_help_panel="Models")
def fit(
    streams: Annotated[list[Path], typer.Argument(metavar="STREAM.kcs...", help="Streams of one family.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, for --codebook on both sides.")],
    codebook: Annotated[Path | None, typer.Option(help="What the streams were made with, if not the default.")] = None,
) -> None:
    """Fit how motion is coded to streams: fewer bits for motion like theirs."""
    from kilocall.cli.weights import fit_to_streams

    fit_to_streams(streams, out, codebook)


@app.command(rich_help_panel="Models")
def finetune(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Videos of one person, 10 s or more in all.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Personal file to write, 2 MB at most.")],
    held_back: Annotated[
        float, typer.Option(min=0.05, max=0.6, help="Last share of each clip, only measured before and after.")
    ] = 0.2,
    steps: Annotated[int, typer.Option(min=1, help="At most; it ends when it gets no better.")] = 300,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of training, at most.")] = 45,
    part: Annotated[
        list[str] | None,
        typer.Option(help="What learns; repeatable. Default: all.", metavar="field|appearance|generator"),
    ] = None,
    device: Device = "auto",
    engine: EngineChoice = Engines.auto,
    threads: TrainThreads = 0,
) -> None:
    """Make the renderer one person's: a small file for --personal (needs the extra `train`)."""
    from kilocall.cli.finetune import finetune_to_clips

    finetune_to_clips(
        clips,
        out,
        held_back=held_back,
        steps=steps,
        minutes=minutes,
        parts=part or ["field", "appearance", "generator"],
        device=device,
        engine=engine.value,
        threads=threads,
    )


@app.command("compress-study", rich_help_panel="Models")
def compress_study(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html, table.md, study.json, plot.png.")],
    quick: Annotated[bool, typer.Option("--quick", help="One small network, few calls: does it work?")] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: all.", metavar="renderer|extractor|pose")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled clips as for training; default: the built-in speakers.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder that `kilocall export` wrote.")] = None,
    pose_weights: Annotated[
        Path | None, typer.Option(help="Vox-256 checkpoint for the pose estimator; without it: size and speed only.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Of training, quantisation-aware and after pruning.", show_default="60")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Timed calls.", show_default="40")] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="CPU threads of all engines.")] = 1,
) -> None:
    """Pruning and fewer bits on every network: size, speed and quality (needs the extra `train`)."""
    from kilocall.cli.compress import study_compression

    study_compression(
        out,
        quick=quick,
        network=network or [],
        data=data,
        weights=weights,
        pose_weights=pose_weights,
        steps=steps,
        rounds=rounds,
        threads=threads,
    )


@weights_app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Checkpoint, or LivePortrait's folder.")],
    json: AsJson = False,
) -> None:
    """Which family and version weights are of, and whether they fit; nothing in them is run."""
    from kilocall.cli.weights import check_weights

    check_weights(path, json)


@weights_app.command("convert")
def weights_convert(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Checkpoint, or LivePortrait's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .safetensors.")],
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision, half the size.")] = False,
) -> None:
    """Weights to one safetensors file, without what only training needs."""
    from kilocall.cli.weights import convert_weights

    convert_weights(path, out, fp16)


@app.command(rich_help_panel="Models")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for table, JSON and contact sheet.")] = Path(
        "evaluation"
    ),
    quality: Annotated[float, typer.Option(min=0, max=100, help="Precision of the motion.")] = 50,
    frames_per_packet: Annotated[int, typer.Option(min=1, max=8)] = 3,
    source: Annotated[str, typer.Option(help="Frame taken as source picture.", metavar="first|best")] = "first",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first clips by name.")] = None,
    gallery: GallerySize = 0,
    gallery_kb: GalleryKb = 40,
    mediapipe_python: Annotated[
        Path | None, typer.Option(help="A Python that has MediaPipe, to measure landmarks independently.")
    ] = None,
    family: FamilyName = None,
    weights: Weights = None,
    codebook: CodebookFile = None,
    personal: PersonalFile = None,
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
) -> None:
    """Encode, decode and score every clip of a folder."""
    from kilocall.cli.models import evaluate_clips

    evaluate_clips(
        folder,
        out,
        Models(family, weights, codebook, engine.value, threads, personal),
        quality=quality,
        frames_per_packet=frames_per_packet,
        source=source,
        limit=limit,
        gallery=gallery,
        gallery_kb=gallery_kb,
        mediapipe_python=mediapipe_python,
    )


@app.command(rich_help_panel="This machine")
def version() -> None:
    """Version of this program."""
    from kilocall.cli.machine import show_version

    show_version()


@app.command(rich_help_panel="This machine")
def doctor(
    engine: EngineChoice = Engines.auto,
    threads: Threads = 0,
    json: AsJson = False,
) -> None:
    """What is installed, whether it works, which engine is chosen and why; exit code 2 if something is broken."""
    from kilocall.cli.machine import show_diagnosis

    raise typer.Exit(show_diagnosis(engine.value, threads, json))


@bench_app.command("call")
def bench_call(
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="How long they talk.")] = 10,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.json, the plot and logs.")] = Path(
        "bench_call"
    ),
    loss: Annotated[float, typer.Option(min=0, max=1, help="Share of packets lost each way; needs root.")] = 0,
    rate_kbps: Annotated[float, typer.Option(min=0, help="Capacity each way; 0: no limit; needs root.")] = 0,
    delay_ms: Annotated[float, typer.Option(min=0, max=5000, help="Delay each way; needs root.")] = 0,
    jitter_ms: Annotated[float, typer.Option(min=0, max=5000, help="Its standard deviation; needs root.")] = 0,
    saver: Annotated[bool, typer.Option("--saver", help="Fewer bits for more delay.")] = False,
    idle: Annotated[bool, typer.Option("--idle", help="Two empty rooms: what a silent connection costs.")] = False,
    gallery: Annotated[int | None, typer.Option(min=0, max=8, help="Most pictures of each, as in a call.")] = None,
    engine: EngineChoice = Engines.auto,
) -> None:
    """A call between the built-in speakers: delay, pauses, bits and whether anything grows; over a bad network too."""
    from kilocall.cli.call import measure_call

    measure_call(
        minutes,
        out,
        loss=loss,
        rate_kbps=rate_kbps,
        delay_ms=delay_ms,
        jitter_ms=jitter_ms,
        saver=saver,
        idle=idle,
        gallery=gallery,
        engine=engine.value,
    )


@bench_app.command("pages")
def bench_pages(
    seconds: Annotated[float, typer.Option(min=8, max=3600, help="How long they talk.")] = 30,
    fps: Annotated[int, typer.Option(min=5, max=30, help="Of the speaker's camera.")] = 25,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to keep reports and logs in.")] = None,
) -> None:
    """A call in two browsers: whether lips and sound meet, and the numbers shown against the bytes on the wire."""
    from kilocall.cli.call import measure_pages

    measure_pages(seconds, fps, out)


@bench_app.command("speed")
def bench_speed(
    engine: Annotated[list[Engines] | None, typer.Option(help="Default: every one installed; repeatable.")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Default: 1, 2, all cores; repeatable.")
    ] = None,
    runs: Annotated[int, typer.Option(min=5, max=10_000, help="Calls a stage.")] = 60,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Instead: how many calls' senders, and receivers, keep 25 fps at once, up to N."
        ),
    ] = None,
    family: FamilyName = None,
    weights: Weights = None,
    json: AsJson = False,
) -> None:
    """Milliseconds a stage and frames per second, per engine and thread count, beside plain torch."""
    from kilocall.cli.machine import measure, measure_at_once

    if streams is not None:
        measure_at_once(streams, [e.value for e in engine or []], threads or [], json, family, weights)
        return
    measure([e.value for e in engine or []], threads or [], runs, json, family, weights)
