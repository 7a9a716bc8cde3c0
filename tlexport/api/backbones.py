"""The verb ``backbones``: the list of backbones, and the stages of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tlexport import plugins
from tlexport.embedded import EMBEDDED


@dataclass(frozen=True)
class Backbone:
    """One line of the list."""

    name: str
    family: str
    embedded: bool  # the package contains its weights

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """A stage, as ``--freeze`` names it."""

    name: str
    parameters: int
    output: str  # channels x height x width at the backbone's own image size


@dataclass(frozen=True)
class BackboneDetail:
    """One backbone in detail."""

    name: str
    family: str
    image_size: int  # pixels
    parameters: int  # with ImageNet's 1000 classes
    stages: tuple[Stage, ...]
    source: str  # the library that builds it
    imagenet: str  # name of the pretrained weights
    imagenet_top1: float | None  # published, %; None: not published
    licence: str | None  # SPDX identifier of the weights; None: unknown
    embedded: bool

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def list_backbones() -> list[Backbone]:
    """Every variant of every family, without loading torch."""
    return [
        Backbone(variant, family, (EMBEDDED / f"{variant}.safetensors").is_file())
        for family in plugins.names("backbones")
        for variant in plugins.backbone(family).VARIANTS
    ]


def describe_backbone(name: str) -> BackboneDetail:
    """Stages, sizes and weights of one backbone.

    Raises:
        UsageError: an unknown name.
        MissingDependency: its library is not installed.
    """
    plugins.family_of(name)  # raises for an unknown name before torch is imported
    import torch

    from tlexport.network import build

    network = build(name, 1000).eval().to("meta")  # computes shapes only: a forward pass of a large network takes seconds
    preset = plugins.source_of(name).preset(name, plugins.traits_of(name))
    size = preset.size
    stages, tensor = [], torch.empty(1, 3, size, size, device="meta")
    with torch.inference_mode():
        for stage_name, stage in network.stages.items():
            tensor = stage(tensor)
            stages.append(Stage(stage_name, sum(p.numel() for p in stage.parameters()), "x".join(map(str, tensor.shape[1:]))))
    entry = next(backbone for backbone in list_backbones() if backbone.name == name)
    return BackboneDetail(
        name=name,
        family=entry.family,
        image_size=size,
        parameters=sum(p.numel() for p in network.parameters()),
        stages=tuple(stages),
        source=plugins.family_of(name).SOURCE,
        imagenet=preset.weights,
        imagenet_top1=preset.top1,
        licence=preset.licence,
        embedded=entry.embedded,
    )
