"""The page as HTML: the form, one answer, the examples, and what all of it rests on. It works without its script."""

import base64
import hashlib
import io

import numpy as np
from fastcore.xml import (
    FT,
    H1,
    H2,
    H3,
    Article,
    Button,
    Dd,
    Details,
    Div,
    Dl,
    Dt,
    Fieldset,
    Figcaption,
    Figure,
    Form,
    Img,
    Input,
    Label,
    Legend,
    Li,
    Link,
    Option,
    P,
    Safe,
    Script,
    Section,
    Select,
    Span,
    Strong,
    Summary,
    Ul,
    ft,
)
from PIL import Image

from mura_fastai.results.heatmaps import overlay
from mura_fastai.share import app_scale, look
from mura_fastai.share.app_answers import Answer, LoadedRun, View
from mura_fastai.share.app_examples import Example, match_regions
from mura_fastai.share.app_script import SCRIPT
from mura_fastai.share.app_style import STYLE
from mura_fastai.share.app_uploads import MAX_BYTES, MAX_FILES, SUFFIXES, Refused
from mura_fastai.share.app_words import NOT_SAID, RESEARCH, apart, clean, grounds, region_name, shown, words_of

OTHER = "other"  # the choice that stands for a region which the run does not know
ICON = "data:image/svg+xml," + (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' "
    "fill='%230b5cad'/%3E%3Cpath d='M4 12 12 4' stroke='white' stroke-width='3' stroke-linecap='round'/%3E%3C/svg%3E"
)


def _hash(text: str) -> str:
    "A policy's name for one text that stands in the page."
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE = app_scale.STYLE + STYLE
# The page may load what stands in it and nothing else: no other address, no script or style but these two.
_POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(look.STYLE + _STYLE)}; img-src data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'"
)
POLICY = _POLICY + "; frame-ancestors 'none'"  # as a header: this part counts in no other place


def page(
    run: LoadedRun,
    answer: FT | None = None,  # what the form was answered with, where it was sent without the script
    refused: Refused | None = None,  # or why it was not
) -> str:  # an HTML document
    "The whole page."
    tell = problem(refused) if refused else ""
    return look.document(
        f"mura app: {run.name}",
        P(Strong("Research only."), Span(RESEARCH.partition(".")[2]), cls="always", role="note"),
        Div(
            H1("Is this bone study normal or abnormal?"),
            P(f"What the run {run.name} says of radiographs. They stay on the machine that runs it, in memory, "
              "and are forgotten with the answer.", cls="muted"),
            cls="head",
        ),
        Div(
            _form(run, tell),
            Section(
                H2("Answer", cls="unseen"), answer or _nothing_yet(), id="answer", aria_label="Answer"
            ),
            Div(_history(), _examples(run), _about(run), cls="side"),
            cls="desk",
        ),
        ft("dialog", id="large", aria_label="Enlarged view"),
        Script(Safe(SCRIPT)),
        policy=_POLICY,
        style=_STYLE,
        head=(Link(rel="icon", href=ICON),),
    )  # fmt: skip


def _form(run: LoadedRun, tell) -> FT:
    "What is sent: images, and their region."
    types, limit = ",".join(SUFFIXES) + ",image/png,image/jpeg", f"{MAX_BYTES // 2**20} MB"
    options = [Option("as the file's path says", value="", id="by-path")]
    options += [Option(region_name(r), value=r) for r in run.regions]
    if OTHER not in run.regions:  # a folder of images may be called so
        options += [Option("another region (not trained on)", value=OTHER)]
    return Form(
        H2("One study"),
        Div(tell, id="problem-place"),
        Fieldset(
            Legend("Images"),
            Div(Label("All views of the study", fr="files"),
                Input(type="file", id="files", name="file", multiple=True, accept=types, aria_describedby="rules"),
                cls="field"),
            Div(Label("or the folder that holds them", fr="folder"),
                Input(type="file", id="folder", name="file", multiple=True, webkitdirectory=True), cls="field"),
            P(f"PNG or JPEG, up to {MAX_FILES} files and {limit} in all.",
              Span(" Drop them here, or paste a picture.", cls="js"), id="rules", cls="muted"),
            Ul(id="chosen", aria_label="Chosen images", cls="chosen"),
            id="drop", cls="drop",
        ),
        Div(Label("Region", fr="region"), Select(*options, id="region", name="region"),
            P("", id="told", cls="muted"), cls="field"),
        Button("Look at this study", type="submit", id="send", cls="main"),
        P("", id="status", role="status", cls="muted"),
        id="form", cls="card", method="post", action="/study", enctype="multipart/form-data",
        data_files=MAX_FILES, data_bytes=MAX_BYTES,
    )  # fmt: skip


def _nothing_yet() -> FT:
    return Div(
        P("The answer comes here: what the network calls the study, how sure that is, and a heat map of each view."),
        P("No study at hand? ", ft("a", "Let the page draw one", href="#examples-title"), ".", cls="muted"),
        cls="card empty",
    )


