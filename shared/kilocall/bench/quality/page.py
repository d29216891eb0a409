"""The report as one HTML page that needs nothing else: plots and pictures are inside it, and no script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from kilocall.bench.quality.facts import METRICS, PLOTTED_CALL_S, MeanPoint, QualityReport, Rates, wire_of
from kilocall.bench.quality.scoring import STRIP_MOMENTS, PointResult
from kilocall.bench.quality.wire import CALLS_S

__all__ = ["Strip", "StripCell", "page", "strips_of"]

_STYLE: Final = """
:root { color-scheme: light; --ink: #1d2327; --dim: #646970; --line: #dcdcde; --own: #fff4ec; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1.5rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2.2rem 0 .5rem; font-size: 1.2rem; }
p, li { max-width: 60rem; } .dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.wide { white-space: normal; text-align: left; font-family: ui-monospace, monospace; font-size: 12px; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tr.own td { background: var(--own); font-weight: 600; }
img { max-width: 100%; height: auto; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: 150px; gap: 6px; overflow-x: auto; }
.strip figure { margin: 0; } .strip img { display: block; width: 150px; margin-bottom: 3px; }
.strip figcaption { font-size: 12px; line-height: 1.35; margin-bottom: .8rem; } .strip b { display: block; }
"""


#: What a classic codec needs for a picture that one would want to see.
_STRIP_KBPS: Final = 10.0


@dataclass(frozen=True)
class StripCell:
    """One method's pictures of a clip: JPEG in base64, one of each moment."""

    title: str
    lines: tuple[str, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Strip:
    title: str
    cells: tuple[StripCell, ...]


def strips_of(
    report: QualityReport, results: Sequence[PointResult], originals: dict[str, list[str]], most: int = 6
) -> list[Strip]:
    """For the first `most` clips: the original, kilocall, and each codec at the rate nearest to kilocall's, then at
    that nearest to 10 kbit/s."""
    titles = {codec.key: codec.title for codec in report.codecs}
    strips = []
    for clip in list(originals)[:most]:
        of_clip = [result for result in results if result.clip.name == clip]
        rates = {(p.codec, p.setting): p.rates for p in report.points if p.clip == clip}
        own = next((r for r in of_clip if (r.codec, r.setting) == (report.kilocall, report.kilocall_setting)), None)
        if own is None:
            continue
        target = rates[own.codec, own.setting].kbps
        for wanted, about in ((target, "kilocall's rate"), (_STRIP_KBPS, f"{_STRIP_KBPS:g} kbit/s")):
            cells = _strip_cells(of_clip, own, rates, wanted, titles)
            first = StripCell("original", ("",), tuple(originals[clip]))
            strips.append(Strip(f"{clip}, the classic codecs at what they have nearest to {about}", (first, *cells)))
    return strips


def _strip_cells(
    of_clip: Sequence[PointResult],
    own: PointResult,
    rates: dict[tuple[str, str], Rates],
    wanted: float,
    titles: dict[str, str],
) -> list[StripCell]:
    cells = []
    for key in titles:
        points = [own] if key == own.codec else [r for r in of_clip if r.codec == key]
        if points:
            nearest = min(points, key=lambda r: abs(rates[r.codec, r.setting].kbps - wanted))
            cost = rates[nearest.codec, nearest.setting]
            lines = (
                nearest.setting,
                f"{cost.bits_mean:.0f} bits a frame" if cost.bits_mean else "nothing after the picture",
                f"{cost.kbps:.2f} kbit/s + {cost.first_bytes} bytes",
                f"PSNR {nearest.scores.psnr_db:.1f} dB",
            )
            cells.append(StripCell(titles[key], lines, tuple(nearest.strip)))
    return cells


def page(report: QualityReport, plots: dict[str, bytes], strips: Sequence[Strip]) -> str:
    """The whole HTML document."""
    count = len(report.clips)
    seconds = sum(clip.frames / clip.fps for clip in report.clips)
    body = [
        "<h1>Bits against quality</h1>",
        f'<p class="dim">{count} clip{"s" if count > 1 else ""}, {seconds:.0f} s, {report.size}x{report.size}, '
        f"{_rates(report)}. Made {escape(report.made)} on {escape(report.machine)}, ffmpeg {escape(report.ffmpeg)}; "
        f"landmarks by {escape(report.landmarks_by)}{_distances(report)}.</p>",
        "<ul>",
        *(f"<li>{escape(sentence)}</li>" for sentence in report.sentences),
        "</ul>",
        _missing(report),
        "<h2>Quality, mean over the clips</h2>",
        _scores_table(report),
        "<h2>What the points cost: payload</h2>",
        "<p>Coded pictures or motion alone, no headers: after the first picture, and with it (key frame or source "
        "picture) for calls of three lengths.</p>",
        _rates_table(report),
        "<h2>What it takes to be as good as kilocall</h2>",
        f"<p>Payload, kbit/s, at which a codec reaches what kilocall ({escape(report.kilocall_setting)}) has by each "
        f"measure, and how many times kilocall's {_own_kbps(report):.2f} that is; between measured points, on the "
        "curve of those settings that no other setting of the codec beats.</p>",
        _match_table(report),
        "<h2>BD-rate</h2>",
        _bd_table(report),
        "<h2>Curves</h2>",
        *(
            f'<p><img alt="{escape(name)} against the rate" src="{_data(data, "image/png")}"></p>'
            for name, data in plots.items()
        ),
        "<h2>On the wire</h2>",
        "<p>kbit/s over IPv4. Video: RTP, SRTP (tag of 10 bytes), UDP, IP, no header extensions, one RTCP report a "
        "second each way. Motion: data channel over DTLS and SCTP, its delayed acknowledgements in the column "
        "&ldquo;back&rdquo;; every further frame in a packet is a frame of delay more. Calls: both columns, and the "
        "key frame or source picture once.</p>",
        _wire_table(report),
        *_pictures(strips),
        "<h2>How it was measured</h2>",
        "<p>Every codec gets the same pixels, coded as 4:2:0 (kilocall's source picture too), and is scored in RGB on "
        "every frame, the first included. PSNR, SSIM and MS-SSIM are means over frames; VMAF is the built-in model "
        "of libvmaf, which was made for television. Landmark distance is in pixels at 256x256, over the frames in "
        "which a face is found in both; the column &ldquo;found&rdquo; says in how many of them it was. Mouth and "
        "eye motion: correlation of the opening with the original's. Sharpness: variance of the Laplacian against "
        "the original's. Half side: sent at half width and height and enlarged; half rate: every second frame, "
        "shown twice. Constant quality and a single key frame favour the classic codecs: a call has to hold a rate "
        "and to send key frames after losses.</p>",
        _settings_table(report),
        _clips_table(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # An empty icon, so that browsers do not ask the server for one.
        f'<title>kilocall: bits against quality</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(part for part in body if part)}\n</body></html>\n"
    )


def _data(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _rates(report: QualityReport) -> str:
    return ", ".join(sorted({f"{clip.fps:g} fps" for clip in report.clips}))


def _table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]], text: int = 1) -> str:
    """`rows` with whether they are kilocall's; the first `text` columns hold words. Cells are HTML already."""
    titles = "".join(f'<th class="text">{h}</th>' if i < text else f"<th>{h}</th>" for i, h in enumerate(head))
    lines = []
    for own, cells in rows:
        row = "".join(f'<td class="text">{c}</td>' if i < text else f"<td>{c}</td>" for i, c in enumerate(cells))
        lines.append(f'<tr class="own">{row}</tr>' if own else f"<tr>{row}</tr>")
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _own_kbps(report: QualityReport) -> float:
    own = (report.kilocall, report.kilocall_setting)
    return next(point.rates.kbps for point in report.means if (point.codec, point.setting) == own)


def _rates_table(report: QualityReport) -> str:
    titles = {codec.key: codec.title for codec in report.codecs}
    head = ["codec", "setting", "bits/frame", "p95", "max", "kbit/s", "first picture, bytes", "kbit/s, 10 s call",
            "1 min", "10 min", "clips"]  # fmt: skip

    def cells(point: MeanPoint) -> list[str]:
        rates = point.rates
        return [
            escape(titles[point.codec]),
            escape(point.setting),
            f"{rates.bits_mean:.1f}",
            f"{rates.bits_p95:.0f}",
            f"{rates.bits_max:.0f}",
            f"{rates.kbps:.2f}",
            str(rates.first_bytes),
            *(f"{rates.call_kbps[length]:.2f}" for length in CALLS_S),
            str(point.clips),
        ]

    return _table(head, ((point.codec in report.families, cells(point)) for point in report.means), text=2)


def _distances(report: QualityReport) -> str:
    """Which networks LPIPS and DISTS are, where they were measured."""
    return "".join(f"; {escape(text)}" for text in report.distances_by)


_SHORT: Final = {"landmark_px": "landmarks px", "mouth_r": "mouth r", "eye_r": "eyes r"}


def _scores_table(report: QualityReport) -> str:
    titles = {codec.key: codec.title for codec in report.codecs}
    shorts = [_SHORT.get(metric.name, metric.title) for metric in report.metrics]
    head = ["codec", "setting", "kbit/s", "wire kbit/s", *shorts, "flicker", "found"]

    def cells(point: MeanPoint) -> list[str]:
        found = point.scores["face_found"]
        return [
            escape(titles[point.codec]),
            escape(point.setting),
            f"{point.rates.kbps:.2f}",
            f"{wire_of(point).call_kbps[PLOTTED_CALL_S]:.1f}",
            *(_number(point.scores[metric.name], metric.digits) for metric in report.metrics),
            _number(point.scores["flicker"], 2),
            "" if found is None else f"{found:.0%}",
        ]

    rows = _table(head, ((point.codec in report.families, cells(point)) for point in report.means), text=2)
    return (
        "<p>kbit/s: payload after the first picture. Wire: all that IP carries both ways in a call of a minute, first "
        f"picture included.</p>{rows}"
    )


def _match_table(report: QualityReport) -> str:
    titles = {codec.key: codec.title for codec in report.codecs}
    metrics = [m for m in METRICS if any(match.metric == m.name for match in report.matches)]
    found = {(match.codec, match.metric): match.text for match in report.matches}
    values = {match.metric: match.value for match in report.matches}
    head = ["codec", *(f"{escape(m.title)} {values[m.name]:.{m.digits}f}" for m in metrics)]
    keys = list(dict.fromkeys(match.codec for match in report.matches))
    return _table(head, ((False, [escape(titles[k]), *(found.get((k, m.name), "") for m in metrics)]) for k in keys))


def _bd_table(report: QualityReport) -> str:
    if report.anchor is None:
        return "<p>The codec that others are compared with was not measured.</p>"
    titles = {codec.key: codec.title for codec in report.codecs}
    metrics = [m for m in METRICS if any(rate.metric == m.name for rate in report.bd_rates)]
    found = {(rate.codec, rate.metric): rate.text for rate in report.bd_rates}
    keys = list(dict.fromkeys(rate.codec for rate in report.bd_rates))
    rows = (
        (key in report.families, [escape(titles[key]), *(found.get((key, m.name), "") for m in metrics)])
        for key in keys
    )
    return (
        f"<p>Mean difference in payload rate at equal quality against {escape(titles[report.anchor])} (Akima, on the "
        "mean curves); negative is better. Where curves share no quality there is no such number.</p>"
        + _table(["codec", *(escape(m.title) for m in metrics)], rows)
    )


def _wire_table(report: QualityReport) -> str:
    titles = {codec.key: codec.title for codec in report.codecs}
    rows = [
        (
            point.codec in report.families,
            [
                escape(titles[point.codec]),
                escape(point.setting),
                escape(wire.how),
                f"{point.rates.kbps:.2f}",
                f"{wire.forward_kbps:.1f}",
                f"{wire.back_kbps:.1f}",
                str(wire.first_bytes),
                *(f"{wire.call_kbps[length]:.1f}" for length in CALLS_S),
            ],
        )
        for point in report.means
        for wire in (point.rates.wire if point.codec in report.families else [wire_of(point)])
    ]
    head = ["codec", "setting", "sent by", "payload", "forward", "back", "first picture, bytes",
            "10 s call", "1 min", "10 min"]  # fmt: skip
    return _table(head, rows, text=3)


def _pictures(strips: Sequence[Strip]) -> list[str]:
    if not strips:
        return []
    moments = ", ".join(f"{moment:.0%}" for moment in STRIP_MOMENTS)
    parts = [
        "<h2>Pictures</h2>",
        f"<p>At {moments} of each clip, marked with what they cost after the first picture and for it.</p>",
    ]
    for strip in strips:
        parts.append(f"<h3>{escape(strip.title)}</h3>")
        cells = []
        for cell in strip.cells:
            lines = "<br>".join(escape(line) for line in cell.lines)
            images = "".join(
                f'<img alt="{escape(cell.title)}" src="data:image/jpeg;base64,{picture}">' for picture in cell.pictures
            )
            caption = f"<figcaption><b>{escape(cell.title)}</b>{lines}</figcaption>"
            cells.append(f"<figure>{images}{caption}</figure>")
        parts.append(f'<div class="strip">{"".join(cells)}</div>')
    return parts


def _settings_table(report: QualityReport) -> str:
    rows = "".join(
        f'<tr><td>{escape(codec.title)}</td><td class="text">{"live" if codec.live else "may look ahead"}</td>'
        f'<td class="wide">{escape(codec.command)}</td><td class="wide">{escape("; ".join(codec.settings))}</td></tr>'
        for codec in report.codecs
    )
    head = "".join(f'<th class="text">{name}</th>' for name in ("codec", "kind", "command (Q: quantiser)", "settings"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _clips_table(report: QualityReport) -> str:
    rows = (
        (
            False,
            [escape(clip.name), escape("; ".join(clip.notes)), str(clip.frames), f"{clip.fps:g}", clip.digest[:12]],
        )
        for clip in report.clips
    )
    return "<h2>Clips</h2>" + _table(["clip", "notes", "frames", "fps", "SHA-256 of the pixels"], rows, text=2)


def _missing(report: QualityReport) -> str:
    if not report.missing:
        return ""
    lines = "".join(
        f"<li>{escape(', '.join(part for part in (m.clip, m.codec) if part))}: {escape(m.reason)}</li>"
        for m in report.missing
    )
    return f"<h2>Left out</h2><ul>{lines}</ul>"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
