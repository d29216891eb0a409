"""Measuring on this machine: bench quality, loss, call, soak, pages, meeting, speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kilocall.cli.options import AsJson, CallLayer, EngineChoice, Engines, Families, FamilyName, Weights

if TYPE_CHECKING:
    from kilocall.model.family_loader import FamilyChoice

__all__ = ["bench_app"]

bench_app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)

Clips = Annotated[list[Path], typer.Argument(metavar="CLIP", help="Clips of one speaker, or folders of them.")]
Crop = Annotated[
    bool | None,
    typer.Option("--crop/--no-crop", help="Cut the tracked face out, or take the whole square picture. "
                 "Default: cut, unless the clip is such a crop already.", show_default=False),
]  # fmt: skip
Workers = Annotated[int, typer.Option(min=1, max=64, help="Processes at once.")]
MediapipePython = Annotated[
    Path | None, typer.Option(help="A Python that has MediaPipe, to measure landmarks independently.")
]
MostPictures = Annotated[int | None, typer.Option(min=0, max=8, help="Most pictures of each, as in a call.")]
Slower = Annotated[
    float,
    typer.Option(
        min=0,
        max=0.9,
        metavar="SHARE",
        help="Share of each core's time that is taken away, for what a slower processor does; needs root.",
    ),
]
Fps = Annotated[float | None, typer.Option(min=5, max=60, help="Frames per second; default: those of the clip.")]


@bench_app.command("quality")
def bench_quality(
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for index.html, report.json and plots.")],
    crop: Crop = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels: 256 or 512.")] = 256,
    fps: Fps = None,
    seconds: Annotated[float, typer.Option(min=2, max=30, help="Most seconds of every clip.")] = 30,
    codec: Annotated[
        list[str] | None, typer.Option(help="Classic codec, repeatable; default: all. `none`: kilocall alone.")
    ] = None,
    quality: Annotated[
        list[float] | None,
        typer.Option(min=0, max=100, help="kilocall's precision, repeatable; default: 10, 30, 50, 90."),
    ] = None,
    layer: Annotated[
        list[float] | None,
        typer.Option(
            metavar="KBIT", help="kilocall's video layer under motion, repeatable; default: 1.5, 3, 6, 12, 24; 0: none."
        ),
    ] = None,
    mediapipe_python: MediapipePython = None,
    family: Annotated[
        list[Families] | None,
        typer.Option(help="Models with weights of yours, measured too; repeatable."),
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="File or folder of each --family, in the same order.")
    ] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of LPIPS 0.1, to measure it: heads and AlexNet or VGG-16, one file or one each."),
    ] = None,
    dists: Annotated[
        list[Path] | None, typer.Option(help="Weights of DISTS, to measure it: weights.pt and VGG-16, or one file.")
    ] = None,
    workers: Workers = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Spread over a Ray cluster; `local`: one of this machine.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Results kept between runs; default: cache/ in the report.")
    ] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Show frames of the clips.")] = True,
    engine: EngineChoice = Engines.auto,
    threads: Annotated[int, typer.Option(min=0, max=64, help="CPU threads of each process.")] = 1,
) -> None:
    """Bits against quality, beside x264, x265, VP8, VP9, AV1 and VVC on the same pixels."""
    from kilocall.bench.quality.report import measure_quality, print_summary
    from kilocall.bench.quality.settings import QualitySettings
    from kilocall.cli.screen import needs, progress_bar

    for module in ("imageio_ffmpeg", "bjontegaard", "jinja2", "matplotlib"):
        needs(module, "bench")
    settings = QualitySettings(
        size=size,
        fps=fps,
        crop=crop,
        seconds=seconds,
        codecs=tuple(codec or ()),
        engine=engine.value,
        threads=threads,
        workers=workers,
        ray_address=ray,
        mediapipe_python=mediapipe_python,
        families=_own_families(family or [], weights or []),
        lpips=tuple(lpips or ()),
        dists=tuple(dists or ()),
        **({"qualities": tuple(quality)} if quality else {}),
        **({"layers": tuple(layer)} if layer else {}),
    )
    with progress_bar("measuring") as progress:
        report = measure_quality(clips, out, settings, cache=cache, pictures=pictures, progress=progress)
    print_summary(report)
    print(f"report: {out / 'index.html'}")


def _own_families(names: list[Families], weights: list[Path]) -> tuple[FamilyChoice, ...]:
    from kilocall.cli.screen import warn
    from kilocall.model.family import OWN_WEIGHTS
    from kilocall.model.family_loader import FamilyChoice
    from kilocall.proto.errors import BadInput

    if len(names) != len(weights):
        raise BadInput(
            f"--family is given {len(names)} times and --weights {len(weights)} times; every family needs its weights"
        )
    for name in dict.fromkeys(names):
        if name in OWN_WEIGHTS:
            warn(f"{name} weights: {OWN_WEIGHTS[name]}")
    return tuple(FamilyChoice(name.value, path) for name, path in zip(names, weights, strict=True))


@bench_app.command("loss")
def bench_loss(
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for loss.json and loss.png.")],
    loss: Annotated[
        list[float] | None,
        typer.Option(min=0, max=90, help="Per cent of packets, repeatable; default: 0, 5, 10, 20, 30, 40."),
    ] = None,
    round_trip_ms: Annotated[
        float, typer.Option(min=0, max=2000, help="Round trip of the link in milliseconds.")
    ] = 100,
    layer: Annotated[
        list[float] | None,
        typer.Option(metavar="KBIT", help="kilocall with this video layer too, repeatable; default: 3; 0: none."),
    ] = None,
    crop: Crop = None,
    fps: Fps = None,
    seconds: Annotated[float, typer.Option(min=2, max=30, help="Most seconds of every clip.")] = 10,
    seed: Annotated[int, typer.Option(help="Number that decides which packets are lost.")] = 1,
    mediapipe_python: MediapipePython = None,
    engine: EngineChoice = Engines.auto,
    threads: Annotated[int, typer.Option(min=0, max=64, help="CPU threads.")] = 1,
) -> None:
    """Quality against packet loss, random and in outages, beside x264 and VP8 over RTP."""
    from kilocall.bench.loss.measure import LAYERS, LOSSES, LossSettings, measure_loss
    from kilocall.bench.quality.compare import find_clips
    from kilocall.cli.screen import needs, progress_bar
    from kilocall.runtime.files import check_output_folder, write_whole

    needs("matplotlib", "bench")
    from kilocall.bench.loss.plot import loss_plot, print_loss

    check_output_folder(out)
    settings = LossSettings(
        losses=tuple(sorted({percent / 100 for percent in loss})) if loss else LOSSES,
        layers=tuple(layer) if layer else LAYERS,
        round_trip_s=round_trip_ms / 1000,
        seconds=seconds,
        seed=seed,
        fps=fps,
        crop=crop,
        engine=engine.value,
        threads=threads,
        mediapipe_python=mediapipe_python,
    )
    with progress_bar("measuring") as progress:
        report = measure_loss(find_clips(clips), settings, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "loss.json", report.model_dump_json(indent=1).encode())
    write_whole(out / "loss.png", loss_plot(report))
    print_loss(report)


@bench_app.command("call")
def bench_call(
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="Minutes they talk.")] = 10,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.json, the plot and logs.")] = Path(
        "bench_call"
    ),
    loss: Annotated[
        float, typer.Option(min=0, max=1, help="Share of packets lost each way, 0.1 for 10 %; needs root.")
    ] = 0,
    rate_kbps: Annotated[float, typer.Option(min=0, help="Capacity each way in kbit/s; 0: no limit; needs root.")] = 0,
    delay_ms: Annotated[float, typer.Option(min=0, max=5000, help="Milliseconds of delay each way; needs root.")] = 0,
    jitter_ms: Annotated[
        float, typer.Option(min=0, max=5000, help="Standard deviation of the delay, ms; needs root.")
    ] = 0,
    saver: Annotated[bool, typer.Option("--saver", help="Fewer bits for more delay.")] = False,
    idle: Annotated[bool, typer.Option("--idle", help="Two empty rooms: what a silent connection costs.")] = False,
    gallery: MostPictures = None,
    layer: CallLayer = None,
    slower: Slower = 0,
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
        layer=layer,
        slower=slower,
        engine=engine.value,
    )


@bench_app.command("soak")
def bench_soak(
    minutes: Annotated[float, typer.Option(min=0.2, max=1380, help="Minutes they talk.")] = 20,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for report.json, soak.csv, the plot and logs.")
    ] = Path("bench_soak"),
    gallery: MostPictures = None,
    engine: EngineChoice = Engines.auto,
) -> None:
    """A long call, watched once a minute: memory, threads and open files of each process, delay, pictures a second."""
    from kilocall.cli.call import measure_soak

    measure_soak(minutes, out, gallery=gallery, engine=engine.value)


@bench_app.command("pages")
def bench_pages(
    seconds: Annotated[float, typer.Option(min=8, max=3600, help="Seconds they talk.")] = 30,
    fps: Annotated[int, typer.Option(min=5, max=30, help="Frames per second of the speaker's camera.")] = 25,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to keep reports and logs in.")] = None,
) -> None:
    """A call in two browsers: whether lips and sound meet, and the numbers shown against the bytes on the wire."""
    from kilocall.cli.call import measure_pages

    measure_pages(seconds, fps, out)


@bench_app.command("meeting")
def bench_meeting(
    joins: Annotated[int, typer.Option(min=10, max=100_000, help="Joins, one after the other, 32 at a time.")] = 2000,
    held: Annotated[int, typer.Option(min=2, max=100_000, help="Parties in rooms of two at the same time.")] = 1000,
    redis: Annotated[
        str | None,
        typer.Option(
            help="Two meeting points that share this Redis, instead of one.",
            envvar="KILOCALL_REDIS",
            metavar="redis://HOST",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Joins a second of a meeting point, and its memory and answers while many parties are held."""
    from kilocall.cli.call import measure_meeting

    measure_meeting(joins, held, redis, json)


@bench_app.command("speed")
def bench_speed(
    engine: Annotated[
        list[Engines] | None, typer.Option(help="What runs the networks, repeatable; default: every one installed.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="CPU threads, repeatable; default: 1, 2, all cores.")
    ] = None,
    runs: Annotated[int, typer.Option(min=5, max=10_000, help="Timed calls of every stage.")] = 60,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Instead: how many calls' senders, and receivers, keep 25 fps at once, up to N."
        ),
    ] = None,
    slower: Slower = 0,
    family: FamilyName = None,
    weights: Weights = None,
    json: AsJson = False,
) -> None:
    """Milliseconds a stage and frames per second, per engine and thread count, beside plain torch."""
    from kilocall.bench.slower_cores import slower_cores
    from kilocall.cli.machine import measure, measure_at_once

    with slower_cores(slower):
        if streams is not None:
            measure_at_once(streams, [e.value for e in engine or []], threads or [], json, family, weights)
        else:
            measure([e.value for e in engine or []], threads or [], runs, json, family, weights)
