"""What the pages' templates make of what they are given."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from kilocall.bench.html import HtmlRow, HtmlTable, data_url, rendered

VALUES: dict[str, object] = {"conditions": "a cpu", "reported": ["one"], "plot": data_url(b"\x89PNG", "image/png")}


def study(**network: object) -> str:
    return rendered("compress.html", **VALUES, networks=[{"name": "face", "title": "points", **network}])


def test_text_from_outside_is_no_markup() -> None:
    table = HtmlTable(["<i>head</i>"], [HtmlRow(["<script>alert(1)</script>"])])
    page = study(title='"><b>bold</b>', table=table)
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_tables_say_which_columns_are_words_and_which_row_is_kilocalls() -> None:
    table = HtmlTable(["method", "ms"], [HtmlRow(["other", "1"]), HtmlRow(["ours", "2"], own=True)])
    page = study(table=table)
    assert '<tr><th class="text">method</th><th>ms</th></tr>' in page
    assert '<tr><td class="text">other</td><td>1</td></tr>' in page
    assert '<tr class="own"><td class="text">ours</td><td>2</td></tr>' in page


def test_style_and_plot_are_inside_the_page() -> None:
    page = study(table=HtmlTable([], []))
    assert page.startswith("<!DOCTYPE html>")
    assert "border-collapse: collapse;" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page


def test_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'networks' is undefined"):
        rendered("compress.html", **VALUES)
