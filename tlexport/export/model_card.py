"""MODEL_CARD.md: the content of a manifest for people, in the sections of "Model Cards for Model Reporting" (Mitchell et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tlexport.bundle.manifest import MANIFEST, Manifest, Model, Terms
from tlexport.units import format_bytes

MOST_CLASSES = 50  # classes that the card names
WEIGHT_SOURCES = {
    "imagenet": "published weights, trained on ImageNet-1k",
    "embedded": "the weights that tlexport carries",
    "none": "random weights",
    "file": "weights from a file of the user's",
}


def model_card(manifest: Manifest) -> str:
    """The card of a bundle; needs neither the hashes of its files nor the names of its golden images."""
    m = manifest
    sections = {
        "Model details": _details(m),
        "Intended use": _use(m),
        "Data": _data(m),
        "Metrics": _metrics(m),
        "Quantization": _quantization(m),
        "Limitations": _limitations(m),
        "Licence": _licence(m),
        "How to run": _run(m),
    }
    parts = [
        f"# {escaped(m.name)} for {escaped(m.profile.title)}\n",
        f"Written by `tlx export` from `{MANIFEST}`, which holds every figure.\n",
    ]
    for title, lines in sections.items():
        parts += [f"\n## {title}\n\n", *(f"{line}\n" for line in lines)]
    return "\n".join(parts[:2]) + "".join(parts[2:])


def escaped(text: str) -> str:
    """Text that Markdown shows literally, in a line or a table cell: no markup, no HTML, no link."""
    shown = re.sub(r"([\\`*_{}\[\]<>()#!|~&$@])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?i):(?=//)|(?<=\bwww)\.", r"\\\g<0>", shown)  # some viewers turn this into a link


def _details(m: Manifest) -> Iterator[str]:
    yield f"- An image classifier of {len(m.classes)} classes: RGB pixels in, one probability for each class out."
    if m.training:
        yield f"- Network: {escaped(m.training.backbone)}, fine-tuned ({m.training.strategy}) from {WEIGHT_SOURCES[m.training.weights]}."
    if m.training and (initial := m.training.initial_weights):
        digest = f", sha256 `{escaped(initial.sha256[:16])}…`" if initial.sha256 else ""
        yield f"- Origin of these weights: {escaped(initial.origin)}{digest}."
    chosen = m.model()
    precisions = ", ".join(model.artifact.precision.upper() for model in m.models)
    yield f"- Models here: {precisions}; chosen for the target: {chosen.artifact.precision.upper()} ({escaped(chosen.reason)})."
    yield f"- Made for {escaped(m.profile.title)} (profile {escaped(m.target)}), to be run by {escaped(m.profile.runtime)}."
    p = m.preprocess
    yield (
        f"- Input: {p.size} x {p.size} pixels, {m.models[0].artifact.inputs[0].dtype}, 0 to 255; the shorter side of an image is resized "
        f"to {p.resize} ({p.interpolation}, antialiased) and the middle cut out. Normalisation is inside the graph."
    )
    yield f"- Checkpoint: sha256 `{m.checkpoint_sha256[:16]}…`."
    if m.training:
        yield f"- Recipe: sha256 `{m.training.recipe_sha256[:16]}…`."
    yield f"- Made with {', '.join(f'{escaped(name)} {escaped(version)}' for name, version in m.versions.items())}."


def _use(m: Manifest) -> Iterator[str]:
    shown = ", ".join(escaped(name) for name in m.classes[:MOST_CLASSES])
    more = f" and {len(m.classes) - MOST_CLASSES} more (`labels.txt`)" if len(m.classes) > MOST_CLASSES else ""
    yield f"Telling apart these classes in images like those it was trained on: {shown}{more}."
    yield ""
    yield (
        "Not meant for images of anything else: it has no answer for that, and gives one of its classes. Whoever builds it into something "
        "decides whether its mistakes can be borne there."
    )


def _data(m: Manifest) -> Iterator[str]:
    if m.training is None:
        yield f"The accuracies are those of {m.models[0].n:,} validation images. Of the training data this bundle's format says nothing."
        return
    images = ", ".join(f"{count:,} {part}" for part, count in m.training.images.items())
    yield f"Images: {images}. Listing: sha256 `{m.training.dataset_sha256[:16]}…`."
    yield ""
    yield "Training images set the weights and the ranges of INT8; validation images gave the figures below and did neither of these."


def _metrics(m: Manifest) -> Iterator[str]:
    n = m.models[0].n
    yield (
        f"Top-1 on {n:,} validation images, computed with ONNX Runtime; in brackets the 95 % interval (Wilson). The checkpoint had "
        f"{100 * m.checkpoint_top1:.2f} %."
    )
    yield ""
    yield "| model | size | top-1, % | loss, points | latency, ms | |"
    yield "|---|---:|---:|---:|---|---|"
    for model in m.models:
        low, high = model.top1_interval
        top1 = f"{100 * model.top1:.2f} ({100 * low:.2f} to {100 * high:.2f})"
        size, name = format_bytes(model.size_bytes), model.artifact.precision.upper()
        yield f"| {name} | {size} | {top1} | {model.drop_points:.2f} | {_latency(model)} | {'chosen' if model.chosen else ''} |"
    yield ""
    yield (
        "The validation images also decided when training stopped and which model was chosen, so an independent test set may show a little "
        "less. Classes are weighed by how many validation images they have."
    )
    yield ""
    yield from _budget(m)


def _latency(model: Model) -> str:
    if found := model.latency:
        where = f", {escaped(found.environment.cpu)}" if found.environment else ""
        return f"measured: p50 {found.p50:.3f}, p95 {found.p95:.3f} ({escaped(found.provider)}, {found.threads} CPU thread(s){where})"
    if model.estimate:
        return f"estimated: {escaped(model.estimate.latency)}"
    return "not known"


def _budget(m: Manifest) -> Iterator[str]:
    """Whether the chosen model keeps the profile's limits, and whether the measurement was noisy."""
    chosen = m.model()
    if chosen.over:
        yield f"- Over the budget of {escaped(m.target)}, which is a yardstick: {escaped('; '.join(chosen.over))}."
    else:
        yield f"- {chosen.artifact.precision.upper()}: {escaped(chosen.reason)}."
    for doubt in chosen.doubts:
        yield f"- Not certain: {escaped(doubt)}."
    for model in m.models:
        if model.latency and (noise := model.latency.noise):
            times = f"{noise.repeats} times" if noise.repeats > 1 else "once"
            state = f"noisy machine: {escaped(noise.cause)}" if noise.verdict == "noisy" else "quiet machine"
            yield f"- {model.artifact.precision.upper()} was measured {times}; {state}; the shortest run took {noise.shortest_ms:.3f} ms."
    for rejected in m.rejected:
        yield f"- Rejected: {rejected.precision.upper()}, {escaped(rejected.what)}: {escaped(rejected.reason)}."


