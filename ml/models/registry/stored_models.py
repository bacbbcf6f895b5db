"""Fitted models as folders in MLflow's format.

Boosted trees are stored in their library's own format, networks of PyTorch as weights and the name of the function that builds
them, and estimators of scikit-learn by skops, if they consist of known classes. Loading these runs no code. Other estimators are
stored by cloudpickle, whose loading runs code: trust such a model like code, or refuse all of them by MLflow's variable
MLFLOW_ALLOW_PICKLE_DESERIALIZATION. `ModelFormat` says which it is. The digest of a folder shows whether a stored model is the
one that was registered.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ml.models.calibration import Calibration
from ml.models.fitted import FittedModel
from ml.models.rows import Kind
from ml.models.tasks import HALF, Task, task_of
from ml.models.trainers.boosted_trees import BoostedTrees
from ml.models.trainers.network import FittedNetwork
from pipeline.core.errors import ModelError, SettingsError, StorageError

ModelFormat = Literal["trees", "network", "skops", "cloudpickle"]
_FEATURES, _TASK, _CLASSES, _FORMAT = "features", "task", "classes", "format"
_CALIBRATION, _THRESHOLD = "calibration", "threshold"
_KNOWN = ("sklearn.", "lightgbm.", "xgboost.")
"""Packages whose classes skops may load, besides those that it knows itself: an estimator consists of their data.

Functions of Python and NumPy are not among them: a pipeline of such functions runs what its author wants when it predicts.
"""
_KNOWN_TYPES = frozenset({"numpy.dtype", "collections.OrderedDict", "collections.defaultdict"})
_MLFLOW = {"text": "string", "timestamp": "datetime"}
_SKOPS_FILE = "model.skops"
_ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"


def quiet_mlflow() -> Any:
    """Import and return MLflow, with telemetry, warnings and info logs disabled."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # caused by MLflow's own table options and type hints; users cannot act on them
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow  # noqa: PLC0415 - takes two seconds

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # after the import, which sets it
    return mlflow


def save(fitted: FittedModel, folder: Path, name: str) -> ModelFormat:
    """Write a model to a new folder, and return its format.

    Raises `ModelError` if the estimator cannot be stored, or only by cloudpickle where that is refused.
    """
    if isinstance(fitted.estimator, BoostedTrees):
        return _save_own(fitted, fitted.estimator, folder, "trees", (fitted.estimator.library,))
    if isinstance(fitted.estimator, FittedNetwork):
        return _save_own(fitted, fitted.estimator, folder, "network", ("torch", "safetensors"))
    return _save_estimator(fitted, folder, name)


def load(folder: Path, registered_as: str | None = None) -> FittedModel:
    """Read a model from a folder.

    Raises `StorageError` if it is damaged, consists of unknown classes, has another format than the one that it is `registered_as`
    (which people see before they trust it), or is stored by cloudpickle where that is refused.
    """
    from mlflow.models import Model  # noqa: PLC0415 - takes two seconds

    model = Model.load(str(folder))
    known, signature = model.metadata or {}, model.signature
    task = task_of(known.get(_TASK, "binary"), known.get(_CLASSES, (0, 1)))  # earlier models have neither
    kinds: dict[str, Kind] = {name: known[_FEATURES][name] for name in signature.inputs.input_names()}
    points = known.get(_CALIBRATION)
    calibration = None if points is None else Calibration(points[0], tuple(points[1]), tuple(points[2]))
    format_ = known.get(_FORMAT, "cloudpickle")
    if registered_as is not None and format_ != registered_as:
        problem = "a stored model has another format than the one that is registered"
        do = "do not use it: somebody has changed the model store"
        raise StorageError(problem, got=f"{format_} instead of {registered_as}", do=do)
    if format_ == "cloudpickle" and not _allows_pickle():
        raise StorageError(
            "the model is stored by cloudpickle, which is refused here: loading it runs its code",
            got=f"{_ALLOW_PICKLE}=false",
            do="train it with an estimator of scikit-learn or boosted trees, or remove the variable if you trust the model store",
        )
    estimator = _estimator(folder, format_)
    return FittedModel(estimator, task, kinds, calibration, known.get(_THRESHOLD, HALF))


def _allows_pickle() -> bool:
    quiet_mlflow()
    from mlflow import environment_variables  # noqa: PLC0415 - takes two seconds

    variable: Any = environment_variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION
    try:
        return bool(variable.get())
    except ValueError as error:
        raise SettingsError(
            f"{_ALLOW_PICKLE} is neither true nor false", got=repr(os.environ[_ALLOW_PICKLE]), do="set it to false"
        ) from error


