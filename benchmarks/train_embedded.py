"""Train the embedded trunk: MobileNetV3-small on printed letters and symbols, without digits.

The result, ``tlexport/embedded/mobilenet_v3_small.safetensors`` (float16) with a record beside it, is loaded by
``--weights embedded``. It has seen no digits, so that ``tlx demo`` is genuine transfer learning: from printed letters
to handwritten digits.

Needs the fonts in matplotlib and Debian's fonts-dejavu, fonts-liberation, fonts-freefont-ttf, fonts-lato and
fonts-hack. Takes about 15 minutes on two CPU cores::

    python benchmarks/train_embedded.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tlexport" / "embedded" / "mobilenet_v3_small.safetensors"
CLASSES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + "!?#$%&@*+=<>/()[]{}" + "αβγδεζθλμπρστφψωΓΔΘΛΣΦΩ"
SIZE = 64
CANVAS = 96  # glyphs are rendered on a larger canvas, so that rotation does not cut them off
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
NOT_LETTERS = ("cmex", "cmsy", "STIXSiz", "STIXNonUni")  # these fonts have mathematical symbols at the code points of letters
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def font_files() -> list[Path]:
    """Fonts of matplotlib and of Debian's packages, by name, without duplicates."""
    folders = [Path(matplotlib.get_data_path()) / "fonts" / "ttf", Path("/usr/share/fonts")]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.[to]tf")):
            if not path.name.startswith(NOT_LETTERS):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def render(character: str, path: Path) -> np.ndarray:
    """One glyph, uint8 (CANVAS, CANVAS), ink 255, its longer side 60 pixels, centred."""
    font = ImageFont.truetype(str(path), 120)
    image = Image.new("L", (320, 320))
    ImageDraw.Draw(image).text((160, 160), character, font=font, fill=255, anchor="mm")
    box = image.getbbox()
    if box is None:
        raise ValueError(f"{path.name} draws nothing for {character!r}")
    glyph = image.crop(box)
    scale = 60 / max(glyph.size)
    glyph = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(glyph, ((CANVAS - glyph.width) // 2, (CANVAS - glyph.height) // 2))
    return np.asarray(canvas)


def glyphs() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """All glyphs in the fonts: uint8 (N, CANVAS, CANVAS), class index (N,), names of the fonts used."""
    images, labels, used = [], [], []
    for path in font_files():
        try:
            cmap = TTFont(path, fontNumber=0).getBestCmap() or {}
        except Exception as error:  # noqa: BLE001 - a font of the machine that cannot be read is left out, and named
            print(f"left out {path.name}: {error}")
            continue
        present = [index for index, character in enumerate(CLASSES) if ord(character) in cmap]
        if len(present) < 52:
            continue
        used.append(path.name)
        for index in present:
            images.append(render(CLASSES[index], path))
            labels.append(index)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels), used


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def distort(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mild affine and elastic distortion: uint8 (N, CANVAS, CANVAS) -> float32 (N, 1, SIZE, SIZE), ink 1."""
    n = len(masks)
    angle = uniform(generator, (n,), -0.26, 0.26)
    zoom = uniform(generator, (n,), 0.85, 1.35) * SIZE / CANVAS
    aspect = uniform(generator, (n,), 0.8, 1.25).sqrt()
    shear = uniform(generator, (n,), -0.25, 0.25)
    shift = uniform(generator, (n, 2), -0.1, 0.1)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([zoom * aspect * cos, zoom * aspect * (shear * cos - sin), shift[:, 0]], 1),
            torch.stack([zoom / aspect * sin, zoom / aspect * (shear * sin + cos), shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 1, SIZE, SIZE], align_corners=False)
    bend = uniform(generator, (n, 2, 5, 5), -0.06, 0.06)
    grid = grid + F.interpolate(bend, (SIZE, SIZE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    ink = F.grid_sample(masks[:, None].float() / 255, grid, align_corners=False)
    groups = []
    for part in ink.chunk(4):  # thin, bold or unchanged strokes; coarse or fine
        stroke = int(torch.randint(0, 4, (1,), generator=generator))
        if stroke == 1:
            part = F.max_pool2d(part, 5, 1, 2)
        elif stroke == 2:
            part = F.max_pool2d(part, 3, 1, 1)
        coarse = [8, 8, 10, 12, 16, 24, 32, 64][int(torch.randint(0, 8, (1,), generator=generator))]
        if coarse < SIZE:
            part = F.interpolate(F.adaptive_avg_pool2d(part, coarse), (SIZE, SIZE), mode="bilinear", align_corners=False)
        groups.append(part)
    return torch.cat(groups)


def paint(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colours and noise: float32 (N, 1, H, W) -> normalised float32 (N, 3, H, W)."""
    n = len(ink)
    grey = (torch.rand((n, 1, 1, 1), generator=generator) < 0.5).float()
    back = torch.rand((n, 3, 1, 1), generator=generator)
    back = grey * back[:, :1] + (1 - grey) * back
    contrast = uniform(generator, (n, 3, 1, 1), 0.4, 1.0)
    contrast = grey * contrast[:, :1] + (1 - grey) * contrast
    fore = torch.where(back.mean(1, keepdim=True) > 0.5, back - contrast, back + contrast).clamp(0, 1)
    image = back + (fore - back) * ink
    noise = torch.randn(image.shape, generator=generator) * uniform(generator, (n, 1, 1, 1), 0, 0.08)
    return ((image + noise).clamp(0, 1) - MEAN) / STD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    masks, labels, fonts = glyphs()
    print(f"{len(masks)} glyphs of {len(CLASSES)} classes from {len(fonts)} fonts")

    net = torchvision.models.mobilenet_v3_small(num_classes=len(CLASSES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # torchvision's 0.01 suits far longer runs
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=arguments.lr, weight_decay=0.02)
    warmup = 300

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (arguments.steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    started, seen, right, running = time.perf_counter(), 0, 0, 0.0
    train_top1 = 0.0
    for step in range(arguments.steps):
        pick = torch.randint(0, len(masks), (arguments.batch_size,), generator=generator)
        images = paint(distort(masks[pick], generator), generator).contiguous(memory_format=torch.channels_last)
        logits = net(images)
        loss = F.cross_entropy(logits, labels[pick], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        seen += len(pick)
        right += int((logits.argmax(1) == labels[pick]).sum())
        running += loss.item()
        if (step + 1) % 250 == 0:
            train_top1 = right / seen
            print(f"step {step + 1} loss {running / 250:.3f} top-1 {train_top1:.3f} {time.perf_counter() - started:.0f} s", flush=True)
            seen, right, running = 0, 0, 0.0

    trunk = {k: v.contiguous().half() if v.is_floating_point() else v for k, v in net.state_dict().items() if k.startswith("features.")}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(trunk, OUT)
    record = {
        "backbone": "mobilenet_v3_small",
        "what": "trunk (features.*), float16",
        "trained_on": f"{len(CLASSES)} printed letters and symbols rendered from {len(fonts)} fonts; no digits",
        "classes": CLASSES,
        "fonts": fonts,
        "image_size": SIZE,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "lr": arguments.lr,
        "seed": arguments.seed,
        "train_top1_last_250_steps": round(train_top1, 4),
        "seconds": round(time.perf_counter() - started),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__},
        "script": "benchmarks/train_embedded.py",
        "licence": "Apache-2.0",
        "sha256": hashlib.sha256(OUT.read_bytes()).hexdigest(),
    }
    OUT.with_suffix(".json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
