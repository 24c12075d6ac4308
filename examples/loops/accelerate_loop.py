"""A loop of Hugging Face Accelerate. Five lines are ours: those that say `bitplane`."""

import torch
from accelerate import Accelerator
from digits import EPOCHS, PARTS, STEPS, batches, images, network, run
from torch.nn.functional import cross_entropy

import bitplane

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
model = network()
bitplane.prepare(model, weights="ternary", activations=4)
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = bitplane.ProxOptimizer(base, model, method="pc", steps=STEPS)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

for _ in range(EPOCHS):
    for x, y in batches:
        with accelerator.accumulate(model):
            loss = cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

bitplane.finish(model, optimizer)
bitplane.to_onnx(accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval(), images, "digits.onnx", force=True)
run("digits.onnx")
