"""The report's numbers put together: rates of every point, means over clips, BD-rates, what matches kilocall."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from kilocall.bench.quality.codecs import VideoCodec
from kilocall.bench.quality.compare import Comparison
from kilocall.bench.quality.curves import COMPARED, bd_rates, has_curve, match_of
from kilocall.bench.quality.facts import ClipPoint, CodecFacts, MeanPoint, MissingFacts, QualityReport
from kilocall.bench.quality.methods import FROZEN
from kilocall.bench.quality.rates import mean_points, rates_of
from kilocall.bench.quality.results import ClipFacts
from kilocall.bench.quality.sentences import sentences
from kilocall.codec.codebook import USUAL_QUALITY
from kilocall.model.family import DEFAULT_FAMILY
from kilocall.proto.errors import BadInput
from kilocall.runtime.machine import cpu_model

__all__ = ["ANCHOR", "summarise"]

#: Codec that BD-rates are told against, where it was measured: the commonest in calls.
ANCHOR: Final = "x264-live"
_LAYER: Final = (
    "; layer: kilobits a second of AV1 beside motion in the same messages, the crop at 64 to 256 pixels a few times a "
    "second; its first frame counts as first picture"
)


def summarise(comparison: Comparison) -> QualityReport:
    """Everything that can be said about the results."""
    formats = {codec.key: codec for codec in comparison.codecs}
    points = [
        ClipPoint(
            clip=result.clip.name,
            codec=result.codec,
            setting=result.setting,
            rates=rates_of(result, formats.get(result.codec)),
            scores=result.scores,
            file_bytes=result.file_bytes,
            code_s=result.code_s,
        )
        for result in comparison.results
    ]
    means = mean_points(points)
    clips: dict[str, ClipFacts] = {}
    for result in comparison.results:
        clips.setdefault(result.clip.name, result.clip)
    ours = _default_point(comparison, means)
    order = [codec.key for codec in comparison.codecs]
    anchor = ANCHOR if any(point.codec == ANCHOR for point in means) else None
    matches = [
        match_of(metric, key, ours, means) for metric in COMPARED for key in order if has_curve(means, key, metric)
    ]
    return QualityReport(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{cpu_model()}, {platform.system()} {platform.release()}",
        python=platform.python_version(),
        ffmpeg=comparison.ffmpeg.version,
        engine=comparison.engine,
        landmarks_by=comparison.landmarks_by,
        distances_by=comparison.distances_by,
        size=comparison.settings.size,
        families=comparison.families,
        kilocall=ours.codec,
        kilocall_setting=ours.setting,
        clips=list(clips.values()),
        codecs=[*_own_facts(comparison), *(_facts(codec) for codec in comparison.codecs)],
        points=points,
        means=means,
        anchor=anchor,
        bd_rates=bd_rates(means, anchor, [*comparison.families, *order]) if anchor else [],
        matches=matches,
        sentences=sentences(ours, means, {codec.key: codec.title for codec in comparison.codecs}),
        missing=[MissingFacts(clip=m.clip, codec=m.codec, reason=m.reason) for m in comparison.missing],
    )


def _default_point(comparison: Comparison, means: Sequence[MeanPoint]) -> MeanPoint:
    """kilocall as it runs by default, or at the nearest quality that was measured."""
    own = [point for point in means if point.codec == DEFAULT_FAMILY]
    own = own or [point for point in means if point.codec in comparison.families]
    qualities = {(one.codec, one.setting): one.quality for one in comparison.results if not one.first_layer}
    own = [point for point in own if (point.codec, point.setting) in qualities]
    if not own:
        raise BadInput("kilocall itself could not be measured on any clip")
    return min(own, key=lambda point: abs(qualities[point.codec, point.setting] - USUAL_QUALITY))


def _own_facts(comparison: Comparison) -> list[CodecFacts]:
    settings = [f"quality {quality:g}" for quality in comparison.settings.qualities]
    layered: dict[str, list[str]] = {name: [] for name in comparison.families}
    for result in comparison.results:
        if result.first_layer and result.setting not in layered[result.codec]:
            layered[result.codec].append(result.setting)
    about = "first frame as source picture (AVIF, 6 KB at most), 3 frames a packet, key packet every 2 s"
    return [
        CodecFacts(
            key=name,
            title=f"kilocall {name}",
            live=True,
            command=f"weights {digest[:12]} on {comparison.engine}; {about}{_LAYER if layered[name] else ''}",
            settings=settings + layered[name],
        )
        for name, digest in comparison.families.items()
    ] + [
        CodecFacts(
            key=FROZEN,
            title="frozen picture",
            live=True,
            command="the source picture as it is sent, held for the whole clip",
            settings=["first frame"],
        )
    ]


def _facts(codec: VideoCodec) -> CodecFacts:
    return CodecFacts(
        key=codec.key,
        title=codec.title,
        live=codec.live,
        command=codec.command,
        settings=[point.name for point in codec.ladder],
    )
