"""The documentation names what exists: commands, configs, modules, links, messages; both READMEs alike."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import REPOSITORY

READMES = ("README.md", "README_zh-CN.md")
DOCS = sorted(f"docs/{page.name}" for page in REPOSITORY.glob("docs/*.md"))
PAGES = (*READMES, "CHANGELOG.md", "cache/FORMAT.md", *DOCS)
PACKAGES = ("cache", "distill", "pipelines")


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    """The text of the fenced code blocks of a page."""
    found = re.findall(r"^```(\w*).*?\n(.*?)^```$", read(page), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in found if not languages or language in languages]


def commands(page: str) -> list[str]:
    """The `make` lines of a page's code blocks, in order."""
    return [line for text in blocks(page) for line in text.splitlines() if line.startswith("make ")]


def targets() -> set[str]:
    """The Makefile's targets that `make help` lists."""
    return set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), flags=re.MULTILINE))


def test_both_readmes_have_the_same_commands() -> None:
    english, chinese = map(commands, READMES)
    assert english == chinese
    assert {"make demo", "make test"} <= set(english)


def test_both_readmes_have_the_same_structure() -> None:
    """Headings by level, rows of every table, code blocks by language, figures and links."""
    english, chinese = (read(page).splitlines() for page in READMES)
    for pattern in (r"^(#+) ", r"^(\|)", r"^(```\w*)$", r"^(- |\d\. )"):
        counts = [[found[1] for line in lines if (found := re.match(pattern, line))] for lines in (english, chinese)]
        assert counts[0] == counts[1], pattern
    for pattern in (r"\d[\d,.]*\d", r"\]\((?!README)([^)]*)\)", r"`([\w./*-]+\.py)`"):
        found = [sorted(set(re.findall(pattern, read(page)))) for page in READMES]
        assert found[0] == found[1], pattern


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    named = set(re.findall(r"`make ([a-z-]+)", read(page))) | {command.split()[1] for command in commands(page)}
    assert named <= targets()


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_run_exist(page: str) -> None:
    for module in re.findall(r"python -m (\w+\.\w+)", read(page)):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("page", PAGES)
def test_configs_exist(page: str) -> None:
    for path in re.findall(r"(?:benchmarks/)?configs/[\w/*-]+\.py", read(page)):
        assert list(REPOSITORY.glob(path)), path


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", read(page)):
        if not re.match(r"[a-z]+:", target):
            assert (REPOSITORY / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_filled_in(page: str) -> None:
    assert re.findall(r"\{\{(?!_base_).*?\}\}", read(page)) == []


def source_messages() -> str:
    """Every text of the packages' sources, values in braces replaced by an ellipsis."""
    texts = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            texts += [_text(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return "\n".join(text for text in texts if text)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def test_quoted_messages_are_in_the_code() -> None:
    """docs/troubleshooting.md quotes each message as code in the first column; `…` stands for a value."""
    known = source_messages()
    tables = re.findall(r"^\| message \|.*\n((?:\|.*\n)+)", read("docs/troubleshooting.md"), flags=re.MULTILINE)
    messages = [re.match(r"\| `([^`]+)` \| ", row)[1] for table in tables for row in table.splitlines()[1:]]
    assert len(messages) > 40
    assert [message for message in messages if message not in known] == []


def test_the_licence_is_apache_2() -> None:
    licence = read("LICENSE")
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert 'license = "Apache-2.0"' in read("pyproject.toml")
