"""A network compiled by torch.compile. Five lines are ours: those that say `bitplane`."""

import torch
from digits import EPOCHS, PARTS, STEPS, batches, images, network, run
from torch.nn.functional import cross_entropy

import bitplane

model = network()
bitplane.prepare(model, weights="ternary", activations=4)
compiled = torch.compile(model)
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = bitplane.ProxOptimizer(base, model, method="pc", steps=STEPS)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

for _ in range(EPOCHS):
    for i, (x, y) in enumerate(batches, start=1):
        loss = cross_entropy(compiled(x), y)
        (loss / PARTS).backward()
        if i % PARTS == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

bitplane.finish(model, optimizer)
bitplane.to_onnx(model.eval(), images, "digits.onnx", force=True)
run("digits.onnx")
