"""Workers of Ray Train that fit together, each its share of the rows; and boosting by them."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import ray
import ray.train
from ray.train.lightgbm import LightGBMTrainer
from ray.train.lightgbm import get_network_params as lightgbm_network
from ray.train.xgboost import XGBoostTrainer

from ml.models.rows import typed
from ml.models.stored_rows import StoredRows, spool
from ml.models.trainers.encoding import FeatureEncoding
from ml.models.trainers.rounds import BoostingRows, Grower, Rounds
from pipeline.batch.ray_cluster import join, keeping_handler
from pipeline.core import scratch
from pipeline.core.errors import ModelError

_CHECKPOINT_EVERY = 100
"""Rounds between two checkpoints, from which training goes on after a worker is lost."""
_POLL_S = "0.2"
"""How often Ray Train looks for reports. Its default of two seconds is the time that each report takes."""
_FAILURES = 3
_TREES = "trees"


@dataclass(frozen=True)
class StoredBoostingRows:
    """Stored rows as boosted trees take them; each worker reads its share."""

    rows: StoredRows
    newest: StoredRows | None
    """Rows that decide when to stop, which all workers read."""
    encoding: FeatureEncoding
    classes: tuple[Any, ...]
    weights: tuple[float, ...]
    """The weight of a row of each class; empty if all rows have the same."""

    def share(self, number: int, workers: int, folder: Path) -> BoostingRows:
        """Return the share of a worker."""
        return self._read(self.rows, (number, workers), folder / "share")

    def stopping(self, folder: Path) -> BoostingRows | None:
        """Return the rows that decide when to stop."""
        return None if self.newest is None else self._read(self.newest, None, folder / "newest")

    def _read(self, rows: StoredRows, share: tuple[int, int] | None, file: Path) -> BoostingRows:
        kinds = self.encoding.kinds
        read = spool(rows, share, lambda batch: self.encoding.matrix(typed(batch, kinds)), file, self.classes)
        weight = np.array(self.weights)[read.label.astype(int)] if self.weights else None
        return BoostingRows(read.features, read.label, weight, tuple(kinds), tuple(self.encoding.categorical))


def grow_on_ray(trainer: Grower, rows: StoredBoostingRows, rounds: Rounds, model: str) -> bytes:
    """Return the trees that the workers of a trainer fit to rows together, each to the share that it reads. See `run_workers`."""
    kind = LightGBMTrainer if trainer.library == "lightgbm" else XGBoostTrainer
    return run_workers(kind, _work, {"trainer": trainer, "rounds": rounds, "rows": rows}, trainer.workers, model)


def run_workers(
    kind: Any, work: Callable[[dict[str, Any]], bytes], config: dict[str, Any], workers: int, model: str
) -> bytes:
    """Return what the workers of a trainer of Ray Train return. Each calls `work` with the config.

    A lost worker is replaced, and all go on from the last checkpoint. On several nodes, which have no folder in common, there is no
    checkpoint, and they begin again; `is_shared` in the config says which it is. Raises `ModelError` if they fail.
    """
    join()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_S)
    is_shared = sum(bool(node["Alive"]) for node in ray.nodes()) == 1  # type: ignore[no-untyped-call]  # Ray is untyped
    cpus = max(ray.cluster_resources().get("CPU", 1.0), 1.0)  # type: ignore[no-untyped-call]  # Ray is untyped
    with scratch.folder("train") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Train warns about its own settings
        fit = kind(
            _call,
            # Ray pickles functions of the project by name, which workers cannot import
            train_loop_config={"shipped": cloudpickle.dumps((work, {**config, "is_shared": is_shared}))},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": min(1.0, cpus / (workers + 1))}
            ),
            run_config=ray.train.RunConfig(
                name=f"{model}-{uuid.uuid4().hex[:8]}",
                storage_path=str(folder),
                failure_config=ray.train.FailureConfig(max_failures=_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            with keeping_handler(signal.SIGINT):  # Ray Train's would stay
                result = fit.fit()
        except ray.train.TrainingFailedError as error:
            problem = f"the workers of model {model!r} could not fit it"
            raise ModelError(problem, got=str(error).strip().splitlines()[-1]) from error
    return bytes(result.return_value)


def _call(config: dict[str, bytes]) -> bytes:
    work, options = cloudpickle.loads(config["shipped"])
    return bytes(work(options))


def _work(config: dict[str, Any]) -> bytes:
    """Fit in one worker. All workers get the same trees."""
    context = ray.train.get_context()
    trainer, rounds, number, workers = (
        config["trainer"],
        config["rounds"],
        context.get_world_rank(),
        context.get_world_size(),
    )
    network = lightgbm_network() if trainer.library == "lightgbm" and workers > 1 else {}
    if network:
        network |= {"tree_learner": "data", "pre_partition": True, "num_threads": 1}
    params = {**rounds.params, **network}
    with scratch.folder("train") as folder:
        rows, newest = config["rows"].share(number, workers, Path(folder)), config["rows"].stopping(Path(folder))
        done, trees = _checkpoint(rounds)
        while done < rounds.count:
            count = min(_CHECKPOINT_EVERY, rounds.count - done) if not rounds.stop_after else rounds.count
            trees = trainer.grow(rows, newest, replace(rounds, count=count, params=params, start=trees), None)
            done += count
            _report(done, trees if config["is_shared"] and not number else None)
    return trees or b""


def _checkpoint(rounds: Rounds) -> tuple[int, bytes | None]:
    known = ray.train.get_checkpoint()
    if known is None:
        return 0, rounds.start
    with known.as_directory() as folder:
        done, _, trees = (Path(folder) / _TREES).read_bytes().partition(b"\n")
        return int(done), trees


def _report(done: int, trees: bytes | None) -> None:
    """Report progress, with a checkpoint of the trees in one of the workers."""
    if trees is None:
        ray.train.report({"rounds": done})
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _TREES).write_bytes(b"%d\n%b" % (done, trees))
        ray.train.report({"rounds": done}, checkpoint=ray.train.Checkpoint.from_directory(folder))
