"""What every point cost in bits, a clip and on the mean over clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kilocall.bench.quality.codecs import VideoCodec
from kilocall.bench.quality.facts import ClipPoint, MeanPoint, Rates, packing
from kilocall.bench.quality.results import PointResult, PointScores
from kilocall.bench.quality.wire import CALLS_S, Wire, data_channel_flow, rtp_flow
from kilocall.bench.scores import mean_of_known

__all__ = ["mean_points", "rates_of"]


def rates_of(result: PointResult, codec: VideoCodec | None) -> Rates:
    """What a clip cost with a codec; `codec` is wanted for a video alone."""
    seconds = result.clip.frames / result.clip.fps
    frames = result.clip.frames
    if result.kind == "video":
        assert codec is not None
        first = sum(result.units[0])
        bits = np.array([8 * sum(unit) / result.frames_per_unit for unit in result.units[1:]] or [0.0])
        wire = [Wire.of("RTP", rtp_flow(result.units, seconds, codec.format))]
        mean = float(bits.mean())
    elif result.kind == "kilocall":
        first = result.source_bytes + sum(result.first_layer)
        # A packet's bits are shared by its frames; the last packet may hold fewer.
        step = result.frames_per_unit
        bits = np.array([8 * sum(unit) / step for unit in result.units])
        mean = 8 * sum(map(sum, result.units)) / frames
        wire = [
            Wire.of(packing(count), data_channel_flow(sizes, result.source_bytes, seconds, result.first_layer))
            for count, sizes in sorted(result.messages.items())
        ]
    else:
        first, bits, mean = result.source_bytes, np.zeros(1), 0.0
        wire = [Wire.of("source picture only", data_channel_flow([], result.source_bytes, seconds))]
    kbps = mean * result.clip.fps / 1000
    return Rates(
        bits_mean=mean,
        bits_p95=float(np.percentile(bits, 95)),
        bits_max=float(bits.max()),
        kbps=kbps,
        first_bytes=first,
        call_kbps={length: kbps + 8 * first / length / 1000 for length in CALLS_S},
        wire=wire,
    )


def mean_points(points: Sequence[ClipPoint]) -> list[MeanPoint]:
    """Means over clips, a codec and setting each."""
    groups: dict[tuple[str, str], list[ClipPoint]] = {}
    for point in points:
        groups.setdefault((point.codec, point.setting), []).append(point)
    return [
        MeanPoint(
            codec=codec,
            setting=setting,
            clips=len(group),
            rates=_mean_rates([point.rates for point in group]),
            scores={
                name: mean_of_known(getattr(point.scores, name) for point in group) for name in PointScores.model_fields
            },
        )
        for (codec, setting), group in groups.items()
    ]


def _mean_rates(rates: Sequence[Rates]) -> Rates:
    def of(value: Callable[[Rates], float]) -> float:
        return float(np.mean([value(one) for one in rates]))

    def wire(number: int) -> Wire:
        rows = [one.wire[number] for one in rates]
        return Wire(
            how=rows[0].how,
            forward_kbps=float(np.mean([row.forward_kbps for row in rows])),
            back_kbps=float(np.mean([row.back_kbps for row in rows])),
            first_bytes=round(float(np.mean([row.first_bytes for row in rows]))),
            call_kbps={length: float(np.mean([row.call_kbps[length] for row in rows])) for length in CALLS_S},
        )

    return Rates(
        bits_mean=of(lambda one: one.bits_mean),
        bits_p95=of(lambda one: one.bits_p95),
        bits_max=max(one.bits_max for one in rates),
        kbps=of(lambda one: one.kbps),
        first_bytes=round(of(lambda one: one.first_bytes)),
        call_kbps={length: float(np.mean([one.call_kbps[length] for one in rates])) for length in CALLS_S},
        wire=[wire(number) for number in range(len(rates[0].wire))],
    )
