"""The allowed values of each setting of `configs/default.py`."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from dcjax import losses
from dcjax.core import naming, plugins
from dcjax.core.errors import SettingError
from dcjax.core.ranges import COSINE, DISTANCE, SMALLEST
from dcjax.data import crops, datasets, strategies
from dcjax.data.datasets import validation, vid
from dcjax.division import division, grouping, masks, sampling
from dcjax.experiment import same_run, versions
from dcjax.losses import mining, pairwise, proxies, sub_centers, triplets
from dcjax.models import backbones, cpu_convolution, masked_embedder, pixel_statistics, vit
from dcjax.training import optimizers, rates

_MANY = 1_000_000  # upper bound of numbers of epochs, steps and trials
_SHOWN = 200  # characters of a wrong value in an error
_STEEP = 1000.0  # upper bound of scales and weights: beyond it, only the largest term counts


class Rule(Protocol):
    """The allowed values of a setting; str(rule) completes "SETTING must be ..."."""

    def allows(self, value: Any) -> bool:
        """Returns whether a setting may have this value, a sequence as a list."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """Yes or no."""

    def allows(self, value: Any) -> bool:
        """Returns whether it is a bool; 0 and 1 are not."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        """Returns what is required."""
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Number:
    """A number within bounds that belong to it."""

    low: float
    high: float
    types: ClassVar[tuple[type, ...]] = (int, float)
    kind: ClassVar[str] = "a number"

    def allows(self, value: Any) -> bool:
        """Returns whether it is of such a type, no bool, within the bounds, which NaN never is."""
        is_number = isinstance(value, self.types) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high

    def __str__(self) -> str:
        """Returns what is required."""
        low, high = (f"{x:g}" if isinstance(x, float) else x for x in (self.low, self.high))
        return f"{self.kind} from {low} to {high}"


class Whole(Number):
    """A whole number within bounds that belong to it."""

    types = (int,)
    kind = "a whole number"


@dataclasses.dataclass(frozen=True)
class Several:
    """A sequence of values that each obey a rule, of bounded length, ascending if required."""

    each: Rule
    least: int
    most: int
    ascends: bool = False

    def allows(self, value: Any) -> bool:
        """Returns whether it is a sequence of such values."""
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            return False
        return all(map(self.each.allows, value)) and not (
            self.ascends and sorted(value) != list(value)
        )

    def __str__(self) -> str:
        """Returns what is required."""
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        order = ", the smaller one first" if self.ascends else ""
        return f"a sequence of {count} values, each {self.each}{order}"


@dataclasses.dataclass(frozen=True)
class Text:
    """Any text, such as a path."""

    def allows(self, value: Any) -> bool:
        """Returns whether it is a text that may name a file, so without NUL."""
        if not isinstance(value, str) or "\0" in value:
            return False
        try:
            naming.encode(value)
        except UnicodeEncodeError:  # a lone surrogate
            return False
        return True

    def __str__(self) -> str:
        """Returns what is required."""
        return "a text of whole characters without NUL"


@dataclasses.dataclass(frozen=True)
class Names:
    """A sequence of different names, which may have none."""

    def allows(self, value: Any) -> bool:
        """Returns whether it is a sequence of texts that are not empty and differ."""
        if not isinstance(value, list | tuple):
            return False
        return all(map(Text().allows, value)) and len(set(filter(None, value))) == len(value)

    def __str__(self) -> str:
        """Returns what is required."""
        return "a sequence of different names, numbers in quotes, as ('0', '12')"


class OneOf:
    """One of some words; or, for parts that may be custom, package.module:function."""

    def __init__(self, known: Iterable[str], *, or_custom: bool = False) -> None:
        """Takes the words."""
        self.known, self.or_custom = tuple(known), or_custom

    def allows(self, value: Any) -> bool:
        """Returns whether it is one of them; whether a part can be imported is checked later."""
        if not isinstance(value, str):
            return False
        return value in self.known or (self.or_custom and plugins.is_custom(value))

    def __str__(self) -> str:
        """Returns what is required."""
        custom = ", or package.module:function of your own" if self.or_custom else ""
        return f"one of {', '.join(self.known)}{custom}"


_POSITIVE = Number(SMALLEST, _STEEP)
_WEIGHT = Number(0, _STEEP)
_SHARE = Number(SMALLEST, 1 - SMALLEST)
_TEMPERATURE = Number(SMALLEST, 100)
_DISTANCE = Number(*DISTANCE)
_RATE = Number(0, 10)
_MULTIPLIER = Number(0, 10_000)
_MOMENTUM = Number(*optimizers.MOMENTUM)
_EPSILON = Number(*optimizers.EPSILON)
_FROM_0 = Whole(0, _MANY)
_FROM_1 = Whole(1, _MANY)
_KS = Several(_FROM_1, 1, 100)
_DIMS = Several(Whole(1, 16_384), 0, 100, ascends=True)
_MINER = OneOf(mining.KNOWN, or_custom=True)

RULES: Mapping[str, Rule] = {
    "seed": Whole(0, 2**31 - 1),
    "dataset.name": OneOf(datasets.KNOWN),
    "dataset.root": Text(),
    "dataset.source": OneOf(datasets.SOURCES),
    "dataset.complete": Flag(),
    "dataset.download": Flag(),
    "dataset.manifest": Text(),
    "dataset.test_classes": _SHARE,
    "dataset.test_list": OneOf(vid.TEST_LISTS),
    "dataset.validation_classes": Number(0, 1 - SMALLEST),
    "dataset.validation_list": Names(),
    "dataset.validation_unit": OneOf(validation.UNITS),
    "dataset.validation_fold": Whole(0, 1000),
    "dataset.resize": Whole(1, 8192),
    "dataset.crop": Whole(1, 4096),
    "dataset.cache": OneOf(("none", "memory", "disk", "device")),
    "dataset.cache_dir": Text(),
    "dataset.features": Text(),
    "dataset.feature_views": Whole(0, 1000),
    "dataset.skip_unreadable": Flag(),
    "dataset.max_pixels": Whole(0, 2**32),
    "dataset.num_threads": Whole(0, 1024),
    "augment.strategy": OneOf(strategies.STRATEGIES),
    "augment.crop": OneOf(crops.CROPS),
    "augment.scale": Several(Number(SMALLEST, 1), 2, 2, ascends=True),
    "augment.ratio": Several(Number(0.01, 100), 2, 2, ascends=True),
    "augment.flip": Flag(),
    "model.backbone": OneOf((*backbones.NAMES, backbones.NONE), or_custom=True),
    "model.num_stages": Whole(1, 4),
    "model.width": Whole(1, 1024),
    "model.pretrained": Text(),
    "model.batch_norm": OneOf(backbones.BATCH_NORMS),
    "model.convolution": OneOf(cpu_convolution.METHODS),
    "model.vit.patch_size": Whole(1, 256),
    "model.vit.registers": Whole(0, 64),
    "model.vit.layer_scale": Flag(),
    "model.vit.mlp": OneOf(vit.MLPS),
    "model.vit.attention": OneOf(vit.ATTENTIONS),
    "model.pixels": OneOf(pixel_statistics.SETTINGS),
    "model.precision": OneOf(masked_embedder.PRECISIONS),
    "model.rematerialize": Flag(),
    "model.chunk_size": _FROM_0,
    "model.pooling": OneOf(backbones.POOLINGS),
    "model.dropout": Number(0, 0.99),
    "model.embedding_init": OneOf(masked_embedder.EMBEDDING_INITS),
    "model.train": OneOf(backbones.TRAINED),
    "model.last_blocks": _FROM_1,
    "model.embedding_dim": Whole(2, 16_384),
    "model.masks": OneOf(masks.KINDS),
    "model.test_masks": OneOf(masks.COMBINATIONS),
    "model.orthogonality_weight": _WEIGHT,
    "loss.name": OneOf(losses.KNOWN, or_custom=True),
    "loss.matryoshka": _DIMS,
    "loss.memory_size": Whole(0, 10_000_000),
    "loss.memory_from_epoch": _FROM_0,
    "loss.margin.miner": _MINER,
    "loss.margin.margin": _DISTANCE,
    "loss.margin.beta": _DISTANCE,
    "loss.margin.nu": _WEIGHT,
    "loss.margin.learn_beta": OneOf(pairwise.BETAS),
    "loss.triplet.miner": _MINER,
    "loss.triplet.margin": Number(0, 4),  # of squared distances too
    "loss.triplet.squared": Flag(),
    "loss.triplet.average": OneOf(triplets.AVERAGES),
    "loss.soft_triplet.miner": _MINER,
    "loss.n_pairs.alpha": _POSITIVE,
    "loss.n_pairs.learn_alpha": Flag(),
    "loss.contrastive.miner": _MINER,
    "loss.contrastive.positive_margin": _DISTANCE,
    "loss.contrastive.negative_margin": _DISTANCE,
    "loss.contrastive.squared": Flag(),
    "loss.multi_similarity.miner": _MINER,
    "loss.multi_similarity.alpha": _POSITIVE,
    "loss.multi_similarity.beta": _POSITIVE,
    "loss.multi_similarity.base": Number(*COSINE),
    "loss.circle.miner": _MINER,
    "loss.circle.margin": Number(*pairwise.CIRCLE_MARGIN),
    "loss.circle.gamma": _POSITIVE,
    "loss.supervised_contrastive.temperature": _TEMPERATURE,
    "loss.smooth_ap.temperature": _TEMPERATURE,
    "loss.recall_at_k.ks": _KS,
    "loss.recall_at_k.rank_temperature": _TEMPERATURE,
    "loss.recall_at_k.temperature": _TEMPERATURE,
    "loss.proxy_nca.scale": _POSITIVE,
    "loss.proxy_nca.denominator": OneOf(proxies.DENOMINATORS),
    "loss.proxy_anchor.margin": Number(*proxies.PROXY_ANCHOR_MARGIN),
    "loss.proxy_anchor.alpha": _POSITIVE,
    "loss.normalized_softmax.temperature": _TEMPERATURE,
    "loss.cosface.margin": _DISTANCE,
    "loss.cosface.scale": _POSITIVE,
    "loss.arcface.margin": Number(*proxies.ARCFACE_MARGIN),
    "loss.arcface.scale": _POSITIVE,
    "loss.arcface.size_exponent": Number(*proxies.SIZE_EXPONENT),
    "loss.arcface.least_margin": Number(*proxies.ARCFACE_MARGIN),
    "loss.sub_center_arcface.centers": Whole(1, sub_centers.MOST_CENTERS),
    "loss.sub_center_arcface.margin": Number(*proxies.ARCFACE_MARGIN),
    "loss.sub_center_arcface.scale": _POSITIVE,
    "loss.sub_center_arcface.size_exponent": Number(*proxies.SIZE_EXPONENT),
    "loss.sub_center_arcface.least_margin": Number(*proxies.ARCFACE_MARGIN),
    "loss.soft_triple.centers": Whole(1, 1000),
    "loss.soft_triple.la": _POSITIVE,
    "loss.soft_triple.gamma": _TEMPERATURE,
    "loss.soft_triple.tau": _WEIGHT,
    "loss.soft_triple.margin": _DISTANCE,
    "mining.dims": OneOf(mining.DIMS),
    "mining.cutoff": _DISTANCE,
    "mining.upper_cutoff": Number(SMALLEST, DISTANCE.high),
    "mining.easy_negatives": OneOf(mining.EASY_NEGATIVES),
    "mining.fallback": OneOf(mining.FALLBACKS),
    "mining.epsilon": _DISTANCE,
    "division.max_clusters": Whole(1, 65_536),
    "division.every_epochs": _FROM_1,
    "division.hierarchy": OneOf(division.HIERARCHIES),
    "division.grouping": OneOf(grouping.GROUPINGS),
    "division.features": OneOf(("backbone", "embedding")),
    "division.matching": OneOf(division.MATCHINGS),
    "division.start": OneOf(division.STARTS),
    "division.num_trials": Whole(1, 10_000),
    "division.num_iterations": Whole(1, 100_000),
    "division.kmeans": OneOf(grouping.KMEANS),
    "division.freeze_backbone_epochs": _FROM_0,
    "sampling.sampler": OneOf(sampling.SAMPLERS),
    "sampling.batch_size": Whole(sampling.LEAST_IMAGES, _MANY),
    "sampling.images_per_class": _FROM_1,
    "sampling.small_class": OneOf(sampling.SMALL_CLASSES),
    "sampling.cluster_order": OneOf(sampling.CLUSTER_ORDERS),
    "sampling.rounds": OneOf(sampling.ROUNDS),
    "sampling.epoch_steps": _FROM_0,
    "sampling.clusters_per_step": Whole(1, 65_536),
    "devices.cluster_parallel": Whole(1, 65_536),
    "optimizer.learning_rate": _RATE,
    "optimizer.embedding_multiplier": _MULTIPLIER,
    "optimizer.masks_multiplier": _MULTIPLIER,
    "optimizer.loss_learning_rate": _RATE,
    "optimizer.weight_decay": Number(0, 10),
    "optimizer.masks_decay_multiplier": _MULTIPLIER,
    "optimizer.decay": OneOf(optimizers.DECAYS),
    "optimizer.name": OneOf(optimizers.OPTIMIZERS),
    "optimizer.clip_norm": _WEIGHT,
    "optimizer.layer_decay": Number(0.01, 1),
    "optimizer.schedule": OneOf(rates.SCHEDULES),
    "optimizer.warmup_epochs": Number(0, _MANY),
    "optimizer.final_share": Number(0, 1),
    "optimizer.step_epochs": Several(_FROM_1, 0, 100, ascends=True),
    "optimizer.step_factor": Number(SMALLEST, 1),
    "optimizer.adam.beta1": _MOMENTUM,
    "optimizer.adam.beta2": _MOMENTUM,
    "optimizer.adam.epsilon": _EPSILON,
    "optimizer.adamw.beta1": _MOMENTUM,
    "optimizer.adamw.beta2": _MOMENTUM,
    "optimizer.adamw.epsilon": _EPSILON,
    "optimizer.lion.beta1": _MOMENTUM,
    "optimizer.lion.beta2": _MOMENTUM,
    "optimizer.sgd.momentum": _MOMENTUM,
    "optimizer.sgd.nesterov": Flag(),
    "train.num_epochs": _FROM_1,
    "train.num_steps": _FROM_0,
    "train.until_epoch": _FROM_0,
    "train.stop_after": _FROM_0,
    "train.refit": Flag(),
    "train.full_embedding_from_epoch": Whole(-1, _MANY),
    "train.ema_decay": Number(0, 1 - SMALLEST),
    "train.log_every_steps": _FROM_1,
    "train.report": Flag(),
    "eval.every_epochs": _FROM_0,
    "eval.at_start": Flag(),
    "eval.batch_size": _FROM_1,
    "eval.protocol": OneOf(("all_vs_all", "cross_camera", "gallery")),
    "eval.gallery_draws": Whole(1, 10_000),
    "eval.ks": _KS,
    "eval.dims": _DIMS,
    "eval.rerank": Flag(),
    "eval.reranking.k1": Whole(1, 1000),
    "eval.reranking.k2": Whole(1, 1000),
    "eval.reranking.original_weight": Number(0, 1),
    "eval.fmr": Several(_SHARE, 0, 10),
    "eval.nmi": OneOf(("never", "last", "always")),
    "eval.nmi_runs": Whole(1, 1000),
    "eval.kmeans": OneOf(grouping.KMEANS),
    "eval.pixels": Flag(),
    "eval.best_by": Text(),  # a score, which depends on eval.ks
    "eval.select": OneOf(("auto", "last", "best", "best_test")),
    "checkpoint.every_epochs": _FROM_0,
    "checkpoint.keep_latest": Whole(1, 10_000),
    "checkpoint.keep_best": Whole(0, 10_000),
    "checkpoint.on_failure": OneOf(("stop", "go_on")),
}
# Of the group "paper", whose names are those of scores.
_PAPER = Number(0, 100)
# Groups with a group "custom": options of a part of the user's own, which may be anything.
_WITH_CUSTOM = ("model", "loss", "mining")


def check(config: ConfigDict) -> None:
    """Checks each setting, including those of losses and miners that are not used.

    Raises:
      SettingError: naming the first setting that is unknown, missing, or not as required.
    """
    groups = config.to_dict()
    values = same_run.flatten(groups)
    for name in sorted(values.keys() - RULES.keys()):
        if name.startswith("paper."):
            _check_value(name, _PAPER, values[name])
        elif not name.startswith(tuple(f"{group}.custom." for group in _WITH_CUSTOM)):
            raise SettingError(f"There is no setting {name}{versions.hint(name, RULES)}.")
    missing = [name for name in RULES if name not in values]
    missing += [f"{x}.custom" for x in _WITH_CUSTOM if "custom" not in groups.get(x, {})]
    missing += ["paper"] * ("paper" not in groups)
    if missing:
        raise SettingError(
            f"Require every setting of configs/default.py, got none for {', '.join(missing)}."
        )
    for name, rule in RULES.items():
        _check_value(name, rule, values[name])


def _check_value(name: str, rule: Rule, value: Any) -> None:
    if not rule.allows(value):
        raise SettingError(f"{name} must be {rule}, got {_abbreviate(value)}.")


def _abbreviate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
