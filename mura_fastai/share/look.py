"""How the report and the local page look: one sheet of styles for light, dark and paper, and the frame of a document.

Documents are built from fastcore's FT components, which escape every text that is put into them; only what was made
here or by matplotlib is passed as `Safe`. Nothing is fetched: no font, no script, no picture from another address.
"""

from fastcore.xml import FT, Body, Head, Html, Main, Meta, Safe, Style, Title, to_xml

# Each colour has one meaning and one value a theme; all text on its ground reaches a contrast of 4.5.
LIGHT = {
    "paper": "#ffffff", "sheet": "#f4f6f8", "ink": "#1a2027", "muted": "#55606c", "line": "#d5dbe1",
    "accent": "#0b5cad", "accent-ink": "#ffffff", "missed": "#a8430a", "alarm": "#0a63a0", "good": "#0f6b46",
    "warn": "#6e4a00", "warn-ground": "#fff4d6",
}  # fmt: skip
DARK = {
    "paper": "#12161b", "sheet": "#1b2128", "ink": "#e7ebef", "muted": "#a9b3be", "line": "#38424d",
    "accent": "#7db9f5", "accent-ink": "#0d1116", "missed": "#f2a06b", "alarm": "#7cc0ee", "good": "#6fd0a3",
    "warn": "#ffd98a", "warn-ground": "#332a12",
}  # fmt: skip


def _tokens(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_tokens(LIGHT)} --round: 8px; --gap: 1rem; --measure: 44rem; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_tokens(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_tokens(LIGHT)} --sheet: #ffffff; }} }}
*, ::before, ::after {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", Arial, sans-serif; }}
main {{ max-width: 76rem; margin: 0 auto; padding: 1.25rem clamp(.9rem, 3vw, 2rem) 4rem; }}
h1, h2, h3 {{ line-height: 1.2; text-wrap: balance; margin: 0 0 .5em; }}
h1 {{ font-size: clamp(1.5rem, 1.2rem + 1.6vw, 2.2rem); letter-spacing: -.015em; }}
h2 {{ font-size: 1.4rem; margin-top: 2.6rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.08rem; margin-top: 1.6rem; }}
p, ul, ol, dl {{ max-width: var(--measure); margin: 0 0 .8em; }}
a {{ color: var(--accent); text-underline-offset: .15em; }}
a:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible, summary:focus-visible,
[tabindex]:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 3px; }}
code, pre, kbd {{ font-size: .9em;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
pre {{ background: var(--sheet); border: 1px solid var(--line); border-radius: var(--round); padding: .8rem 1rem;
  overflow-x: auto; overflow-wrap: normal; }}
small, .muted, figcaption, caption {{ color: var(--muted); }}
small, figcaption, caption {{ font-size: .88rem; }}
.notice {{ background: var(--warn-ground); color: var(--warn); border: 1px solid currentColor;
  border-radius: var(--round); padding: .7rem 1rem; max-width: none; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); gap: var(--gap);
  margin: 1.2rem 0; padding: 0; max-width: none; }}
.tile, .card {{ background: var(--sheet); border: 1px solid var(--line); border-radius: var(--round);
  padding: .9rem 1rem; }}
.tile b {{ display: block; font-size: 1.7rem; line-height: 1.15; font-variant-numeric: tabular-nums; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: var(--gap); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1rem; overflow-wrap: normal; }}
caption {{ text-align: left; padding-bottom: .4rem; }}
th, td {{ padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; }}
.number {{ text-align: right; white-space: nowrap; }}
figure {{ margin: 1rem 0; }}
figcaption {{ max-width: var(--measure); margin-top: .4rem; }}
img, svg {{ max-width: 100%; height: auto; }}
.missed {{ color: var(--missed); }} .alarm {{ color: var(--alarm); }} .good {{ color: var(--good); }}
button, .button, select, input[type=file], input[type=text] {{ font: inherit; color: var(--ink);
  background: var(--paper); border: 1px solid var(--muted); border-radius: var(--round); padding: .45rem .9rem;
  min-height: 2.75rem; }}
button {{ cursor: pointer; }}
button.main {{ background: var(--accent); color: var(--accent-ink); border-color: transparent; font-weight: 600; }}
button:disabled {{ opacity: .55; cursor: default; }}
.unseen {{ position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }}
@media (prefers-reduced-motion: no-preference) {{ html {{ scroll-behavior: smooth; }} }}
@media print {{
  @page {{ size: A4; margin: 16mm 15mm 18mm; }}
  body {{ font-size: 10pt; }}
  main {{ max-width: none; padding: 0; }}
  h2, h3, caption {{ break-after: avoid; }}
  h2 {{ margin-top: 1.6rem; }}
  figure, .card, .tile, .notice, tr, pre {{ break-inside: avoid; }}
  thead {{ display: table-header-group; }}
  a {{ color: inherit; text-decoration: none; }}
  .screen {{ display: none; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""


def document(
    title: str,  # of the tab
    *body,  # FT components
    policy: str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'",  # what the browser may load
    style: str = "",  # styles of this document alone
    head: tuple = (),  # further components of the head
    lang: str = "en",
) -> str:  # an HTML document
    "The frame of every document: its policy first, then styles, then one `main`."
    metas = [
        Meta(charset="utf-8"),
        Meta(http_equiv="Content-Security-Policy", content=policy),
        Meta(name="viewport", content="width=device-width, initial-scale=1"),
        Meta(name="referrer", content="no-referrer"),
        Meta(name="robots", content="noindex"),
    ]
    whole = Html(
        Head(*metas, Title(title), Style(Safe(STYLE + style)), *head), Body(Main(*body)), lang=lang, doctype=False
    )
    return "<!doctype html>\n" + html(whole)


def html(
    *parts: FT,  # components
) -> str:
    "Components as text that UTF-8 can hold: bytes of a file name that are none become a question mark."
    text = "".join(to_xml(_as_text(part), indent=False) for part in parts)
    return text.encode("utf-8", "replace").decode("utf-8")


def _as_text(part):
    "The same components with every child that is no component as text: fastcore escapes text, and nothing else."
    if isinstance(part, FT):
        attrs = {k: v if isinstance(v, bool | Safe) or v is None else str(v) for k, v in part.attrs.items()}
        return FT(part.tag, tuple(map(_as_text, part.children)), attrs, part.void_)
    if isinstance(part, list | tuple):
        return tuple(map(_as_text, part))
    return part if part is None or isinstance(part, Safe) else str(part)
