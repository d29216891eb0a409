"""Modules of a page that become one file."""

from __future__ import annotations

import pytest

from kilocall.runtime.web_bundle import bundled

MODULES = {
    "call/main.js": b'import { one as first, Two } from "../a.js";\nimport { of } from "./b.js";\nfirst(Two, of);\n',
    "a.js": b"export function one() {}\nexport class Two {}\nconst at = import.meta.url;\n",
    "call/b.js": b'import {\n  Two,\n} from "../a.js";\nexport const [of, other] = [new Two(), 1];\n',
}


def test_each_module_is_there_once_with_what_it_imports_and_its_own_place() -> None:
    a, b, main = bundled("call/main.js", MODULES).decode().split("\n})();")[:3]
    assert "\nfunction one() {}\n" in a
    assert 'const at = new URL("../a.js", import.meta.url).href;' in a
    assert a.endswith("return { one, Two };")
    assert "const {\n  Two,\n} = m0;" in b
    assert b.endswith("return { of, other };")
    assert "const { one: first, Two } = m0;\nconst { of } = m1;" in main


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('import { b } from "./a.js";', "imports itself"),
        ('export * from "./b.js";', r"a\.js: 'export \* from"),
        ("export let b = 1;", r"a\.js: 'export let"),
        ("await b();", r"a\.js: 'await b"),
    ],
)
def test_what_does_not_go_into_one_file_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        bundled("a.js", {"a.js": f"{text}\n".encode()})
