"""The C++ example of a bundle: the sources in ``cpp/`` as they are, and one header generated from the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tlexport.bundle.manifest import Golden, Manifest, Model

SOURCES = Path(__file__).parent / "cpp"
FOLDER = "cpp"  # of a bundle
MODEL_HEADER = "tlx_model.hpp"


def write_cpp(folder: Path, manifest: Manifest, golden: Golden) -> None:
    """Write the example into a bundle.

    Args:
        folder: the bundle's directory.
        manifest: the manifest, or its draft; ``golden`` and ``files`` are not read.
        golden: the golden vectors.
    """
    target = folder / FOLDER
    target.mkdir()
    for source in sorted(path for path in SOURCES.iterdir() if path.is_file()):
        shutil.copyfile(source, target / source.name)
    (target / MODEL_HEADER).write_text(model_header(manifest, golden), encoding="ascii")


def literal(text: str) -> str:
    """A C++ string literal of any text, as UTF-8.

    Characters other than plain ASCII are written as three octal digits, whose length is fixed, unlike that of ``\\x``. ``?`` is escaped
    because it could begin a trigraph.
    """
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F) if chr(byte) not in '"\\?'}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode("utf-8")) + '"'


def model_header(manifest: Manifest, golden: Golden) -> str:
    """The text of ``tlx_model.hpp``. Names occur in literals only, never in comments, so none can become code."""
    contract, tensors = manifest.preprocess, manifest.models[0].artifact
    return f"""\
// Generated from manifest.json of this bundle.
#pragma once

#include <string_view>

namespace tlx {{

enum class Interpolation {{ bilinear, bicubic }};

namespace model {{

using namespace std::string_view_literals;

// the image contract
constexpr int size = {contract.size};  // side of the square that the model takes, pixels
constexpr int resize = {contract.resize};  // shorter side after resizing
constexpr Interpolation interpolation = Interpolation::{contract.interpolation};
constexpr int background[] = {{{", ".join(map(str, contract.background))}}};  // RGB behind transparent pixels, for who decodes files

// the tensors: one image of (1, size, size, 3), RGB 0 to 255; probabilities of (1, classes)
constexpr char input[] = {literal(tensors.inputs[0].name)};
constexpr char output[] = {literal(tensors.outputs[0].name)};

constexpr std::string_view classes[] = {{
{_lines(f"{literal(name)}sv" for name in manifest.classes)}
}};

struct File {{
    std::string_view precision, onnx, engine, golden_outputs;
    double tolerance;  // largest difference in probability that the golden vectors may show
    bool float_input;  // pixels are given as float, with the same whole numbers
    bool as_written;   // ONNX Runtime computes its Q/DQ pairs as they are written
    bool chosen;       // by the export
}};

constexpr File files[] = {{
{_lines(_file(manifest, model) for model in manifest.models)}
}};

// golden vectors: decoded images, what they become resized and cropped, and the squares that the models were asked
constexpr std::string_view golden_decoded[] = {{
{_lines(f"{literal(name)}sv" for name in golden.decoded)}
}};
constexpr std::string_view golden_resized = {literal(golden.resized or "")}sv;
constexpr std::string_view golden_inputs = {literal(golden.inputs)}sv;

}}  // namespace model
}}  // namespace tlx
"""


def _file(manifest: Manifest, model: Model) -> str:
    """An initializer of ``File``."""
    artifact = model.artifact
    for_tensorrt = manifest.profile.runtime == "tensorrt" and artifact.precision == "int8"
    weight_only = any(rung.kept and rung.rung == "weights alone" for rung in artifact.ladder)  # otherwise dequantized in every run
    engine = f"{artifact.sha256[:32]}/{PurePosixPath(model.file).with_suffix('.engine')}"  # as device/runtimes/engine_cache.py has it
    names = [artifact.precision, model.file, engine, model.golden_outputs]
    flags = [artifact.inputs[0].dtype == "float32", for_tensorrt or weight_only, model.chosen]
    return "{" + ", ".join([*(f"{literal(name)}sv" for name in names), repr(model.tolerance), *(str(flag).lower() for flag in flags)]) + "}"


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"    {item}," for item in items)
