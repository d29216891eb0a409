"""The command line put together: every verb and where the help shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from kilocall.cli.verbs import calls, machine, models, streams, training
from kilocall.cli.verbs.bench import bench_app

#: Panel of the help -> its verbs, in the order shown.
VERBS: Final[dict[str, tuple[Callable[..., None], ...]]] = {
    "Streams": (streams.encode, streams.decode, streams.info, streams.replay, streams.export_page, streams.demo),
    "Calls": (calls.serve, calls.call),
    "Models": (training.export, models.fit, models.finetune, models.compress_study, models.evaluate),
    "This machine": (machine.version, machine.doctor),
}

app = typer.Typer(
    help="Talking-head video in a few bits a frame: motion is sent, the picture is made at the receiver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(training.train_app, name="train", rich_help_panel="Models")
app.add_typer(bench_app, name="bench", rich_help_panel="This machine")
app.add_typer(models.weights_app, name="weights", rich_help_panel="Models")
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