def digest(folder: Path) -> str:
    """Return 64 hexadecimal digits of SHA-256 over the names and contents of all files in a folder."""
    hashed = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        hashed.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def _estimator(folder: Path, format_: str) -> Any:
    if format_ == "trees":
        return BoostedTrees.load(folder)
    if format_ == "network":
        return FittedNetwork.load(folder)
    if format_ == "skops":
        import skops.io  # noqa: PLC0415 - only for such models

        path = folder / _SKOPS_FILE
        unknown = [each for each in skops.io.get_untrusted_types(file=path) if not _is_known(each)]
        if unknown:
            problem = "a stored model contains classes that no estimator of Headwater has"
            do = "do not use it: somebody has changed the model store"
            raise StorageError(problem, got=", ".join(unknown[:5]), do=do)
        return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    mlflow = quiet_mlflow()
    return mlflow.sklearn.load_model(str(folder))


def _save_own(
    fitted: FittedModel,
    estimator: BoostedTrees | FittedNetwork,
    folder: Path,
    format_: ModelFormat,
    libraries: tuple[str, ...],
) -> ModelFormat:
    quiet_mlflow()
    from mlflow.models import Model  # noqa: PLC0415 - takes two seconds

    folder.mkdir()
    estimator.save(folder)
    model = Model(signature=_signature(fitted), metadata=_metadata(fitted, format_))
    model.add_flavor("headwater", library=libraries[0])
    model.save(str(folder / "MLmodel"))
    (folder / "requirements.txt").write_text("\n".join(_requirements("numpy", "pandas", *libraries)) + "\n")
    return format_


def _save_estimator(fitted: FittedModel, folder: Path, name: str) -> ModelFormat:
    mlflow = quiet_mlflow()
    estimator = fitted.estimator
    types = skops_types(estimator)
    format_: ModelFormat = "cloudpickle" if types is None else "skops"
    if format_ == "cloudpickle" and not _allows_pickle():
        raise ModelError(
            f"model {name!r} could only be stored by cloudpickle, which is refused here",
            got=f"{type(estimator).__name__}, with {_ALLOW_PICKLE}=false",
            do="use classes of scikit-learn only, without functions, or boosted trees",
        )
    package = type(estimator).__module__.partition(".")[0]
    try:
        mlflow.sklearn.save_model(
            estimator,
            str(folder),
            signature=_signature(fitted),
            serialization_format=format_,
            skops_trusted_types=types,
            pyfunc_predict_fn=fitted.task.method,
            # otherwise MLflow starts a process to determine them
            pip_requirements=_requirements(format_, "pandas", "scikit-learn", package),
            metadata=_metadata(fitted, format_),
        )
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the estimator of model {name!r} cannot be stored",
            got=f"{type(estimator).__name__}: {error}",
            do="return an estimator that can be pickled",
        ) from error
    return format_


def _is_known(name: str) -> bool:
    return name in _KNOWN_TYPES or name.startswith(_KNOWN)


def skops_types(estimator: object) -> list[str] | None:
    """Return the classes that skops has to trust to load an estimator; `None` if skops cannot store it, or some are unknown."""
    import skops.io  # noqa: PLC0415 - only needed to store a model

    try:
        data = skops.io.dumps(estimator)
        types = skops.io.get_untrusted_types(data=data)
        if all(map(_is_known, types)):
            skops.io.loads(data, trusted=types)
            return list(types)
    except Exception:  # noqa: BLE001 - skops raises exceptions of many types for what it does not support
        return None
    return None


def _signature(fitted: FittedModel) -> Any:
    from mlflow.models import ModelSignature  # noqa: PLC0415 - takes two seconds
    from mlflow.types import ColSpec, Schema, TensorSpec  # noqa: PLC0415 - see above

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(_MLFLOW.get(kind, "double"), name) for name, kind in fitted.kinds.items()
    ]
    return ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("double")]))


def _metadata(fitted: FittedModel, format_: ModelFormat) -> dict[str, Any]:
    task: Task = fitted.task
    known: dict[str, Any] = {
        _FEATURES: dict(fitted.kinds),
        _TASK: task.name,
        _CLASSES: list(task.classes),
        _FORMAT: format_,
        _THRESHOLD: fitted.threshold,
    }
    if fitted.calibration is not None:
        points = fitted.calibration
        known[_CALIBRATION] = [points.method, list(points.scores), list(points.probabilities)]
    return known


def _requirements(*packages: str) -> list[str]:
    """Return the installed versions of packages, as pip takes them."""
    found = {}
    for name in packages:
        try:
            found[name] = f"{name}=={version(name)}"
        except PackageNotFoundError:  # a class of the project, which is pickled with the model
            continue
    return list(found.values())
