"Suspect labels: held against cleanlab, found where they were flipped on purpose, drawn, and reviewed blindly."

import csv
import json
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest

from mura_fastai.errors import InputError
from mura_fastai.results.review import (
    choose_controls,
    format_review,
    read_review,
    review_result,
    write_review,
)
from mura_fastai.results.sheets import Entry, contact_sheet
from mura_fastai.results.suspects import (
    BETWEEN,
    COLUMNS,
    confident_learning,
    draw_suspects,
    find_suspects,
    format_suspects,
    suspects_of_run,
    suspects_to_json,
    write_suspects,
)


def invented(n=300, flips=15, seed=0, skill=1.5, abnormal=0.4):
    "Truth, labels with some flipped, and the calibrated probabilities of a reader: AUROC .86 at skill 1.5, .98 at 3."
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < abnormal).astype(int)
    seen = rng.normal(skill * truth, 1)
    odds = skill * seen - skill**2 / 2 + np.log(abnormal / (1 - abnormal))
    label = truth.copy()
    label[rng.choice(n, flips, replace=False)] ^= 1
    return truth, label, 1 / (1 + np.exp(-odds))


def table(label, p, views=1, region=None, root="pictures"):
    "A predictions table of studies with so many views each."
    rows = []
    for i, (y, q) in enumerate(zip(label, p, strict=True)):
        r = region[i] if region is not None else ("XR_HAND", "XR_WRIST")[i % 2]
        row = dict(split="valid", region=r, patient=f"p{i // 2}", study=f"{r}/p{i // 2}/study{i}", label=y)
        sign = "positive" if y else "negative"
        for v in range(1, views + 1):
            rows.append(row | dict(path=f"{root}/{i}_{sign}/{v}.png", view=v, p_abnormal=q))
    return pd.DataFrame(rows).astype({"label": "Int64"})


@pytest.fixture(scope="module")
def preds(tmp_path_factory):
    "60 studies of two views, six labels flipped, a small picture each."
    root, rng = tmp_path_factory.mktemp("suspects"), np.random.default_rng(3)
    _, label, p = invented(60, 8, seed=5, skill=2.5)
    preds = table(label, p, views=2, root=root)
    for path in preds["path"]:
        file = root / path
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (50, 60), dtype=np.uint8)).save(file)
    return preds


@pytest.fixture(scope="module")
def suspects(preds):
    return find_suspects(preds)


@pytest.fixture(autouse=True)
def no_figure_stays():
    open_before = plt.get_fignums()
    yield
    assert plt.get_fignums() == open_before


def words(fig):
    "All that is written in a figure."
    fig.draw_without_rendering()
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def pages(file):
    return file.read_bytes().count(b"/Type /Page\n") + file.read_bytes().count(b"/Type /Page ")


# ---------------------------------------------------------------- confident learning


