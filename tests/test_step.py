"""One step of training: fastai's optimizer and records, in fewer kernels and without waiting for the device."""

import math
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from torch import nn

from mura_fastai.data.loaders import mura_dls
from mura_fastai.errors import InputError, TrainingError
from mura_fastai.models.cnn import MuraCNN
from mura_fastai.training.learner import RouteBatch, mura_learner
from mura_fastai.training.optimizer import fused_adam
from mura_fastai.training.precision import precision_cbs, resolve_precision
from mura_fastai.training.recording import Arriving

SIZE, BS = 40, 16
CPU = torch.device("cpu")


def tiny():
    return MuraCNN(widths=(4, 8), grid=2, hidden=8)


def quietly(learn, method, *args, **kwargs):
    with learn.no_bar(), learn.no_logging():
        return getattr(learn, method)(*args, **kwargs)


# ---------------------------------------------------------------- the optimizer


def trained(opt_func, steps=30):
    "Weights after some steps with rates, momentum and decay that change as a schedule changes them."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
    opt = opt_func([list(net[:2].parameters()), list(net[2:].parameters())], lr=1e-2)
    for p in (net[0].bias, net[1].weight, net[1].bias, net[4].bias):
        opt.state[p]["do_wd"] = False  # as a Learner tells fastai's optimizer
    x, y = torch.randn(16, 1, 8, 8), torch.randn(16, 1)
    for i in range(steps):
        opt.set_hyper("lr", [1e-3, 1e-2])
        opt.set_hyper("wd", 0.1)
        opt.set_hyper("mom", 0.95 - 0.01 * (i % 3))
        F.mse_loss(net(x), y).backward()
        opt.step()
        opt.zero_grad()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_the_fused_optimizer_steps_as_fastais_adam():
    ours, theirs = trained(fused_adam), trained(Adam)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
    assert (ours - trained(fused_adam, steps=29)).abs().max() > 1e-3  # a step would be seen


def test_biases_and_norms_are_spared_the_decay():
    net = nn.Linear(3, 2)
    opt = fused_adam([list(net.parameters())], lr=0.1, wd=0.5)
    weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
    net.weight.grad, net.bias.grad = torch.zeros(2, 3), torch.zeros(2)
    opt.step()
    torch.testing.assert_close(net.weight.detach(), weight * (1 - 0.1 * 0.5))
    assert torch.equal(net.bias.detach(), bias) and opt.hypers[0]["wd"] == 0.5


# ---------------------------------------------------------------- precision


def test_auto_is_what_the_device_has_and_other_words_are_refused():
    assert resolve_precision("auto", CPU) in ("bf16", "fp32")
    assert resolve_precision("fp16", CPU) == "fp16" and precision_cbs("fp32") == []
    with pytest.raises(InputError, match="unknown precision 'int8'; the known ones are auto, fp32, bf16, fp16"):
        resolve_precision("int8", CPU)


@pytest.mark.parametrize(
    "precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_training_computes_in_the_precision_and_validation_in_full(images, precision, dtype):
    set_seed(0)
    learn, seen = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision=precision), set()
    learn.model.stem.register_forward_hook(lambda m, i, o: seen.add((learn.training, o.dtype)))
    before = [p.detach().clone() for p in learn.model.parameters()]
    quietly(learn, "fit", 1, 1e-3)
    assert seen == {(True, dtype), (False, torch.float32)} and learn.precision == precision
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in learn.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters(), strict=True))


def test_a_half_precision_step_that_overflows_is_left_out(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision="fp16")
    weights = []

    class Watch(Callback):
        def after_batch(self):
            if self.training:
                weights.append(self.model.classifier.weight.detach().clone())

    class Huge(Callback):
        order = -20

        def before_backward(self):
            if self.iter == 0:
                self.learn.loss_grad = self.loss_grad * 1e38

    start = learn.model.classifier.weight.detach().clone()
    quietly(learn, "fit", 1, 1e-3, cbs=[Watch(), Huge()])
    assert torch.equal(weights[0], start) and not torch.equal(weights[1], weights[0])
    assert learn.scaler.get_scale() == 2.0**15  # halved once


def test_half_precision_learns_what_full_precision_learns(images):
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        set_seed(0)
        learn = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision=precision)
        quietly(learn, "fit", 1, 1e-3)
        losses[precision] = np.array([float(x) for x in learn.recorder.losses])
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.03)
    np.testing.assert_allclose(losses["fp16"], losses["fp32"], rtol=0.03)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulation_and_clipping_of_gradients_work_in_every_precision(images, precision):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision=precision)
    norms, steps, step = [], [], learn.create_opt() or learn.opt.opt.step

    def watched(*args, **kwargs):
        grads = [p.grad for p in learn.model.parameters() if p.grad is not None]
        scale = getattr(learn.opt.opt, "grad_scale", None)  # what the kernel has yet to divide by
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()) / float(1 if scale is None else scale))
        steps.append(learn.iter)
        return step(*args, **kwargs)

    learn.opt.opt.step = watched
    quietly(learn, "fit", 1, 1e-3, cbs=[GradientAccumulation(2 * BS), GradientClip(0.01)])
    assert steps == [i for i in range(len(learn.dls.train)) if i % 2 == 1]
    assert 0.0099 < max(norms) < 0.0101


