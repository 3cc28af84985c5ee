"""Everything public, for notebooks and scripts: `from mura_fastai.all import *`."""

# Gives every Learner `fine_tune`, `fit_one_cycle` and `lr_find`.
import fastai.callback.schedule

from mura_fastai.bench.suite import bench
from mura_fastai.data.augment import AugmentXray, ScaleGrey, TensorXray, xray_tfms
from mura_fastai.data.batches import XrayDL
from mura_fastai.data.loaders import XrayBlock, mura_dls
from mura_fastai.data.loose import input_images, loose_images
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.pixels import check_images, inspect_images, read_grey
from mura_fastai.data.sources import csv_images, find_source, folder_images, fracatlas_images, read_images
from mura_fastai.data.store import Store, build_store
from mura_fastai.data.studies import (
    LABEL_NAMES,
    REGIONS,
    finish_images,
    mura_images,
    patient_folds,
    patient_split,
    summarize,
    tune_split,
)
from mura_fastai.errors import BadImage, InputError, TrainingError
from mura_fastai.models.backbones import create_net, timm_net
from mura_fastai.models.cnn import MuraCNN, mura_cnn
from mura_fastai.results.experiment import (
    evaluate_run,
    find_lr,
    interpret_run,
    predict,
    predictions_of,
    read_data,
    select_regions,
    train,
)
from mura_fastai.results.interpret import MuraInterpretation, figures
from mura_fastai.results.intervals import auroc, confusion, kappa
from mura_fastai.results.metrics import (
    cross_entropy,
    format_scores,
    region_baseline,
    score,
    scores_to_json,
    to_studies,
)
from mura_fastai.results.predict import predict_images
from mura_fastai.results.tables import evaluate_file, read_predictions, studies_of, write_predictions
from mura_fastai.share.demo import demo
from mura_fastai.training.learner import RegionWeightedBCE, mura_learner, study_auroc, study_kappa
from mura_fastai.training.runs import load_run, read_settings, train_run

__all__ = [name for name in dir() if not name.startswith("_") and name != "fastai"]
