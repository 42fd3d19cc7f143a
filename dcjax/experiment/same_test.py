"""The test images of several runs, which have to be the same for scores to be compared."""

from collections.abc import Iterator, Mapping

from dcjax.core.errors import InputError
from dcjax.data.datasets import Splits
from dcjax.experiment import agreement
from dcjax.experiment.embedder import Embedder


def load_each(runs: Mapping[str, Embedder]) -> Iterator[tuple[str, Embedder, Splits]]:
    """Yields each run, by workdir, with its test images.

    Raises:
      InputError: if the runs are not scored by the same protocol on the same images.
    """
    protocols = {run.config.eval.protocol for run in runs.values()}
    if len(protocols) > 1:
        raise InputError(
            "Only runs scored by one protocol can be compared, got eval.protocol "
            f"{' and '.join(sorted(protocols))}; give --config for all, or take them one by one."
        )
    first, expected = "", None
    for workdir, run in runs.items():
        splits = run.load_test()
        fingerprints = agreement.check_images(splits)
        if expected is None:
            first, expected = workdir, fingerprints
        elif fingerprints != expected:
            raise InputError(
                "Only runs on the same test images can be compared, but those of "
                f"{workdir} and {first} differ; take them one by one."
            )
        yield workdir, run, splits
