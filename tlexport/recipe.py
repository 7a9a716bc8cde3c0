"""Recipe: the settings of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tlexport.record import Record
from tlexport.storage.untrusted import read_toml

Strategy = Literal["head", "partial", "gradual", "full"]
Level = Annotated[int, Field(ge=0, le=255)]


class Recipe(Record):
    """All settings that, with the data, determine a training. The same recipe on a CPU gives the same weights."""

    format: Literal[1] = 1
    backbone: str = Field("mobilenet_v3_small", description="a name from `tlx backbones`")
    weights: str = Field(
        "pretrained", description="pretrained (imagenet is a synonym), embedded, none, or the path of a .safetensors or .pth file"
    )
    strategy: Strategy = Field(
        "head",
        description="stages to train. head: a new classifier; partial: then the top stages; gradual: stage by stage; full: all at once",
    )
    head: Literal["solved", "trained"] | None = Field(
        None,
        description="the classifier's phase. solved: logistic regression on the features, without epochs; trained: epochs; default: "
        "solved if no other key requires epochs",
    )
    freeze: str | None = Field(
        None, description="freeze this stage and all below; default: for partial all but the top two, for gradual the stem"
    )
    image_size: int | None = Field(None, ge=32, le=1024, description="side of the input, pixels; default: that of the weights")
    epochs: int = Field(20, ge=1, le=10_000, description="passes over the training images, all phases together")
    head_epochs: int | None = Field(None, ge=1, description="partial, gradual: epochs of the first phase; default: a third")
    batch_size: int = Field(32, ge=2, le=65_536, description="images per optimizer step")
    lr: Annotated[float, Field(gt=0, lt=10)] | Literal["auto"] | None = Field(
        None, description="peak learning rate of the first phase; default: 0.001 for full, else 0.005; auto: learning rate range test"
    )
    fine_lr: float | None = Field(None, gt=0, lt=10, description="partial, gradual: peak rate of the second phase; default: a third of lr")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0, lt=1)
    stage_decay: float = Field(1.0, gt=0, le=1, description="layer-wise learning rate decay: factor from each stage to the one below")
    schedule: Literal["cosine", "one-cycle", "constant"] = Field(
        "cosine", description="learning rate schedule of a phase after the warm-up"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of a phase's steps with a linearly rising rate")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, which replaces the weights in validation and in the checkpoint; 0: none",
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    patience: int = Field(8, ge=1, description="stop a phase after this many epochs without a lower validation loss")
    balance: Literal["none", "weights", "sampler"] = Field(
        "none", description="for imbalanced classes: weight the loss, or sample all classes equally often"
    )
    augment: Literal["none", "light", "medium", "strong"] = Field(
        "none", description="light: crop and flip; medium: also TrivialAugment; strong: also RandAugment, erasing and mixup"
    )
    views: int = Field(4, ge=1, le=1000, description="with frozen stages and augmentation: number of augmented views of each image")
    flip: bool = Field(True, description="augmentation may mirror images left to right (not for text or digits)")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="fraction of the images held out for validation, if the data has no split of its own"
    )
    background: tuple[Level, Level, Level] = Field((255, 255, 255), description="RGB 0..255 behind transparent pixels")
    teacher: str | None = Field(None, description="distil from this checkpoint: same classes, usually a larger backbone")
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def pretrained(self) -> bool:
        """Whether training starts from the published weights of the backbone."""
        return self.weights in ("pretrained", "imagenet")

    @classmethod
    def read_toml(cls, path: Path) -> Recipe:
        """Read a recipe.toml. Raises InvalidFile, naming each wrong key."""
        return cls.parse(read_toml(path), str(path))

    def to_toml(self) -> str:
        """The recipe as TOML; keys without a value are left out because TOML has no null."""
        data = self.model_dump(exclude_none=True)
        # JSON and TOML write strings, numbers, bools and lists of numbers alike, except for one character
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in data.items()).replace("\x7f", "\\u007f")
