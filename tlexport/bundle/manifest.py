"""Bundle: a directory for the device, with ``manifest.json``, the models, the labels and golden vectors.

docs/bundle-format.md describes it; docs/manifest.schema.json is generated from the records here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from statistics import NormalDist
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from tlexport.artifact import Artifact, Precision
from tlexport.checkpoint import InitialWeights
from tlexport.class_names import ClassNames
from tlexport.contract import Preprocess
from tlexport.errors import InvalidFile
from tlexport.hardware.profile import Profile
from tlexport.measurement import Environment
from tlexport.prediction import Estimate
from tlexport.record import Record, Sha256

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
LABELS = "labels.txt"
MODEL_CARD = "MODEL_CARD.md"
LARGEST_MANIFEST = 16 * 10**6  # bytes; one of a thousand classes and three models is about 0.1 MB
# device names of Windows, with any suffix
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def inner_path(text: str) -> str:
    """The path of a file in a bundle as it is written. Raises ValueError for one that leaves it, on any system, or has two readings."""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or not path.parts or path.as_posix() != text:
        raise ValueError("must be a plain relative path inside the bundle")
    if any(part.endswith((" ", ".")) or _DEVICE.fullmatch(part) or len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise ValueError("must be a plain relative path inside the bundle, of names that are valid on every system")
    if not text.isprintable() or len(text) > 512:
        raise ValueError("must be a plain relative path inside the bundle, at most 512 printable characters")
    return text


InnerPath = Annotated[str, AfterValidator(inner_path)]


class Noise(Record):
    """Whether a latency measurement was noisy. Noise never causes a change of the network."""

    verdict: Literal["quiet", "noisy"]
    cause: str = Field("", description="the symptoms in the runs and their likely causes; empty on a quiet machine")
    repeats: int = Field(1, ge=1, description="number of measurements; the quietest one counts")
    shortest_ms: float = Field(gt=0, description="the shortest run of all, or its CPU time if less")


class Latency(Record):
    """A measured latency of one image."""

    kind: Literal["measured"]
    p50: float = Field(description="ms")
    p95: float = Field(description="ms")
    runtime: str
    provider: str
    threads: int
    n: int | None = Field(None, ge=1, description="timed runs")
    environment: Environment | None = Field(None, description="the machine that measured")
    noise: Noise | None = Field(None, description="noise during the measurement; None: not recorded")


class EngineRecipe(Record):
    """The settings for building an engine on the device with the device's own TensorRT."""

    input: str = Field(min_length=1, description="name of the input tensor")
    shape: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = Field(description="(image, height, width, channel)")
    workspace_mb: PositiveInt = Field(description="MiB that the builder may use")
    precision: Precision
    opset: PositiveInt = Field(description="of the ONNX graph")