def _quantization(m: Manifest) -> Iterator[str]:
    for model in m.models:
        artifact = model.artifact
        yield f"- {artifact.precision.upper()}: {escaped(artifact.made_by)}."
        if calibration := artifact.calibration:
            yield (
                f"  - Ranges by {escaped(calibration.method)} on {calibration.images:,} training images "
                f"(their hashes: sha256 `{calibration.sha256[:16]}…`)."
            )
        for rung in artifact.ladder:
            kept = "kept" if rung.kept else "not kept"
            yield f"  - {rung.rung}: {100 * rung.top1:.2f} % on training images that judged ({kept})."
        if artifact.mixed:
            yield f"  - {len(artifact.mixed.kept)} of {len(artifact.mixed.ranking)} blocks in float; see `sensitivity.md`."
        if artifact.shrunk:
            yield f"  - {artifact.shrunk.parameters:,} of {artifact.shrunk.parameters_before:,} parameters left."
        yield f"  - Largest difference in probability from the checkpoint, over the validation images: {model.parity:.2g}."


def _limitations(m: Manifest) -> Iterator[str]:
    low, high = m.model().top1_interval
    yield f"- The accuracy is known no better than {100 * low:.1f} to {100 * high:.1f} %, and only for images like the validation images."
    yield "- Other cameras, light, angles or places were not looked at; measure there: `tlx evaluate BUNDLE DATA`."
    yield "- A probability says how sure the network is, not how often it is right."
    yield "- Whether single groups of people or things are served worse than others was not looked at."
    if any(model.latency is None for model in m.models):
        yield "- Latencies that are estimated, or not known, were not seen on the target."


def _licence(m: Manifest) -> Iterator[str]:
    if m.licences is None:
        yield "Not recorded: the bundle is of format 1."
        return
    yield f"- Program files in this bundle: {_terms(m.licences.code)}."
    yield f"- The network's code: {_terms(m.licences.network)}."
    yield f"- The weights that training started from: {_terms(m.licences.weights)}."
    yield "- The weights here were trained on the images of whoever made this bundle; their terms are not known to it."


def _terms(terms: Terms) -> str:
    return "; ".join(part for part in (terms.spdx and escaped(terms.spdx), escaped(terms.note)) if part) or "not known"


def _run(m: Manifest) -> Iterator[str]:
    yield "Where tlexport is installed:"
    yield ""
    yield "    tlx verify BUNDLE"
    yield "    tlx predict BUNDLE IMAGE"
    yield ""
    yield f"The contract between an image and the graph is `preprocess` in `{MANIFEST}`; `golden/` holds images with what they must become."
