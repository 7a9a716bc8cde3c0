"""A model of a bundle, ready to classify::

from tlx import Model
model = Model(".")
print(model.predict("photo.jpg"))
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import choice as choices
from .errors import DeviceError, InvalidFile, Unsupported
from .inputs.decoding import BadImage
from .inputs.image import prepare, prepare_pixels
from .manifest import Bundle
from .terminal import say

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Dict, List, Optional, Sequence, Type, Union

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    Source = Union[str, Path, Pixels]
    Prediction = Dict[str, Any]


def open_model(
    bundle: Bundle,
    record: "Dict[str, Any]",
    choice: choices.Choice,
    threads: "Optional[int]" = None,
    batch: "Optional[int]" = None,
    report: "Callable[[str], None]" = say,
) -> "Any":
    """A session of a model: ``provider``, ``run(pixels) -> probabilities``, ``close()``, a context manager.

    Args:
        bundle: the bundle; the file's hash is checked.
        record: the model's record in the manifest.
        choice: its runtime and device; see :func:`tlexport.device.choice.choose`.
        threads: CPU threads of ONNX Runtime; None: chosen by ONNX Runtime.
        batch: fixed batch size; None: any (an engine uses the batch size of its recipe).
        report: receives the progress of an engine build.

    Raises:
        InvalidFile: the tensors differ from those in the manifest.
        DeviceError: see errors.py.
    """
    if choice.runtime == "onnxruntime":
        from .runtimes import onnx_session

        simulate = bundle.for_tensorrt and record["artifact"]["precision"] == "int8"
        path = bundle.checked(record["file"])
        session = onnx_session.open_session(path, choice.device, threads, batch, simulate)
        _expect_tensors(session, record["artifact"], batch, path)
        for note in session.notes:
            report(note)
        return session
    from .runtimes import engines

    images = engines.recipe_of(bundle, record)["shape"][0]
    if batch is not None and batch != images:
        raise Unsupported(f"the engine takes {images} image(s) at a time, not {batch}", "leave out --batch")
    return engines.open_engine(bundle, record, choice, report)


def _expect_tensors(session: "Any", artifact: "Dict[str, Any]", batch: "Optional[int]", path: Path) -> None:
    """Close a session and raise InvalidFile if its tensors differ from the manifest. The recipe fixes those of an engine."""
    declared = [{key: tensor[key] for key in ("name", "dtype", "shape")} for tensor in artifact["inputs"] + artifact["outputs"]]
    fixed = [dict(tensor, shape=[batch, *tensor["shape"][1:]]) for tensor in declared]  # position of the batch axis
    if session.tensors not in (declared, fixed):
        session.close()
        raise InvalidFile(
            f"{path}: its tensors are {_text(session.tensors)}; the manifest declares {_text(declared)}", "copy the bundle again"
        )


def _text(tensors: "List[Dict[str, Any]]") -> str:
    return ", ".join(f"{tensor['name']} {tensor['dtype']} {tuple(tensor['shape'])}" for tensor in tensors)


class Model:
    """An open model of a bundle.

    Args:
        bundle: the bundle's folder.
        precision: the model to open; None: the model that the export chose.
        runtime: "auto" (the target's), "onnxruntime", "tensorrt" or "trtexec".
        device: "auto" (the target's), "cpu", "cuda[:N]".
        threads: CPU threads of ONNX Runtime; None: chosen by ONNX Runtime.
        batch: images per run.

    Raises:
        InvalidFile: not a bundle, or the bundle has no model of that precision.
        VerificationFailed: the model file has changed since the export.
        MissingDependency, Unsupported: this device cannot run the model; the message has the reason and the alternatives.
    """

    def __init__(
        self,
        bundle: "Union[str, Path]" = ".",
        precision: "Optional[str]" = None,
        runtime: str = "auto",
        device: str = "auto",
        threads: "Optional[int]" = None,
        batch: int = 1,
    ) -> None:
        self.bundle = Bundle(bundle)
        self.classes = self.bundle.classes
        self.record = self.bundle.model(precision)
        self.choice = choices.choose(self.bundle, runtime, device)
        self.batch = batch
        self._dtype = np.dtype(self.record["artifact"]["inputs"][0]["dtype"])
        size = self.bundle.preprocess["size"]
        self._shape = (size, size, 3)
        self._session = open_model(self.bundle, self.record, self.choice, threads, 1 if batch == 1 else None)
        self.provider: str = self._session.provider

    def predict(self, source: "Union[Source, Sequence[Source]]") -> "List[Prediction]":
        """Classify images.

        Args:
            source: a path; or decoded pixels, uint8 (height, width, channel), RGB 0..255, of any size; or a list of these; or
                preprocessed pixels, uint8 (image, height, width, channel) at the model's size.

        Returns:
            For each image ``{"path", "class", "probability", "probabilities"}``; ``path`` is None for pixels.

        Raises:
            InvalidFile: unusable images, each with the reason.
        """
        if isinstance(source, np.ndarray) and source.ndim == 4:
            return [self._prediction(None, row) for row in self.probabilities(source)]
        sources: Sequence[Source] = source if isinstance(source, (list, tuple)) else [source]  # type: ignore[list-item]
        if not sources:
            return []
        paths = [None if isinstance(item, np.ndarray) else str(item) for item in sources]
        return [self._prediction(path, row) for path, row in zip(paths, self.probabilities(self._prepared(sources)))]

    def predict_raw(self, data: bytes, width: int, height: int) -> "List[Prediction]":
        """Classify one image of raw bytes, RGB, row by row: for devices without a decoder.

        Raises:
            InvalidFile: the number of bytes does not match the size.
        """
        if width < 1 or height < 1 or len(data) != 3 * width * height:
            raise InvalidFile(f"{len(data)} bytes; RGB pixels of {width} x {height} take {3 * width * height}")
        return self.predict(np.frombuffer(data, np.uint8).reshape(height, width, 3))

    def probabilities(self, pixels: "Pixels") -> "npt.NDArray[np.float32]":
        """Probabilities of prepared pixels.

        Args:
            pixels: uint8 (image, height, width, channel) at the model's size.

        Returns:
            float32 (image, class), in the order of ``classes``.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape:
            raise InvalidFile(f"{pixels.dtype} {pixels.shape}; uint8 (image, {', '.join(map(str, self._shape))}) was expected")
        run, step = self._session.run, self.batch
        feed = pixels if self._dtype == np.uint8 else pixels.astype(self._dtype)
        if len(feed) == step:
            return self._expected(run(feed), step)
        rows = [self._expected(run(feed[i : i + step]), len(feed[i : i + step])) for i in range(0, len(feed), step)]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.classes)), np.float32)

    def _expected(self, rows: "npt.NDArray[np.float32]", images: int) -> "npt.NDArray[np.float32]":
        """Check the shape of the output: a graph may compute another shape than it declares."""
        if rows.shape != (images, len(self.classes)):
            wanted = (images, len(self.classes))
            raise DeviceError(f"{self.record['file']} answered with shape {rows.shape}; {wanted} was expected", "copy the bundle again")
        return rows

    def close(self) -> None:
        """Release the model."""
        self._session.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]", trace: "Optional[TracebackType]") -> None:
        self.close()

    def _prepared(self, sources: "Sequence[Source]") -> "Pixels":
        squares, bad = [], []
        for item in sources:
            try:
                prepared = prepare_pixels if isinstance(item, np.ndarray) else prepare
                squares.append(prepared(item, self.bundle.preprocess))  # type: ignore[arg-type]
            except BadImage as error:
                bad.append(f"  {'pixels' if isinstance(item, np.ndarray) else item}: {error}")
        if bad:
            raise InvalidFile("these images cannot be used:\n" + "\n".join(bad), "leave them out, or save them again as JPEG or PNG")
        return np.stack(squares)

    def _prediction(self, path: "Optional[str]", row: "npt.NDArray[np.float32]") -> "Prediction":
        probabilities = [round(value, 6) for value in row.tolist()]
        best = int(row.argmax())
        return {
            "path": path,
            "class": self.classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(self.classes, probabilities)),
        }
