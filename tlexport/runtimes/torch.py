"""PyTorch as a runtime: runs checkpoints, for reference and comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from tlexport.checkpoint import read_checkpoint
from tlexport.contract import Preprocess, image_input, probabilities_output
from tlexport.errors import Unsupported
from tlexport.network import Classifier, Network, load_network
from tlexport.ports import Array, RunOptions

FORMATS = ("checkpoint",)


class TorchRunner:
    """A network in evaluation mode behind the image contract."""

    def __init__(self, network: Network, preprocess: Preprocess, options: RunOptions) -> None:
        self.device = torch.device(options.device)
        if self.device.type == "cuda" and (self.device.index or 0) >= torch.cuda.device_count():
            raise Unsupported(
                f"--device {options.device}: torch finds {torch.cuda.device_count()} CUDA GPUs here", "list the devices with: tlx doctor"
            )
        self.classifier = Classifier(network, preprocess).eval().to(self.device)
        self.inputs = (image_input(preprocess.size, "uint8"),)
        self.outputs = (probabilities_output(network.num_classes),)
        self.provider = f"torch-{self.device.type}"
        self._threads_before = torch.get_num_threads()
        if options.threads is not None:
            torch.set_num_threads(options.threads)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """``{"image": uint8 (batch, height, width, 3)}`` -> ``{"probabilities": float32 (batch, class)}``."""
        with torch.inference_mode():
            pixels = torch.from_numpy(feeds["image"]).to(self.device)
            return {"probabilities": self.classifier(pixels).cpu().numpy()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self._threads_before)


def auto_device() -> str:
    """The first CUDA GPU if torch finds one, else the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def open_model(path: Path, options: RunOptions) -> TorchRunner:
    """Open a checkpoint directory. Raises InvalidFile, VerificationFailed or Unsupported."""
    checkpoint = read_checkpoint(path)
    return TorchRunner(load_network(path, checkpoint), checkpoint.preprocess, options)
