"""encode, decode, info, export-page: the library's functions with a progress bar and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kilocall.api import StreamInfo, decode, encode, export_page, info
from kilocall.cli.opening import find_stream, open_models
from kilocall.cli.options import Models
from kilocall.cli.screen import print_facts, print_table, progress_bar, warn

__all__ = ["decode_stream", "encode_clip", "show_info", "write_page"]


def encode_clip(
    clip: Path,
    out: Path,
    models: Models,
    **options: Any,
) -> None:
    family = open_models(models)
    with progress_bar(f"encoding {clip.name}") as progress:
        report = encode(clip, out, progress=progress, family=family, **options)
    for warning in report.warnings:
        warn(warning)
    print_facts(
        str(report.stream),
        [
            ("frames", f"{report.frames} at {report.fps:g} fps, {report.seconds:.2f} s"),
            ("source picture", f"{report.source_bytes} bytes" + (", another person's" if report.relative else "")),
            ("pictures in all", f"{report.pictures}, {report.picture_bytes} bytes"),
            ("motion", f"{report.payload_bits_per_frame:.1f} bits a frame, {report.payload_kbps:.2f} kbit/s"),
            ("sound", f"{report.sound_kbps:.2f} kbit/s" if report.sound_kbps else "none"),
            ("video layer", f"{report.layer_kbps:.2f} kbit/s" if report.layer_kbps else "none"),
            ("file", f"{report.file_bytes} bytes"),
            ("frames without a face", str(report.lost_frames)),
            ("reframings", str(report.reframings)),
            ("time", f"{report.wall_s:.1f} s, {report.frames / report.wall_s:.0f} frames/s"),
        ],
    )


def decode_stream(
    stream: Path,
    out: Path,
    models: Models,
    **options: Any,
) -> None:
    stream = find_stream(stream)
    family = open_models(models, stream)
    with progress_bar(f"decoding {stream.name}") as progress:
        report = decode(stream, out, progress=progress, family=family, **options)
    if report.truncated:
        warn(f"{stream} breaks off: {report.truncated}; what came before is decoded")
    if report.dropped_packets:
        warn(f"{stream}: {report.dropped_packets} packets could not be decoded")
    print_facts(
        str(report.video),
        [
            ("frames", f"{report.frames}, {report.seconds:.2f} s"),
            ("picture", f"{report.width}x{report.height}" + (", another source picture" if report.relative else "")),
            ("moved pictures", str(report.pictures)),
            ("time", f"{report.wall_s:.1f} s, {report.frames / report.wall_s:.0f} frames/s"),
        ],
    )


def show_info(stream: Path, json: bool) -> None:
    stream = find_stream(stream)
    found = info(stream)
    if json:
        print(found.model_dump_json(indent=2))
        return
    if found.truncated:
        warn(f"{stream} breaks off: {found.truncated}")
    match = {True: "installed", False: "NOT the installed weights", None: "not installed"}
    print_facts(
        str(stream),
        [
            ("family", f"{found.family} ({match[found.installed_weights_match]})"),
            ("made by", found.tool),
            ("frames", f"{found.frames} at {found.fps:g} fps, {found.seconds:.2f} s"),
            ("keypoints", _or_unknown(found.keypoints)),
            ("motion numbers", _or_unknown(found.motion_numbers)),
            ("picture", _picture(found)),
            ("quality", f"{found.quality:g}"),
            ("source picture", f"{found.source_bytes} bytes {found.source_format or ''}".rstrip()),
            ("pictures in all", f"{found.pictures}, {found.picture_bytes} bytes"),
            (
                "packets",
                f"{found.packets}, {found.key_packets} of them key, {found.frames_per_packet:.1f} frames each",
            ),
            (
                "payload",
                f"{found.payload_bits_mean:.1f} bits a frame (95 %: {found.payload_bits_p95:.0f}, "
                f"most: {found.payload_bits_max:.0f}), {found.payload_kbps:.2f} kbit/s",
            ),
            ("sound", f"{found.sound_bytes} bytes, {found.sound_kbps:.2f} kbit/s" if found.sound_bytes else "none"),
            ("video layer", _layer(found)),
            ("camera", _camera(found)),
            ("file", f"{found.file_bytes} bytes"),
        ],
    )
    _print_wire(found)


def write_page(stream: Path, out: Path, models: Models) -> None:
    stream = find_stream(stream)
    report = export_page(stream, out, family=open_models(models, stream))
    if report.truncated:
        warn(f"{stream} breaks off: {report.truncated}; what came before is played")
    print_facts(
        str(report.folder),
        [
            ("files", f"{report.files}, {report.bytes / 1e6:.1f} MB in all"),
            ("moved pictures", str(report.pictures)),
            ("to look at it", f"python -m http.server --directory {report.folder}"),
        ],
    )


def _print_wire(found: StreamInfo) -> None:
    print_table(
        "On a data channel over IPv4, kbit/s",
        ["frames a packet", "there", "back, a SACK each", "back, delayed SACK"],
        [
            [str(w.frames_per_packet), f"{w.forward_kbps:.1f}", f"{w.sack_kbps:.1f}", f"{w.delayed_sack_kbps:.1f}"]
            for w in found.wire
        ],
    )


def _layer(found: StreamInfo) -> str:
    if not found.layer_frames:
        return "none"
    return f"{found.layer_frames} frames, {found.layer_bytes} bytes, {found.layer_kbps:.2f} kbit/s"


def _camera(found: StreamInfo) -> str:
    if not found.camera_frames:
        return "not shown"
    return f"shown for {found.camera_s:.1f} s, {found.camera_frames} frames, {found.camera_bytes} bytes"


def _picture(found: StreamInfo) -> str:
    what = "all" if found.whole_frames else "the face, cut out"
    return f"{found.picture_size}x{found.picture_size}, {what} of {found.frame_width}x{found.frame_height}"


def _or_unknown(number: int | None) -> str:
    return "unknown (family not installed)" if number is None else str(number)
