"""Boosting by several workers of Ray Train, each on its share of the rows."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.train.lightgbm import LightGBMTrainer
from ray.train.lightgbm import get_network_params as lightgbm_network
from ray.train.xgboost import XGBoostTrainer

from ml.models.trainers.rounds import BoostingRows, Grower, Rounds
from pipeline.batch.ray_cluster import join, keeping_handler
from pipeline.core import scratch
from pipeline.core.errors import ModelError

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

_LABEL, _WEIGHT = "label", "weight"
_CHECKPOINT_EVERY = 100
"""Rounds between two checkpoints, from which training goes on after a worker is lost."""
_POLL_S = "0.2"
"""How often Ray Train looks for reports. Its default of two seconds is the time that each report takes."""
_FAILURES = 3
_TREES = "trees"


class AllRows(ray.train.DataConfig):
    """Gives each worker its share of all rows: Ray's own split drops rows so that shares are equal."""

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *args: Any, **options: Any
    ) -> list[dict[str, DataIterator]]:
        """Return the share of each worker, by name of the dataset."""
        del args, options
        shares: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            for rank, share in enumerate(dataset.streaming_split(world_size, equal=False)):
                shares[rank][name] = share
        return shares


def grow_on_ray(trainer: Grower, rows: BoostingRows, newest: BoostingRows | None, rounds: Rounds, model: str) -> bytes:
    """Return the trees that the workers of a trainer fit to rows together.

    A lost worker is replaced, and all go on from the last checkpoint. On several nodes, which have no folder in common, there is no
    checkpoint, and they begin again. Raises `ModelError` if they fail.
    """
    join()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_S)
    kind = LightGBMTrainer if trainer.library == "lightgbm" else XGBoostTrainer
    is_shared = sum(bool(node["Alive"]) for node in ray.nodes()) == 1  # type: ignore[no-untyped-call]  # Ray is untyped
    cpus = max(ray.cluster_resources().get("CPU", 1.0), 1.0)  # type: ignore[no-untyped-call]  # Ray is untyped
    with scratch.folder("train") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Data warns about its own settings
        fit = kind(
            cast("Any", _work),  # whose result Ray returns, although its type is None
            train_loop_config={
                "trainer": trainer,
                "rounds": rounds,
                "newest": newest,
                "like": rows.part(slice(0, 0)),
                "is_shared": is_shared,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=trainer.workers, resources_per_worker={"CPU": min(1.0, cpus / (trainer.workers + 1))}
            ),
            run_config=ray.train.RunConfig(
                name=f"{model}-{uuid.uuid4().hex[:8]}",
                storage_path=str(folder),
                failure_config=ray.train.FailureConfig(max_failures=_FAILURES),
            ),
            datasets={"rows": _dataset(rows, trainer.workers)},
            dataset_config=AllRows(),
        )
        try:
            with keeping_handler(signal.SIGINT):  # Ray Train's would stay
                result = fit.fit()
        except ray.train.TrainingFailedError as error:
            problem = f"the workers of model {model!r} could not fit it"
            raise ModelError(problem, got=str(error).strip().splitlines()[-1]) from error
    return bytes(getattr(result, "return_value"))  # noqa: B009 - Ray declares another class


def _dataset(rows: BoostingRows, workers: int) -> Dataset:
    columns = {f"f{number}": pa.array(rows.features[:, number]) for number in range(len(rows.names))}
    columns[_LABEL] = pa.array(rows.label)
    if rows.weight is not None:
        columns[_WEIGHT] = pa.array(rows.weight)
    table = pa.table(columns)
    size = -(-table.num_rows // workers)
    # one block for each worker: shares are the same in each run, and so are the trees
    return ray.data.from_arrow([table.slice(start, size) for start in range(0, table.num_rows, size)])


def _work(config: dict[str, Any]) -> bytes:
    """Fit in one worker. All workers get the same trees."""
    context = ray.train.get_context()
    trainer, rounds = config["trainer"], config["rounds"]
    rows = _share(config["like"])
    network = lightgbm_network() if trainer.library == "lightgbm" and context.get_world_size() > 1 else {}
    if network:
        network |= {"tree_learner": "data", "pre_partition": True, "num_threads": 1}
    params = {**rounds.params, **network}
    done, trees = _checkpoint(rounds)
    while done < rounds.count:
        count = min(_CHECKPOINT_EVERY, rounds.count - done) if not rounds.stop_after else rounds.count
        trees = trainer.grow(rows, config["newest"], replace(rounds, count=count, params=params, start=trees), None)
        done += count
        _report(done, trees if config["is_shared"] and not context.get_world_rank() else None)
    return trees or b""


def _share(like: BoostingRows) -> BoostingRows:
    batches = ray.train.get_dataset_shard("rows").iter_batches(batch_format="pyarrow", batch_size=None)
    table = pa.concat_tables(list(batches))
    features = np.column_stack([table[f"f{number}"].to_numpy() for number in range(len(like.names))])
    weight = table[_WEIGHT].to_numpy() if _WEIGHT in table.column_names else None
    return replace(like, features=features, label=table[_LABEL].to_numpy(), weight=weight)


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