class Model(Record):
    """One candidate in the bundle."""

    file: InnerPath
    artifact: Artifact
    top1: float = Field(ge=0, le=1, description="accuracy on the whole validation part, with ONNX Runtime")
    n: int = Field(ge=1, description="number of validation images")
    drop_points: float = Field(description="top-1 of the checkpoint minus this one's, percentage points")
    parity: float = Field(ge=0, description="largest difference in probability from the checkpoint over the validation images")
    latency: Latency | None = Field(description="measured on the target; None: the export ran on another machine")
    peak_memory_bytes: int | None = Field(description="likewise")
    estimate: Estimate | None = Field(None, description="of latency and memory on the target, if they were not measured")
    tolerance: float = Field(gt=0, description="largest allowed difference in probability for the golden vectors")
    golden_outputs: InnerPath
    chosen: bool
    reason: str
    over: tuple[str, ...] = Field((), description="advisory limits of the profile that it violates, with both figures")
    doubts: tuple[str, ...] = Field((), description="limits that it exceeded only in a noisy measurement, which is ignored")
    engine: EngineRecipe | None = Field(None, description="of the engine that the device builds; None: no engine is needed")
    build: tuple[str, ...] = Field((), exclude=True, repr=False, description="a command line in the first bundles; ignored, never written")

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.artifact.size_bytes

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy, for randomly drawn validation images."""
        return wilson(self.top1, self.n)

    def latency_json(self) -> dict[str, object] | None:
        """As cli.md has it: measured, or estimated, which says nothing of how single runs scatter and so has no p95."""
        if self.latency is not None or self.estimate is None:
            return self.latency.model_dump(exclude={"n", "environment"}) if self.latency else None
        e = self.estimate
        return {"kind": "estimated", "p95": None, **e.interval(), "threads": e.threads, "basis": e.basis}


def wilson(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share 0..1 observed in ``n`` trials. It stays within 0..1.

    It also holds for shares near 1 and few trials, where the normal interval is too narrow
    (Brown, Cai, DasGupta 2001, "Interval Estimation for a Binomial Proportion").
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # guards against rounding


class Rejected(Record):
    """A model that is not in the bundle. It was made and measured, or it failed and has no figures."""

    precision: Precision
    what: str
    size_bytes: int | None = Field(ge=1)
    top1: float | None = Field(ge=0, le=1)
    drop_points: float | None
    latency: Latency | None
    estimate: Estimate | None
    reason: str

    @classmethod
    def failed(cls, precision: Precision, reason: str) -> Rejected:
        """The record of a precision that could not be made or failed its checks."""
        return cls(
            precision=precision, what="failed", size_bytes=None, top1=None, drop_points=None, latency=None, estimate=None, reason=reason
        )


class Golden(Record):
    """A few validation images with the expected tensors of decoding, resizing and cropping."""

    images: tuple[InnerPath, ...]
    inputs: InnerPath = Field(description="uint8 (image, height, width, channel), .npy")
    decoded: tuple[InnerPath, ...] = Field(
        (), description="of each image, decoded, the upper left corner of at most 256 x 256: uint8 (height, width, channel), .npy"
    )
    resized: InnerPath | None = Field(
        None, description="these corners after resizing and cropping, in the format of inputs; None: no corners"
    )

    def files(self) -> list[str]:
        """All files of the golden vectors."""
        return [*self.images, self.inputs, *self.decoded, *([self.resized] if self.resized else [])]


class Training(Record):
    """The training of the checkpoint."""

    backbone: str
    weights: Literal["imagenet", "embedded", "none", "file"] = Field(description="initial weights of the training")
    strategy: str
    recipe_sha256: Sha256 = Field(description="of the checkpoint's recipe.toml")
    dataset_sha256: Sha256 = Field(description="of one line for each image, sorted: its sha256, its part, its class")
    images: dict[Literal["train", "val", "test"], int] = Field(description="of each part")
    initial_weights: InitialWeights | None = Field(None, description="None: random, or not recorded")


class Terms(Record):
    """Known terms of use."""

    spdx: str | None = Field(description="identifier of the licence, as SPDX lists them; None: unknown, or several licences")
    note: str = ""


class Licences(Record):
    """Terms of use of the bundle's content and of its sources."""

    code: Terms = Field(description="of the programs in the bundle")
    network: Terms = Field(description="of the code that defines the network")
    weights: Terms = Field(description="of the initial weights of the training")


class Manifest(Record):
    """The record ``manifest.json``. Format 2 adds the training and the licences; format 1 is read without them."""

    format: Literal[1, 2] = 2
    name: str
    target: str
    profile: Profile
    classes: ClassNames
    preprocess: Preprocess
    models: tuple[Model, ...] = Field(min_length=1)
    rejected: tuple[Rejected, ...] = ()
    golden: Golden
    files: dict[InnerPath, Sha256] = Field(description="every file of the bundle except this one and its signature")
    checkpoint_sha256: str
    checkpoint_top1: float
    versions: dict[str, str]
    training: Training | None = Field(None, description="None: a bundle of format 1")
    licences: Licences | None = Field(None, description="likewise")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [m.file for m in self.models] + [m.golden_outputs for m in self.models] + self.golden.files()
        for name in named:
            if name not in self.files:
                raise ValueError(f"{name} has no hash in files")
        for model in self.models:
            if self.files[model.file] != model.artifact.sha256:
                raise ValueError(f"{model.file} has one hash in files and another in its own record")
        if len({model.artifact.precision for model in self.models}) < len(self.models):
            raise ValueError("two models have the same precision")
        if sum(model.chosen for model in self.models) != 1:
            raise ValueError("exactly one model must be chosen")
        return self

    def model(self, precision: Precision | None = None) -> Model:
        """The chosen model, or the one of a precision. Raises InvalidFile if there is none."""
        for model in self.models:
            if model.chosen if precision is None else model.artifact.precision == precision:
                return model
        have = ", ".join(m.artifact.precision for m in self.models)
        raise InvalidFile(f"the bundle {self.name} holds no {precision} model", f"it holds: {have}")


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest. Raises InvalidFile when ``path`` is not a bundle."""
    if not (path / MANIFEST).is_file():
        raise InvalidFile(f"{path} is not a bundle: it holds no {MANIFEST}", "make one with: tlx export --target PROFILE")
    size = (path / MANIFEST).stat().st_size
    if size > LARGEST_MANIFEST:
        raise InvalidFile(f"{path / MANIFEST} is not a manifest: it has {size:,} bytes, at most {LARGEST_MANIFEST:,} were expected")
    return Manifest.read(path / MANIFEST)
