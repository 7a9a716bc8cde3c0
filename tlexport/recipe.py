"""Recipe: what the user asks of training."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tlexport.errors import InvalidFile
from tlexport.record import Record

Strategy = Literal["head", "partial", "full"]
Level = Annotated[int, Field(ge=0, le=255)]


class Recipe(Record):
    """Everything that, with the data, determines a training run. A run with the same recipe on CPU gives the same weights."""

    format: Literal[1] = 1
    backbone: str = Field("mobilenet_v3_small", description="a name from `tlx backbones`")
    weights: str = Field("imagenet", description="imagenet, embedded, none, or the path of a .safetensors or .pth file")
    strategy: Strategy = Field(
        "head",
        description="head: a new classifier on frozen features; partial: then the top stages as well; full: all stages from the start",
    )
    freeze: str | None = Field(None, description="partial: this stage and all below stay frozen; default: all but the two topmost stages")
    image_size: int | None = Field(None, ge=32, le=1024, description="pixels; default: what the weights were trained at")
    epochs: int = Field(20, ge=1, le=10_000, description="passes over the training images, all phases together")
    head_epochs: int | None = Field(None, ge=1, description="partial: epochs of the first phase; default a third of all")
    batch_size: int = Field(32, ge=2, le=65_536, description="images per optimizer step")
    lr: float = Field(1e-3, gt=0, lt=10, description="peak learning rate of the first phase")
    fine_lr: float | None = Field(None, gt=0, lt=10, description="partial: peak rate of the second phase; default a third of lr")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0, lt=1)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of a phase's steps in which the rate rises linearly; then cosine to 0")
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    patience: int = Field(8, ge=1, description="stop a phase after so many epochs without a better validation loss")
    augment: Literal["none", "light"] = Field("none", description="light: random crop and flip of the training images")
    flip: bool = Field(True, description="augmentation may mirror images left to right (not for text or digits)")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of the images kept for validation, where the data has no split of its own"
    )
    background: tuple[Level, Level, Level] = Field((255, 255, 255), description="RGB 0..255 behind transparent pixels")
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


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as plain data. Raises InvalidFile when it is missing or not TOML (with line and column)."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidFile(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFile(f"{path} cannot be read as TOML: {error}") from None
