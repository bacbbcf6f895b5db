"""Fits networks of PyTorch, in this process or by workers of Ray Train. Needs the extra `torch`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed
from torch.nn import functional

from ml.models.rows import typed
from ml.models.stored_rows import Spooled, StoredRows, spool
from ml.models.tasks import TaskName
from ml.models.trainers.tensors import ColumnScale, TensorEncoding
from ml.models.trainers.trainer import SEED
from pipeline.core import scratch
from pipeline.core.errors import ModelError

Checkpointing = Callable[[int, dict[str, Any]], None]
"""Is called after each epoch with its number, from 1, and the state from which training goes on."""


@dataclass(frozen=True)
class NetworkJob:
    """What is fitted, and how."""

    network: Callable[..., Any]
    values: Mapping[str, object]
    features: int
    outputs: int
    loss: str
    task: TaskName
    scale: ColumnScale
    """Of the label, if it is a number."""
    epochs: int
    batch_rows: int
    learning_rate: float


@dataclass(frozen=True)
class TrainingWorker:
    """One of several workers, and how it goes on from the state after an epoch."""

    number: int = 0
    workers: int = 1
    start: dict[str, Any] | None = None
    after: Checkpointing | None = None


@dataclass(frozen=True)
class StoredTensors:
    """Stored rows as networks take them; each worker reads its share."""

    rows: StoredRows
    encoding: TensorEncoding
    classes: tuple[Any, ...]

    def share(self, worker: TrainingWorker, file: Path) -> Spooled:
        """Return the share of a worker, which is mapped from a file."""
        return spool(self.rows, (worker.number, worker.workers), self._matrix, file, self.classes)

    def _matrix(self, batch: Any) -> np.ndarray[Any, Any]:
        return self.encoding.matrix(typed(batch, self.encoding.codes.kinds))


def fit(job: NetworkJob, rows: Spooled, worker: TrainingWorker | None = None) -> bytes:
    """Return the weights of the network that is fitted to rows, in the format of safetensors.

    The same rows give the same weights, also if training went on from the state after an epoch. Raises `ModelError` if the network
    does not fit the rows, or if its loss is not a number any more.
    """
    worker = TrainingWorker() if worker is None else worker
    with _reproducible():
        module = _built(job)
        optimizer = torch.optim.AdamW(module.parameters(), lr=job.learning_rate)
        done = 0
        number, workers = worker.number, worker.workers
        if worker.start is not None:
            done = int(worker.start["epoch"])
            module.load_state_dict(worker.start["module"])
            optimizer.load_state_dict(worker.start["optimizer"])
        together = torch.nn.parallel.DistributedDataParallel(module) if workers > 1 else module
        batch = min(-(-job.batch_rows // workers), max(1, len(rows.label)))
        steps = _most(-(-len(rows.label) // batch), workers)
        for epoch in range(done, job.epochs):
            torch.manual_seed(hash((SEED, epoch, number)))
            together.train()
            mean = _epoch(job, together, optimizer, rows, _batches(len(rows.label), batch, steps, (epoch, number)))
            if not np.isfinite(mean):
                do = "lower learning_rate="
                raise ModelError(f"the loss is not a number any more in epoch {epoch + 1}", got=str(mean), do=do)
            if worker.after is not None:
                worker.after(epoch + 1, _state(epoch + 1, module, optimizer))
        weights = {name: each.detach().clone().contiguous() for name, each in module.state_dict().items()}
        return bytes(safetensors.torch.save(weights))


def fit_on_ray(job: NetworkJob, rows: StoredTensors, workers: int, model: str) -> bytes:
    """Return the weights that workers of Ray Train fit together, each to the share of the rows that it reads.

    A lost worker is replaced, and all go on from the last epoch. On several nodes, which have no folder in common, they begin again.
    """
    from ray.train.torch import TorchTrainer  # noqa: PLC0415 - importing Ray takes seconds

    from ml.models.trainers.distributed import run_workers  # noqa: PLC0415 - likewise

    return run_workers(TorchTrainer, _work, {"job": job, "rows": rows}, workers, model)


def _work(config: dict[str, Any]) -> bytes:
    """Fit in one worker. All workers get the same weights."""
    import ray.train  # noqa: PLC0415 - only in workers

    context = ray.train.get_context()

    def after(epoch: int, state: dict[str, Any]) -> None:
        if context.get_world_rank() or not config["is_shared"]:
            ray.train.report({"epoch": epoch})
            return
        with scratch.folder("checkpoint") as folder:
            torch.save(state, Path(folder) / "state.pt")
            ray.train.report({"epoch": epoch}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    worker = TrainingWorker(context.get_world_rank(), context.get_world_size(), _checkpoint(), after)
    with scratch.folder("train") as folder:
        return fit(config["job"], config["rows"].share(worker, Path(folder) / "share"), worker)


def _checkpoint() -> dict[str, Any] | None:
    import ray.train  # noqa: PLC0415 - only in workers

    known = ray.train.get_checkpoint()
    if known is None:
        return None
    with known.as_directory() as folder:
        # only tensors and numbers: loading runs no code
        state: dict[str, Any] = torch.load(Path(folder) / "state.pt", weights_only=True)
        return state


def _state(epoch: int, module: Any, optimizer: Any) -> dict[str, Any]:
    """Return a copy of the state, which later epochs do not change."""
    stream = io.BytesIO()
    torch.save({"epoch": epoch, "module": module.state_dict(), "optimizer": optimizer.state_dict()}, stream)
    stream.seek(0)
    state: dict[str, Any] = torch.load(stream, weights_only=True)
    return state


def _built(job: NetworkJob) -> Any:
    torch.manual_seed(SEED)
    module = job.network(job.features, job.outputs, **job.values)
    if not isinstance(module, torch.nn.Module):
        problem = f"the network {job.network.__name__!r} did not return a torch.nn.Module"
        raise ModelError(problem, got=type(module).__name__)
    module.eval()
    with torch.inference_mode():
        shape = tuple(module(torch.zeros(2, job.features)).shape)
    if shape != (2, job.outputs):
        problem = f"the network {job.network.__name__!r} must return {job.outputs} numbers for each row"
        raise ModelError(problem, got=f"a tensor of shape {shape} for 2 rows", do="use outputs for the last layer")
    return module


def _batches(rows: int, batch: int, steps: int, seed: tuple[int, int]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the positions of the rows of each step: all rows in a random order, then some again, so that all workers have as many steps."""
    order = np.random.default_rng((SEED, *seed)).permutation(rows)
    for step in range(steps):
        yield np.sort(order[np.arange(step * batch, (step + 1) * batch) % rows])


