"""Hugging Face's Trainer. Five lines are ours: those that say `bitplane`."""

import torch
from digits import EPOCHS, PARTS, STEPS, images, labels, network, run
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import bitplane


class WithLoss(nn.Module):
    """What Trainer wants of a network: the loss with the logits."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x, labels):
        logits = self.network(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


model = WithLoss()
bitplane.prepare(model, weights="ternary", activations=4)
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = bitplane.ProxOptimizer(base, model, method="pc", steps=STEPS)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
arguments = TrainingArguments(
    "runs", num_train_epochs=EPOCHS, per_device_train_batch_size=32, gradient_accumulation_steps=PARTS, max_grad_norm=1.0,
    train_sampling_strategy="sequential", use_cpu=True, report_to="none",
)  # fmt: skip
data = [{"x": x, "labels": y} for x, y in zip(images, labels, strict=True)]
trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler))
trainer.train()
bitplane.finish(model, optimizer)
bitplane.to_onnx(model.network.eval(), images, "digits.onnx", force=True)
run("digits.onnx")
