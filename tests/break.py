"""Breaks a copy of the code in named places, one at a time: for each, a test must fail.

python tests/break.py            # all, some ten minutes
python tests/break.py mask margin # those whose name has one of these words
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).parents[1]
_COPIED = ("configs", "dcjax", "tests", "launch.py", "pyproject.toml", "docs", "README.md")


class Break(NamedTuple):
    """A change that makes the code wrong.

    Attributes:
      name: what goes wrong.
      path: the file.
      right: its text, which it has once.
      wrong: what takes the place of that.
      tests: the files among which one must fail.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: str


BREAKS = (
    Break(
        "sign of the margin of positive pairs",
        "dcjax/losses/pairwise.py",
        "pull = jax.nn.relu(distances - beta + margin)",
        "pull = jax.nn.relu(distances - beta - margin)",
        "losses/test_pairwise.py",
    ),
    Break(
        "sign of the margin of proxy anchors",
        "dcjax/losses/proxies.py",
        "-alpha * (similarities.own - margin)",
        "-alpha * (similarities.own + margin)",
        "losses/test_proxies.py",
    ),
    Break(
        "sign of the margin of CosFace",
        "dcjax/losses/proxies.py",
        "own = scale * (similarities.own - margin)",
        "own = scale * (similarities.own + margin)",
        "losses/test_proxies.py",
    ),
    Break(
        "triplets compared the wrong way round",
        "dcjax/losses/triplets.py",
        "terms = term(to_positive - to_negative)",
        "terms = term(to_negative - to_positive)",
        "losses/test_losses.py",
    ),
    Break(
        "hard miner takes the nearest positive",
        "dcjax/losses/mining.py",
        "positives = jnp.argmax(_where(compared.positives, compared.distances, -1), axis=1)",
        "positives = jnp.argmin(_where(compared.positives, compared.distances, 3), axis=1)",
        "losses/test_mining.py",
    ),
    Break(
        "memory overwrites its newest embeddings",
        "dcjax/losses/memory.py",
        'place = (memory["count"] + jnp.arange(labels.size)) % len(memory["labels"])',
        'place = (memory["count"] - 1 + jnp.arange(labels.size)) % len(memory["labels"])',
        "losses/test_memory.py",
    ),
    Break(
        "features of chunks come back in another order",
        "dcjax/models/masked_embedder.py",
        "return pooled.swapaxes(0, 1).reshape(len(images), -1)",
        "return pooled.reshape(len(images), -1)",
        "training/test_chunks.py",
    ),
    Break(
        "memory is compared across clusters",
        "dcjax/losses/memory.py",
        'belongs = ((memory["clusters"] == cluster) | (cluster < 0)) & is_used',
        'belongs = (memory["clusters"] >= 0) & is_used',
        "losses/test_memory.py",
    ),
    Break(
        "off by one in recall at k",
        "dcjax/retrieval/metrics.py",
        "(num_before < k).astype(np.float64) for k in ks",
        "(num_before <= k).astype(np.float64) for k in ks",
        "retrieval/test_metrics.py",
    ),
    Break(
        "MAP@R divided by the hits",
        "dcjax/retrieval/metrics.py",
        '"map_at_r": precisions / np.maximum(num_relevant, 1)',
        '"map_at_r": precisions / np.maximum(num_found, 1)',
        "retrieval/test_metrics.py",
    ),
    Break(
        "a query finds itself",
        "dcjax/retrieval/metrics.py",
        "return _score(everything, everything, exclude_self=True, ks=ks, block=block)",
        "return _score(everything, everything, exclude_self=False, ks=ks, block=block)",
        "retrieval/test_metrics.py",
    ),
    Break(
        "of equal distances the later image is nearer",
        "dcjax/retrieval/selection.py",
        "certain = (far < limits[0]) | ((far == limits[0]) & earlier)",
        "certain = (far < limits[0]) | ((far == limits[0]) & ~earlier)",
        "retrieval/test_ranking.py",
    ),
    Break(
        "the query is scored without its gallery",
        "dcjax/retrieval/evaluation.py",
        "gallery = (sets[1], labels[1]) if len(sets) == 2 else (None, None)",
        "gallery = (None, None)",
        "retrieval/test_evaluation.py",
    ),
    Break(
        "mask row K exists",
        "dcjax/division/masks.py",
        "jnp.where(rows < 2 * num_clusters, rows // 2, -1)",
        "jnp.where(rows <= 2 * num_clusters, rows // 2, -1)",
        "division/test_masks.py",
    ),
    Break(
        "masks are applied after normalisation",
        "dcjax/division/masks.py",
        "return l2_normalize(embeddings * jax.nn.relu(mask))",
        "return l2_normalize(embeddings) * jax.nn.relu(mask)",
        "division/test_masks.py",
    ),
    Break(
        "negative entries of masks count",
        "dcjax/division/masks.py",
        "active = jax.nn.relu(_at_least_float32(_require_masks(masks)))",
        "active = _at_least_float32(_require_masks(masks))",
        "division/test_masks.py",
    ),
    Break(
        "orthogonality of a mask with itself counts",
        "dcjax/division/masks.py",
        "jnp.where(rows[:, None] != rows[None, :], cosines, 0)",
        "cosines",
        "division/test_masks.py",
    ),
    Break(
        "order of clusters after matching",
        "dcjax/division/division.py",
        "_, renamed = linear_sum_assignment(table, maximize=True)",
        "_, renamed = linear_sum_assignment(table.T, maximize=True)",
        "division/test_division.py",
    ),
    Break(
        "clusters are matched to the least similar",
        "dcjax/division/division.py",
        "linear_sum_assignment(table, maximize=True)",
        "linear_sum_assignment(table, maximize=False)",
        "division/test_division.py",
    ),
    Break(
        "children of a cluster are apart",
        "dcjax/division/division.py",
        "parents = np.arange(num_clusters) * before // num_clusters",
        "parents = np.arange(num_clusters) % before",
        "division/test_division.py",
    ),
    Break(
        "K doubles an epoch late",
        "dcjax/division/division.py",
        "doublings = min(epoch // divide_every_epochs, max_clusters.bit_length())",
        "doublings = min(max(epoch - 1, 0) // divide_every_epochs, max_clusters.bit_length())",
        "experiment/test_checks.py",
    ),
    Break(
        "images alone of their class stay",
        "dcjax/division/grouping.py",
        "kept[rows[counts[classes] == 1]] = -1",
        "kept[rows[counts[classes] == 0]] = -1",
        "division/test_division.py",
    ),
    Break(
        "an empty cluster stays empty",
        "dcjax/division/host_kmeans.py",
        "    if not empty.size:\n        return\n",
        "    if empty.size >= 0:\n        return\n",
        "division/test_host_kmeans.py",
    ),
    Break(
        "K-means keeps labels that its bounds cannot vouch for",
        "dcjax/division/host_kmeans.py",
        "rest = np.flatnonzero(bounds.upper >= lower)",
        "rest = np.flatnonzero(bounds.upper >= 2 * lower)",
        "division/test_host_kmeans.py",
    ),
    Break(
        "all trials start alike",
        "dcjax/division/grouping.py",
        "cluster = partition(rows, num_clusters, which, trial)",
        "cluster = partition(rows, num_clusters, which, 0)",
        "division core/test_streams.py",
    ),
    Break(
        "the seed is left out of the draws",
        "dcjax/core/streams.py",
        "for number in (seed, stream, *numbers)])",
        "for number in (0, stream, *numbers)])",
        "core/test_streams.py",
    ),
    Break(
        "rounds of the largest cluster",
        "dcjax/division/sampling.py",
        '"max": batches.max()',
        '"max": batches.min()',
        "division/test_sampling.py",
    ),
    Break(
        "round robin starts anew in each epoch",
        "dcjax/division/sampling.py",
        "filled[(epoch * num_batches + np.arange(num_batches)) % len(filled)]",
        "filled[np.arange(num_batches) % len(filled)]",
        "division/test_sampling.py",
    ),
    Break(
        "the backbone stands still an epoch too long",
        "dcjax/experiment/schedule.py",
        "epoch % dividing.every_epochs < dividing.freeze_backbone_epochs",
        "epoch % dividing.every_epochs <= dividing.freeze_backbone_epochs",
        "experiment/test_checks.py",
    ),
    Break(
        "weight decay after Adam",
        "dcjax/training/optimizers.py",
        'parts if decay == "coupled" else reversed(parts)',
        'parts if decay != "coupled" else reversed(parts)',
        "training/test_optimizers.py",
    ),
    Break(
        "masks keep their moments over a division",
        "dcjax/training/state.py",
        'optimizers.renew(optimizer, state.opt_state, state.trainable, "masks")',
        'optimizers.renew(optimizer, state.opt_state, state.trainable, "loss")',
        "training/test_state.py",
    ),
    Break(
        "the orthogonality loss is not weighted",
        "dcjax/training/steps.py",
        'return metrics["loss"] + weight * similarity,',
        'return metrics["loss"] + similarity,',
        "training/test_steps.py",
    ),
    Break(
        "dropout is the same in every step",
        "dcjax/training/steps.py",
        "jax.random.split(jax.random.fold_in(key, state.step))",
        "jax.random.split(jax.random.fold_in(key, 0))",
        "training/test_steps.py",
    ),
    Break(
        "red and blue change places",
        "dcjax/models/pixel_statistics.py",
        "Statistics((0.485, 0.456, 0.406)",
        "Statistics((0.406, 0.456, 0.485)",
        "models/test_masked_embedder.py",
    ),
    Break(
        "the norms of a vision transformer have the epsilon of BatchNorm",
        "dcjax/models/vit.py",
        "_EPSILON = 1e-6",
        "_EPSILON = 1e-3",
        "models/test_vit.py",
    ),
    Break(
        "queries and keys of Hugging Face change places",
        "dcjax/models/vit_names.py",
        '("attn.query", "attn.key", "attn.value")',
        '("attn.key", "attn.query", "attn.value")',
        "models/test_vit_names.py models/test_vit.py",
    ),
    Break(
        "position embeddings of DINOv2 are resized without its offset",
        "dcjax/models/position_grids.py",
        "offset=0.1",
        "offset=0.0",
        "models/test_vit.py",
    ),
    Break(
        "odd rests of centre crops are halved to the odd corner",
        "dcjax/data/crops.py",
        "np.round((sizes - size) / 2)",
        "np.floor((sizes - size) / 2)",
        "data/test_crops.py data/test_augment.py",
    ),
    Break(
        "every crop is mirrored",
        "dcjax/data/crops.py",
        "flip = generator.random(shape, np.float32) < 0.5",
        "flip = generator.random(shape, np.float32) < 1.5",
        "data/test_crops.py data/test_augment.py",
    ),
    Break(
        "a training class of CUB is tested",
        "dcjax/data/datasets/cub.py",
        "_LAST_TRAIN_CLASS = 100",
        "_LAST_TRAIN_CLASS = 99",
        "data/test_datasets.py",
    ),
    Break(
        "a damaged cache of images is used",
        "dcjax/data/cache_folders.py",
        "return checksums.damage(epath.Path(place), {_DATA}, part=0, num_parts=1)",
        'return ""',
        "data/test_host_cache.py",
    ),
    Break(
        "the first blocks are trained in place of the last ones",
        "dcjax/models/backbones.py",
        "last = frozenset(names[-last_blocks:])",
        "last = frozenset(names[:last_blocks])",
        "experiment/test_frozen_backbone.py",
    ),
    Break(
        "a default is read one option too early",
        "dcjax/core/options.py",
        "optional = positional[len(positional) - len(signature.defaults) :]",
        "optional = positional[: len(signature.defaults)]",
        "core/test_options.py",
    ),
    Break(
        "crops of pixels are mirrored in the place of others",
        "dcjax/data/pixel_reader.py",
        "return boxes[kept], draws.flip[kept]",
        "return boxes[kept], draws.flip[kept][..., ::-1]",
        "data/test_pixel_reader.py",
    ),
    Break(
        "time in nested functions is counted twice",
        "dcjax/runs/startup.py",
        "covered += max(0.0, until - max(begin, reached))",
        "covered += max(0.0, until - begin)",
        "runs/test_startup.py",
    ),
    Break(
        "a config imports JAX",
        "configs/default.py",
        "from dcjax.core import options\n",
        "from dcjax import losses  # noqa: F401\nfrom dcjax.core import options\n",
        "test_imports.py",
    ),
    Break(
        "features are kept whatever weights they are of",
        "dcjax/experiment/readers.py",
        'return {"weights": digest.hexdigest(), "settings": kept}',
        'return {"settings": kept}',
        "experiment/test_frozen_backbone.py",
    ),
    Break(
        "augmented views of an image are all the same",
        "dcjax/data/pipeline.py",
        "draws = augment.draw(self.augmentation, shape, seed=self.seed, epoch=view)",
        "draws = augment.draw(self.augmentation, shape, seed=self.seed, epoch=0)",
        "experiment/test_frozen_backbone.py",
    ),
    Break(
        "features are normalised before the embedding",
        "dcjax/training/steps.py",
        'return {"backbone": pooled}',
        'return {"backbone": masks.l2_normalize(pooled)}',
        "experiment/test_frozen_backbone.py",
    ),
    Break(
        "test classes of features are trained on",
        "dcjax/data/datasets/features.py",
        'return {"train": ~is_test, "query": is_test}',
        'return {"train": is_test, "query": is_test}',
        "experiment/test_features.py",
    ),
    Break(
        "the optimizer's state is left out of checkpoints",
        "dcjax/runs/checkpoints.py",
        '_TRAIN = ("step", "loss_params", "memory", "opt_state", "num_clusters")',
        '_TRAIN = ("step", "loss_params", "memory", "num_clusters")',
        "runs/test_checkpoints.py",
    ),
    Break(
        "a step that is saved again has the number of the first",
        "dcjax/runs/checkpoints.py",
        "number = max(int(state.step), 1 + (self.latest or 0))",
        "number = int(state.step)",
        "runs/test_checkpoints.py",
    ),
    Break(
        "checksums of checkpoints are not looked at",
        "dcjax/runs/store.py",
        "if damage and not error and folder.exists():",
        "if damage and error and folder.exists():",
        "runs/test_store.py",
    ),
    Break(
        "a second run in a folder is let in",
        "dcjax/runs/locks.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "runs/test_locks.py",
    ),
    Break(
        "the earlier of equal epochs is best",
        "dcjax/runs/progress.py",
        "if scores[best_by] >= self.best_scores.get(best_by, -math.inf):",
        "if scores[best_by] > self.best_scores.get(best_by, -math.inf):",
        "runs/test_progress.py",
    ),
    Break(
        "a run goes on from its first step of the epoch",
        "dcjax/experiment/epochs.py",
        "plan.blocks(progress.epoch_step)",
        "plan.blocks(0)",
        "experiment/test_epochs.py",
    ),
    Break(
        "the class that another is confused with most",
        "dcjax/analysis/outcomes.py",
        "np.lexsort((pairs[1], -counts, pairs[0]))",
        "np.lexsort((pairs[1], counts, pairs[0]))",
        "analysis/test_outcomes.py",
    ),
    Break(
        "pairs of positives that division separates",
        "dcjax/analysis/clusters.py",
        "together = counts.images[counts.clusters >= 0]",
        "together = counts.images",
        "analysis/test_clusters.py",
    ),
    Break(
        "what the queries of a report find",
        "dcjax/experiment/report/retrieval.py",
        "return queries if self.is_same_set else None",
        "return None",
        "modes/test_report.py",
    ),
    Break(
        "an image of the gallery finds itself",
        "dcjax/retrieval/neighbors.py",
        "is_searched &= jnp.arange(len(gallery))[:, None] != self_rows",
        "is_searched &= jnp.arange(len(gallery))[:, None] >= 0",
        "retrieval/test_neighbors.py",
    ),
    Break(
        "neighbours that rounding hides are not looked for",
        "dcjax/retrieval/neighbors.py",
        "(near[:, -1] <= near[:, k - 1] + 2 * bound)",
        "(near[:, -1] < near[:, k - 1] - 2 * bound)",
        "retrieval/test_neighbors.py",
    ),
    Break(
        "a subspace keeps the combined mask",
        "dcjax/division/masks.py",
        "return apply(unmasked, masks[cluster])",
        "return apply(embeddings, masks[cluster])",
        "division/test_masks.py",
    ),
    Break(
        "a search of a class searches all",
        "dcjax/experiment/search.py",
        "allowed = self.images.labels == self._label(class_name) if class_name else None",
        "allowed = None",
        "pages/test_search_server.py",
    ),
    Break(
        "parts of other images are used again",
        "dcjax/retrieval/embedding_parts.py",
        "            if found != identity:\n                self._remove_files()",
        "            if not found:\n                self._remove_files()",
        "modes/test_embed.py",
    ),
    Break(
        "exported crops lie in a corner",
        "dcjax/data/device_resize.py",
        "shift = -corner - (",
        "shift = -(",
        "data/test_device_resize.py",
    ),
    Break(
        "a checkpoint in an epoch has the scores of the epoch before",
        "dcjax/experiment/embedder.py",
        "is_scored = evaluates and not progress.epoch_step",
        "is_scored = evaluates",
        "modes/test_export.py",
    ),
    Break(
        "a page of another site may search",
        "dcjax/pages/guard.py",
        'origin.partition("://")[2] != host)',
        'origin.partition("://")[2] == "")',
        "pages/test_search_server.py",
    ),
)


