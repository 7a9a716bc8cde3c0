"""Recipe: what the user asks of training."""

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
    """Everything that, with the data, determines a training run. A run with the same recipe on CPU gives the same weights."""

    format: Literal[1] = 1
    backbone: str = Field("mobilenet_v3_small", description="a name from `tlx backbones`")
    weights: str = Field("imagenet", description="imagenet, embedded, none, or the path of a .safetensors or .pth file")
    strategy: Strategy = Field(
        "head",
        description="head: a new classifier; partial: then the top stages; gradual: then stage by stage; full: all at once",
    )
    freeze: str | None = Field(
        None, description="this stage and all below stay frozen; default: partial all but the two topmost, gradual the stem"
    )
    image_size: int | None = Field(None, ge=32, le=1024, description="pixels; default: what the weights were trained at")
    epochs: int = Field(20, ge=1, le=10_000, description="passes over the training images, all phases together")
    head_epochs: int | None = Field(None, ge=1, description="partial, gradual: epochs of the first phase; default a third of all")
    batch_size: int = Field(32, ge=2, le=65_536, description="images per optimizer step")
    lr: Annotated[float, Field(gt=0, lt=10)] | Literal["auto"] | None = Field(
        None, description="peak learning rate of the first phase; default 0.001 for full, else 0.005; auto: found by a range test"
    )
    fine_lr: float | None = Field(None, gt=0, lt=10, description="partial, gradual: peak rate of the second phase; default a third of lr")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0, lt=1)
    stage_decay: float = Field(1.0, gt=0, le=1, description="a stage's rate is this times the rate of the stage above it")
    schedule: Literal["cosine", "one-cycle", "constant"] = Field("cosine", description="of the rate within a phase, after the warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of a phase's steps in which the rate rises linearly")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: not clipped")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is then what is validated and kept; 0: none"
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    patience: int = Field(8, ge=1, description="stop a phase after so many epochs without a better validation loss")
    balance: Literal["none", "weights", "sampler"] = Field("none", description="for imbalanced classes: weigh the loss, or draw evenly")
    augment: Literal["none", "light", "medium", "strong"] = Field(
        "none", description="crop and flip; TrivialAugment; RandAugment, erasing, mixup"
    )
    views: int = Field(4, ge=1, le=1000, description="with frozen stages and augmentation: how many augmented views of each image are kept")
    flip: bool = Field(True, description="augmentation may mirror images left to right (not for text or digits)")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the images kept for validation, where the data has no split of its own"
    )
    background: tuple[Level, Level, Level] = Field((255, 255, 255), description="RGB 0..255 behind transparent pixels")
    teacher: str | None = Field(None, description="a checkpoint to distil from: same classes, usually a larger backbone")
    seed: int = Field(0, ge=0, lt=2**32)

    @classmethod
    def read_toml(cls, path: Path) -> Recipe:
        """Read a recipe.toml. Raises InvalidFile, naming each wrong key."""
        return cls.parse(read_toml(path), str(path))

    def to_toml(self) -> str:
        """The recipe as TOML; keys that are not set are left out, since TOML has no null."""
        data = self.model_dump(exclude_none=True)
        # every value is a string, number, bool or list of numbers: for these JSON's notation is TOML's, save for one character
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in data.items()).replace("\x7f", "\\u007f")
