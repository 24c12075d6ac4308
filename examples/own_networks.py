"""What `prepare` makes of networks from elsewhere: shares of multiply-adds, sizes, and what `ProxOptimizer` adds to a step.

python examples/own_networks.py resnet18 mobilenet_v2    # of torchvision, or timm:NAME; random weights, ten classes
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy

import bitplane

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

parser = argparse.ArgumentParser()
parser.add_argument("names", nargs="+")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--size", type=int, default=128, help="sides of the images, pixels")
parser.add_argument("--steps", type=int, default=16)
options = parser.parse_args()


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        return timm.create_model(name.removeprefix("timm:"), num_classes=10)
    model = getattr(torchvision.models, name)(num_classes=10)
    if name == "vgg11_bn":  # its own pool leaves 7x7 pixels, which 128 pixels do not give
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(512, 10))
    return model


def multiply_adds(model: nn.Module, image: torch.Tensor) -> dict[str, int]:
    counts: dict[str, int] = {}

    def count(name):
        return lambda m, _, y: counts.update({name: m.weight[0].numel() * (y[0].numel() if y.dim() == 4 else len(m.weight))})

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count(n)) for n, m in layers]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return counts


def median_ms(parts: list[float]) -> float:
    return 1000 * statistics.median(parts[2:])


for name in options.names:
    model = build(name).to(memory_format=torch.channels_last)
    bitplane.prepare(model, weights="ternary", activations=4)
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer = bitplane.ProxOptimizer(base, model, method="pc", steps=options.steps)
    pixels = torch.randint(0, 256, (options.batch_size, 3, options.size, options.size), dtype=torch.uint8)
    x = (pixels - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    y, passes, whole, alone = torch.randint(0, 10, (options.batch_size,)), [], [], []
    for _ in range(options.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()
        passes.append(time.perf_counter() - start)
        plain = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
        for p, q in zip(plain, model.parameters(), strict=True):
            p.grad = q.grad
        float_step = torch.optim.SGD(plain, lr=0.01, momentum=0.9).step
        start = time.perf_counter()
        float_step()
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        optimizer.step()
        whole.append(time.perf_counter() - start)
    bitplane.finish(model, optimizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        report = bitplane.to_onnx(model.eval(), pixels[:8], path, normalize=(MEAN, STD))
        size = path.stat().st_size
    counts, operators = multiply_adds(model, x[:1]), {layer.name: layer.operator for layer in report.layers}
    total = sum(counts.values())
    shares = {o: sum(v for n, v in counts.items() if operators.get(n) == o) / total for o in ("TernaryConv", "PixelConv")}
    added = (median_ms(whole) - median_ms(alone)) / (median_ms(passes) + median_ms(whole))
    print(
        f"{name}: {total / 1e9:.3f} G multiply-adds, {shares['TernaryConv']:.1%} low-bit on integers,"
        f" {shares['PixelConv']:.1%} on pixels; {size / 1e6:.1f} MB, float32"
        f" {4e-6 * sum(p.numel() for p in model.parameters()):.1f} MB; {report.unrunnable or 'runs'};"
        f" pc adds {added:.1%} to a step of {options.batch_size} images ({median_ms(whole) - median_ms(alone):.0f} ms)"
    )
