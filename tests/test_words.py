"""One word a thing: the glossary of CONTRIBUTING.md, the first words of docstrings, and the names of classes."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "CONTRIBUTING.md"
PARTS = (
    *("retort/client", "retort/cli", "retort/engine", "retort/methods", "retort/architectures", "retort/datasets"),
    *("retort", "service", "worker"),
)
"""Parts of the code, so that a failure is short; `retort` is all that stands in no other part."""
TEXTS = (*PARTS, "tests", "benchmarks", "docs", ".")
"""The same with all other texts; `.` is the rest of the project."""
HISTORY = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/LOG.md",
    "retort/engine/version_1.py",
    "service/migrations/versions/",
    "tests/test_words.py",
)
"""Texts that may name old words."""
QUESTIONS = ("What", "How", "Who", "Where", "Which")
PARTICIPLES = {
    *("Asked", "Brought", "Kept", "Loaded", "Made", "Overtaken", "Promised", "Said", "Sent", "Shipped"),
    *("Unwanted", "Used", "Written"),
}


@cache
def tracked() -> tuple[str, ...]:
    """Paths of all files of the project, as git knows them."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return tuple(path for path in found if path and (ROOT / path).is_file())


def part_of(path: str) -> str:
    return next((part for part in TEXTS if path.startswith(f"{part}/")), ".")


def texts(part: str) -> Iterator[tuple[str, str]]:
    """Path and content of the code and the pages of a part."""
    for path in tracked():
        suffixes = (".py", ".md", ".toml", ".yml", ".yaml", ".html", ".js", ".css")
        if part_of(path) == part and path.endswith(suffixes) and not path.startswith(HISTORY):
            yield path, (ROOT / path).read_text(encoding="utf-8")


@cache
def trees(part: str) -> tuple[tuple[str, ast.Module], ...]:
    return tuple((path, ast.parse(text)) for path, text in texts(part) if path.endswith(".py"))


def glossary() -> dict[str, list[str]]:
    """Each word of the glossary with the words that it stands for and that are searched for."""
    section = GLOSSARY.read_text().partition("| word | meaning | instead of |\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()[1:]]
    return {row[0]: re.findall(r"`(\w+)`", row[2]) for row in rows}


def pattern(words: list[str]) -> re.Pattern[str]:
    """Finds words and their plurals, also within snake_case and CamelCase."""
    forms = [form for word in words for form in (word, f"{word}s", f"{word}d", word[:-1] + "ies", word[:-1] + "ves")]
    small, capital = "|".join(forms), "|".join(form.capitalize() for form in forms)
    return re.compile(rf"(?<![a-z])(?:{small}|{small.upper()})(?![A-Za-z])|(?:{capital})(?![a-z])")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, also of those under a field."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


@cache
def classes() -> dict[str, list[str]]:
    """The files that define each top-level class, by its name."""
    found = defaultdict(list)
    for part in PARTS:
        for path, tree in trees(part):
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(path)
    return found


def test_the_glossary_is_read() -> None:
    words = glossary()
    assert 25 <= len(words) <= 45
    assert words["event log"] == ["diary"]
    found = pattern(["diary", "shelf", "bell"]).findall(
        "diaries BELL the_bell Bells ShelfFile shelves label bellow Shelfish"
    )
    assert found == ["diaries", "BELL", "bell", "Bells", "Shelf", "shelves"]


@pytest.mark.parametrize("part", TEXTS)
def test_no_removed_word_is_used(part: str) -> None:
    removed = pattern([word for words in glossary().values() for word in words])
    found = []
    for path, text in texts(part):
        for number, line in enumerate(text.splitlines(), 1):
            if matched := removed.search(line):
                found.append(f"{path}:{number}: {matched[0]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("part", PARTS)
def test_no_docstring_begins_with_a_question(part: str) -> None:
    found = [
        f"{path}:{line}: {text.splitlines()[0][:80]}"
        for path, tree in trees(part)
        for line, text in docstrings(tree)
        if re.match(rf"\s*({'|'.join(QUESTIONS)})\b", text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("part", PARTS)
def test_no_two_classes_bear_one_name(part: str) -> None:
    found = [
        f"{name}: {', '.join(paths)}"
        for name, paths in sorted(classes().items())
        if len(paths) > 1 and any(part_of(path) == part for path in paths)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("part", PARTS)
def test_no_class_is_named_by_a_participle(part: str) -> None:
    found = [
        f"{path}: {name}"
        for name, paths in classes().items()
        for path in paths
        if name.lstrip("_") in PARTICIPLES and part_of(path) == part
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "page",
    [path for path in tracked() if path.endswith(".md") and not path.startswith(("CHANGELOG", "benchmarks/LOG"))],
)
def test_a_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:retort|service|worker|tests|docs|benchmarks)/[\w./-]*\w)`", text))
    linked = {(ROOT / page).parent / link for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    missing = [path for path in {ROOT / path for path in named} | linked if not path.exists()]
    assert not missing