def _epoch(
    job: NetworkJob, module: Any, optimizer: Any, rows: Spooled, batches: Iterator[np.ndarray[Any, Any]]
) -> float:
    """Fit all batches, and return the mean loss."""
    total, steps = 0.0, 0
    for positions in batches:
        features = torch.from_numpy(np.ascontiguousarray(rows.features[positions]))
        label = (rows.label[positions] - job.scale.mean) / job.scale.deviation
        optimizer.zero_grad()
        loss = _loss(job, module(features), torch.from_numpy(label))
        loss.backward()
        optimizer.step()
        total, steps = total + float(loss.detach()), steps + 1
    return total / max(steps, 1)


def _loss(job: NetworkJob, outputs: Any, label: Any) -> Any:
    if job.task == "multiclass":
        return functional.cross_entropy(outputs, label.long())
    numbers, wanted = outputs[:, 0], label.float()
    if job.task == "binary":
        return functional.binary_cross_entropy_with_logits(numbers, wanted)
    losses = {"squared": functional.mse_loss, "absolute": functional.l1_loss, "huber": functional.smooth_l1_loss}
    return losses[job.loss](numbers, wanted)


def _most(steps: int, workers: int) -> int:
    """Return the most steps of all workers."""
    if workers == 1:
        return steps
    most = torch.tensor(steps)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Compute on one core, with deterministic algorithms and a generator of its own inside the context."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(mode=deterministic)
        torch.set_num_threads(threads)
