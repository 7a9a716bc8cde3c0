"""Bundle: what goes to the device. A directory with ``manifest.json``, the models, the labels and golden vectors."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from tlexport.artifact import Artifact, Precision
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile
from tlexport.prediction import Estimate
from tlexport.profile import Profile
from tlexport.record import Record

MANIFEST = "manifest.json"
LABELS = "labels.txt"


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or not path.parts or path.as_posix() != text:
        raise ValueError("must be a plain relative path inside the bundle")
    return text


InnerPath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Latency(Record):
    """A measured latency of one image."""

    kind: Literal["measured"]
    p50: float = Field(description="ms")
    p95: float = Field(description="ms")
    runtime: str
    provider: str
    threads: int


class EngineRecipe(Record):
    """What an engine is built with on the device, besides the model: the device knows its own TensorRT."""

    input: str = Field(min_length=1, description="name of the input tensor")
    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(description="(image, height, width, channel)")
    workspace_mb: PositiveInt = Field(description="MiB that the builder may use")
    precision: Precision
    opset: PositiveInt = Field(description="of the ONNX graph; says whether its types are complete")


class Model(Record):
    """One candidate in the bundle."""

    file: InnerPath
    artifact: Artifact
    top1: float = Field(ge=0, le=1, description="accuracy on the whole validation part, with ONNX Runtime")
    n: int = Field(ge=1, description="number of validation images")
    drop_points: float = Field(description="top-1 of the checkpoint minus this one's, percentage points")
    parity: float = Field(ge=0, description="largest difference in probability from the checkpoint over the validation images")
    latency: Latency | None = Field(description="measured on the target; None: that was not the machine of the export")
    peak_memory_bytes: int | None = Field(description="likewise")
    estimate: Estimate | None = Field(None, description="of latency and memory on the target, where they were not measured")
    tolerance: float = Field(gt=0, description="largest difference in probability that the golden vectors may show")
    golden_outputs: InnerPath
    chosen: bool
    reason: str
    engine: EngineRecipe | None = Field(None, description="of the engine that the device builds; None where it needs none")
    build: tuple[str, ...] = Field(
        (), exclude=True, repr=False, description="a command line, in the first bundles: not used, never written"
    )

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.artifact.size_bytes

    def latency_json(self) -> dict[str, object] | None:
        """As cli.md has it: measured, or estimated, which says nothing of how single runs scatter and so has no p95."""
        if self.latency is not None or self.estimate is None:
            return self.latency.model_dump() if self.latency else None
        e = self.estimate
        return {"kind": "estimated", "p95": None, **e.interval(), "threads": e.threads, "basis": e.basis}


class Rejected(Record):
    """A model that was made and measured, and is not in the bundle."""

    precision: Precision
    what: str
    size_bytes: int = Field(ge=1)
    top1: float = Field(ge=0, le=1)
    drop_points: float
    latency: Latency | None
    estimate: Estimate | None
    reason: str


class Golden(Record):
    """A handful of validation images with the tensors that decoding, resizing and cropping must give."""

    images: tuple[InnerPath, ...]
    inputs: InnerPath = Field(description="uint8 (image, height, width, channel), .npy")


class Manifest(Record):
    """The record ``manifest.json``."""

    format: Literal[1] = 1
    name: str
    target: str
    profile: Profile
    classes: tuple[str, ...]
    preprocess: Preprocess
    models: tuple[Model, ...] = Field(min_length=1)
    rejected: tuple[Rejected, ...] = ()
    golden: Golden
    files: dict[InnerPath, Sha256] = Field(description="every file of the bundle but this one")
    checkpoint_sha256: str
    checkpoint_top1: float
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [m.file for m in self.models] + [m.golden_outputs for m in self.models] + [*self.golden.images, self.golden.inputs]
        for name in named:
            if name not in self.files:
                raise ValueError(f"{name} has no hash in files")
        for model in self.models:
            if self.files[model.file] != model.artifact.sha256:
                raise ValueError(f"{model.file} has one hash in files and another in its own record")
        if len({model.artifact.precision for model in self.models}) < len(self.models):
            raise ValueError("two models have one precision")
        if sum(model.chosen for model in self.models) != 1:
            raise ValueError("exactly one model must be chosen")
        return self

    def model(self, precision: Precision | None = None) -> Model:
        """The chosen model, or the one of a precision. Raises InvalidFile when the bundle has none."""
        for model in self.models:
            if model.chosen if precision is None else model.artifact.precision == precision:
                return model
        have = ", ".join(m.artifact.precision for m in self.models)
        raise InvalidFile(f"the bundle {self.name} holds no {precision} model", f"it holds: {have}")


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest. Raises InvalidFile when ``path`` is not a bundle."""
    if not (path / MANIFEST).is_file():
        raise InvalidFile(f"{path} is not a bundle: it holds no {MANIFEST}", "make one with: tlx export --target PROFILE")
    return Manifest.read(path / MANIFEST)