def check(broken: Break, folder: pathlib.Path) -> str:
    """Returns how the tests take a break: "caught", or what is wrong."""
    path = folder / broken.path
    text = path.read_text()
    if text.count(broken.right) != 1:
        return f"{broken.path} has its text {text.count(broken.right)} times"
    path.write_text(text.replace(broken.right, broken.wrong))
    tests = [f"tests/{name}" for name in broken.tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=_environment(), check=False
        )
    finally:
        path.write_text(text)
    outcomes = {0: "not caught", 1: "caught"}  # others are of pytest itself, as 2 of imports
    return outcomes.get(done.returncode, f"pytest ended with {done.returncode}")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}


def main(words: Sequence[str]) -> int:
    """Tries all breaks, or those whose name has one of these words; returns how many are missed."""
    chosen = [each for each in BREAKS if not words or any(word in each.name for word in words)]
    num_missed = 0
    with tempfile.TemporaryDirectory() as top:
        folder = pathlib.Path(top)
        for name in _COPIED:
            copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
            copy(_ROOT / name, folder / name)
        for number, broken in enumerate(chosen, start=1):
            result = check(broken, folder)
            num_missed += result != "caught"
            sys.stdout.write(f"{number:3} of {len(chosen)}  {result:12}  {broken.name}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - num_missed} of {len(chosen)} are caught\n")
    return num_missed


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
