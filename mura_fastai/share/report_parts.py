"""What the report is put together from: sections, tables, tiles, notices, lists of facts."""

from collections.abc import Sequence

from fastcore.xml import (
    FT,
    A,
    B,
    Caption,
    Code,
    Dd,
    Details,
    Div,
    Dl,
    Dt,
    Li,
    P,
    Pre,
    Section,
    Span,
    Summary,
    Table,
    Tbody,
    Td,
    Th,
    Thead,
    Tr,
    Ul,
    ft,
)

LONG = 16  # rows, from which on a table may be divided between two pages

STYLE = """
.lead { font-size: 1.14rem; max-width: 56rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.4rem), 1fr)); }
.eyebrow { color: var(--muted); margin: 0 0 .4rem; font-size: .92rem; }
.toc ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .35rem .5rem; max-width: none; }
.toc a { display: inline-block; padding: .3rem .75rem; border: 1px solid var(--line); border-radius: 99px;
  text-decoration: none; background: var(--sheet); }
.toc a:hover { border-color: var(--accent); }
.toc ul ul { margin: .4rem 0 .6rem 1rem; }
.toc li:has(> ul) { flex-basis: 100%; }
h4 { font-size: 1rem; margin: 1.4rem 0 .4rem; line-height: 1.3; }
h3.part { font-size: 1.18rem; margin-top: 2.2rem; }
.tile span { color: var(--muted); display: block; font-size: .9rem; }
.tile small { display: block; }
.tile b.none { color: var(--muted); }
th.number { text-align: right; }
.wide th, .wide td { padding-right: 1.3rem; white-space: nowrap; }
.wide thead th { white-space: normal; overflow-wrap: normal; }
.wide td:last-child, .wide th:last-child { padding-right: 0; }
.wide tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1; }
.wide table { min-width: min(100%, 22rem); }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 2.2rem));
  white-space: normal; overflow-wrap: anywhere; }
thead th { vertical-align: bottom; }
tr.sum > * { border-top: 2px solid var(--muted); }
tr.sum ~ tr.sum > * { border-top: 0; }
td svg.bar { display: block; max-width: none; margin-top: .35em; }
.bar .track { stroke: var(--line); stroke-width: 1.5; } .bar .mark { stroke: var(--muted); stroke-width: 2; }
.bar .reach { stroke: var(--accent); stroke-width: 3; } .bar circle { fill: var(--accent); }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1.2rem; max-width: 60rem; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; }
@media (max-width: 34rem) { .facts { grid-template-columns: 1fr; gap: 0; } .facts dd { margin-bottom: .5rem; } }
.names { columns: 16rem; column-gap: 2rem; font-size: .86rem; max-width: none; }
.names li { break-inside: avoid; }
/* a shadow at the edge behind which there is more */
@media screen and (max-width: 60rem) { .wide { background:
  linear-gradient(to right, var(--paper), transparent) 0 0 / 2.5rem 100% local,
  linear-gradient(to left, var(--paper), transparent) 100% 0 / 2.5rem 100% local,
  linear-gradient(to right, var(--line), transparent) 0 0 / .7rem 100% scroll,
  linear-gradient(to left, var(--line), transparent) 100% 0 / .7rem 100% scroll;
  background-repeat: no-repeat; } }
details { margin: 0 0 1rem; } summary { cursor: pointer; padding: .2rem 0; }
.wide:focus-visible { outline-offset: 4px; }
@media print {
  html { font-size: 10pt; } :root { --measure: 100%; }
  @page { @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; color: #55606c; }
    @bottom-left { content: "For research only, not a medical device"; font: 8pt sans-serif; color: #55606c; } }
  .lead { font-size: 11pt; } .tile b { font-size: 15pt; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(32mm, 1fr)); gap: 2.5mm; }
  .tile { padding: 2mm 3mm; }
  .toc a { border: 0; padding: 0; background: none; } .toc ul { gap: 0 1.2rem; }
  h4 { break-after: avoid; } .facts > * { break-inside: avoid; }
  table { font-size: 8.6pt; } .wide th, .wide td { padding: 1.1mm 3.2mm 1.1mm 0; }
  .wide { overflow: visible; break-inside: avoid; } .wide.long { break-inside: auto; }
  caption span { max-width: none; position: static; } .wide tbody th { position: static; }
  .wide table { min-width: 60%; } pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; height: auto; }
  details > summary { list-style: none; font-weight: 600; break-after: avoid; }
  .names { font-size: 7.5pt; } p { orphans: 3; widows: 3; }
}
"""


def section(
    key: str,  # its id: letters, digits, -
    title: str,  # a question or a plain name
    *body,  # components
    level: int = 2,  # of its heading
) -> FT:
    "A part of the report, which the table of contents can lead to."
    return Section(ft(f"h{level}", title, cls="part" if level > 2 else None), *body, id=key)


def contents(
    parts: Sequence[tuple],  # (key, title) or (key, title, parts)
    inner: bool = False,
) -> FT:
    "Links to the sections."
    items = [Li(A(title, href=f"#{key}"), *(contents(o, True) for o in more)) for key, title, *more in parts]
    return Ul(*items) if inner else ft("nav", Ul(*items), cls="toc", aria_label="Contents")


def table(
    caption,  # what it shows, and how to read it; text or components
    head: Sequence,  # names of the columns
    rows: Sequence[Sequence],  # cells: text, numbers as text, or components; the first one names the row
    numbers: Sequence[int] = (),  # columns that stand to the right
    sums: int = 0,  # the last rows that are sums or means
    label: str | None = None,  # of the box that scrolls, where the caption is no text
) -> FT:
    "A table in a box of its own, so that a narrow screen scrolls the box and not the page."

    def look(i):
        return "number" if i in numbers else None

    body = [
        Tr(
            Th(row[0], scope="row"),
            *(Td(cell, cls=look(i)) for i, cell in enumerate(row[1:], 1)),
            cls="sum" if n >= len(rows) - sums else None,
        )
        for n, row in enumerate(rows)
    ]
    whole = Table(
        Caption(Span(caption)),
        Thead(Tr(*(Th(name, scope="col", cls=look(i)) for i, name in enumerate(head)))),
        Tbody(*body),
    )
    long = " long" if len(rows) > LONG else ""
    return Div(whole, cls="wide" + long, tabindex="0", role="group", aria_label=label or f"Table: {caption}")


def tile(
    name: str,  # what it is
    value: str,  # the number
    note: str = "",  # its interval, or what it rests on
) -> FT:
    "One key figure."
    return Div(
        Span(name), B(value, cls="none" if value == "n/a" else None), ft("small", note) if note else None, cls="tile"
    )


def tiles(*each: FT) -> FT:
    "Key figures side by side."
    return Div(*each, cls="tiles")


def notice(
    *words,  # text or components
) -> FT:
    "What nobody may miss."
    return P(*words, cls="notice")


def note(*words) -> FT:
    "A remark in small letters."
    return P(*words, cls="muted")


def listed(
    told: dict,  # name -> text or components; what is None is left out
) -> FT:
    "Names and values."
    return Dl(*(o for k, v in told.items() if v is not None for o in (Dt(k), Dd(v))), cls="facts")


def bullets(
    *items,  # text or components
) -> FT:
    return Ul(*(Li(o) for o in items))


def folded(
    title: str,  # what is in it
    *body,  # components
) -> FT:
    "What is long and read by few: closed on a screen, open on paper."
    return Details(Summary(title), *body)


def command(
    *lines: str,  # as they are typed
) -> FT:
    return Pre(Code("\n".join(lines)), tabindex="0", role="group", aria_label="Commands")
