"A state may come by mail, and be made up with care: it is a run's own, or refused in one line before anything is done."

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from invented import begin_run, invent_state
from safetensors.torch import load_file, save
from torch import nn
from whole import unpacked

from mura_fastai.errors import InputError, TrainingError
from mura_fastai.models.weights import fill
from mura_fastai.training.beside import best_file
from mura_fastai.training.best import save_best
from mura_fastai.training.resume import resume_run
from mura_fastai.training.state import DamagedState, State, packed, read_state, read_told, state_file, write_state


@pytest.fixture(scope="module")
def few(images):
    return pd.concat([images[images.split == s].head(n) for s, n in (("train", 24), ("tune", 4), ("valid", 4))])


@pytest.fixture(scope="module")
def begun(few, tmp_path_factory):
    "A run that was ended in its second epoch, its losses scaled, on a plateau. Nobody changes it: copy it first."
    run = tmp_path_factory.mktemp("begun") / "run"
    begin_run(few, run)
    return run


@pytest.fixture
def half(begun, tmp_path):
    "A copy that a test may change."
    return Path(shutil.copytree(begun, tmp_path / "half"))


def rewrite(run, change):
    "Another state in the place of a run's own: `change` is given its plain values and its tensors."
    state = unpacked(state_file(run).read_bytes())
    change(state.told, state.tensors)
    state_file(run).write_bytes(packed(State(state.told, {k: v.clone() for k, v in state.tensors.items()})))


def files(run):
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def other(**values):
    return lambda told, _: told.update(values)


def beyond(told, _):
    told["random"]["numpy"][2] = 625


def beyond_python(told, _):
    told["loaders"][0][1][-1] = 10**6


def torch_beyond(_, tensors):
    "Both 624: PyTorch's own test lets it pass, and then reads on behind its table."
    tensors["random.torch"][8:12] = torch.tensor([624], dtype=torch.int32).view(torch.uint8)
    tensors["random.torch"][16:24] = torch.tensor([624]).view(torch.uint8)


def form(name, *shape, dtype=torch.float32):
    return lambda _, tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)})


WEIGHT = "model.body.bn2.weight"
INVENTED = {
    "an epoch after the last": (other(place=[0, 3, 0]), "place .* is beyond"),
    "a batch after the last": (other(place=[0, 1, 10**10]), "place .* is beyond"),
    "a second fit": (other(place=[1, 0, 0]), "place .* is beyond"),
    "a place below 0": (other(place=[0, -1, 0]), "place is"),
    "a place in floats": (other(place=[0.0, 1.0, 1.0]), "place is"),
    "an epoch without a row": (other(place=[0, 0, 1]), "do not go with its place"),
    "ended too soon": (other(done=True), "do not go with its place"),
    "a row of other names": (lambda told, _: told["rows"][0].update({"=cmd": 1.0}), "row 0"),
    "a row of other scores": (lambda told, _: told["rows"][0].update(f1=1.0), "history has"),
    "a row with text": (lambda told, _: told["rows"][0].update(lr="x"), "rows is"),
    "a best epoch to come": (other(best=[0.5, 7]), "best epoch is 7"),
    "no best epoch": (other(best=[None, None]), "best epoch is None"),
    "no learning rates": (lambda told, _: told.pop("groups"), "groups is missing"),
    "another number of groups": (lambda told, _: told["groups"].append(told["groups"][0]), "groups of parameters"),
    "a rate that is no number": (lambda told, _: told["groups"][0].update(lr=float("nan")), "groups is"),
    "no plateau": (other(plateau=[]), "schedule is another"),
    "no word of scaled losses": (lambda told, _: told.pop("scaler"), "scaler is missing"),
    "no scaled losses": (other(scaler=None), "precision is another"),
    "a scale that is text": (lambda told, _: told["scaler"].update(scale="9"), "scaler is"),
    "settings of another kind": (other(settings=[]), "settings is"),
    "no data in the settings": (lambda told, _: told["settings"].pop("data"), "settings is"),
    "NumPy behind its table": (beyond, "random is"),
    "a loader behind its table": (beyond_python, "loaders is"),
    "PyTorch behind its table": (torch_beyond, "random.torch is no generator"),
    "a generator cut short": (form("random.torch", 100, dtype=torch.uint8), "random.torch is no generator"),
    "a generator of floats": (form("random.torch", 5056), "random.torch is 5056 float32"),
    "marks of fewer files": (form("data.stamps", 3, dtype=torch.int64), "of 3 files"),
    "one mark for all files": (form("data.stamps", 1, dtype=torch.int64), "of 1 files"),
    "marks that are no numbers": (form("data.stamps", 32, dtype=torch.complex64), "data.stamps is 32 complex64"),
    "pixels of fewer files": (form("data.pixels", 3, dtype=torch.int64), "data.pixels of 3"),
    "pixels that are no numbers": (form("data.pixels", 32), "data.pixels is 32 float32"),
    "two smoothed losses": (form("smooth.val", 2), "smooth.val is 2 float32"),
    "weights of another shape": (form(WEIGHT, 7), f"{WEIGHT} is 7 float32, not"),
    "weights that are true or false": (form(WEIGHT, 256, dtype=torch.bool), f"{WEIGHT} is 256 bool, not"),
    "weights that are missing": (lambda _, t: t.pop(WEIGHT), f"{WEIGHT} is missing, not"),
    "weights too many": (form("model.x", 1), "model.x is 1 float32, not missing"),
    "a step of no parameter": (form("opt.999.step"), "opt.999.step is one float32, not missing"),
    "a step that is no number": (form("opt.x.step"), "opt.x.step is one float32, not missing"),
    "steps below 0": (lambda _, t: t["opt.0.step"].fill_(-1), "opt.0.step is -1"),
    "half of what Adam knows": (lambda _, t: t.pop("opt.0.exp_avg"), "opt.0.exp_avg is missing, not"),
    "moments of another kind": (form("opt.0.exp_avg", 1, dtype=torch.float8_e4m3fn), "opt.0.exp_avg is 1 float8"),
}