def test_half_precision_with_an_optimizer_that_cannot_skip_is_refused(images):
    learn = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision="fp16", opt_func=Adam)
    with pytest.raises(InputError, match="float16 needs an optimizer.*leave opt_func out"):
        quietly(learn, "fit", 1)


def test_a_failed_forward_pass_leaves_nothing_in_16_bits(images):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), tiny(), precision="bf16")
    x = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = learn.model.head[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        quietly(learn, "fit", 1, 1e-3)
    hook.remove()
    assert not torch.is_autocast_enabled("cpu")
    before = learn.model.eval()(x)
    assert before.dtype == torch.float32
    quietly(learn, "fit", 1, 1e-2)
    assert not torch.allclose(learn.model.eval()(x), before) and not learn.model._forward_hooks


# ---------------------------------------------------------------- records


def test_the_record_is_fastais(images):
    "The same training by a plain Learner with fastai's own Recorder and Adam."
    dls = mura_dls(images, SIZE, BS)
    set_seed(0)
    ours = mura_learner(dls, tiny(), precision="fp32", opt_func=Adam)
    set_seed(0)
    net = tiny().to(memory_format=torch.channels_last)
    theirs = Learner(dls, net, loss_func=ours.loss_func, metrics=ours.metrics, cbs=RouteBatch())
    records = []
    for learn in (ours, theirs):
        set_seed(1)
        dls.train.rng.seed(0)
        quietly(learn, "fit_one_cycle", 2, 1e-3)
        records.append(learn.recorder)
    np.testing.assert_allclose([float(x) for x in records[0].losses], [float(x) for x in records[1].losses], rtol=1e-5)
    np.testing.assert_allclose(
        np.array(records[0].values, float), np.array(records[1].values, float), rtol=1e-5, equal_nan=True
    )
    assert records[0].lrs == records[1].lrs and records[0].metric_names == records[1].metric_names
    assert records[0].iters == records[1].iters


def test_a_progress_bar_is_shown_a_loss_and_the_losses_can_be_plotted(images):
    set_seed(0)
    learn, shown = mura_learner(mura_dls(images, SIZE, BS), tiny()), []

    class Watch(Callback):
        order = 70
        run_valid = False

        def after_batch(self):
            shown.append(self.smooth_loss.item())

    quietly(learn, "fit", 1, 1e-3, cbs=Watch())
    assert shown == [float(x) for x in learn.recorder.losses] and all(math.isfinite(x) for x in shown)
    learn.recorder.plot_loss(skip_start=0)


class Event:
    "Stands for a GPU's event: the copy is done when it is told so."

    def __init__(self):
        self.done, self.waited = False, False

    def query(self):
        return self.done

    def synchronize(self):
        self.waited = self.done = True


def test_numbers_of_a_device_are_seen_when_they_have_come_and_never_waited_for():
    numbers, events = Arriving(), [Event(), Event()]
    numbers.under_way = [(e, torch.arange(3.0) + 3 * i) for i, e in enumerate(events)]
    assert numbers.arrived() == [] and not events[0].waited
    events[0].done = True
    assert numbers.arrived() == [0, 1, 2] and not events[1].waited
    assert numbers.arrived(wait=True) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("broken_at", [0, 3])
def test_the_batch_whose_loss_is_no_number_is_named(images, broken_at):
    set_seed(0)
    learn = mura_learner(mura_dls(images, SIZE, BS), tiny())

    class Break(Callback):
        order = -20
        run_valid = False

        def after_pred(self):
            if self.iter == broken_at:
                self.learn.pred = self.pred * torch.nan

    with pytest.raises(TrainingError) as e:
        quietly(learn, "fit", 1, 1e-3, cbs=Break())
    first = learn.dls.train.batch_rows(broken_at).path.iloc[0]
    assert f"epoch 0, batch {broken_at} (images {first} and {BS - 1} more)" in str(e.value)


# ---------------------------------------------------------------- the rest of the step


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU with g++, which is not installed")
def test_a_compiled_network_answers_the_same_and_is_saved_under_the_same_names(images):
    set_seed(0)
    dls, net = mura_dls(images, SIZE, BS), tiny()
    names, batch = list(net.state_dict()), [x.as_subclass(torch.Tensor) for x in dls.valid.one_batch()[:2]]
    net.eval()
    plain = net(*batch)
    learn = mura_learner(dls, net, compile=True)
    assert learn.model._compiled_call_impl is not None and list(learn.model.state_dict()) == names
    torch.testing.assert_close(learn.model(*batch), plain, atol=1e-4, rtol=1e-4)
    quietly(learn, "fit", 1, 1e-2)
    assert not torch.allclose(learn.model.eval()(*batch), plain, atol=1e-3)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc can be told")
def test_freed_memory_is_kept():
    "Tens of megabytes that are freed come back at the same place, not from the system anew."
    code = """
import resource, torch
from mura_fastai.memory import keep_freed_memory
assert keep_freed_memory()
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[20:]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # Once the heap has grown: pages that were cleared for 20 tensors of 16,384 pages each.
    assert int(told) < 2 * 16384


def test_the_network_is_laid_out_channels_last(images):
    net = mura_learner(mura_dls(images, SIZE, BS), tiny()).model
    assert net.stages[0][0].branch[0][0].weight.is_contiguous(memory_format=torch.channels_last)
