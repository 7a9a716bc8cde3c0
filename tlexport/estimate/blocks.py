"""Random blocks of the kinds found in image classifiers. All design parameters are drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tlexport.estimate.probe_builder import MACS, Builder, Value

ACTIVATIONS = ("relu", "relu6", "hardswish", "silu")


def _pick(draw: np.random.Generator, *choices: int) -> int:
    return int(choices[draw.integers(len(choices))])


def _between(draw: np.random.Generator, low: float, high: float, step: int = 8) -> int:
    """A multiple of ``step``, uniform in its logarithm."""
    return max(step, round(float(np.exp(draw.uniform(np.log(low), np.log(high)))) / step) * step)


def _start(draw: np.random.Generator) -> tuple[Builder, Value]:
    """An input image at a resolution that classifiers use."""
    size = _pick(draw, 160, 192, 224, 224, 224, 224, 240, 260, 288, 300, 320, 384)
    b = Builder(draw, 3, size)
    return b, b.input


def _stem(draw: np.random.Generator, low: int, high: int, most: int) -> tuple[Builder, Value, str]:
    """The input of a probe: an image, or an activation inside a network, so that late stages occur as often as early ones."""
    act = ACTIVATIONS[draw.integers(len(ACTIVATIONS))]
    if draw.random() < 0.35:
        b, x = _start(draw)
        return b, b.conv(x, _between(draw, low, high), _pick(draw, 3, 3, 7), 2, act=act), act
    size = _pick(draw, 7, 7, 8, 10, 12, 14, 14, 15, 17, 19, 20, 24, 28, 28, 35, 40, 56, 56, 72, 75, 95, 112)
    channels = _between(draw, low, max(2 * low, min(most, 4e5 / size**1.5)))
    b = Builder(draw, channels, size)
    b.limit = MACS * float(np.exp(draw.uniform(np.log(0.1), 0)))
    return b, b.input, act


def _grow(b: Builder, draw: np.random.Generator, x: Value, limit: int, least: float, most: float) -> tuple[int, int]:
    """Channels and stride of the next block. A stride of 2 roughly doubles the channels."""
    stride = 2 if x.size > 10 and draw.random() < 0.3 else 1
    channels = x.channels if stride == 1 and draw.random() < 0.6 else int(x.channels * draw.uniform(least, most))
    return min(limit, max(8, round(channels / 8) * 8)), stride


def _classify(b: Builder, x: Value, hidden: int = 0) -> onnx.ModelProto:
    mean = b.node("GlobalAveragePool", [x], (1, x.channels, 1, 1))
    flat = b.node("Flatten", [mean], (1, x.channels))
    if hidden:
        flat = b.act(b.linear(flat, hidden), "relu")
    scores = b.linear(flat, _pick(b.draw, 2, 10, 100, 1000))
    return b.model(b.node("Softmax", [scores], scores.shape, axis=-1))


def sequential(draw: np.random.Generator) -> onnx.ModelProto:
    """Dense convolutions and max pooling, then large fully connected layers (AlexNet, VGG)."""
    b, x = _start(draw)
    x = b.conv(x, _between(draw, 32, 96), _pick(draw, 3, 5, 7, 11), _pick(draw, 1, 2, 4), act="relu")
    while b.macs < 1.5 * b.limit and len(b.nodes) < 40:
        if x.size > 14 and draw.random() < 0.45:
            x = b.pool(x, "MaxPool", _pick(draw, 2, 3), 2)
        x = b.conv(x, min(512, _between(draw, x.channels, 2 * x.channels)), _pick(draw, 3, 3, 3, 5), act="relu")
    while x.size > 8:
        x = b.node("MaxPool", [x], (1, x.channels, x.size // 2, x.size // 2), kernel_shape=[2, 2], strides=[2, 2])
    width = x.channels * x.size**2
    flat = b.node("Flatten", [x], (1, width))
    hidden = _between(draw, 256, max(264, min(4096, 1.1e8 / width)))
    flat = b.act(b.linear(flat, hidden), "relu")
    flat = b.act(b.linear(flat, _between(draw, 512, 4096)), "relu")
    return b.model(b.linear(flat, 1000))


def residual(draw: np.random.Generator) -> onnx.ModelProto:
    """Basic and bottleneck blocks, optionally grouped and with squeeze and excitation (ResNet, ResNeXt, RegNet)."""
    b, x, _ = _stem(draw, 24, 64, 2048)
    if x.size > 60 and draw.random() < 0.6:
        x = b.pool(x, "MaxPool", 3, 2)
    bottleneck, squeeze = draw.random() < 0.6, draw.random() < 0.3
    group_width = _pick(draw, *[0] * 9, 4, 8, 16, 24, 24, 32, 40, 48, 56, 64, 112, 120, 168)
    expansion = _pick(draw, 1, 2, 4)
    while b.macs < b.limit and len(b.nodes) < 90:
        out, stride = _grow(b, draw, x, 2048, 1.3, 2.5)
        inner = max(group_width, 8, round(out / expansion / 8) * 8) if bottleneck else out
        if group_width and bottleneck:
            inner = max(1, inner // group_width) * group_width
        groups = inner // group_width if group_width and bottleneck else 1
        y = b.conv(x, inner, 1 if bottleneck else 3, 1 if bottleneck else stride, act="relu")
        if bottleneck:
            y = b.conv(y, inner, 3, stride, groups, act="relu")
            y = b.squeeze(y, 4, "relu", "sigmoid") if squeeze else y
        y = b.conv(y, out, 1 if bottleneck else 3)
        short = x if out == x.channels and stride == 1 else b.conv(x, out, 1, stride)
        x = b.act(b.add(y, short), "relu")
    return _classify(b, x)


def inverted(draw: np.random.Generator) -> onnx.ModelProto:
    """Inverted residuals, also fused ones, optionally with squeeze and excitation (MobileNet, MNASNet, EfficientNet)."""
    b, x, act = _stem(draw, 16, 56, 640)
    squeeze, gate = draw.random() < 0.6, "hardsigmoid" if act == "hardswish" else "sigmoid"
    ratio, fused = _pick(draw, 4, 4, 6, 24), draw.random() < 0.3
    while b.macs < 0.5 * b.limit and len(b.nodes) < 130:
        out, stride = _grow(b, draw, x, 640, 1.2, 2.0)
        inner = round(x.channels * _pick(draw, 1, 3, 4, 6, 6) / 8) * 8
        if fused and x.size > 20:
            y = b.conv(x, inner, 3, stride, act=act)
        else:
            y = b.conv(x, inner, act=act) if inner != x.channels else x
            y = b.conv(y, y.channels, _pick(draw, 3, 3, 5), stride, y.channels, act=act)
            y = b.squeeze(y, ratio, "silu" if act == "silu" else "relu", gate) if squeeze else y
        y = b.conv(y, out)
        x = b.add(x, y) if stride == 1 and out == x.channels else y
    return _classify(b, b.conv(x, _between(draw, 2 * x.channels, 6 * x.channels), act=act), _pick(draw, 0, 0, 1024))


def dense(draw: np.random.Generator) -> onnx.ModelProto:
    """Each layer reads the outputs of all earlier layers; normalisation precedes convolution (DenseNet)."""
    b, x, _ = _stem(draw, 48, 96, 1024)
    x = b.pool(x, "MaxPool", 3, 2) if x.size > 60 else x
    growth = _pick(draw, 16, 24, 32, 40, 48)
    while b.macs < b.limit and len(b.nodes) < 130:
        parts = [x]
        for _ in range(_pick(draw, 4, 6, 8)):
            joined = b.concat(parts) if len(parts) > 1 else x
            y = b.conv(b.act(b.batch_norm(joined), "relu"), 4 * growth, act="relu")
            parts.append(b.conv(y, growth, 3))
        x = b.act(b.batch_norm(b.concat(parts)), "relu")
        x = b.conv(x, max(8, x.channels // 2 // 8 * 8))
        x = b.pool(x, "AveragePool", 2, 2) if x.size > 8 else x
    return _classify(b, x)


def branches(draw: np.random.Generator) -> onnx.ModelProto:
    """Parallel branches, concatenated, optionally with 1xN kernels (Inception, GoogLeNet, SqueezeNet)."""
    b, x, _ = _stem(draw, 24, 96, 1024)
    x = b.pool(x, "MaxPool", 3, 2) if x.size > 60 else x
    fire = draw.random() < 0.4
    while b.macs < b.limit and len(b.nodes) < 100:
        if fire:
            inner, wide = _between(draw, 16, 96), _between(draw, 48, 256)
            y = b.conv(x, inner, act="relu")
            x = b.concat([b.conv(y, wide, act="relu"), b.conv(y, wide, 3, act="relu")])
        else:
            width = _between(draw, 32, 192)
            y = b.conv(x, width, act="relu")
            if draw.random() < 0.4 and x.size < 40:
                y = b.conv(b.conv(y, width, (1, 7), act="relu"), width, (7, 1), act="relu")
            else:
                y = b.conv(y, _between(draw, width, 2 * width), _pick(draw, 3, 5), act="relu")
            pooled = b.pool(x, "AveragePool" if draw.random() < 0.5 else "MaxPool", 3, 1)
            x = b.concat([b.conv(x, _between(draw, 32, 256), act="relu"), y, b.conv(pooled, _between(draw, 32, 192), act="relu")])
        if x.size > 12 and draw.random() < 0.35:
            x = b.pool(x, "MaxPool", 3, 2)
    return _classify(b, x)


def shuffled(draw: np.random.Generator) -> onnx.ModelProto:
    """Half of the channels bypass the block; then the channels are shuffled (ShuffleNetV2)."""
    b, x, _ = _stem(draw, 24, 24, 512)
    x = b.pool(x, "MaxPool", 3, 2) if x.size > 60 else x
    half = _between(draw, 24, 128, 2)
    while len(b.nodes) < 150 and b.macs < 0.3 * b.limit:
        if x.channels != 2 * half or (x.size > 10 and draw.random() < 0.2):
            half = half if x.channels != 2 * half else min(512, 2 * half)
            left = b.conv(b.conv(x, x.channels, 3, 2, x.channels), half, act="relu")
            inner = b.conv(x, half, act="relu")
        else:
            shape = (1, half, *x.shape[2:])
            names = [f"s{len(b.nodes)}{side}" for side in "ab"]
            sizes = b.constant(np.array([half, half], np.int64))
            b.nodes.append(onnx.helper.make_node("Split", [x.name, sizes], names, name=f"n{len(b.nodes)}", axis=1))
            left = Value(names[0], shape)
            inner = b.conv(Value(names[1], shape), half, act="relu")
        stride = -(-inner.size // left.size)
        right = b.conv(b.conv(inner, half, 3, stride, half), half, act="relu")
        x = b.concat([left, right])
        _, channels, height, width = x.shape
        split = b.transpose(b.reshape(x, (1, 2, channels // 2, height, width)), (0, 2, 1, 3, 4))
        x = b.reshape(split, (1, channels, height, width))
    return _classify(b, b.conv(x, _pick(draw, 512, 1024, 2048), act="relu"))


def convnext(draw: np.random.Generator) -> onnx.ModelProto:
    """Large depthwise kernels, then matrix products over channels in the last axis (ConvNeXt)."""
    b, x = _start(draw)
    patch = _pick(draw, 2, 4)
    width = _between(draw, 48, 160)
    x = b.conv(x, width, patch, patch)
    while b.macs < b.limit and len(b.nodes) < 130:
        y = b.transpose(b.conv(x, x.channels, _pick(draw, 5, 7, 7), 1, x.channels), (0, 2, 3, 1))
        y = b.linear(b.act(b.linear(b.norm(y), 4 * x.channels), "gelu"), x.channels)
        y = b.transpose(y, (0, 3, 1, 2))
        x = b.add(x, b.node("Mul", [y, b.noisy((x.channels, 1, 1), 1.0)], y.shape))
        if x.size > 13 and draw.random() < 0.3:
            x = b.conv(b.transpose(b.norm(b.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2)), min(1024, 2 * x.channels), 2, 2)
    return _classify(b, x)


def attention(draw: np.random.Generator) -> onnx.ModelProto:
    """Attention over all tokens or inside windows, then two matrix products (ViT, Swin)."""
    b, x = _start(draw)
    patch = _pick(draw, 4, 8, 16, 32)
    heads, head = _pick(draw, 3, 4, 6, 8, 12), _pick(draw, 32, 32, 64)
    width = heads * head
    x = b.conv(x, width, patch, patch)
    count = x.shape[2] * x.shape[3]
    window = _pick(draw, 49, 64) if count > 500 else 0
    windows = count // window if window else 1
    tokens = b.transpose(b.reshape(x, (1, width, count)), (0, 2, 1))
    if window:  # tokens that do not fill a window are dropped: the partition into windows does not change the cost
        kept = [b.constant(np.array([number], np.int64)) for number in (0, windows * window, 1)]
        tokens = b.node("Slice", [tokens, *kept], (1, windows * window, width))
    length = window or count
    tokens_lead = not window and draw.random() < 0.5

    def heads_first(packed: Value) -> Value:
        """Axes (window, head, token, feature), the usual form."""
        split = b.transpose(b.reshape(packed, (windows, length, 3, heads, head)), (2, 0, 3, 1, 4))
        query, key, value = (b.take(split, index, 0) for index in range(3))
        scores = b.matmul(b.node("Mul", [query, b.scalar(head**-0.5)], query.shape), b.transpose(key, (0, 1, 3, 2)))
        if window:
            scores = b.node("Add", [scores, b.noisy((1, heads, length, length), 0.1)], scores.shape)
        mixed = b.matmul(b.node("Softmax", [scores], scores.shape, axis=-1), value)
        return b.reshape(b.transpose(mixed, (0, 2, 1, 3)), (1, windows * length, width))

    def tokens_first(packed: Value) -> Value:
        """Axes (token, head, feature), the form of torch.nn.MultiheadAttention."""
        split = b.reshape(packed, (length, 3, heads, head))
        query, key, value = (b.take(split, index, 1) for index in range(3))
        scaled = b.node("Mul", [b.transpose(query, (1, 0, 2)), b.scalar(head**-0.5)], (heads, length, head))
        scores = b.matmul(scaled, b.transpose(key, (1, 2, 0)))
        mixed = b.matmul(b.node("Softmax", [scores], scores.shape, axis=-1), b.transpose(value, (1, 0, 2)))
        return b.reshape(b.transpose(mixed, (1, 0, 2)), (1, length, width))

    while b.macs < b.limit and len(b.nodes) < 150:
        normal = b.norm(tokens)
        packed = b.linear(normal, 3 * width)
        joined = tokens_first(packed) if tokens_lead else heads_first(packed)
        tokens = b.add(tokens, b.linear(joined, width))
        tokens = b.add(tokens, b.linear(b.act(b.linear(b.norm(tokens), 4 * width), "gelu"), width))
    mean = b.node("ReduceMean", [b.norm(tokens)], (1, width), axes=[1], keepdims=0)
    return b.model(b.linear(mean, 1000))


Family = Callable[[np.random.Generator], onnx.ModelProto]
# used in turn, so that any number of probes is an even mixture; the most common kinds occur twice
FAMILIES: tuple[Family, ...] = (inverted, residual, sequential, dense, inverted, residual, branches, shuffled, convnext, attention)
