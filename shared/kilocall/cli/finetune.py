"""finetune: the renderer made one person's."""

from __future__ import annotations

from pathlib import Path

from kilocall.cli.opening import open_models
from kilocall.cli.options import Models
from kilocall.cli.screen import console, needs, print_facts, print_table, progress_bar

__all__ = ["finetune_to_clips"]


def finetune_to_clips(
    clips: list[Path],
    out: Path,
    *,
    held_back: float,
    steps: int,
    minutes: float,
    parts: list[str],
    device: str,
    engine: str,
    threads: int,
) -> None:
    needs("torch", "train")
    from kilocall.train.finetune import finetune

    family = open_models(Models(engine=engine, threads=threads))
    screen = console()
    with progress_bar("fine-tuning") as progress:
        report = finetune(
            clips,
            out,
            family,
            held_back=held_back,
            steps=steps,
            minutes=minutes,
            parts=parts,
            device=device,
            threads=threads,
            say=lambda line: screen.print(line, soft_wrap=True),
            progress=progress,
        )
    before, after = report.before.model_dump(), report.after.model_dump()
    names = {
        "psnr_db": ("PSNR, dB", 2),
        "ssim": ("SSIM", 3),
        "landmark_px": ("landmarks off, px", 2),
        "sharpness": ("sharpness", 2),
        "mouth_gain": ("lips open, px a px", 2),
        "eye_gain": ("lids open, px a px", 2),
    }
    print_table(
        f"held-back part, {report.frames_held_back} frames",
        ["", "before", "after"],
        [
            [title, *("n/a" if v is None else f"{v:.{digits}f}" for v in (before[name], after[name]))]
            for name, (title, digits) in names.items()
        ],
    )
    print_facts(
        str(report.out),
        [
            ("size", f"{report.bytes} bytes"),
            ("hash", report.hash),
            ("learnt from", f"{report.frames_learnt} pictures of {report.seconds_of_face:.0f} s of face"),
            ("of the way", f"{report.share:.0%} from everybody's weights to the learnt ones"),
            ("steps", f"{report.steps} in {report.train_s:.0f} s on {report.device}, {report.wall_s:.0f} s in all"),
        ],
    )
