"""tlexport: fine-tune a small image classifier and export it, quantized and proven, to an edge device.

The functions below do what the commands of the same names do; see docs/python-api.md. A call imports torch and ONNX Runtime; the
package itself does not.
"""

# These folders have the names of functions. Importing a folder binds its name here, once: so they come first, and the functions stay.
import tlexport.bench
import tlexport.estimate
import tlexport.export  # noqa: F401
from tlexport.errors import InvalidFile, MissingDependency, OverBudget, StepFailed, TlxError, Unsupported, UsageError, VerificationFailed
from tlexport.python.bench import bench
from tlexport.python.estimate import estimate
from tlexport.python.evaluate import evaluate
from tlexport.python.export import export
from tlexport.python.finetune import finetune
from tlexport.python.predict import predict
from tlexport.python.verify import verify
from tlexport.version import __version__

__all__ = [
    "InvalidFile",
    "MissingDependency",
    "OverBudget",
    "StepFailed",
    "TlxError",
    "Unsupported",
    "UsageError",
    "VerificationFailed",
    "__version__",
    "bench",
    "estimate",
    "evaluate",
    "export",
    "finetune",
    "predict",
    "verify",
]
