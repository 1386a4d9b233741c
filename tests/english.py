#!/usr/bin/env python3
"""Which sentences of the documents and of the program's help have more than 25 words? Prints each with its place.

    python3 tests/english.py [FILE...]

Reads Markdown, without code, tables and generated parts. If FERNVPN names the program, it also reads its man pages, which
have the help of every command. Blanks separate words, so `a/b` is one, and inline code is one.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 25
# These are still being rewritten.
LATER = {"docs/CAPTURE.md", "docs/LAB.md", "docs/wireshark/README.md"}


def paragraphs(source, is_markdown):
    """(line, text) of each paragraph and list item."""
    keep_lines = lambda found: "\n" * found[0].count("\n")
    if is_markdown:
        source = re.sub(r"^<!-- begin .*?^<!-- end .*?$", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^ *```.*?^ *```", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^(    |\t)(?! *[-*\d]).*$", "", source, flags=re.M)
        source = re.sub(r"^ *\|.*$", "", source, flags=re.M)
        source = re.sub(r"`[^`]*`", lambda found: "code" + keep_lines(found), source)
        source = re.sub(r"\]\([^)]*\)|\]\[[^\]]*\]", "]", source)
        breaks = r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )|\n(?=#)"
    else:
        source = re.sub(r"^\.Bd -literal.*?^\.Ed", keep_lines, source, flags=re.M | re.S)
        source = re.sub(r"^\.(?:It|Sh|Ss|Pp|Bl|El|Nd|Nm|Dd|Dt|Os|Xr|\\\").*$", "", source, flags=re.M)
        source = re.sub(r"^\.[A-Z][a-z] ", "", source, flags=re.M)
        breaks = r"\n\s*\n|(?<=[.?!:)])\n"  # each sentence begins a line
    at = 0
    for part in re.split(f"({breaks})", source):
        if part.strip():
            yield source.count("\n", 0, at + len(part) - len(part.lstrip())) + 1, part
        at += len(part)


def sentences(text):
    """A sentence ends before a blank and a capital or an opening sign; an abbreviation does not."""
    text = re.sub(r"\s+", " ", re.sub(r"^\s*(?:[-*]|\d+\.|#+) ", "", text)).strip()
    return re.split(r"(?<=[.?!:])(?<!e\.g\.)(?<!i\.e\.)[)*\"']*(?: (?=[*(\"']*(?:[A-Z0-9\[]|code))|$)", text)


def man_pages():
    """(page, paragraph) of the man pages, which the program prints."""
    for page in ["fernvpn.8", "fernvpn.conf.5"]:
        if "FERNVPN" in os.environ and page not in LATER:
            said = subprocess.run([os.environ["FERNVPN"], "help", "--man", page], capture_output=True, text=True, check=True)
            yield from ((f"{page}:{line}", text) for line, text in paragraphs(said.stdout, False))


def main():
    files = [Path(name).resolve() for name in sys.argv[1:]] or [
        path for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
        if str(path.relative_to(ROOT)) not in LATER]
    places = [(f"{os.path.relpath(path, ROOT)}:{line}", text)
              for path in files for line, text in paragraphs(path.read_text(encoding="utf-8"), path.suffix == ".md")]
    places += man_pages() if not sys.argv[1:] else []
    count = long = 0
    for place, text in places:
        for sentence in sentences(text):
            count += 1
            words = len([word for word in sentence.split() if re.search(r"\w", word)])
            if words > MOST:
                long += 1
                print(f"{place}: {words} words: {sentence}")
    print(f"english: {count} sentences, {long} of them too long")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
