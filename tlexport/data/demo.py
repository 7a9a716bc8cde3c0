"""The data of the demo: the 1,797 handwritten digits of scikit-learn, as a folder of class folders."""

from __future__ import annotations

import json
from pathlib import Path

from tlexport.storage.files import DEMO_MARKER, new_directory

DIGIT_IMAGES = 1797


def digits_folder(into: Path) -> Path:
    """Write the digits as 8 x 8 grey PNG files ``into/<digit>/<number>.png``, or reuse existing ones.

    Source: ``sklearn.datasets.load_digits`` (the test part of the UCI set "Optical Recognition of Handwritten Digits"); its
    grey values 0..16 become ``round(value * 255 / 16)``, ink white on black as there.

    Args:
        into: the folder; written under another name, then renamed.

    Returns:
        ``into``.

    Raises:
        UsageError: something else is at ``into``.
        StepFailed: the file system refused.
    """
    if (into / DEMO_MARKER).is_file() and sum(1 for _ in into.glob("[0-9]/*.png")) == DIGIT_IMAGES:
        return into
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (image, height, width)
    with new_directory(into) as folder:
        for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
            path = folder / str(label) / f"{number:04}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
        # written last, so the folder is complete if it exists
        (folder / DEMO_MARKER).write_text(
            json.dumps({"source": "sklearn.datasets.load_digits", "images": len(pixels)}) + "\n", encoding="utf-8"
        )
    return into
