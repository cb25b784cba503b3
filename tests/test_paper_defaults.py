"""Every value that a paper gives, and where: components have it as their default, and the paper's recipes run with it.

A recipe of ``recipes/papers/`` states nothing that is neither in ``GIVEN``, which is the papers', nor in ``OURS``.
"""

import tomllib
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from adkit_plugins.adapters.ses import Ses, SesParams

from adkit.plugin import Context
from adkit.plugin.registry import discover
from adkit.recipe.reader import read_recipe, resolved
from adkit.training.plan import SCALE_SHARE, scheduled

PAPERS = Path(__file__).parents[1] / "recipes" / "papers"
RECIPES = sorted(path.stem for path in PAPERS.glob("*.toml"))
WHAT_IS_DONE = ("run", "data", "extractor", "adapter", "training", "stopper", "scorer", "localizer")
"""The tables whose keys must be accounted for; ``[auxiliary]`` says where images are."""
WHERE_IMAGES_ARE = ("data.format", "data.root", "data.category", "data.normal", "data.calibration")
WHERE_WEIGHTS_ARE = ("extractor.weights", "adapter.teacher_weights")
"""Keys that say which data and weights, of which a header says what is what."""


class Value(NamedTuple):
    key: str
    """Key of a recipe, with its table."""
    value: Any
    place: str
    """Where a paper gives it, or why it is ours."""
    components: str = ""
    """Names of the components whose default it is, of the kind that the table is for; ``training``: of adapters."""
    recipes: str = ""
    """Patterns of the recipes in ``recipes/papers/`` that run with it, stated or by default."""


P, S, G = "PANDA", "PANDA, supplement", "Gaussian fine-tuning"
L = "Glancing at the Patch, supplement"
EARLIER = "Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid Correspondences (2020)"
COMPACT = "panda-early-* panda-ses-* panda-ewc-*"
TUNED = "gaussian-tied-max gaussian-svdd gaussian-fcdd"
NINE = ["bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5", "blocks.6", "bn2"]
ALL = ["augmix", "cutout", "confetti"]