@pytest.mark.parametrize("name", INVENTED)
def test_an_invented_state_is_refused_and_nothing_changes(half, name):
    change, words = INVENTED[name]
    rewrite(half, change)
    before = files(half)
    with pytest.raises(DamagedState, match=f"^{state_file(half)}: .*{words}.* train anew into another folder") as e:
        resume_run(half)
    assert "\n" not in str(e.value)
    assert files(half) == before


def test_inventions_end_well_or_in_our_words(half):
    "Other ones each time; the message names the seed."
    seed, real = int.from_bytes(os.urandom(2)), state_file(half).read_bytes()
    for i in range(10):
        state_file(half).write_bytes(invent_state(real, np.random.default_rng([seed, i])))
        run = Path(shutil.copytree(half, half.parent / f"copy{i}"))
        before = files(run)
        try:
            resume_run(run)
        except InputError as e:
            assert "\n" not in str(e) and files(run) == before, f"seed {[seed, i]}"
        except TrainingError as e:  # it had begun to learn
            assert "\n" not in str(e), f"seed {[seed, i]}"
        except Exception as e:
            raise AssertionError(f"seed {[seed, i]}") from e


def test_the_end_is_told_by_values_with_a_checksum_of_their_own(half):
    "Whether a run has ended is asked without reading its weights."
    file, real = state_file(half), state_file(half).read_bytes()
    for words, other in ((b'"lr\\": 0.00', b'"lr\\": 0.01'), (b'"check_told":"', b'"check_told":"x')):
        assert real.count(words)
        held = real.replace(words, other, 1)
        held = (len(held) - len(real) + int.from_bytes(real[:8], "little")).to_bytes(8, "little") + held[8:]
        file.write_bytes(held)
        with pytest.raises(DamagedState, match="checksum is another"):
            read_told(half)
    file.write_bytes(real)
    assert read_told(half)["place"] == [0, 1, 1]


def test_a_state_of_an_earlier_version_has_one_checksum(half):
    state = unpacked(state_file(half).read_bytes())
    held = packed(state)
    header = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])["__metadata__"]
    del header["check_told"]
    state_file(half).write_bytes(save(state.tensors, metadata=header))
    assert read_told(half)["place"] == [0, 1, 1]
    resume_run(half)
    assert read_told(half)["done"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such pipes")
def test_a_pipe_in_the_place_of_a_state_is_not_waited_for(half):
    state_file(half).unlink()
    os.mkfifo(state_file(half))
    with pytest.raises(InputError, match=r"cannot be read now \(it is no file\)"):
        resume_run(half)


def test_a_header_without_end_is_not_read(half):
    with open(state_file(half), "rb+") as f:
        f.write((2**40).to_bytes(8, "little"))
    with pytest.raises(DamagedState, match="its header has no end"):
        resume_run(half)


def test_best_weights_are_not_replaced_by_those_of_another_network(half):
    "A crash can have swallowed the best weights of the last epoch; a state of other ones must not take their place."
    resume_run(half)
    assert read_told(half)["done"]
    (half / "predictions.csv").write_text("kept")

    def widen(told, tensors):
        told["best"][1] = 1
        tensors[WEIGHT] = torch.zeros(7)

    rewrite(half, widen)
    before = files(half)
    with pytest.raises(InputError, match=f"best.safetensors: of another network .*{WEIGHT[6:]} is 256 float32"):
        resume_run(half)
    assert files(half) == before


# ---------------------------------------------------------------- two names for one tensor


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("part", self.a.bias.detach()[:2])


def test_tied_weights_are_kept_under_both_names(tmp_path):
    net, again = Tied(), Tied()
    save_best(tmp_path, net.state_dict(), 0)
    fill(again, best_file(tmp_path))
    for k, v in net.state_dict().items():
        assert torch.equal(again.state_dict()[k], v), k
    assert again.b.weight is again.a.weight
    assert load_file(best_file(tmp_path)).keys() == net.state_dict().keys()


def test_a_state_holds_tied_weights(half):
    state = read_state(half)
    one = state.tensors["smooth.val"]
    write_state(half, State(state.told, state.tensors | {"model.tied": one, "model.tied_too": one}))
    kept = read_state(half).tensors
    assert torch.equal(kept["model.tied"], one) and torch.equal(kept["model.tied_too"], one)
