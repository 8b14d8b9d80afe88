"""What a reader finds on a page to copy: its blocks, and the commands of `unnorm` in them and in its text."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "recipes/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"(?:<!-- ([^\n]*) -->\n)?^( *)```([^\n`]*)\n(.*?)^\2```", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SHELL = {"", "sh", "bash"}


class Block(NamedTuple):
    language: str
    title: str
    """The file that a reader is told to write it to."""
    mark: str
    """What the comment right before it says."""
    text: str


class Command(NamedTuple):
    arguments: list[str]
    whole: bool
    """Whether it is one to copy; what stands in the text may leave arguments out."""


def blocks(markdown: str) -> list[Block]:
    found = []
    for mark, indent, info, text in _FENCE.findall(markdown):
        language, *rest = shlex.split(info) or [""]
        titles = [word.removeprefix("title=") for word in rest if word.startswith("title=")]
        found.append(Block(language, "".join(titles), mark, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)))
    return found


def lines(block: Block) -> list[str]:
    """The commands of a shell block, each on one line, without comments."""
    joined = block.text.replace("\\\n", " ")
    return [line for line in (_without_comment(line) for line in joined.splitlines()) if line]


def commands(markdown: str) -> list[Command]:
    """Every command of unnorm on a page."""
    in_blocks = [line for block in blocks(markdown) if block.language in _SHELL for line in lines(block)]
    prose = _FENCE.sub("", _COMMENT.sub("", markdown))
    quoted = [" ".join(text.split()) for text in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]
    found = [_command(line, whole=True) for line in in_blocks] + [_command(text, whole=False) for text in quoted]
    return [command for command in found if command is not None]


def _command(line: str, whole: bool) -> Command | None:
    """What unnorm gets of a line; None if it does not call unnorm."""
    match = re.match(
        r"(?:[A-Z_]+=\S+ )*(?:unnorm|\S*python3? -m unnorm|(?:torchrun|accelerate launch) .*?-m unnorm) ", line
    )
    if match is None:
        return None
    told = re.split(r" [>|<]|(?<=\s)&&|;", line[match.end() :])[0]
    arguments = shlex.split(told)
    if arguments and arguments[-1] in ("...", "…"):
        return Command(arguments[:-1], whole=False)
    return Command(arguments, whole)


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).strip()
