"""A picture of an enclave's address space, to scale, as one HTML file that needs nothing else.

Pure: an enclave and its report in, HTML out. Whatever comes from a file is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

from kubenclave.sgx.pages import NO_CHUNKS, PAGE_BYTES, SECINFO_W, SECINFO_X, PageKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.pages import EnclaveLayout, PageRun
    from kubenclave.sgx.report import EnclaveReport, Epc, Memory, Signature

MAX_BOXES: Final = 20_000
"""More than that no browser draws at ease; 4096 threads take about that many."""

_COLOURS: Final = {
    PageKind.CODE: "#3f74d8",
    PageKind.CONSTANTS: "#86aeea",
    PageKind.DATA: "#2f9e77",
    PageKind.RELOCATIONS: "#9384d6",
    PageKind.HEAP: "#dda63a",
    PageKind.STACK: "#dc7650",
    PageKind.TCS: "#b3264a",
    PageKind.SSA: "#cd8fbb",
    PageKind.THREAD_DATA: "#8b7040",
    PageKind.RESERVED: "#8b929c",
}
_CONTROL_COLOUR = "#5d6570"
_WIDTH = 960
_MARGIN = 104
_ROW_HEIGHT = 16
_ROW_STEP = 20
_GAP_STEP = 24
_BAR_STEP = 52
_MAX_ROWS = 32
_LEAST_ROW_BYTES = 16 * PAGE_BYTES
_LEAST_BOX_WIDTH = 0.75
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """One stretch of alike pages within a row."""

    offset: int
    end: int
    run: PageRun
    later: bool


def draw_picture(enclave: Enclave, report: EnclaveReport, *, name: str) -> str:
    """Draw an enclave.

    Args:
        enclave: The enclave.
        report: What ``describe`` says of it.
        name: What to call it, such as its file's name.

    Raises:
        Refused: The pages of the enclave are not known.
    """
    layout = enclave.layout
    page = Template(resources.files(__package__).joinpath("picture.html").read_text("utf-8"))
    memory = report.memory
    return page.substitute(
        name=escape(name),
        format=escape(f"{report.format} {report.version}".strip()),
        identity="".join(_identity(report)),
        findings="".join(_findings(report)),
        epc="" if memory is None else _epc(memory),
        overview=_overview(layout),
        map=_map(layout),
        legend="" if memory is None else "".join(_legend(memory)),
    )


def _identity(report: EnclaveReport) -> Iterator[str]:
    memory, signature = report.memory, report.signature
    if memory is not None:
        yield _fact("MRENCLAVE", f"<code>{memory.mrenclave}</code>", _measured_badge(memory, signature))
    if signature is not None:
        signer = f"<code>{signature.mrsigner}</code>" + (f" {escape(signature.signer)}" if signature.signer else "")
        valid = _badge("signature fits", "good") if signature.is_valid else _badge("signature does not fit", "bad")
        yield _fact("MRSIGNER", signer, valid)
        debug = _badge("debug launch possible", "warn") if signature.debug_launch_possible else _badge("no debug launch", "good")
        numbers = f"product {signature.isv_prod_id}, SVN {signature.isv_svn}, signed {signature.date or 'on no date'}"
        yield _fact("version", escape(numbers), debug)
    if memory is not None:
        first, most = memory.threads
        threads = f"{first}" if first == most else f"{first} to {most}"
        stack = "" if memory.stack_bytes is None else f", {_size(memory.stack_bytes)} of stack each"
        heap = "" if memory.heap_bytes is None else f"; heap {_range(memory.heap_bytes)}"
        yield _fact("threads", escape(f"{threads}{stack}{heap}"), "")


def _measured_badge(memory: Memory, signature: Signature | None) -> str:
    if signature is None:
        return _badge("not signed", "warn")
    same = memory.mrenclave == signature.mrenclave
    return _badge("is what is signed", "good") if same else _badge("differs from what is signed", "bad")


def _fact(name: str, value: str, badge: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{value} {badge}</dd>"


def _badge(text: str, kind: str) -> str:
    return f'<span class="badge {kind}">{escape(text)}</span>'


def _findings(report: EnclaveReport) -> Iterator[str]:
    for finding in report.findings:
        yield f'<li class="{finding.severity}"><b>{finding.severity}</b> {escape(finding.text)}</li>'


def _epc(memory: Memory) -> str:
    """Draw what the enclave takes of EPC, as one bar; and a second one where it may grow."""
    longest = memory.max_epc.pages
    bars = [("once built", memory.epc, [*_kinds(memory), *_control(memory.epc)])]
    if memory.max_epc.pages != memory.epc.pages:
        own = memory.max_epc.enclave_pages
        bars.append(("at most", memory.max_epc, [("the enclave's pages", "#8b929c", own, _pages(own)), *_control(memory.max_epc)]))
    parts = []
    for number, (label, epc, stretches) in enumerate(bars):
        top = number * _BAR_STEP
        x = float(_MARGIN)
        parts.append(f'<text class="label" x="{_MARGIN - 8}" y="{top + 16}" text-anchor="end">{label}</text>')
        for kind, colour, count, text in stretches:
            width = count / longest * _WIDTH
            parts.append(_rectangle(x, top, width, 22, fill=colour, tip=f"{kind}\n{text}", css=""))
            x += width
        parts.append(f'<text class="label" x="{_MARGIN}" y="{top + 39}">{_epc_sum(epc)}</text>')
    return _svg(len(bars) * _BAR_STEP, "".join(parts), "EPC of one running instance")


def _epc_sum(epc: Epc) -> str:
    own, others = f"{epc.enclave_pages:,} pages of its own", f"SECS {epc.secs_pages}, version array {epc.version_array_pages}"
    return escape(f"{own}, {others}: {_size(epc.size_bytes)}, so ask for {epc.size_mib} MiB")


def _kinds(memory: Memory) -> list[tuple[str, str, int, str]]:
    counts: dict[str, int] = {}
    for group in memory.pages:
        if not group.is_added_later:
            counts[group.kind] = counts.get(group.kind, 0) + group.page_count
    return [(kind, _COLOURS[PageKind(kind)], count, _pages(count)) for kind, count in counts.items()]


def _control(epc: Epc) -> list[tuple[str, str, int, str]]:
    arrays = epc.version_array_pages
    return [
        ("SECS", _CONTROL_COLOUR, epc.secs_pages, "1 page: the enclave's control structure"),
        ("version array", _CONTROL_COLOUR, arrays, f"{_pages(arrays)}: lets the driver swap the others out"),
    ]


def _overview(layout: EnclaveLayout) -> str:
    """Draw the whole address range as one line: how little of it is pages."""
    parts = [f'<rect class="empty" x="{_MARGIN}" y="0" width="{_WIDTH}" height="12"/>']
    parts.append(f'<text class="label" x="{_MARGIN - 8}" y="11" text-anchor="end">ELRANGE</text>')
    for box in _boxes(layout, layout.elrange_bytes)[:MAX_BOXES]:
        x = _MARGIN + box.offset / layout.elrange_bytes * _WIDTH
        width = (box.end - box.offset) / layout.elrange_bytes * _WIDTH
        parts.append(_rectangle(x, 0, width, 12, fill=_COLOURS[box.run.kind], tip=_tip(box), css="later" if box.later else ""))
    parts.append(f'<text class="label" x="{_MARGIN + _WIDTH}" y="28" text-anchor="end">{_size(layout.elrange_bytes)}</text>')
    parts.append(f'<text class="label" x="{_MARGIN}" y="28">0</text>')
    return _svg(32, "".join(parts), "The address range")


def _map(layout: EnclaveLayout) -> str:
    """Draw the pages in rows of one length, each to scale; rows without pages are told as a gap."""
    runs = [*layout.runs, *layout.later_runs]
    end = max((run.end for run in runs), default=0)
    row_bytes = _row_bytes(layout, end)
    boxes = _boxes(layout, row_bytes)
    parts, y, previous = [], 0, -1
    for row in sorted({box.offset // row_bytes for box in boxes}):
        missing = row - previous - 1
        if missing:
            text = f"{_size(missing * row_bytes)} without pages"
            parts.append(f'<text class="gap" x="{_MARGIN}" y="{y + 15}">{text}</text>')
            y += _GAP_STEP
        parts.append(f'<text class="address" x="{_MARGIN - 8}" y="{y + 12}" text-anchor="end">{row * row_bytes:#x}</text>')
        parts.append(f'<rect class="empty" x="{_MARGIN}" y="{y}" width="{_WIDTH}" height="{_ROW_HEIGHT}"/>')
        here = (box for box in boxes[:MAX_BOXES] if box.offset // row_bytes == row)
        parts += [_map_box(box, row * row_bytes, row_bytes, y) for box in here]
        y += _ROW_STEP
        previous = row
    note = f"Each row is {_size(row_bytes)} of addresses; a page is {PAGE_BYTES / row_bytes * 100:.2g} % of it."
    if len(boxes) > MAX_BOXES:
        note += f" Only the first {MAX_BOXES} of {len(boxes)} stretches of pages are drawn."
    return f'<p class="note">{note}</p>' + _svg(max(y, _ROW_STEP), "".join(parts), "The pages")


def _row_bytes(layout: EnclaveLayout, end: int) -> int:
    """Choose rows so short that a page can be seen, but no more of them than fit a screen; gaps do not count."""
    row_bytes = _LEAST_ROW_BYTES
    while row_bytes < end and len({box.offset // row_bytes for box in _boxes(layout, row_bytes)}) > _MAX_ROWS:
        row_bytes *= 2
    return row_bytes


def _boxes(layout: EnclaveLayout, row_bytes: int) -> list[_Box]:
    """Cut the runs at the ends of rows; a run over many rows gives one box a row, up to a limit."""
    boxes: list[_Box] = []
    for later, runs in ((False, layout.runs), (True, layout.later_runs)):
        for run in runs:
            offset = run.offset
            while offset < run.end and len(boxes) <= MAX_BOXES:
                end = min(run.end, (offset // row_bytes + 1) * row_bytes)
                boxes.append(_Box(offset=offset, end=end, run=run, later=later))
                offset = end
    return boxes


def _map_box(box: _Box, row_start: int, row_bytes: int, y: int) -> str:
    x = _MARGIN + (box.offset - row_start) / row_bytes * _WIDTH
    width = (box.end - box.offset) / row_bytes * _WIDTH
    both = SECINFO_W | SECINFO_X
    css = "later" if box.later else "risky" if box.run.secinfo & both == both else ""
    drawn = _rectangle(x, y, width, _ROW_HEIGHT, fill=_COLOURS[box.run.kind], tip=_tip(box), css=css)
    if box.run.measured_chunks == NO_CHUNKS:
        drawn += f'<rect class="unmeasured" x="{x:.2f}" y="{y}" width="{max(width, _LEAST_BOX_WIDTH):.2f}" height="{_ROW_HEIGHT}"/>'
    return drawn


def _rectangle(x: float, y: int, width: float, height: int, *, fill: str, tip: str, css: str) -> str:
    return (
        f'<rect class="page {css}" x="{x:.2f}" y="{y}" width="{max(width, _LEAST_BOX_WIDTH):.2f}" height="{height}" '
        f'fill="{fill}" data-tip="{escape(tip)}"><title>{escape(tip)}</title></rect>'
    )


def _tip(box: _Box) -> str:
    run = box.run
    permissions = "entered through, never read" if run.is_tcs else run.permissions
    how = "may be added while it runs" if box.later else "measured" if run.measured_chunks != NO_CHUNKS else "added, not measured"
    return f"{run.kind}   {permissions}\n{run.offset:#x} to {run.end:#x}\n{_pages(run.page_count)}\n{how}"


def _legend(memory: Memory) -> Iterator[str]:
    for group in memory.pages:
        how = "later" if group.is_added_later else "measured" if group.is_measured else "not measured"
        colour = _COLOURS[PageKind(group.kind)]
        yield (
            f'<tr><td><i style="background:{colour}"></i>{escape(group.kind)}</td><td><code>{group.permissions or "TCS"}</code></td>'
            f'<td>{how}</td><td class="number">{group.page_count:,}</td><td class="number">{_size(group.size_bytes)}</td></tr>'
        )


def _svg(height: int, body: str, title: str) -> str:
    return f'<svg viewBox="0 0 {_MARGIN + _WIDTH + 4} {height}" role="img" aria-label="{title}">{body}</svg>'


def _pages(count: int) -> str:
    return f"{count:,} page{'' if count == 1 else 's'}, {_size(count * PAGE_BYTES)}"


def _range(sizes: tuple[int, int]) -> str:
    return _size(sizes[0]) if sizes[0] == sizes[1] else f"{_size(sizes[0])} to {_size(sizes[1])}"


def _size(count_bytes: int) -> str:
    for unit, unit_bytes in (("GiB", _GIB), ("MiB", _MIB), ("KiB", _KIB)):
        if count_bytes >= unit_bytes:
            return f"{count_bytes / unit_bytes:.4g} {unit}"
    return f"{count_bytes} bytes"
