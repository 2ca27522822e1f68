#!/usr/bin/env python3
"""Draws where the instructions of a call go: profile.py PROGRAM TITLE OUT.svg

PROGRAM is a built `counts`; callgrind runs it twice, with 20,000 and 40,000 calls and 64 in flight,
and what the longer run has more is divided by 20,000. One bar a function, the 24 dearest.
"""
import html
import re
import subprocess
import sys
import tempfile

CALLS = 20_000
BARS = 24


def profile(program, calls, folder):
    out = f"{folder}/{calls}"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    subprocess.run(command + [program, "call", str(calls), "64"], check=True, capture_output=True)
    command = ["callgrind_annotate", "--threshold=100", out]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    costs = {}
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \([ \d.]+%\)\s+\S*?:(.*?)(?: \[.*)?$", line)
        if found:
            cost = int(found[1].replace(",", ""))
            costs[found[2]] = costs.get(found[2], 0) + cost
    return costs


def main(program, title, picture):
    with tempfile.TemporaryDirectory() as folder:
        short = profile(program, CALLS, folder)
        long = profile(program, 2 * CALLS, folder)
    each = {name: (cost - short.get(name, 0)) / CALLS for name, cost in long.items()}
    total = sum(each.values())
    bars = sorted(each.items(), key=lambda bar: -bar[1])[:BARS]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{60 + 22 * len(bars)}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="26" font-size="16">{html.escape(title)}: {total:,.0f} instructions a '
        "call, both ends</text>",
    ]
    for row, (name, cost) in enumerate(bars):
        y = 44 + 22 * row
        name = re.sub(r"\{\{closure\}\}", "{}", name)
        name = name if len(name) < 84 else "…" + name[-83:]
        lines.append(f'<rect x="12" y="{y}" width="{cost * 0.5:.1f}" height="18" fill="#7aa6d8"/>')
        lines.append(f'<text x="18" y="{y + 13}">{cost:.0f}  {html.escape(name)}</text>')
    with open(picture, "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n</svg>\n")


main(*sys.argv[1:])
