"""A long run uses no more memory at its end than after its warm-up."""

import json
from pathlib import Path

import many_processes
import numpy as np
import pytest

_SOAK = """
import json, sys
import jax
import pod
from configs import digits
from dcjax.runs.checkpoints import Checkpoints
from dcjax.modes.train import train

records, save = [], Checkpoints.save

def measured(self, state, *rest):
    failure = save(self, state, *rest)
    self.wait()
    status = open("/proc/self/status").read()
    host = int(status.split("VmRSS:")[1].split()[0]) / 1024
    device = sum(x.nbytes for x in jax.live_arrays()) / 2**20
    records.append({"step": int(state.step), "host": host, "device": device})
    return failure

Checkpoints.save = measured
config = digits.get_config()
config.update_from_flattened_dict({
    **pod.SETTINGS, "sampling.batch_size": 8, "train.num_epochs": 20, "eval.every_epochs": 5,
})
train(config, sys.argv[1])
sys.stderr.write("SOAK " + json.dumps(records))
"""


@pytest.mark.long
def test_memory_stays_flat_over_2000_steps_20_divisions_and_20_saves(tmp_path: Path) -> None:
    run = many_processes.python("-c", _SOAK, str(tmp_path))
    ((code, _, errors),) = many_processes.finish([run], seconds=1200)
    assert code == 0, errors
    records = json.loads(errors.split("SOAK ")[1])
    print("\n", records)  # noqa: T201, for the record: pytest -s
    assert len(records) == 20
    assert records[-1]["step"] >= 2000
    host, device = (np.array([row[name] for row in records]) for name in ("host", "device"))
    assert np.ptp(device[1:]) < 0.1  # MiB
    # Of 20 epochs the first five warm up: the allocator, TensorFlow's threads, all compilations.
    assert host[-5:].mean() < 1.03 * host[5:10].mean()