GIVEN = [
    # PANDA: nearest neighbors and centers
    Value("extractor.backbone", "resnet152.tv_in1k", f"{S} 2.1, Optimization", recipes="dn2-* panda-*"),
    Value("extractor.levels", ["pool"], f"{P} 2.2: the final pooling layer", recipes="dn2-* panda-*"),
    Value("scorer.use", "knn", f"{S} 2.1, Anomaly scoring", recipes=f"dn2-* {COMPACT}"),
    Value("scorer.k", 2, f"{S} 2.1, Anomaly scoring", "knn", f"dn2-* {COMPACT}"),
    Value("scorer.metric", "squared_l2", f"{P} 3.2: the score ‖ψ(x) − c‖²", "center"),
    Value("scorer.kernel", "rbf", f"{S} 2.2, OC-SVM", "ocsvm"),
    # PANDA: compactness
    Value("training.optimizer", "sgd", f"{S} 2.1, Optimization", "panda ses ewc", COMPACT),
    Value("training.momentum", 0.9, f"{S} 2.1, Optimization", "panda ses ewc", COMPACT),
    Value("training.weight_decay", 5e-5, f"{S} 2.1, Optimization", "panda ses ewc", COMPACT),
    Value("training.clip_norm", 1e-3, f"{S} 2.1, Optimization", "panda ses ewc", COMPACT),
    Value("training.batch_size", 32, f"{S} 2.1, Optimization", "panda ses ewc", COMPACT),
    Value("adapter.blocks", 2, f"{S} 2.1, Optimization: the last two", "panda ses ewc"),
    Value("adapter.blocks", ["layer3", "layer4"], f"{P} 4.3.2 and {S} 4", recipes=COMPACT),
    Value("adapter.use", "panda", f"{P} 3.2, PANDA-Early", recipes="panda-early-*"),
    Value("training.minibatches", 2300, f"{P} 4.3.2 and {S} 2.1, Early stopping", "panda", "panda-early-*"),
    Value("adapter.use", "ses", f"{P} 3.2, PANDA-SES", recipes="panda-ses-*"),
    Value("training.minibatches", ceil(150_000 / 32), f"{S} 2.1, Sample-wise early stopping", "ses", "panda-ses-*"),
    Value("training.snapshot_epochs", 5, f"{P} 3.2 and {S} 2.1", "panda ses ewc", "panda-ses-*"),
    Value("adapter.use", "ewc", f"{P} 3.2, PANDA-EWC", recipes="panda-ewc-*"),
    Value("training.minibatches", 7800, f"{S} 2.1, EWC", "ewc", "panda-ewc-*"),
    Value("adapter.strength", 1e4, f"{P}, equation 4", "ewc", "panda-ewc-*"),
    Value("adapter.fisher", "classes", f"{P}, equation 3: the true labels", recipes="panda-ewc-*"),
    Value("adapter.fisher_images", 100 * 32, f"{P} 3.2: 100 minibatches", "ewc", "panda-ewc-*"),
    Value("adapter.penalty", "explicit", f"{P}, equation 4 as a whole by SGD", recipes="panda-ewc-*"),
    # PANDA: with other images
    Value("adapter.use", "joint", f"{P}, equation 2", recipes="panda-joint-*"),
    Value("adapter.labels", "classes", f"{P}, equation 2: the true labels", recipes="panda-joint-*"),
    Value("adapter.use", "oe", f"{P}, equation 5", recipes="panda-oe-*"),
    Value("adapter.blocks", 1, f"{S} 2.1, Outlier Exposure: the last", "oe"),
    Value("adapter.blocks", ["layer4"], f"{S} 2.1, Outlier Exposure: the last", recipes="panda-oe-*"),
    Value("training.optimizer", "sgd", f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("training.learning_rate", 0.1, f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("training.clip_norm", 1e-3, f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("training.momentum", 0.9, f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("training.weight_decay", 0, f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("training.epochs", 75, f"{S} 2.1, Outlier Exposure", "oe", "panda-oe-*"),
    Value("scorer.use", "logit", f"{P} 3.2, Outlier Exposure: w·ψ(x)", recipes="panda-oe-*"),
    # PANDA: SPADE
    Value("extractor.backbone", "wide_resnet50_2.tv_in1k", f"{S} 2.3, Architecture", recipes="spade-*"),
    Value("extractor.levels", ["layer1", "layer2", "layer3", "pool"], f"{S} 2.3, Layers", recipes="spade-*"),
    Value("data.resize", "squash", f"{S} 2.3, Resolution: to 256 × 256", recipes="spade-*"),
    Value("data.image_size", 256, f"{S} 2.3, Resolution", recipes="spade-*"),
    Value("data.crop", 224, f"{S} 2.3, Resolution", recipes="spade-*"),
    Value("data.metric_size", 256, f"{S} 2.3, Resolution", recipes="spade-*"),
    Value("data.mask_resize", "area", f"{S} 2.3, Resolution: INTER_AREA", recipes="spade-*"),
    Value("scorer.use", "spade", f"{P} 2.3", recipes="spade-*"),
    Value("scorer.retrieve", 0, f"{P} 2.3: the pixels of all training images", recipes="spade-*"),
    Value("scorer.combine", "ensemble", f"{S} 2.3, Combining features", "spade", "spade-*"),
    Value("localizer.reduce", "sum", f"{S} 2.3, Combining features: adding", recipes="spade-*"),
    Value("localizer.smoothing", 5.0, f"{S} 2.3, Postprocessing", recipes="spade-*"),
    Value("scorer.retrieve", 50, EARLIER, "spade"),
    Value("scorer.kappa", 1, EARLIER, "spade", "spade-*"),
    Value("localizer.smoothing", 4.0, EARLIER, "bilinear"),
    # Gaussian fine-tuning
    Value("run.folds", 5, f"{G} 4.2", recipes="gaussian-*"),
    Value("extractor.backbone", "tf_efficientnet_b4.aa_in1k", f"{G} 4.2; which weights is ours", recipes="gaussian-*"),
    Value("extractor.levels", NINE, f"{G} 4.2: every level", recipes="gaussian-*"),
    Value("training.optimizer", "adam", f"{G} 4.2", "mahalanobis svdd fcdd", TUNED),
    Value("training.learning_rate", 1e-6, f"{G} 4.2", "mahalanobis svdd fcdd", TUNED),
    Value("training.batch_size", 8, f"{G} 4.2", "mahalanobis svdd fcdd", TUNED),
    Value("training.epochs", 250, f"{G} 4.2.1, fixed; as a limit it is ours", "mahalanobis svdd fcdd", TUNED),
    Value("training.weight_decay", 0, f"{G}, equation 5, which has none", "mahalanobis", "gaussian-tied-max"),
    Value("adapter.blocks", "all", f"{G}, equations 1 and 5: W", "mahalanobis svdd fcdd", TUNED),
    Value("stopper.use", "vicinal", f"{G} 3.1", recipes=TUNED),
    Value("stopper.validation", 0.2, f"{G} 4.2: 80% and 20%", "vicinal plateau", TUNED),
    Value("stopper.patience", 20, f"{G} 4.2", "vicinal plateau", TUNED),
    Value("stopper.share", 0.7, f"{G} 4.2", "vicinal", TUNED),
    Value("stopper.multiple", 10, f"{G} 4.2", "vicinal", TUNED),
    Value("stopper.augmentations", ALL, f"{G} 4.2: from all schemes", "vicinal", TUNED),
    Value("stopper.severity", 3, f"{G}, table 3", "vicinal", TUNED),
    Value("adapter.use", "mahalanobis", f"{G}, equation 5", recipes="gaussian-tied-max"),
    Value("scorer.use", "gaussian", f"{G} 3", recipes="gaussian-tied-max gaussian-frozen"),
    Value("scorer.fit", "initial", f"{G} 3: μ and Σ stay fixed", recipes="gaussian-tied-max"),
    Value("scorer.covariance", "tied", f"{G} 3", "gaussian", "gaussian-tied-max gaussian-frozen"),
    Value("scorer.aggregation", "max", f"{G} 3", "gaussian", "gaussian-tied-max gaussian-frozen"),
    Value("scorer.shrinkage", "ledoit_wolf", f"{G} 3", "gaussian", "gaussian-tied-max gaussian-frozen"),
    Value("localizer.use", "bilinear", f"{G} 3", recipes="gaussian-*"),
    Value("localizer.reduce", "mean", f"{G} 3: averaging across all heatmaps", "bilinear", "gaussian-*"),
    Value("localizer.smoothing", 0, f"{G} 3: no Gaussian interpolation", recipes="gaussian-*"),
    Value("adapter.use", "svdd", f"{G}, equation 1", recipes="gaussian-svdd"),
    Value("adapter.distance", "l1", f"{G}, equation 1", "svdd", "gaussian-svdd"),
    Value("scorer.use", "center", f"{G}, equation 1", recipes="gaussian-svdd"),
    Value("scorer.metric", "l1", f"{G}, equation 1", recipes="gaussian-svdd"),
    Value("scorer.fit", "initial", f"{G}, equation 1: c stays fixed", recipes="gaussian-svdd"),
    Value("adapter.use", "fcdd", f"{G} 4.2", recipes="gaussian-fcdd"),
    Value("adapter.augmentations", ALL, f"{G} 4.2: the synthetic anomalies", "fcdd", "gaussian-fcdd"),
    Value("adapter.masks", True, f"{G} 5: the masks that FCDD leverages", "fcdd", "gaussian-fcdd"),
    # Glancing at the Patch
    Value("data.image_size", 256, f"{L} C.1", recipes="glance-*"),
    Value("data.resize", "squash", f"{L} C.1: to 256 × 256", recipes="glance-mvtec"),
    Value("extractor.patches", 20, f"{L} C.1, Inference: on each side", "glance", "glance-mvtec"),
    Value("extractor.compare", "image", f"{L} C.2: the image is the patch", recipes="glance-cifar10"),
    Value("adapter.use", "glance", f"{L} C", recipes="glance-*"),
    Value("adapter.teacher", "resnet18.tv_in1k", f"{L} C.1, resnet18-5c106cde.pth", "glance", "glance-*"),
    Value("adapter.distillation", 50_000, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.distillation_batch", 64, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.distillation_rate", 2e-4, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.fine_tuning", 50_000, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.fine_tuning_batch", 16, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.fine_tuning_rate", 2e-4, f"{L} C.1, Pre-training Local-Net", "glance", "glance-mvtec"),
    Value("adapter.fine_tuning_rate", 1e-5, f"{L} C.2, Pre-training Local-Net", recipes="glance-cifar10"),
    Value("adapter.lambda_k", 1.0, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.lambda_c", 1.0, f"{L} C.1, Pre-training Local-Net", "glance", "glance-*"),
    Value("adapter.lambda_t", 0.01, f"{L} C.1, Training Global-Net and DAD-head", "glance", "glance-*"),
    Value("adapter.head_rate", 1e-5, f"{L} C.1 and C.2, Training Global-Net and DAD-head", "glance", "glance-*"),
    Value("training.optimizer", "adam", f"{L} C.1", "glance", "glance-*"),
    Value("training.momentum", 0.9, f"{L} C.1: β1", "glance", "glance-*"),
    Value("training.learning_rate", 1e-4, f"{L} C.1, Training Global-Net and DAD-head", "glance", "glance-mvtec"),
    Value("training.learning_rate", 1e-5, f"{L} C.2, Training Global-Net and DAD-head", recipes="glance-cifar10"),
    Value("training.batch_size", 64, f"{L} C.1, Training Global-Net and DAD-head", "glance", "glance-*"),
    Value("training.minibatches", 200_000, f"{L} C.1, Training Global-Net and DAD-head", "glance", "glance-mvtec"),
    Value("training.minibatches", 300_000, f"{L} C.2, Training Global-Net and DAD-head", recipes="glance-cifar10"),
    Value("scorer.use", "glance", f"{L} C.1, Inference", recipes="glance-*"),
    Value("scorer.lambda_s", 0.8, f"{L} C.1, Inference", "glance", "glance-*"),
    Value("scorer.aggregation", "max", f"{L} D.1, Setup", "glance", "glance-mvtec"),
    Value("localizer.use", "idw", f"{L} C.1, Inference", recipes="glance-mvtec"),
    Value("localizer.power", 5.0, f"{L} C.1, Inference", "idw", "glance-mvtec"),
]

ADAPTERS = "panda ses ewc joint oe mahalanobis svdd fcdd glance"
AS_PANDA = "the paper gives nothing on the training of joint optimization: as PANDA-Early"
OURS = [
    Value("training.relative_steps", False, "no paper has them", ADAPTERS),
    Value("training.rate_decay", "none", "no paper has any", ADAPTERS),
    Value("training.warmup", 0, "no paper has any", ADAPTERS),
    Value("data.image_size", 256, "the supplement gives it for SPADE", recipes="dn2-* panda-*"),
    Value("data.crop", 224, "the supplement gives it for SPADE", recipes="dn2-* panda-*"),
    Value("data.resize", "squash", "the images are square", recipes="dn2-mvtec"),
    Value(
        "data.resize", "short_side", "the images of [auxiliary] are not", recipes="panda-ewc-* panda-joint-* panda-oe-*"
    ),
    Value("training.learning_rate", 1e-2, "the paper gives no rate but that of OE", "panda ses ewc joint", COMPACT),
    Value("training.learning_rate", 1e-2, AS_PANDA, recipes="panda-joint-*"),
    Value("training.optimizer", "sgd", AS_PANDA, "joint", "panda-joint-*"),
    Value("training.momentum", 0.9, AS_PANDA, "joint", "panda-joint-*"),
    Value("training.weight_decay", 5e-5, AS_PANDA, "joint", "panda-joint-*"),
    Value("training.clip_norm", 1e-3, AS_PANDA, "joint", "panda-joint-*"),
    Value("training.batch_size", 32, AS_PANDA, "joint", "panda-joint-*"),
    Value("training.minibatches", 2300, AS_PANDA, "joint", "panda-joint-*"),
    Value("training.snapshot_epochs", 5, AS_PANDA, "joint"),
    Value("adapter.blocks", ["layer3", "layer4"], AS_PANDA, recipes="panda-joint-*"),
    Value("adapter.blocks", 2, AS_PANDA, "joint"),
    Value("adapter.alpha", 0.1, "the paper gives none", "joint", "panda-joint-*"),
    Value("adapter.labels", "predicted", "images of ImageNet with their classes are seldom at hand", "joint"),
    Value("adapter.fisher", "predicted", "images of ImageNet with their classes are seldom at hand", "ewc"),
    Value("adapter.penalty", "implicit", "its steps cannot overshoot, however large F is", "ewc"),
    Value("scorer.metric", "l2", "the paper says distance", "knn", f"dn2-* {COMPACT} panda-joint-*"),
    Value("scorer.centers", "level", "the paper has one pooled level, whose mean it is", "center"),
    Value("scorer.use", "knn", AS_PANDA, recipes="panda-joint-*"),
    Value("scorer.k", 2, AS_PANDA, recipes="panda-joint-*"),
    Value("training.batch_size", 32, "that of PANDA's other trainings", "oe", "panda-oe-*"),
    Value("scorer.nu", 0.1, "the paper chose from 0.1 to 0.9 by test labels", "ocsvm"),
    Value("scorer.gamma", "scale", "the paper chose from 2⁻⁷ to 2² by test labels", "ocsvm"),
    Value("scorer.k", 2, "the paper gives no score of SPADE for images", "spade", "spade-*"),
    Value("localizer.use", "bilinear", "the paper does not say how it enlarges", recipes="spade-*"),
    Value("data.resize", "squash", "the images are square", recipes="gaussian-*"),
    Value("data.image_size", 380, "EfficientNet-B4's own; the paper gives none", recipes="gaussian-*"),
    Value("training.momentum", 0.9, "Adam's own first beta", "mahalanobis svdd fcdd", TUNED),
    Value("training.weight_decay", 1e-6, "Deep SVDD's own", "svdd", "gaussian-svdd"),
    Value("training.weight_decay", 0, "the paper gives none", "fcdd", "gaussian-fcdd"),
    Value("adapter.centers", "location", "all locations of a level are one vector", "svdd", "gaussian-svdd"),
    Value("adapter.aggregation", "mean", "all locations of a level are one vector", "svdd", "gaussian-svdd"),
    Value("scorer.centers", "location", "all locations of a level are one vector", recipes="gaussian-svdd"),
    Value("scorer.aggregation", "mean", "all locations of a level are one vector", recipes="gaussian-svdd"),
    Value("adapter.share", 0.5, "the paper gives none", "fcdd", "gaussian-fcdd"),
    Value("adapter.head_learning_rate", 1e-3, "heads start at random, blocks do not", "fcdd"),
    Value("adapter.head_learning_rate", 1e-6, "the paper has one rate", recipes="gaussian-fcdd"),
    Value("scorer.use", "logit", "what FCDD's heads give is the score", recipes="gaussian-fcdd"),
    Value("scorer.aggregation", "mean", "as in FCDD's loss", recipes="gaussian-fcdd"),
    Value("data.resize", "short_side", "the images of [auxiliary] are not square", recipes="glance-cifar10"),
    Value("data.crop", 256, "the images of [auxiliary] are not square", recipes="glance-cifar10"),
    Value("data.batch_size", 8, "an image is 400 patches", recipes="glance-mvtec"),
    Value("extractor.offsets", "multiples", "the supplement says uniformly: these share computation", "glance"),
    Value("adapter.teacher_size", 64, "the supplement says nothing on what the teacher is given", "glance"),
    Value("adapter.margin", 1.0, "the supplement has no formula of the triplets", "glance"),
    Value("adapter.stains", 3, "the supplement says some random stains", "glance"),
    Value("scorer.unit", "raw", "the supplement has no formula of the score", "glance"),
    Value("localizer.neighbors", 0, "the supplement does not leave any out", "idw"),
    Value("training.weight_decay", 0, "the supplement gives none", "glance", "glance-*"),
]


def matching(row: Value) -> list[str]:
    return [recipe for recipe in RECIPES if any(fnmatchcase(recipe, pattern) for pattern in row.recipes.split())]


def default(table: str, name: str, key: str) -> Any:
    """The default of a component's key; for ``training``, the value in an adapter's schedule."""
    component = discover().get("adapter" if table == "training" else table, name).component
    if table == "training":
        return getattr(component.build.schedule, key)
    return component.params.model_fields[key].default


@cache
def ran(recipe: str) -> dict[str, Any]:
    """Key with its table → the value that a recipe runs with."""
    read = read_recipe(PAPERS / f"{recipe}.toml")
    tables = resolved(read)
    if read.adapter is not None:
        adapter = read.adapter.registered.component.build(read.adapter.params, Context())
        tables["training"] = asdict(scheduled(adapter, read.training))
    return {f"{table}.{key}": value for table, values in tables.items() for key, value in values.items()}


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


DEFAULTS = [
    pytest.param(row, name, id=f"{row.key} of {name}") for row in (*GIVEN, *OURS) for name in row.components.split()
]
RUNS = [pytest.param(row, recipe, id=f"{row.key} in {recipe}") for row in (*GIVEN, *OURS) for recipe in matching(row)]


@pytest.mark.parametrize(("row", "name"), DEFAULTS)
def test_default_is_the_papers(row, name):
    table, _, key = row.key.partition(".")
    assert listed(default(table, name, key)) == row.value, f"{row.place}: {row.value}"


@pytest.mark.parametrize(("row", "recipe"), RUNS)
def test_recipe_runs_with_the_papers(row, recipe):
    assert ran(recipe).get(row.key) == row.value, f"{row.place}: {row.value}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_of_a_recipe_is_accounted_for(recipe):
    stated = tomllib.loads((PAPERS / f"{recipe}.toml").read_text(encoding="utf-8"))
    keys = {f"{table}.{key}" for table in WHAT_IS_DONE for key in stated.get(table, {})} - {"extractor.use"}
    known = {row.key for row in (*GIVEN, *OURS) if recipe in matching(row)}
    assert keys - known - {*WHERE_IMAGES_ARE, *WHERE_WEIGHTS_ARE} == set(), (
        f"{__file__}: add the place in the paper to GIVEN, or to OURS why it is adkit's own"
    )


@pytest.mark.parametrize("name", ADAPTERS.split())
def test_every_value_of_a_schedule_is_accounted_for(name):
    schedule = asdict(discover().get("adapter", name).component.build.schedule)
    known = {row.key for row in (*GIVEN, *OURS) if name in row.components.split()}
    assert {f"training.{key}" for key, value in schedule.items() if value is not None} - known == set()


@pytest.mark.parametrize("row", [*GIVEN, *OURS], ids=lambda row: f"{row.key} {row.value}")
def test_every_row_is_of_something(row):
    for pattern in row.recipes.split():
        assert any(fnmatchcase(recipe, pattern) for recipe in RECIPES), f"no recipe in papers/ is called {pattern}"
    assert row.components or row.recipes


def test_ses_scales_by_a_tenth_and_takes_the_largest_ratio():
    """PANDA 3.2 (the maximal ratio) and supplement 2.1, SES distance normalization (90% and 10%)."""
    assert (Ses(SesParams(), Context()).fuse, SCALE_SHARE) == ("max_ratio", 0.1)