@pytest.mark.parametrize("seed", range(12))
def test_the_confident_joint_and_its_off_diagonal_are_those_of_cleanlab(seed):
    count = pytest.importorskip("cleanlab.count")
    n, share = (40, 200, 1000)[seed % 3], (0.15, 0.5, 0.8)[seed % 4 % 3]
    _, label, p = invented(n, n // 15, seed, skill=(0.3, 1.0, 2.0)[seed % 3], abnormal=share)
    both, found = np.stack([1 - p, p], 1), confident_learning(label, p)
    joint, off = count.compute_confident_joint(label, both, calibrate=False, return_indices_of_off_diagonals=True)
    np.testing.assert_allclose(found.thresholds, count.get_confident_thresholds(label, both))
    np.testing.assert_array_equal(found.joint, joint)
    np.testing.assert_array_equal(np.flatnonzero(found.off_diagonal), sorted(off))
    # cleanlab rounds to whole studies
    np.testing.assert_allclose(found.estimate, count.compute_confident_joint(label, both), atol=1)
    np.testing.assert_allclose(found.estimate.sum(1), np.bincount(label))


@pytest.mark.parametrize("seed", range(6))
def test_the_list_and_its_order_are_those_of_cleanlab(seed):
    filter = pytest.importorskip("cleanlab.filter")
    _, label, p = invented(400, 20, seed, abnormal=(0.15, 0.5)[seed % 2])
    ours = find_suspects(table(label, p))
    how = dict(filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1)
    theirs = filter.find_label_issues(label, np.stack([1 - p, p], 1), **how)
    numbers = ours["study"].str.extract(r"study(\d+)$")[0].astype(int)
    assert numbers.tolist() == theirs.tolist() and len(theirs) > 10


def test_flipped_labels_are_found_as_well_as_the_network_knows():
    "1,000 studies, 5 % flipped: the better the network, the fewer of its own errors are in the list."
    told = {}
    for skill in (1.5, 3.0):
        truth, label, p = invented(1000, 50, seed=1, skill=skill)
        suspects = find_suspects(table(label, p))
        wrong, found = truth != label, suspects["study"].str.extract(r"study(\d+)$")[0].astype(int)
        told[skill] = wrong[found].mean(), wrong[found].sum() / 50, wrong[found[:20]].mean()
        assert suspects["doubt"].is_monotonic_decreasing
        assert suspects["rank"].tolist() == list(range(1, len(suspects) + 1))
    precision, recall, of_the_first = told[3.0]
    assert precision > 0.55 and recall > 0.7 and of_the_first > 0.9
    assert 0.15 < told[1.5][0] < precision and told[1.5][1] > 0.5


def test_a_network_that_knows_nothing_is_told_from_one_that_does():
    "The estimate of wrong labels follows the network's errors: no text may pass it off as a count."
    _, label, p = invented(600, 0, seed=2, skill=0.2)
    suspects = find_suspects(table(label, p))
    assert sum(suspects.attrs["estimate"].values()) > 100
    assert "counts its errors" in format_suspects(suspects)


def test_constant_probabilities_and_perfect_ones_end_in_no_error():
    label = np.array([0, 1] * 10)
    assert len(find_suspects(table(label, np.full(20, 0.3)))) <= 20
    nothing = find_suspects(table(label, label * 0.98 + 0.01))
    assert nothing.empty and tuple(nothing) == COLUMNS and "0 of 20 studies" in format_suspects(nothing)
    assert sum(nothing.attrs["estimate"].values()) == 0


# ---------------------------------------------------------------- the table


def test_a_row_is_a_study_with_all_its_views(preds, suspects):
    studies = preds.groupby("study")
    assert tuple(suspects) == COLUMNS and suspects["study"].is_unique and len(suspects) >= 3
    for row in suspects.itertuples():
        mine = studies.get_group(row.study)
        assert row.label == ("normal", "abnormal")[mine["label"].iloc[0]] != row.suggested
        assert row.paths.split(BETWEEN) == mine["path"].tolist() and row.n_views == 2
        assert row.p_abnormal == pytest.approx(mine["p_abnormal"].mean())
        assert row.doubt == pytest.approx(row.p_abnormal if row.suggested == "abnormal" else 1 - row.p_abnormal)
    assert (suspects[["verdict", "comment"]] == "").all(axis=None)


def test_the_table_that_was_given_is_not_changed_and_the_order_of_its_rows_does_not_matter(preds, suspects):
    before = preds.copy()
    shuffled = find_suspects(preds.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(preds, before)
    assert shuffled["study"].tolist() == suspects["study"].tolist()


def test_studies_without_a_label_are_counted_and_never_listed(preds):
    blank = preds["region"] == "XR_HAND"
    suspects = find_suspects(preds.assign(label=preds["label"].mask(blank)))
    assert set(suspects["region"]) <= {"XR_WRIST"}
    assert suspects.attrs["unlabelled"] == 30 and suspects.attrs["studies"] == 30


def test_what_cannot_be_looked_at_is_refused_with_the_remedy(preds):
    with pytest.raises(InputError, match=r"2 of 60 studies are of train.*--folds"):
        find_suspects(preds.assign(split=["train"] * 4 + ["valid"] * 116))
    with pytest.raises(InputError, match="0 labelled abnormal"):
        find_suspects(preds.assign(label=0))
    with pytest.raises(InputError, match="0 labelled normal and 0 labelled abnormal"):
        find_suspects(preds.drop(columns="label"))


def test_a_table_of_nothing_but_the_needed_columns_will_do(preds, suspects):
    bare = find_suspects(preds[["study", "label", "p_abnormal"]])
    assert bare["study"].tolist() == suspects["study"].tolist() and (bare["paths"] == "").all()
    with pytest.raises(InputError, match="without the paths"):
        draw_suspects(bare, preds[["study", "label", "p_abnormal"]])


def test_what_is_printed_fits_a_terminal_and_says_what_it_is_not(suspects):
    said = format_suspects(suspects, k=2)
    assert max(map(len, said.splitlines())) <= 100
    assert suspects["study"][0] in said and f"and {len(suspects) - 2} more" in said
    assert "A radiologist decides" in said and "not a medical device" in said


def test_json_holds_the_list_and_what_it_rests_on(suspects):
    told = json.loads(json.dumps(suspects_to_json(suspects), allow_nan=False))
    assert [r["study"] for r in told["list"]] == suspects["study"].tolist()
    assert told["list"][0]["paths"] == suspects["paths"][0].split(BETWEEN) and "verdict" not in told["list"][0]
    assert sum(told["suspects"].values()) == len(suspects) and told["splits"] == {"valid": 60}


# ---------------------------------------------------------------- files and pictures


def test_a_hostile_name_is_no_formula_in_a_spreadsheet(tmp_path):
    names = ["=cmd|' '!A1", "+1", "-2", "@SUM(A1)", "\tx", 'say "hi", he', "a\nb", "\udcff", "骨"]
    label = np.array([0] * 30 + [1] * 30)
    p = np.where(label == 1, 0.9, 0.1)
    p[: len(names)] = 0.99
    preds = table(label, p)
    preds.loc[: len(names) - 1, "study"] = names
    preds.loc[: len(names) - 1, "path"] = [f"{n}.png" for n in names]
    write_suspects(find_suspects(preds), preds.drop(columns="path"), tmp_path)
    with open(tmp_path / "suspects.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["study"].removeprefix("'") for r in rows] == sorted(names)
    assert not [c for r in rows for c in r.values() if c.startswith(("=", "+", "-", "@", "\t"))]


def test_every_suspect_is_in_the_list_and_the_first_are_drawn(tmp_path, preds):
    suspects = find_suspects(preds.assign(p_abnormal=np.where(preds["label"] == 1, 0.1, 0.9)))
    assert len(suspects) == 60
    written = write_suspects(suspects, preds, tmp_path, k=26)
    assert [f.name for f in written] == ["suspects.csv", "suspects.pdf"] and pages(written[1]) == 3
    kept = pd.read_csv(written[0], keep_default_na=False)
    assert kept["study"].tolist() == suspects["study"].tolist() and list(kept) == list(COLUMNS)
    # another time there is nothing to draw
    assert write_suspects(suspects[:0], preds, tmp_path) == written[:1] and not written[1].exists()


def test_a_page_shows_every_view_with_label_suggestion_probability_and_region(preds, suspects):
    fig = draw_suspects(suspects, preds)
    said, row = words(fig), suspects.iloc[0]
    assert sum(len(ax.images) for ax in fig.axes) == 2 * len(suspects)
    assert f"1   labelled {row['label']}" in said and f"looks {row['suggested']}, p = " in said
    assert row["region"] in said and row["study"].removeprefix(f"{row['region']}/") in said
    assert "may not be shared" in said and "not a medical device" in said


def test_numbers_on_a_later_page_are_those_of_the_list(preds, suspects):
    said = words(draw_suspects(suspects[2:], preds))
    assert f"Suspects 3 to {len(suspects)} of {len(suspects)}" in said
    assert "3   labelled" in said and "1   labelled" not in said


def test_no_view_of_a_study_is_left_out_and_nothing_overlaps(preds):
    entries = [Entry(preds["path"][:7].tolist(), ["one"]), Entry(preds["path"][7:9].tolist(), ["two"])]
    fig = contact_sheet(entries, "title", [("note", "black")], across=4)
    assert sum(len(ax.images) for ax in fig.axes) == 9 and "one, continued" in words(fig)
    boxes = [ax.get_window_extent() for ax in fig.axes]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(fig.bbox.x0 <= b.x0 and b.x1 <= fig.bbox.x1 and b.y0 >= fig.bbox.y0 for b in boxes)


def test_captions_stay_over_their_own_study(preds, suspects):
    fig = draw_suspects(suspects.assign(study="XR_SHOULDER/" + suspects["study"], region="A very long region name"),
        preds.assign(study="XR_SHOULDER/" + preds["study"]).drop_duplicates("study"))  # fmt: skip
    fig.draw_without_rendering()
    boxes = [t.get_window_extent() for t in fig.texts if t.get_text().strip()]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_a_missing_picture_is_a_grey_box_and_a_formula_is_text(preds, suspects):
    study = suspects["study"][0]
    odd = preds.replace({"study": {study: "$\\frac{1}$"}}).assign(path="gone.png")
    fig = draw_suspects(suspects[:1].assign(study="$\\frac{1}$"), odd)
    fig.canvas.draw()  # a formula would fail here
    assert words(fig).count("picture not available") == 2 and "$\\frac{1}$" in words(fig)


# ---------------------------------------------------------------- of a run


def test_of_a_run_the_rows_are_decided_as_it_decides(run, tmp_path):
    from mura_fastai.results.calibrate import Decision, write_decision
    from mura_fastai.results.scoring import predictions_of

    own = shutil.copytree(run, tmp_path / "run")
    decision = Decision(0.4, temperature=0.5, pool="max")
    write_decision(decision, own)
    suspects, preds = suspects_of_run(own)
    expected = find_suspects(preds, decision.apply(predictions_of(own)))
    pd.testing.assert_frame_equal(suspects, expected)
    assert suspects.attrs["splits"] == {"valid": preds["study"].nunique()} and "path" in preds
    tune, _ = suspects_of_run(own, split="tune")
    assert "studies are of tune" in format_suspects(tune)


def test_a_run_is_not_asked_about_labels_that_it_has_learnt(run, root):
    with pytest.raises(InputError, match="--folds"):
        suspects_of_run(run, split="train")
    with pytest.raises(InputError, match="--folds"):
        suspects_of_run(run, root, split="train")
    # the same files, called valid by a table of one's own
    known = pd.read_csv(run / "images.csv").query("split == 'train'").assign(split="valid")
    known["path"] = [str(Path(p).relative_to(root.parent)) for p in known["path"]]
    file = root.parent / "relabelled.csv"
    known[["path", "label", "split", "region", "patient"]].to_csv(file, index=False)
    with pytest.raises(InputError, match=f"trained on {len(known)} of these {len(known)} images"):
        suspects_of_run(run, file)


@pytest.mark.slow
def test_folds_and_seeds_give_every_study_the_mean_of_networks_that_never_saw_it(images, tmp_path):
    from mura_fastai.results.calibrate import read_decision
    from mura_fastai.results.repeats import evaluate_repeats
    from mura_fastai.results.scoring import evaluate_run
    from mura_fastai.results.tables import read_predictions
    from mura_fastai.training.repeats import sub_runs, train_repeats

    mine = images.copy()
    mine.attrs["official"] = []
    how = dict(folds=2, seeds=2, size=40, epochs=1, bs=8, num_workers=1)
    out = train_repeats(mine, tmp_path / "cv", lambda r: evaluate_run(r, ci=None), **how)
    evaluate_repeats(out, None)
    suspects, preds = suspects_of_run(out)
    assert suspects.attrs["studies"] == images["study"].nunique() == preds["study"].nunique()
    each = pd.concat([read_decision(r).apply(read_predictions(r / "predictions.csv")) for r in sub_runs(out)])
    p = each.groupby("study")["p_abnormal"].agg(["mean", "size"])
    assert (p["size"] == 2).all()
    np.testing.assert_allclose(suspects["p_abnormal"], p["mean"].loc[suspects["study"]])
    with pytest.raises(InputError, match="several runs"):
        suspects_of_run(out, split="tune")


# ---------------------------------------------------------------- the blinded review


def test_the_worksheet_and_its_pictures_do_not_tell_the_label(tmp_path, preds, suspects):
    sheet, pdf, key = write_review(suspects, preds, tmp_path)
    text = sheet.read_text()
    assert text.splitlines()[0] == "number,region,n_views,verdict,comment"
    assert not [w for w in ("positive", "negative", "normal", "study", "/p", "suspect") if w in text]
    assert pdf.name == "review.pdf" and pages(pdf) >= 1
    rows = pd.read_csv(key)
    assert rows["kind"].value_counts().to_dict() == {"suspect": len(suspects), "control": len(suspects)}
    assert len(set(rows["kind"][: len(suspects)])) == 2 and rows["study"].is_unique  # mixed
    assert rows["number"].tolist() == list(range(1, 2 * len(suspects) + 1))


def test_the_pages_of_a_review_show_numbers_and_all_views_only(preds, suspects, tmp_path, monkeypatch):
    from mura_fastai.results import review

    drawn = []
    monkeypatch.setattr(review, "contact_sheet", lambda *a, **k: drawn.append(contact_sheet(*a, **k)) or drawn[-1])
    write_review(suspects, preds, tmp_path)
    said = "\n".join(map(words, drawn))
    assert "labelled" not in said and "p = " not in said and "study" not in said and "Normal or abnormal?" in said
    assert sum(len(ax.images) for fig in drawn for ax in fig.axes) == 4 * len(suspects)
    assert len({ax.spines["top"].get_edgecolor() for fig in drawn for ax in fig.axes}) == 1


def test_controls_have_the_labels_and_regions_of_the_suspects(preds, suspects):
    controls = choose_controls(suspects, preds, len(suspects))
    assert not set(controls["study"]) & set(suspects["study"]) and controls["study"].is_unique
    pairs = [t.groupby(["label", "region"]).size().to_dict() for t in (controls, suspects)]
    assert pairs[0] == pairs[1]
    other = choose_controls(suspects, preds, len(suspects), seed=1)
    assert set(other["study"]) != set(controls["study"])


def test_where_all_are_suspects_there_are_no_controls(preds, tmp_path):
    everybody = find_suspects(preds.assign(p_abnormal=np.where(preds["label"] == 1, 0.1, 0.9)))
    write_review(everybody, preds, tmp_path)
    assert review_result(read_review(tmp_path)).loc["control", "given"] < len(everybody)


def fill(folder, answer, **how):
    "A reader fills in the worksheet: `answer` of each number."
    rows = pd.read_csv(folder / "review.csv", dtype=str, keep_default_na=False)
    rows["verdict"] = [answer(int(n)) for n in rows["number"]]
    rows.sample(frac=1, random_state=2).to_csv(folder / "review.csv", index=False, **how)


@pytest.mark.parametrize("how", [{}, {"sep": ";"}, {"sep": ";", "encoding": "utf-8-sig"}])
def test_a_filled_worksheet_is_read_as_spreadsheets_save_it(tmp_path, preds, suspects, how):
    write_review(suspects, preds, tmp_path, k=3)
    key = pd.read_csv(tmp_path / "review-key.csv").set_index("number")
    first, other = key.index[key["kind"] == "suspect"][:2]

    def answer(n):
        if n == first:
            return "Cannot  tell"
        label = key.loc[n, "label"]
        return {"normal": " ABNORMAL", "abnormal": "normal "}[label] if n == other else label

    fill(tmp_path, answer, **how)
    result = review_result(read_review(tmp_path))
    n = 3
    assert result.loc["suspect", ["given", "judged", "cannot_tell", "wrong"]].tolist() == [n, n - 1, 1, 1]
    assert result.loc["control", ["given", "judged", "cannot_tell", "wrong"]].tolist() == [n, n, 0, 0]
    for kind, k, of in (("suspect", 1, n - 1), ("control", 0, n)):
        ends = binomtest(k, of).proportion_ci(method="wilson")
        ours = result.loc[kind, ["share_lo", "share_hi"]].astype(float)
        np.testing.assert_allclose(ours, [ends.low, ends.high], atol=1e-9)
    assert max(map(len, format_review(result).splitlines())) <= 100


def test_a_worksheet_that_nobody_filled_in_has_no_share(tmp_path, preds, suspects):
    write_review(suspects, preds, tmp_path, k=3)
    result = review_result(read_review(tmp_path))
    assert result["share"].isna().all() and (result["judged"] == 0).all() and "n/a" in format_review(result)


def test_mistakes_in_a_worksheet_are_named_with_their_line(tmp_path, preds, suspects):
    write_review(suspects, preds, tmp_path, k=3)
    sheet = (tmp_path / "review.csv").read_text()
    for wrong, told in (
        (sheet.replace(",2,,", ",2,maybe,", 1), r"line 2: verdict 'maybe'"),
        (sheet.replace("1,XR_", "1,YR_", 1), r"belongs to another worksheet"),
        (sheet + "999,XR_HAND,2,,\n", r"number '999' is not in the key"),
        (sheet + sheet.splitlines()[1] + "\n", r"is there twice"),
        ("a,b\n1,2\n", r"no column number, region, verdict"),
        (sheet.replace("verdict", "opinion", 1), r"no column verdict"),  # not a worksheet that nobody filled in
    ):
        (tmp_path / "review.csv").write_text(wrong)
        with pytest.raises(InputError, match=told):
            read_review(tmp_path)
    with pytest.raises(InputError, match="missing"):
        read_review(tmp_path / "nowhere")
    (tmp_path / "review.csv").write_text(sheet)
    (tmp_path / "review-key.csv").write_text(sheet)
    with pytest.raises(InputError, match="review-key.csv: no column kind, label"):
        read_review(tmp_path)


def test_what_spreadsheets_leave_behind_does_no_harm(tmp_path, preds, suspects):
    write_review(suspects, preds, tmp_path, k=3)
    sheet = (tmp_path / "review.csv").read_text()
    first = sheet.splitlines()[1]
    odd = sheet.replace(first, first[:-1] + "normal,one\u2028two\x0bthree") + ",,,,\n\n"
    (tmp_path / "review.csv").write_text(odd, encoding="utf-8")
    review = read_review(tmp_path)
    assert len(review) == 6 and (review["verdict"] == "normal").sum() == 1
    assert "one\u2028two\x0bthree" in set(review["comment"])


def test_verdicts_are_not_written_over(tmp_path, preds, suspects):
    write_review(suspects, preds, tmp_path, k=3)
    write_review(suspects, preds, tmp_path, k=3)  # an empty one may be
    fill(tmp_path, lambda n: "normal")
    with pytest.raises(InputError, match="holds verdicts or comments already"):
        write_review(suspects, preds, tmp_path, k=3)
    assert (read_review(tmp_path)["verdict"] == "normal").all()
    (tmp_path / "review-key.csv").unlink()  # the key may be kept elsewhere, and a comment is work, too
    fill(tmp_path, lambda n: "")
    rows = pd.read_csv(tmp_path / "review.csv", dtype=str, keep_default_na=False)
    rows.assign(comment="look again").to_csv(tmp_path / "review.csv", index=False)
    with pytest.raises(InputError, match="holds verdicts or comments already"):
        write_review(suspects, preds, tmp_path, k=3)


def test_a_list_that_somebody_has_filled_in_is_not_written_over(tmp_path, preds, suspects):
    file = write_suspects(suspects, preds, tmp_path, k=1)[0]
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    rows.assign(verdict="abnormal").to_csv(file, index=False)
    with pytest.raises(InputError, match="suspects.csv: holds verdicts"):
        write_suspects(suspects, preds, tmp_path, k=1)
    assert (pd.read_csv(file)["verdict"] == "abnormal").all()
