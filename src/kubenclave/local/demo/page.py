"""The demo's result as one self-contained HTML page. Pure: a value in, text out; no script, no other file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from kubenclave.image import GUIDE_FIGURES

if TYPE_CHECKING:
    from kubenclave.local.demo.result import DemoResult, Step

_MODULES = {1: "a cluster", 2: "an image", 3: "a deployment"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #2a78d6; --other: #8888; --warn: #b35900; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.note { border-left: 4px solid var(--warn); padding: .3rem .8rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td.seen { opacity: .7; font-size: .85em; width: 18rem; } td.what { width: 20rem; }
code { font-family: ui-monospace, monospace; font-size: .95em; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
"""


def page(result: DemoResult) -> str:
    """Write the page."""
    device = "simulated SGX" if result.simulated else "SGX hardware"
    steps = "\n".join(_step(number, step) for number, step in enumerate(result.steps, start=1))
    note = (
        '<p class="note">The SGX device was <b>simulated</b>: the enclave ran without isolation, and nothing here proves anything about '
        "SGX hardware. Kubernetes, containerd, the scheduler, the image and the measurement are real.</p>"
        if result.simulated
        else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>kubenclave demo: {device}</title><style>{_STYLE}</style></head><body>
<h1>An enclave program on Kubernetes {escape(result.kubernetes)}, {device}</h1>
<p>{escape(result.cluster)} at {escape(result.server)}; {result.seconds:.1f} s in all. {escape(result.left)}</p>
{note}
<p>MRENCLAVE <code>{escape(result.mrenclave)}</code></p>
<h2>Where the time went</h2>
{_times(result.steps)}
<h2>Image sizes</h2>
{_sizes(result)}
{steps}
</body></html>
"""


def _step(number: int, step: Step) -> str:
    rows = "\n".join(
        f'<tr><td class="what">{escape(o.what)}</td><td>{escape(o.value)}</td><td class="seen">{escape(o.seen_in)}</td></tr>'
        for o in step.observations
    )
    title = f"{number}. {step.title}"
    return (
        f"<h2>{escape(title)}</h2><p>Module {step.module}: {_MODULES[step.module]}; {step.seconds:.1f} s</p>"
        f"<table><tr><th>what</th><th>seen</th><th>where</th></tr>{rows}</table>"
    )


def _times(steps: tuple[Step, ...]) -> str:
    longest = max(step.seconds for step in steps) or 1.0
    rows = [(step.title, f"{step.seconds:.1f} s", step.seconds / longest, "var(--bar)") for step in steps]
    return _bars(rows)


def _sizes(result: DemoResult) -> str:
    sizes = [(size.what, size.uncompressed_bytes, "var(--bar)") for size in result.sizes]
    sizes.append(("the guide's multi-stage image (2020, another program)", GUIDE_FIGURES.multi_stage_bytes, "var(--other)"))
    largest = max(count for _what, count, _colour in sizes)
    rows = [(what, f"{count / 1e6:.1f} MB", count / largest, colour) for what, count, colour in sizes]
    single = f"{GUIDE_FIGURES.single_stage_bytes / 1e9:.2f} GB"
    return (
        _bars(rows)
        + f"<p>Unpacked sizes. The guide's single-stage image was {single}; it is another program, so this is not like for like.</p>"
    )


def _bars(rows: list[tuple[str, str, float, str]]) -> str:
    height = 24
    parts = []
    for index, (label, value, share, colour) in enumerate(rows):
        top = index * height
        width = max(2.0, share * 430)
        parts.append(
            f'<text x="0" y="{top + 16}">{escape(label)}</text>'
            f'<rect x="330" y="{top + 4}" width="{width:.0f}" height="16" rx="2" fill="{colour}">'
            f"<title>{escape(label)}: {value}</title></rect>"
            f'<text x="{335 + width:.0f}" y="{top + 16}">{value}</text>'
        )
    return f'<svg viewBox="0 0 860 {height * len(rows)}" role="img">{"".join(parts)}</svg>'
