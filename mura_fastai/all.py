"""Everything public, for notebooks and scripts: `from mura_fastai.all import *`."""

# Gives every Learner `fine_tune`, `fit_one_cycle` and `lr_find`.
import fastai.callback.schedule

from mura_fastai.bench.frontier import frontier
from mura_fastai.bench.suite import bench
from mura_fastai.data.audit import audit_data, audit_to_json, format_audit
from mura_fastai.data.augment import AugmentXray, ScaleGrey, TensorXray, xray_tfms
from mura_fastai.data.batches import XrayDL
from mura_fastai.data.inspection import check_images, inspect_images
from mura_fastai.data.loaders import XrayBlock, mura_dls
from mura_fastai.data.loose import input_images, loose_images
from mura_fastai.data.phantom import make_phantom
from mura_fastai.data.pixels import read_grey
from mura_fastai.data.reading import read_data, select_regions
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
from mura_fastai.data.study_batches import StudyDL
from mura_fastai.data.traits import traits
from mura_fastai.errors import BadImage, InputError, TrainingError
from mura_fastai.models.backbones import create_net, timm_net
from mura_fastai.models.cnn import MuraCNN, mura_cnn
from mura_fastai.models.cost import Cost, network_cost
from mura_fastai.models.heads import GeM, stages
from mura_fastai.models.plain import PlainCNN
from mura_fastai.models.regions import RegionFiLM
from mura_fastai.models.views import GatedAttention, StudyNet
from mura_fastai.results.audit import audit_shortcuts, draw_shortcuts, format_shortcuts, shortcuts_to_json
from mura_fastai.results.calibrate import (
    Decision,
    choose_decision,
    choose_threshold,
    decide_together,
    fit_temperature,
    read_decision,
    write_decision,
)
from mura_fastai.results.compare import compare
from mura_fastai.results.competition import read_competition, write_competition
from mura_fastai.results.curves import (
    plot_calibration,
    plot_history,
    plot_precision_recall,
    plot_probabilities,
    plot_roc,
    plot_thresholds,
    read_history,
)
from mura_fastai.results.experiment import (
    compare_runs,
    evaluate,
    interpret_run,
    predict,
    resume,
    reviewed_labels,
    suspect_labels,
    train,
)
from mura_fastai.results.figures import figures
from mura_fastai.results.forest import plot_forest, save_forests
from mura_fastai.results.heatmaps import HeatMapper, heat_layer, heat_layers, heat_maps
from mura_fastai.results.interpret import MuraInterpretation
from mura_fastai.results.lr_search import find_lr
from mura_fastai.results.measures import auroc, average_precision, calibration, confusion, cross_entropy, kappa
from mura_fastai.results.metrics import always_normal, decided, format_scores, region_baseline, score, scores_to_json
from mura_fastai.results.moments import Moment
from mura_fastai.results.overlays import draw_heat, draw_heat_bar, heat_on, overlay
from mura_fastai.results.paired import delong_test
from mura_fastai.results.pointing import phantom_boxes, pointing_game, pointing_hits
from mura_fastai.results.pooling import to_studies
from mura_fastai.results.power import format_power, power
from mura_fastai.results.predict import predict_images
from mura_fastai.results.regions import plot_regions, region_errors
from mura_fastai.results.repeats import evaluate_repeats, format_repeats, out_of_fold, repeats_of, score_repeats
from mura_fastai.results.review import format_review, read_review, review_result, write_review
from mura_fastai.results.scoring import calibrate_run, decision_of, evaluate_run, predictions_of
from mura_fastai.results.shortcuts import followed, shortcuts
from mura_fastai.results.suspects import (
    draw_suspects,
    find_suspects,
    format_suspects,
    suspects_of_run,
    write_suspects,
)
from mura_fastai.results.tables import evaluate_file, read_predictions, read_scores, studies_of, write_predictions
from mura_fastai.results.verdicts import compare_sentences, comparison_to_json, format_comparison
from mura_fastai.share.app import make_app, serve
from mura_fastai.share.demo import demo
from mura_fastai.share.pdf import print_pdf
from mura_fastai.share.report import write_report
from mura_fastai.training.learner import RegionWeightedBCE, mura_learner, study_auroc, study_kappa
from mura_fastai.training.plans import is_repeats, read_repeats
from mura_fastai.training.recipes import RECIPES, recipe_settings, recipes_table
from mura_fastai.training.relocate import relocate_run
from mura_fastai.training.repeats import fold_tables, sub_runs, train_repeats
from mura_fastai.training.resume import resume_run
from mura_fastai.training.runs import load_run, read_settings, train_run
from mura_fastai.training.schedules import PlateauDecay, layer_rates

__all__ = [name for name in dir() if not name.startswith("_") and name != "fastai"]