def _history() -> FT:
    "Filled by the script; what it holds is in the browser alone."
    return Section(
        Div(H2("Studies so far", id="history-title"), Button("Clear", type="button", id="clear"), cls="row"),
        ft("ol", id="history", cls="history"),
        P("Kept in this window until it is reloaded, closed or cleared.", cls="muted"),
        id="history-part", aria_labelledby="history-title", cls="card", hidden=True,
    )  # fmt: skip


def _examples(run: LoadedRun) -> FT:
    "Buttons that have a study drawn."
    buttons = [
        Button(region_name(name), type="submit", name="region", value=name) for name in match_regions(run.regions)
    ]
    return Section(
        H2("Example studies", id="examples-title"),
        P("Drawn by a program, a new one each time, normal or abnormal. They show how the page works, not how good the "
          "network is: one that was trained on radiographs has never seen such drawings.", cls="muted"),
        Form(Div(*buttons, cls="buttons", role="group", aria_labelledby="examples-title"),
             id="examples", method="post", action="/example"),
        cls="card", aria_labelledby="examples-title",
    )  # fmt: skip


def _about(run: LoadedRun) -> FT:
    rows = [part for term, what in grounds(run.record, run.decision, run.settings) for part in (Dt(term), Dd(what))]
    return Details(Summary("What all answers rest on"), Dl(*rows), cls="card about")


def problem(
    refused: Refused,
) -> FT:
    "Why there is no answer, beside the field or the files that are to blame."
    files = Ul(*[Li(Strong(shown(f.path)), f": {f.reason}") for f in refused.faults]) if refused.faults else ""
    return Div(P(refused.why), files, id="problem", role="alert", cls="notice", data_field=refused.field)


def answer_part(
    answer: Answer,
    run: LoadedRun,
    example: Example | None = None,  # where the study was drawn by the page itself
) -> FT:
    "One answer: the verdict first, then why, then the views."
    words, (p, threshold) = words_of(answer, run.record, run.decision), apart(answer.p_abnormal, answer.threshold)
    name = "Example" if example else clean(answer.name)
    region = region_name(example.region if example else answer.region)
    top = H2(Span("▲ " if answer.abnormal else "● ", aria_hidden="true"), words.verdict, id="verdict", tabindex="-1")
    of = run.record.comparable(answer.region)[1]
    n, said = len(answer.views), "abnormal" if answer.abnormal else "normal"
    what = f"{name}, {region}, {n} view{'s' if n != 1 else ''}, {answer.seconds:.2f}\u00a0s"
    lost = [Li(Strong(shown(f.path)), f": {f.reason}") for f in answer.unreadable]
    cautions = [Li(c) for c in words.cautions]
    return Article(
        Div(top, P(what, cls="muted"), cls=f"verdict {said}"),
        P(words.probability, cls="lead"),
        _drawn(example) if example else "",
        app_scale.scale(p, threshold, run.record.histogram(answer.region), region_name(of) if of else ""),
        Div(H3("Less sure than it looks"), Ul(*cautions), cls="notice") if cautions else "",
        Div(H3("Files that could not be used"), Ul(*lost), cls="notice") if lost else "",
        H3("What it means"),
        *[P(sentence) for sentence in words.meaning],
        H3("The views, and where the network saw something"),
        _legend() if run.mapper else P(f"No heat maps: {run.why_no_heat}", cls="muted"),
        Div(*[_view(i, view) for i, view in enumerate(answer.views, 1)], cls="views"),
        P(NOT_SAID, " ", RESEARCH, cls="muted"),
        cls="answer card",
        data_name=name, data_region=region, data_p=p, data_said=said,
    )  # fmt: skip


def _drawn(example: Example) -> FT:
    "The truth, behind a button: whoever likes may guess first."
    return Details(
        Summary("Drawn by a program. What was it?"), P(example.truth()), cls="truth"
    )  # fmt: skip


def _view(number: int, view: View) -> FT:
    "A view beside its heat map, with words for those who see neither."
    h, w = view.shape
    name = shown(view.name, 40)
    pictures, told = [Img(src=_png(view.grey), alt=f"View {number}: radiograph {name}, {w} x {h} pixels")], ""
    if view.heat is not None:
        told = f"Heat map: hottest {view.place}." if view.place else "Heat map: nothing raised the probability."
        pictures.append(Img(src=_jpeg(view.heat), alt=f"View {number}. {told}"))
    words = Span(Strong(f"View {number}"), f" {name}. This view alone: {view.p_abnormal:.2f}. {told}")
    return Figure(Div(*pictures, cls="pair"), Figcaption(words), cls="view")


def _legend() -> FT:
    "What the colours mean."
    ramp = overlay(np.full((12, 240), 96, np.uint8), np.linspace(0, 1, 240, dtype=np.float32)[None].repeat(12, 0), 1.0)
    return P("nothing ", Img(src=_png(ramp), alt="to", cls="ramp"), " most of this study; one scale for its views.",
             cls="muted legend")  # fmt: skip


def _png(a: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(a).save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _jpeg(a: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(a).save(out, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
