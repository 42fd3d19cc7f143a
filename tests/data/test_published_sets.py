"""Command-line training and evaluation on the five datasets, with equal scores per source."""

import json
import re
from pathlib import Path

import benchmark_trees
import pytest
import tfds_archives
from forks import launch

_SMALL = {
    "dataset.complete": "false",
    "dataset.resize": 20,
    "dataset.crop": 16,
    "model.backbone": "resnet_small",
    "model.num_stages": 1,
    "model.width": 4,
    "model.batch_norm": "train",
    "model.embedding_dim": 16,
    "division.every_epochs": 1,
    "division.freeze_backbone_epochs": 0,
    "division.max_clusters": 2,
    "sampling.batch_size": 16,
    "train.num_epochs": 2,
    "train.full_embedding_from_epoch": -1,
    "eval.batch_size": 16,
    "eval.ks": "1,2,4",
    "eval.nmi_runs": 2,
    "train.report": "false",
}


def _launch(*flags: str) -> str:
    done = launch(*flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name",
    ["cub", *(pytest.param(x, marks=pytest.mark.long) for x in ("cars", "sop", "inshop", "vid"))],
)
def test_both_sources_give_equal_scores(name: str, tmp_path: Path) -> None:
    roots = {source: tmp_path / source for source in ("folder", "tfds")}
    pictures = benchmark_trees.write(name, "original", roots["folder"])
    manual = roots["tfds"] / "downloads" / "manual"
    if name in tfds_archives.BUILDERS:
        tfds_archives.pack(name, manual)
        tfds_archives.prepare(name, manual, roots["tfds"])
    else:  # the run prepares it from the manual download
        benchmark_trees.write(name, "original", manual)

    results = {}
    for source, root in roots.items():
        workdir = tmp_path / "runs" / source
        settings = _SMALL | {"dataset.root": root, "dataset.source": source}
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        output = _launch(f"--config=configs/{name}.py", f"--workdir={workdir}", *flags)
        num_trained = sum(picture.part == "train" for picture in pictures)
        assert f"train {num_trained} images of 12 classes" in output
        assert f"{name} (may be a part of it: dataset.complete=False)" in output
        assert "K = 2" in output
        results[source] = json.loads((workdir / "scores.json").read_text())
    assert results["folder"] == results["tfds"]
    assert results["folder"]["last"]["recall_at_4"] > 0.5  # chance is half as much

    both = ",".join(str(tmp_path / "runs" / source) for source in roots)
    table = _launch("--mode=evaluate", f"--workdir={both}")
    rows = [scores for line in table.splitlines() if (scores := re.findall(r"\d\.\d{4}", line))]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert f"{results['folder']['last']['recall_at_1']:.4f}" in rows[0]
